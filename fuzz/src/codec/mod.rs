//! The codecs of getty, each against a model of its format.
//!
//! A model reads the whole stream at once and is written without the codec. The codec reads the
//! stream at once, byte by byte and in pieces, and must return what the model does: the same
//! messages, and the same error at the same place. Then each message must survive its encoding.

mod compressed;
mod formats;
mod frames;
mod lines;
mod messages;

use std::fmt::Debug;

use bytes::BytesMut;
use getty::codec::{Decoder, FrameCodec};

pub(crate) use self::{
    compressed::{codec_deflated, deflate_flushed, inflate_flushed},
    formats::{codec_json, codec_message_pack, codec_postcard, codec_prost},
    frames::{codec_frames, codec_length_delimited, codec_packets, codec_varint_delimited},
    lines::codec_lines,
    messages::{codec_messages, codec_raw, codec_switch},
};
pub(crate) use self::{frames::Header, lines::Lines};

/// Result of decoding a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded<M> {
    /// Messages and errors after which the next message was decoded.
    pub(crate) items: Vec<Result<M, String>>,
    /// Error that ended the stream.
    pub(crate) end: Option<String>,
}

impl<M> Default for Decoded<M> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            end: None,
        }
    }
}

impl<M> Decoded<M> {
    pub(crate) fn messages(&self) -> impl Iterator<Item = &M> {
        self.items.iter().filter_map(|item| item.as_ref().ok())
    }
}

/// The first message of a stream, or the error that ends it, and the rest of the stream. `None`
/// is the end of the stream.
pub(crate) type Next<'a> = Option<(Result<&'a [u8], String>, &'a [u8])>;

/// Class of an error, without what depends on the pieces of the stream.
pub(crate) enum Class {
    /// The next message can be decoded.
    Skips(&'static str),
    Ends(String),
}

/// Decodes a stream as a session does.
pub(crate) fn decode<C: Decoder, M>(
    codec: &mut C,
    pieces: &[&[u8]],
    map: impl FnMut(&mut C, C::Item) -> M,
    class: impl Fn(&C::Error) -> Class,
) -> Decoded<M> {
    decode_with(
        codec,
        pieces,
        |codec, buffer, end| {
            if end {
                codec.decode_eof(buffer)
            } else {
                codec.decode(buffer)
            }
        },
        map,
        class,
    )
}

/// Decodes a stream in the way of the formats, which read the payload in place.
pub(crate) fn decode_in_place<C: FrameCodec>(
    codec: &mut C,
    pieces: &[&[u8]],
    class: impl Fn(&C::Error) -> Class,
) -> Decoded<Vec<u8>> {
    decode_with(
        codec,
        pieces,
        |codec, buffer, end| {
            if end {
                codec.read_frame_eof(buffer, <[u8]>::to_vec)
            } else {
                codec.read_frame(buffer, <[u8]>::to_vec)
            }
        },
        |_, payload| payload,
        class,
    )
}

fn decode_with<C, T, E, M>(
    codec: &mut C,
    pieces: &[&[u8]],
    mut next: impl FnMut(&mut C, &mut BytesMut, bool) -> Result<Option<T>, E>,
    mut map: impl FnMut(&mut C, T) -> M,
    class: impl Fn(&E) -> Class,
) -> Decoded<M> {
    let mut buffer = BytesMut::new();
    let mut decoded = Decoded::default();
    let most = 2 + pieces.iter().map(|piece| piece.len()).sum::<usize>();
    // A session may read more before it has decoded all, so some streams are read ahead.
    let reads_ahead = pieces.len() > 2 && pieces.len().is_multiple_of(2);
    let arrives = pieces.iter().map(|piece| (*piece, false));
    for (piece, end) in arrives.chain([(&[][..], false), (&[], true)]) {
        buffer.extend_from_slice(piece);
        let mut calls = 0;
        while !(reads_ahead && !piece.is_empty() && calls == 2) {
            calls += 1;
            assert!(decoded.items.len() <= most, "decoded endlessly");
            match next(codec, &mut buffer, end) {
                Ok(Some(item)) => {
                    let item = map(codec, item);
                    decoded.items.push(Ok(item));
                }
                Ok(None) => break,
                Err(error) => match class(&error) {
                    Class::Skips(text) => decoded.items.push(Err(text.to_owned())),
                    Class::Ends(text) => {
                        decoded.end = Some(text);
                        return decoded;
                    }
                },
            }
        }
    }
    assert!(buffer.is_empty(), "undecoded at the end: {buffer:?}");
    decoded
}

/// Returns the class of an error of lines, if `error` is one.
pub(crate) fn class_of_line(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    Some(match lines::class(error.downcast_ref()?) {
        Class::Skips(text) => text.to_owned(),
        Class::Ends(text) => text,
    })
}

/// Asserts that two results of decoding are equal.
#[track_caller]
pub(crate) fn same<M: PartialEq + Debug>(what: &str, ours: &Decoded<M>, expected: &Decoded<M>) {
    assert!(
        ours == expected,
        "{what}\n    ours: {ours:?}\nexpected: {expected:?}"
    );
}

/// Encodes a payload in the way of the formats. A refused one leaves nothing.
pub(crate) fn encode_in_place<C: FrameCodec>(
    codec: &mut C,
    payload: &[u8],
    dst: &mut BytesMut,
) -> Result<(), C::Error> {
    let start = dst.len();
    codec.begin_frame(dst);
    dst.extend_from_slice(payload);
    codec
        .end_frame(dst, start)
        .inspect_err(|_| dst.truncate(start))
}
