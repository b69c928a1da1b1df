//! Frames that are compressed one at a time.

use std::{error::Error, fmt, io};

use bytes::{BufMut, Bytes, BytesMut};

use super::{Decoder, Encoder, FrameCodec};
use crate::{
    buffer_pool,
    compress::{
        Level,
        zlib::{FrameError, deflate_frame, inflate_frame},
    },
};

/// First byte of a frame that is not compressed.
const PLAIN: u8 = 0;
/// First byte of a frame that is compressed: raw deflate follows.
const DEFLATED: u8 = 1;

/// Default minimum length of a message that is compressed, in bytes.
const THRESHOLD: usize = 512;

/// Codec that compresses each message alone, in the frames of `C`.
///
/// This is the compression to use first for a custom protocol. Unlike a
/// [`CompressionLayer`](crate::compress::CompressionLayer):
///
/// - A session holds no compression context. Each thread has one.
/// - A message that a [`Group`](crate::Group) sends to many sessions is compressed once.
/// - The maximum of a message is exact, compressed and inflated.
/// - The length of a message reveals nothing about the content of another one. In a common
///   stream it may ([CRIME](crate::compress#security)).
/// - It works over WebSocket and UDP as well.
///
/// It saves less if messages are small and similar, because each begins with an empty window.
///
/// The frames must be those of a codec of bytes: [`LengthDelimited`](super::LengthDelimited),
/// [`Frames`](super::Frames) or [`VarintDelimited`](super::VarintDelimited) over streams, and
/// [`Binary`](super::Binary) over WebSocket and UDP. A [format](mod@super::format) goes around
/// it: `Json::new(Deflated::new(LengthDelimited::new()))`.
///
/// ```
/// use getty::codec::{Bytes, BytesMut, Decoder, Deflated, Encoder, LengthDelimited};
///
/// # fn main() -> Result<(), getty::BoxError> {
/// let mut codec = Deflated::new(LengthDelimited::new());
/// let mut buffer = BytesMut::new();
/// codec.encode(Bytes::from("short"), &mut buffer)?;
/// assert_eq!(buffer, b"\0\0\0\x06\0short"[..]);
///
/// let text = Bytes::from("a longer text ".repeat(100));
/// codec.encode(text.clone(), &mut buffer)?;
/// assert!(buffer.len() < 100);
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "short");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), text);
/// # Ok(())
/// # }
/// ```
///
/// # On the wire
///
/// The first byte of a payload is 0 or 1. After 0 the message follows as it is. After 1 a
/// complete stream of raw deflate follows, with a final block: `zlib.decompress(rest, -15)` in
/// Python, `flate.NewReader` in Go. A message below the [threshold](Self::with_threshold), and
/// one that would not be shorter, is sent as it is.
///
/// # The maximum
///
/// The maximum of the frames includes the first byte, so a message may have one byte less. The
/// same maximum applies to a message before compression and after inflation.
/// [`with_max_length`](Self::with_max_length) raises it for messages that compress well.
///
/// # Errors
///
/// A frame that cannot be inflated is a [`DeflatedError`]. The frame has been removed from the
/// buffer, and the next one can be decoded. A message that cannot be sent leaves no bytes in
/// the buffer.
#[derive(Clone, Debug)]
pub struct Deflated<C> {
    frames: C,
    level: Level,
    threshold: usize,
    max: Option<usize>,
    /// Number of bytes in front of the payload that [`begin_frame`](FrameCodec::begin_frame) of the
    /// frames appends. It is set for each frame.
    header: usize,
}

impl<C> Deflated<C> {
    /// Creates a new codec with messages in the frames of `frames`. The default level is
    /// [`Level::FAST`].
    pub const fn new(frames: C) -> Self {
        Self {
            frames,
            level: Level::FAST,
            threshold: THRESHOLD,
            max: None,
            header: 0,
        }
    }

    /// Sets the compression level. The default is [`Level::FAST`].
    #[must_use]
    pub const fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Sets the minimum length in bytes of a message that is compressed. The default is 512. A
    /// shorter message gains little and costs as much time as one of a kilobyte.
    #[must_use]
    pub const fn with_threshold(mut self, bytes: usize) -> Self {
        self.threshold = bytes;
        self
    }

    /// Sets the maximum length of a message that is not compressed, in bytes. The default is the
    /// maximum of the frames less one byte. A value above 1 GiB is reduced to 1 GiB.
    ///
    /// A longer received message fails before it is inflated any further. A peer can make the
    /// session allocate this much memory with a frame that is a thousand times shorter.
    #[must_use]
    pub const fn with_max_length(mut self, bytes: usize) -> Self {
        self.max = Some(super::clamp_max(bytes));
        self
    }

    /// Returns the codec of the frames.
    pub const fn frames(&self) -> &C {
        &self.frames
    }
}

impl<C: FrameCodec> Deflated<C> {
    fn max(&self) -> usize {
        self.max
            .unwrap_or_else(|| self.frames.max_payload().saturating_sub(1))
    }

    /// Passes the message in `payload` to `read`.
    fn read<T>(
        payload: &[u8],
        max: usize,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, DeflatedError<C::Error>> {
        match payload.split_first() {
            Some((&PLAIN, message)) if message.len() <= max => Ok(read(message)),
            Some((&PLAIN, _)) => Err(DeflatedError::TooLong { max }),
            Some((&DEFLATED, compressed)) => {
                let mut message = buffer_pool::take();
                let inflated = inflate(compressed, max, &mut message);
                let result = inflated.map(|()| read(&message));
                buffer_pool::put(message);
                result
            }
            Some((&flag, _)) => Err(DeflatedError::UnknownFlag(flag)),
            None => Err(DeflatedError::NoFlag),
        }
    }

    /// Returns the message in `frame`. A message that is not compressed is a part of the frame.
    fn message(
        frame: Result<Option<C::Item>, C::Error>,
        max: usize,
    ) -> Result<Option<Bytes>, DeflatedError<C::Error>>
    where
        C::Item: Into<Bytes>,
    {
        let Some(frame) = frame.map_err(DeflatedError::Frame)? else {
            return Ok(None);
        };
        let frame = frame.into();
        match frame.split_first() {
            Some((&DEFLATED, compressed)) => {
                let mut message = BytesMut::new();
                inflate(compressed, max, &mut message)?;
                Ok(Some(message.freeze()))
            }
            _ => Self::read(&frame, max, |_| frame.slice(1..)).map(Some),
        }
    }
}

fn inflate<E>(
    compressed: &[u8],
    max: usize,
    message: &mut BytesMut,
) -> Result<(), DeflatedError<E>> {
    inflate_frame(compressed, max, message).map_err(|error| match error {
        FrameError::Corrupt => DeflatedError::Corrupt,
        FrameError::TooLong => DeflatedError::TooLong { max },
    })
}

impl<C> Decoder for Deflated<C>
where
    C: FrameCodec<Item: Into<Bytes>>,
{
    type Item = Bytes;
    type Error = DeflatedError<C::Error>;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Self::Error> {
        let max = self.max();
        Self::message(self.frames.decode(src), max)
    }

    #[inline]
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Bytes>, Self::Error> {
        let max = self.max();
        Self::message(self.frames.decode_eof(src), max)
    }
}

impl<C> FrameCodec for Deflated<C>
where
    C: FrameCodec<Item: Into<Bytes>>,
{
    fn read_frame<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Self::Error> {
        let max = self.max();
        let frame = self
            .frames
            .read_frame(src, |payload| Self::read(payload, max, read));
        frame.map_err(DeflatedError::Frame)?.transpose()
    }

    fn read_frame_eof<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Self::Error> {
        let max = self.max();
        let frame = self
            .frames
            .read_frame_eof(src, |payload| Self::read(payload, max, read));
        frame.map_err(DeflatedError::Frame)?.transpose()
    }

    fn begin_frame(&mut self, dst: &mut BytesMut) {
        let start = dst.len();
        self.frames.begin_frame(dst);
        self.header = dst.len() - start;
        dst.put_u8(PLAIN);
    }

    fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> Result<(), Self::Error> {
        let flag = start + self.header;
        let message = &dst[flag + 1..];
        let max = self.max();
        if message.len() > max {
            return Err(DeflatedError::TooLong { max });
        }
        if message.len() >= self.threshold {
            let mut compressed = buffer_pool::take();
            deflate_frame(self.level, message, &mut compressed);
            if compressed.len() < message.len() {
                dst.truncate(flag);
                dst.put_u8(DEFLATED);
                dst.extend_from_slice(&compressed);
            }
            buffer_pool::put(compressed);
        }
        self.frames
            .end_frame(dst, start)
            .map_err(DeflatedError::Frame)
    }

    fn max_payload(&self) -> usize {
        self.max()
    }
}

impl<C: FrameCodec<Item: Into<Bytes>>> Deflated<C> {
    fn put(&mut self, message: &[u8], dst: &mut BytesMut) -> Result<(), DeflatedError<C::Error>> {
        let start = dst.len();
        self.begin_frame(dst);
        dst.extend_from_slice(message);
        let ended = self.end_frame(dst, start);
        if ended.is_err() {
            dst.truncate(start);
        }
        ended
    }
}

impl<C: FrameCodec<Item: Into<Bytes>>> Encoder<Bytes> for Deflated<C> {
    type Error = DeflatedError<C::Error>;

    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> Result<(), Self::Error> {
        self.put(&message, dst)
    }
}

impl<C: FrameCodec<Item: Into<Bytes>>> Encoder<&[u8]> for Deflated<C> {
    type Error = DeflatedError<C::Error>;

    fn encode(&mut self, message: &[u8], dst: &mut BytesMut) -> Result<(), Self::Error> {
        self.put(message, dst)
    }
}

/// Returned when a frame cannot be decoded or encoded. `E` is the error of the frames.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeflatedError<E> {
    /// The frames could not be decoded or encoded.
    Frame(E),
    /// A message exceeds the maximum. A received one was not inflated any further.
    TooLong {
        /// The maximum in bytes.
        max: usize,
    },
    /// The compressed bytes of a frame are not one complete stream of raw deflate.
    Corrupt,
    /// The first byte of a frame is neither 0 nor 1. The peer may send frames without it.
    UnknownFlag(u8),
    /// A frame is empty.
    NoFlag,
}

impl<E: fmt::Display> fmt::Display for DeflatedError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::TooLong { max } => {
                write!(
                    f,
                    "message exceeds the maximum of {max} bytes before compression"
                )
            }
            Self::Corrupt => f.write_str("compressed frame is not valid deflate"),
            Self::UnknownFlag(flag) => {
                write!(
                    f,
                    "frame begins with {flag}, which is neither plain nor compressed"
                )
            }
            Self::NoFlag => f.write_str("frame has no byte for its compression"),
        }
    }
}

impl<E: Error> Error for DeflatedError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Frame(error) => error.source(),
            _ => None,
        }
    }
}

impl<E: From<io::Error>> From<io::Error> for DeflatedError<E> {
    fn from(error: io::Error) -> Self {
        Self::Frame(error.into())
    }
}

#[cfg(test)]
mod tests;
