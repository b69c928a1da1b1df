//! A frame decoded, and a frame encoded, by each codec: without a transport, a session or a copy of what is received.

use std::{fmt::Debug, hint::black_box};

use bytes::{Bytes, BytesMut};
use getty::codec::{Decoder, Encoder, Frame, Lines, Raw, Text};
use tokio_util::codec::{BytesCodec, LinesCodec};

use super::{
    Scenario,
    Standing::{self, Ours, Reference},
};
use crate::{frames::Frames, server::codec};

/// How many frames lie in the buffer whether they are decoded or not, so that what it takes to put them there cancels out.
const FRAMES: u64 = 11_000;
/// After so many frames what was encoded has been written.
const WRITTEN: u64 = 50;
/// The longest message, of which the others are the beginning.
const TEXT: [u8; 1024] = [b'a'; 1024];

/// What a codec is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// All that has arrived.
    Stream,
    /// One frame, as of a message transport.
    Unit,
}

use Given::{Stream, Unit};

pub(super) fn scenarios() -> impl Iterator<Item = Scenario> {
    [64, 1024].into_iter().flat_map(|payload| {
        let text = str::from_utf8(&TEXT[..payload]).expect("it is ASCII");
        let bytes = Bytes::from_static(text.as_bytes());
        let line = format!("{text}\n").into_bytes();
        let length = Frames::new(payload).concatenated(1);
        let frame = Frame::from(text);
        let name = |name: &str| format!("{name}-{payload}");
        let pairs = [
            pair(
                &name("length"),
                Ours,
                codec::length(),
                Stream,
                &length,
                &bytes,
            ),
            pair(
                &name("frames"),
                Ours,
                codec::frames(),
                Stream,
                &length,
                &frame,
            ),
            pair(&name("lines"), Ours, Lines::new(), Stream, &line, &text),
            pair(&name("raw"), Ours, Raw::new(), Unit, &bytes, &bytes),
            pair(&name("text"), Ours, Text::new(), Unit, &bytes, &text),
            pair(
                &name("tokio-util-length"),
                Reference,
                codec::tokio_util(),
                Stream,
                &length,
                &bytes,
            ),
            pair(
                &name("tokio-util-lines"),
                Reference,
                LinesCodec::new_with_max_length(64 * 1024),
                Stream,
                &line,
                &text,
            ),
            pair(
                &name("tokio-util-bytes"),
                Reference,
                BytesCodec::new(),
                Unit,
                &bytes,
                &bytes,
            ),
        ];
        pairs.into_iter().flatten()
    })
}

/// The frame decoded, and the message encoded.
fn pair<C, M>(
    name: &str,
    standing: Standing,
    codec: C,
    given: Given,
    frame: &[u8],
    message: &M,
) -> [Scenario; 2]
where
    C: Decoder<Error: Debug> + Encoder<M, Error: Debug> + Clone + Send + Sync + 'static,
    M: Clone + Send + Sync + 'static,
{
    let (decoder, frame, message) = (codec.clone(), frame.to_vec(), message.clone());
    [
        Scenario::new(format!("decode-{name}"), standing, move |frames| {
            decode(decoder.clone(), given, &frame, frames);
        }),
        Scenario::new(format!("encode-{name}"), standing, move |frames| {
            encode(codec.clone(), &message, frames);
        }),
    ]
}

fn decode<C: Decoder<Error: Debug>>(mut codec: C, given: Given, frame: &[u8], frames: u64) {
    let all = usize::try_from(FRAMES).expect("a few");
    let mut buffer = BytesMut::from(&*frame.repeat(all));
    for _ in 0..frames {
        let message = match given {
            Stream => codec.decode(&mut buffer),
            Unit => codec.decode_eof(&mut buffer.split_to(frame.len())),
        };
        let message = message.expect("it is well formed");
        drop(black_box(message.expect("it is complete")));
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
        encoded.expect("it is not too long");
        if n % WRITTEN == 0 {
            black_box(&buffer[..]);
            buffer.clear();
        }
    }
}
