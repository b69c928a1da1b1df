//! Codecs for common protocols. Each has a maximum message length that is always on.
//!
//! | codec | a message is | sent and received as |
//! |---|---|---|
//! | [`LengthDelimited`] | a frame with a header that contains its length | [`Bytes`] |
//! | [`Frames`] | the same, for many small frames over a stream | [`Frame`], and [`Bytes`] |
//! | [`VarintDelimited`] | a frame with a varint, as in Netty and protobuf | [`Bytes`] |
//! | [`Lines`] | a line of UTF-8 text | anything that is a `str`, and `String` |
//! | [`Raw`] | the bytes that have arrived | [`Bytes`] |
//! | [`Text`] | a message of the transport, as text | anything that is a `str`, and `String` |
//! | [`Binary`] | a message of the transport, as bytes | [`Bytes`] |
//!
//! Codecs of [`Bytes`] also send a `&[u8]`.
//!
//! [`Packets`] has an opcode in front of the payload, in the frames of one of these codecs. Its
//! messages are [`handler::Packet`](crate::handler::Packet)s, which a
//! [`Router`](crate::handler::Router) passes to the handler of their opcode.
//!
//! [`Switch`] continues with another codec after an agreed message.
//!
//! Codecs for an application's types are these codecs of frames inside a [format](mod@format):
//!
//! | codec | feature | a message is |
//! |---|---|---|
//! | `Json` | `json` | a value in JSON: serde's `Serialize` and `Deserialize` |
//! | `MessagePack` | `messagepack` | a value in MessagePack: the same traits |
//! | `Postcard` | `postcard` | a value in postcard: the same traits |
//! | `Prost` | `prost` | a message of Protocol Buffers: `prost::Message` |
//!
//! Pass a codec to [`CodecLayer`](crate::CodecLayer), which clones it for each connection. Any
//! other [`Decoder`] and [`Encoder`] can be used as well.
//!
//! `Deflated` (feature `compression`) compresses each message of a codec of bytes. Formats and
//! [`Packets`] go around it.
//!
//! # `LengthDelimited` or `Frames`?
//!
//! On the wire they are the same, so either side can switch at any time.
//!
//! - Use [`Frames`] if many small messages arrive together over TCP, TLS or a Unix socket. Each
//!   must be answered or converted before the next one. Fifty messages of 64 bytes at once cost
//!   a tenth less CPU.
//! - Use [`LengthDelimited`] otherwise. Messages that are kept or forwarded must be [`Bytes`].
//!   Messages that arrive one at a time gain nothing from [`Frames`]. Nor do messages of some
//!   kilobytes or more: there the kernel's copies outweigh everything else.
//! - Use neither over WebSocket and UDP unless the protocol requires a length inside each
//!   message. These transports keep message boundaries, and [`Binary`] or [`Text`] returns each
//!   message as it is.
//!
//! # The maximum
//!
//! The maximum applies to a message without its header or line end. The default is 64 KiB
//! ([`DEFAULT_MAX_FRAME`]). Change it with `with_max_length`, or with `max_frame_length` for
//! codecs of frames with a length. A maximum above 1 GiB is reduced to 1 GiB. The maximum is
//! also about as much memory as a peer can make its session hold for an incomplete frame, so
//! set it as low as the protocol allows.
//!
//! Frames and lines have the maximum in both directions, so each side can receive what the
//! other may send. A handler that forwards a peer's message and adds to it must leave room for
//! the addition: a reply that the codec refuses closes the session that should send it. A
//! broadcast that is refused is dropped for that session and counted.
//!
//! # The end of a stream
//!
//! A stream may end within a message because the peer was killed or gave up a write. After an
//! orderly end (a FIN, or TLS with its `close_notify`), a session decodes the rest with
//! `decode_eof`:
//!
//! | codec | the rest of a message |
//! |---|---|
//! | [`LengthDelimited`], [`Frames`] | is refused with [`LengthDelimitedError::Truncated`] |
//! | [`VarintDelimited`] | is refused with [`VarintDelimitedError::Truncated`] |
//! | [`Lines`] | is a line, as in tokio-util; refused after [`with_final_newline_required`] |
//! | [`Raw`] | does not exist, because every part is a message |
//! | [`Text`] | is refused, as all bytes of a stream are, with [`TextError::NoBoundaries`] |
//! | [`Binary`] | is refused in the same way, with [`BinaryError::NoBoundaries`] |
//!
//! [`with_final_newline_required`]: Lines::with_final_newline_required
//!
//! # Writing a codec
//!
//! | to write | implement |
//! |---|---|
//! | a custom format in any frames | [`DecodePayload`] and [`EncodePayload`] |
//! | custom frames for any format | [`Decoder`] and [`FrameCodec`] |
//! | a codec with both | [`Decoder`] and [`Encoder`] |
//!
//! The error of a codec may be any type that an [`io::Error`](std::io::Error) converts into.
//!
//! [`DecodePayload`]: format::DecodePayload
//! [`EncodePayload`]: format::EncodePayload
//!
//! The cheapest way to decode a binary protocol is to read the fields from the buffer. [`Buf`]
//! takes numbers from the front of the buffer, and [`BufMut`] appends them. Unlike `split_to`,
//! they neither allocate nor count a reference. An incomplete message stays in the buffer until
//! the next call:
//!
//! ```
//! use getty::codec::{Buf, BufMut, BytesMut, Decoder, Encoder};
//! # use std::io;
//!
//! #[derive(Clone, Copy, Debug, PartialEq, Eq)]
//! struct Reading {
//!     sensor: u32,
//!     millidegrees: i32,
//! }
//!
//! #[derive(Clone, Copy, Debug, Default)]
//! struct Readings;
//!
//! impl Decoder for Readings {
//!     type Item = Reading;
//!     type Error = io::Error;
//!
//!     fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Reading>> {
//!         if src.len() < 8 {
//!             return Ok(None);
//!         }
//!         let (sensor, millidegrees) = (src.get_u32(), src.get_i32());
//!         Ok(Some(Reading { sensor, millidegrees }))
//!     }
//! }
//!
//! impl Encoder<Reading> for Readings {
//!     type Error = io::Error;
//!
//!     fn encode(&mut self, reading: Reading, dst: &mut BytesMut) -> io::Result<()> {
//!         dst.put_u32(reading.sensor);
//!         dst.put_i32(reading.millidegrees);
//!         Ok(())
//!     }
//! }
//! # let reading = Reading { sensor: 7, millidegrees: -1_500 };
//! # let mut buffer = BytesMut::new();
//! # Readings.encode(reading, &mut buffer)?;
//! # assert_eq!(Readings.decode(&mut BytesMut::from(&buffer[..7]))?, None);
//! # assert_eq!(Readings.decode(&mut buffer)?, Some(reading));
//! # Ok::<(), io::Error>(())
//! ```
//!
//! If frames vary in length and none of these codecs fits, check the length in the header
//! against a maximum before waiting for the rest. [`Frames`] has an example of a type in frames
//! with a header.
//!
//! A codec that wraps [`LengthDelimited`] or [`Frames`] should also forward `decode_eof`. The
//! session's record then contains how much of the last frame was missing. The default
//! implementation of `decode_eof` is correct, but reports only that bytes remained.
//!
//! On a stream a session calls `decode` before the first `decode_eof`. It then calls
//! `decode_eof` until that returns `None`, even with an empty buffer. On a message transport
//! each message is passed to `decode_eof` alone.
//!
//! A decode error closes the session without a message to the peer. If the protocol has such a
//! message, the decoder can return the error once as an item, for example `Result<Bytes,
//! LengthDelimitedError>` and discard the bytes that follow. The handler answers it with a
//! [`Reply`](crate::Reply) and
//! [`and_close_with(CloseReason::Decode)`](crate::Reply::and_close_with).

mod binary;
#[cfg(feature = "compression")]
mod deflated;
pub mod format;
mod frame_codec;
mod frames;
mod length_delimited;
mod lines;
mod packets;
mod raw;
mod switch;
mod text;
mod varint_delimited;

use std::any::Any;

pub use bytes::{Buf, BufMut, Bytes, BytesMut};
pub use getty_layers::{Malformed, codec::FrameLimit};
pub use tokio_util::codec::{Decoder, Encoder};

#[cfg(feature = "compression")]
pub use self::deflated::{Deflated, DeflatedError};
#[cfg(feature = "json")]
pub use self::format::json::Json;
#[cfg(feature = "messagepack")]
pub use self::format::message_pack::MessagePack;
#[cfg(feature = "postcard")]
pub use self::format::postcard::Postcard;
#[cfg(feature = "prost")]
pub use self::format::prost::Prost;
pub use self::{
    binary::{Binary, BinaryError},
    frame_codec::FrameCodec,
    frames::{Frame, Frames},
    length_delimited::{FieldWidth, LengthDelimited, LengthDelimitedError},
    lines::{Lines, LinesError},
    packets::Packets,
    raw::Raw,
    switch::{Switch, SwitchError, Switched},
    text::{Text, TextError},
    varint_delimited::{VarintDelimited, VarintDelimitedError},
};

/// Default maximum of every codec in this module, in bytes: 64 KiB.
pub const DEFAULT_MAX_FRAME: usize = getty_layers::codec::DEFAULT_MAX_FRAME;

/// Largest maximum in bytes. With it, sums of lengths and headers always fit `usize` and the
/// allocator.
const LARGEST_MAX: usize = 1 << 30;

const fn clamp_max(bytes: usize) -> usize {
    if bytes < LARGEST_MAX {
        bytes
    } else {
        LARGEST_MAX
    }
}

/// Error of [`reclaim`]: the codec keeps whole messages.
#[derive(Debug)]
pub(crate) struct KeepsMessages;

/// Puts undecoded bytes that `codec` keeps outside the read buffer back to its front. It must
/// be called only after the codec has returned a message, when it keeps no part of the next
/// one.
///
/// Of getty's codecs only [`Frames`] keeps bytes. A codec of an application that wraps `Frames`
/// returns its next message if it keeps a whole one, which cannot become bytes again.
pub(crate) fn reclaim<C: Decoder + 'static>(
    codec: &mut C,
    src: &mut BytesMut,
) -> Result<(), KeepsMessages> {
    if let Some(frames) = (codec as &mut dyn Any).downcast_mut::<Frames>() {
        frames.put_back(src);
        return Ok(());
    }
    // An empty buffer separates the kept bytes from those that have arrived since.
    let mut kept = BytesMut::new();
    match codec.decode(&mut kept) {
        Ok(Some(_)) => Err(KeepsMessages),
        Err(_) if kept.is_empty() => Err(KeepsMessages),
        Ok(None) if kept.is_empty() => Ok(()),
        // An error means that the bytes are no message of this codec. They belong to what follows.
        Ok(None) | Err(_) => {
            kept.extend_from_slice(src);
            *src = kept;
            Ok(())
        }
    }
}

#[cfg(test)]
mod testing {
    //! Helpers for the tests of all codecs.

    use bytes::BytesMut;
    use proptest::{collection::vec, prelude::*};

    use super::Decoder;

    /// Returns sizes of the pieces in which a stream arrives, to be repeated.
    pub(super) fn pieces() -> impl Strategy<Value = Vec<usize>> {
        vec(1_usize..40, 1..8)
    }

    /// Decodes a stream that arrives in `pieces` and then ends, as a session does. Stops at the
    /// first error.
    pub(super) fn decode_stream<D: Decoder>(
        codec: &mut D,
        stream: &[u8],
        pieces: &[usize],
    ) -> (Vec<D::Item>, Option<D::Error>) {
        let mut buffer = BytesMut::new();
        let mut items = Vec::new();
        let mut sizes = pieces.iter().cycle();
        let mut rest = stream;
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            buffer.extend_from_slice(piece);
            rest = later;
            loop {
                match codec.decode(&mut buffer) {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(error) => return (items, Some(error)),
                }
            }
        }
        loop {
            match codec.decode_eof(&mut buffer) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => {
                    assert!(buffer.is_empty(), "undecoded at the end: {buffer:?}");
                    return (items, None);
                }
                Err(error) => return (items, Some(error)),
            }
        }
    }
}
