//! Codecs for first use: length-delimited frames, lines, raw bytes, each with a maximum that is always on.
//!
//! | codec | a message is | sent and received as |
//! |---|---|---|
//! | [`Length`] | a frame whose header says how long it is | [`Bytes`] |
//! | [`Frames`] | the same, for many small frames over a stream | [`Frame`], and [`Bytes`] |
//! | [`Lines`] | a line of UTF-8 text | anything that is a `str`, and `String` |
//! | [`Raw`] | whatever has arrived | [`Bytes`] |
//! | [`Text`] | one of the transport's own messages, as text | anything that is a `str`, and `String` |
//!
//! A codec is given to [`CodecLayer`](crate::CodecLayer), which clones it for each connection. Any other
//! [`Decoder`] and [`Encoder`] works as well.
//!
//! # Length or Frames?
//!
//! On the wire they are the same, so either side may change its mind.
//!
//! - [`Frames`] where many small messages come together over TCP, TLS or a Unix socket, and each is answered, or decoded to
//!   something else, before the next: fifty at once of 64 bytes cost a tenth less CPU.
//! - [`Length`] for all else: where messages are kept or sent on to others, which need [`Bytes`]; where they come one by one;
//!   and where a frame is some kilobytes or more, for then the kernel's copies are all that counts.
//! - Neither over WebSocket and UDP, unless the protocol wants a length inside of each message: there a message has an end
//!   already, and [`Raw`] or [`Text`] hands it out as it is.
//!
//! # The maximum
//!
//! The maximum is of a message's own bytes, without header or line end: 64 KiB ([`MAX_FRAME`]) unless
//! `with_max_length` says otherwise (for [`Frames`], that of its [`Length`]); more than 1 GiB is taken as 1 GiB. It is also
//! about how much memory one peer can make its session hold for a frame that is not complete, so it is to be as low as the
//! protocol allows.
//!
//! Frames and lines have it in both directions, so that what one side may send the other side may receive. A handler
//! that repeats to others what a peer said, and adds to it, has to leave room for what it adds: a reply that the codec
//! refuses closes the session that it was meant for.
//!
//! # The end of a stream
//!
//! A peer may end a stream within a message: its process was killed, or it gave up a write. When
//! the end is an orderly one (a FIN, TLS with its `close_notify`), a session decodes the rest by
//! `decode_eof`:
//!
//! | codec | the rest of a message |
//! |---|---|
//! | [`Length`], [`Frames`] | is refused, as [`LengthError::Truncated`] |
//! | [`Lines`] | is a line, as in tokio-util; refused after [`with_final_newline_required`] |
//! | [`Raw`] | does not exist, because every part is a message |
//! | [`Text`] | is refused, as all bytes of a stream are: [`TextError::NoBoundaries`] |
//!
//! [`with_final_newline_required`]: Lines::with_final_newline_required
//!
//! # A codec of one's own
//!
//! A type of one's own is decoded most easily by one of these codecs and what it makes of a frame: here JSON, one value a
//! line. The error is any that an [`io::Error`](std::io::Error) converts to.
//!
//! ```
//! use getty::codec::{BytesMut, Decoder, Encoder, Lines};
//! use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
//! use serde_json::Value;
//!
//! #[derive(Clone, Debug, Default)]
//! struct Json(Lines);
//!
//! impl Decoder for Json {
//!     type Item = Value;
//!     type Error = BoxError;
//!
//!     fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Value>, BoxError> {
//!         let line = self.0.decode(src)?;
//!         Ok(line.map(|line| serde_json::from_str(&line)).transpose()?)
//!     }
//!
//!     // the last line of a stream, and a message of a message transport, need no end
//!     fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Value>, BoxError> {
//!         let line = self.0.decode_eof(src)?;
//!         Ok(line.map(|line| serde_json::from_str(&line)).transpose()?)
//!     }
//! }
//!
//! impl Encoder<Value> for Json {
//!     type Error = BoxError;
//!
//!     fn encode(&mut self, value: Value, dst: &mut BytesMut) -> Result<(), BoxError> {
//!         Ok(self.0.encode(value.to_string(), dst)?)
//!     }
//! }
//!
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(Json::default()))
//!     .layer(SessionLayer::new())
//!     .service_fn(|request: Request<Value>| async move {
//!         Ok::<_, BoxError>(serde_json::json!({ "you_said": request.message() }))
//!     });
//! # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
//! # check(&stack);
//! # let mut codec = Json::default();
//! # let mut buffer = BytesMut::new();
//! # codec.encode(serde_json::json!([1, 2]), &mut buffer)?;
//! # assert_eq!(codec.decode(&mut buffer)?, Some(serde_json::json!([1, 2])));
//! # assert_eq!(codec.decode_eof(&mut BytesMut::from("7"))?, Some(serde_json::json!(7)));
//! # Ok::<(), BoxError>(())
//! ```
//!
//! A binary protocol is decoded most cheaply where it lies. [`Buf`] takes numbers from the front of the buffer and
//! [`BufMut`] adds them at the end; neither allocates, nor counts a reference as `split_to` does. What has not all come
//! stays as it is, until the next call:
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
//! Where frames differ in length and there is no codec for them here, check what the header says against a maximum before
//! waiting for the rest. [`Frames`] has an example of a type of one's own in frames that have a header.
//!
//! A codec around [`Length`] or [`Frames`] passes `decode_eof` on, too, where the record of a session is to say how much of
//! its last frame was missing. What `decode_eof` does by itself is right, but says only that bytes remained.
//!
//! On a stream a session calls `decode` before the first `decode_eof`. It then calls `decode_eof`
//! until that returns `None`, also with an empty buffer. Each message of a message transport is
//! passed to `decode_eof` alone.
//!
//! An error of the decoder ends the session without a word to the peer. Where the protocol has a message for that, the
//! decoder hands the error out as an item, once, such as `Result<Bytes, LengthError>`, and throws away what follows; the
//! handler answers it with a [`Reply`](crate::Reply) and
//! [`and_close_with(CloseReason::Decode)`](crate::Reply::and_close_with).

pub mod frames;
pub mod length;
pub mod lines;
pub mod raw;
pub mod text;

pub use bytes::{Buf, BufMut, Bytes, BytesMut};
pub use tokio_util::codec::{Decoder, Encoder};

pub use self::{
    frames::{Frame, Frames},
    length::{FieldWidth, Length, LengthError},
    lines::{Lines, LinesError},
    raw::Raw,
    text::{Text, TextError},
};

/// The maximum of every codec here, in bytes, unless its `with_max_length` says otherwise: 64 KiB.
pub const MAX_FRAME: usize = getty_layers::codec::DEFAULT_MAX_FRAME;

/// The largest maximum. It keeps the sums of lengths and headers inside `usize` and the allocator's range everywhere.
const LARGEST_MAX: usize = 1 << 30;

const fn clamp_max(bytes: usize) -> usize {
    if bytes < LARGEST_MAX {
        bytes
    } else {
        LARGEST_MAX
    }
}

#[cfg(test)]
mod testing {
    //! What the codecs' tests share.

    use bytes::BytesMut;
    use proptest::{collection::vec, prelude::*};

    use super::Decoder;

    /// Sizes of the pieces in which a stream arrives, to be repeated.
    pub(super) fn pieces() -> impl Strategy<Value = Vec<usize>> {
        vec(1_usize..40, 1..8)
    }

    /// Decodes a stream that arrives in such pieces and then ends, as a session does: until the first error.
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
