//! Decoding and encoding of a frame with each codec. There is neither a transport nor a
//! session.

use std::{fmt::Debug, hint::black_box};

use bytes::{Bytes, BytesMut};
use getty::codec::{Decoder, Encoder, Frame, Lines, Raw, Text};
use tokio_util::codec::{BytesCodec, LinesCodec};

use super::{
    Policy::{self, Checked, Reported},
    Scenario,
};
use crate::{frames::Frames, server::codec};

/// Number of frames in the buffer in short and long runs. The cost of filling it will cancel
/// out.
const FRAMES: u64 = 11_000;
/// Number of encoded frames after which the buffer is cleared, as if it had been written.
const CLEAR_AFTER: u64 = 50;
/// The longest message. Shorter messages are its start.
const TEXT: [u8; 1024] = [b'a'; 1024];

/// Input of a codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// All bytes that have arrived.
    Stream,
    /// One frame as from a message transport.
    Unit,
}

use Input::{Stream, Unit};

pub(super) fn scenarios() -> impl Iterator<Item = Scenario> {
    [64, 1024].into_iter().flat_map(|payload| {
        let text = str::from_utf8(&TEXT[..payload]).expect("the text is ASCII");
        let bytes = Bytes::from_static(text.as_bytes());
        let line = format!("{text}\n").into_bytes();
        let length = Frames::new(payload).concatenated(1);
        let frame = Frame::from(text);
        let name = |name: &str| format!("{name}-{payload}");
        let pairs = [
            pair(
                &name("length"),
                Checked,
                codec::length_delimited(),
                Stream,
                &length,
                &bytes,
            ),
            pair(
                &name("frames"),
                Checked,
                codec::frames(),
                Stream,
                &length,
                &frame,
            ),
            pair(&name("lines"), Checked, Lines::new(), Stream, &line, &text),
            pair(&name("raw"), Checked, Raw::new(), Unit, &bytes, &bytes),
            pair(&name("text"), Checked, Text::new(), Unit, &bytes, &text),
            pair(
                &name("tokio-util-length"),
                Reported,
                codec::tokio_util(),
                Stream,
                &length,
                &bytes,
            ),
            pair(
                &name("tokio-util-lines"),
                Reported,
                LinesCodec::new_with_max_length(64 * 1024),
                Stream,
                &line,
                &text,
            ),
            pair(
                &name("tokio-util-bytes"),
                Reported,
                BytesCodec::new(),
                Unit,
                &bytes,
                &bytes,
            ),
        ];
        pairs.into_iter().flatten()
    })
}

/// Creates the scenarios of decoding and encoding with one codec.
fn pair<C, M>(
    name: &str,
    policy: Policy,
    codec: C,
    input: Input,
    frame: &[u8],
    message: &M,
) -> [Scenario; 2]
where
    C: Decoder<Error: Debug> + Encoder<M, Error: Debug> + Clone + Send + Sync + 'static,
    M: Clone + Send + Sync + 'static,
{
    let (decoder, frame, message) = (codec.clone(), frame.to_vec(), message.clone());
    [
        Scenario::new(format!("decode-{name}"), policy, move |frames| {
            decode(decoder.clone(), input, &frame, frames);
        }),
        Scenario::new(format!("encode-{name}"), policy, move |frames| {
            encode(codec.clone(), &message, frames);
        }),
    ]
}

fn decode<C: Decoder<Error: Debug>>(mut codec: C, input: Input, frame: &[u8], frames: u64) {
    let all = usize::try_from(FRAMES).expect("the number is small");
    let mut buffer = BytesMut::from(&*frame.repeat(all));
    for _ in 0..frames {
        let message = match input {
            Stream => codec.decode(&mut buffer),
            Unit => codec.decode_eof(&mut buffer.split_to(frame.len())),
        };
        let message = message.expect("the frame is well formed");
        drop(black_box(message.expect("the frame is complete")));
    }
}

fn encode<C, M>(mut codec: C, message: &M, frames: u64)
where
    C: Encoder<M, Error: Debug>,
    M: Clone,
{
    let mut buffer = BytesMut::with_capacity(128 * 1024);
    for n in 0..frames {
        let encoded = codec.encode(message.clone(), &mut buffer);
        encoded.expect("the message is within the limit");
        if n % CLEAR_AFTER == 0 {
            black_box(&buffer[..]);
            buffer.clear();
        }
    }
}
