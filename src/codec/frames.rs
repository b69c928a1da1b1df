//! Frames whose header says how long they are, as views of what was read together.
//!
//! What [`Length`] decodes are [`Bytes`], each of which counts a reference to the memory that it shares: two
//! atomic operations a message, for which a processor waits as long as for all the rest of a small one. A [`Frame`] whose
//! bytes are sent back, or [handed back](Frames::reuse), before the next one is decoded costs none. On the wire the two
//! codecs are the same.
//!
//! It is the codec for many small frames over a stream. Where messages are kept, or are large, or arrive one by one, as
//! over WebSocket and UDP, [`Length`] is as good or better: what is shared here is shared by what arrives together.
//!
//! In a stack it is given to `CodecLayer`. Scope: session; between reads it keeps nothing.
//!
//! ```
//! use getty::codec::{BytesMut, Decoder, Encoder, Frame, Frames, Length};
//!
//! # fn main() -> Result<(), getty::codec::LengthError> {
//! let mut codec = Frames::new(Length::new().with_max_length(1024));
//! let mut buffer = BytesMut::new();
//! codec.encode(Frame::from("hello"), &mut buffer)?;
//! codec.encode(Frame::from("world"), &mut buffer)?;
//! assert_eq!(buffer, b"\0\0\0\x05hello\0\0\0\x05world"[..]);
//!
//! let hello = codec.decode(&mut buffer)?.unwrap();
//! assert_eq!(hello[..], b"hello"[..]);
//! // a frame may be kept, and goes to other threads
//! let world = codec.decode(&mut buffer)?.unwrap();
//! std::thread::spawn(move || assert_eq!(world.into_bytes(), "world")).join().unwrap();
//! # Ok(())
//! # }
//! ```

use std::{
    cell::Cell,
    fmt,
    hash::{Hash, Hasher},
    ops::{Deref, Range},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::{Decoder, Encoder, Length, LengthError};

/// So many bytes at most are taken out of the read buffer together, or one frame. It bounds what lies
/// undecoded beside that buffer, and the reference count is touched once for all of it.
const BLOCK: usize = 8 * 1024;

thread_local! {
    /// What a block was counted in that nobody refers to any more.
    static SPARE: Cell<Option<Arc<Bytes>>> = const { Cell::new(None) };
}

/// Counts the references to a block.
fn share(bytes: Bytes) -> Arc<Bytes> {
    // while a thread ends there is no spare
    let spare = SPARE.try_with(Cell::take).ok().flatten();
    if let Some(mut spare) = spare
        && let Some(place) = Arc::get_mut(&mut spare)
    {
        *place = bytes;
        return spare;
    }
    Arc::new(bytes)
}

/// Lets go of a block. What it was counted in is kept for the thread's next one, so that none is allocated a read.
#[inline(never)]
fn retire(mut block: Arc<Bytes>) {
    if let Some(bytes) = Arc::get_mut(&mut block) {
        *bytes = Bytes::new();
        _ = SPARE.try_with(|spare| spare.set(Some(block)));
    }
}

/// One message: bytes that cannot be changed, in memory that is shared with the frames that arrived together.
///
/// It is a `[u8]` by [`Deref`], is cloned without a copy, and can be kept; a frame that is kept keeps the whole block
/// that it arrived in alive.
///
/// One is made of a `Vec<u8>`, a `String`, [`Bytes`], or bytes and text that are `'static`, by [`From`]; of others, as of a
/// part of a frame, by `Frame::from(part.to_vec())`. A part that is to go on without a copy, such as what stands behind a
/// header, is a slice of [`into_bytes`](Self::into_bytes).
///
/// ```
/// use getty::codec::{Buf, Frame};
///
/// let frame = Frame::from(vec![1, 0, 7, b'h', b'i']);
/// let mut rest = &frame[..];
/// let (kind, id) = (rest.get_u8(), rest.get_u16());
/// assert_eq!((kind, id, rest), (1, 7, &b"hi"[..]));
/// assert_eq!(frame.into_bytes().slice(3..), "hi");
/// ```
#[derive(Clone)]
pub struct Frame {
    // one word: what is of two words is handed on in registers
    block: Arc<Bytes>,
    /// Where it begins, and where it ends in the upper half.
    range: u64,
}

impl Frame {
    #[inline(always)]
    const fn new(block: Arc<Bytes>, start: u32, end: u32) -> Self {
        Self {
            block,
            range: start as u64 | (end as u64) << 32,
        }
    }

    #[inline(always)]
    const fn range(&self) -> Range<usize> {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let start = self.range as u32;
        start as usize..(self.range >> 32) as usize
    }

    /// The same as [`Bytes`], without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.block.slice(self.range())
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.block[self.range()]
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clone().into_bytes().fmt(f)
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Frame {}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<&T> for Frame {
    fn eq(&self, other: &&T) -> bool {
        **self == *(*other).as_ref()
    }
}

impl Hash for Frame {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl From<Bytes> for Frame {
    /// Without a copy, and with one small allocation.
    ///
    /// # Panics
    ///
    /// With 4 GiB or more, which no codec sends.
    fn from(bytes: Bytes) -> Self {
        let end = u32::try_from(bytes.len()).expect("a frame is shorter than 4 GiB");
        Self::new(Arc::new(bytes), 0, end)
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static [u8]> for Frame {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<&'static str> for Frame {
    fn from(text: &'static str) -> Self {
        text.as_bytes().into()
    }
}

impl From<Frame> for Bytes {
    fn from(frame: Frame) -> Self {
        frame.into_bytes()
    }
}

/// [`Length`] whose messages are [`Frame`]s; see the [module](self).
///
/// It takes what has arrived out of the read buffer, up to 8 KiB at a time, and so much may wait beside what the
/// session's own bound on undecoded bytes says. While one of them waits, the whole buffer that they were read into stays, of 64
/// KiB or, from a peer that sends without a pause, of 260 KiB; one of [`Length`]'s that waits undecoded is moved to a
/// small one. An answer is a [`Frame`], or `Bytes` where the stack says so: `Request<Frame, Bytes>`.
///
/// A codec of one's own around it, which makes something else of a frame, hands the frame back. To send, it writes the
/// header itself, for a [`Frame`] made only to be encoded would be an allocation a message; the maximum is then its own to
/// keep:
///
/// ```
/// use getty::codec::{BufMut, BytesMut, Decoder, Encoder, Frames};
/// use getty::BoxError;
/// use std::fmt::Write;
///
/// /// Temperatures: a frame is a number in text.
/// #[derive(Clone, Debug, Default)]
/// struct Celsius(Frames);
///
/// impl Decoder for Celsius {
///     type Item = f32;
///     type Error = BoxError;
///
///     fn decode(&mut self, src: &mut BytesMut) -> Result<Option<f32>, BoxError> {
///         let Some(frame) = self.0.decode(src)? else {
///             return Ok(None);
///         };
///         let degrees = std::str::from_utf8(&frame)?.parse()?;
///         self.0.reuse(frame);
///         Ok(Some(degrees))
///     }
/// }
///
/// impl Encoder<f32> for Celsius {
///     type Error = BoxError;
///
///     fn encode(&mut self, degrees: f32, dst: &mut BytesMut) -> Result<(), BoxError> {
///         let header = dst.len();
///         dst.put_u32(0);
///         write!(dst, "{degrees}")?;
///         let length = u32::try_from(dst.len() - header - 4)?;
///         dst[header..header + 4].copy_from_slice(&length.to_be_bytes());
///         Ok(())
///     }
/// }
///
/// let mut buffer = BytesMut::new();
/// let mut codec = Celsius::default();
/// codec.encode(21.0, &mut buffer)?;
/// codec.encode(21.5, &mut buffer)?;
/// assert_eq!(buffer, b"\0\0\0\x0221\0\0\0\x0421.5"[..]);
/// assert_eq!(codec.decode(&mut buffer)?, Some(21.0));
/// assert_eq!(codec.decode(&mut buffer)?, Some(21.5));
/// # Ok::<(), BoxError>(())
/// ```
///
/// # Errors
///
/// [`Length`]'s.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    length: Length,
    at: u32,
    /// Frames, of which those from `at` on are to be decoded, and perhaps the beginning of one more.
    block: Option<Arc<Bytes>>,
    /// A handle on the block that has come back with an answer.
    spare: Option<Arc<Bytes>>,
}

impl Frames {
    /// Frames with this header and maximum.
    #[must_use]
    pub const fn new(length: Length) -> Self {
        Self {
            length,
            at: 0,
            block: None,
            spare: None,
        }
    }

    /// Takes back a frame that is not needed any more, so that the next one can be made of it. To drop it does no harm.
    #[inline(always)]
    pub fn reuse(&mut self, frame: Frame) {
        if let Some(block) = &self.block
            && Arc::ptr_eq(block, &frame.block)
            && self.spare.is_none()
        {
            self.spare = Some(frame.block);
        } else {
            retire(frame.block);
        }
    }

    /// Takes what lies in the buffer out of it, if there is a whole frame, and that frame out of what was taken.
    #[inline(never)]
    fn refill(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, LengthError> {
        self.put_back(src);
        let Some(first) = self.length.whole(src)? else {
            return Ok(None);
        };
        // what lies behind the last whole frame is put back when its turn comes: to look for it here would be to read
        // each header twice
        let end = if src.len() <= BLOCK {
            src.len()
        } else {
            self.whole_frames(src, first.end)
        };
        let block = share(src.split_to(end).freeze());
        if first.end < end {
            self.at = narrow(first.end);
            self.block = Some(Arc::clone(&block));
        }
        Ok(Some(Frame::new(
            block,
            narrow(first.start),
            narrow(first.end),
        )))
    }

    /// Where the whole frames end that make a block with the first one, which ends at `end`.
    fn whole_frames(&self, src: &[u8], mut end: usize) -> usize {
        while end < BLOCK
            && let Some(next) = self.length.following(&src[end..])
            && end + next <= BLOCK
        {
            end += next;
        }
        end
    }

    /// Puts the beginning of a frame, with which the block has ended, back before what has arrived since.
    #[inline]
    fn put_back(&mut self, src: &mut BytesMut) {
        if let Some(block) = self.block.take() {
            self.spare = None;
            let rest = &block[self.at as usize..];
            if src.is_empty() {
                src.extend_from_slice(rest);
            } else {
                let mut joined = BytesMut::with_capacity(rest.len() + src.len());
                joined.extend_from_slice(rest);
                joined.extend_from_slice(src);
                *src = joined;
            }
            retire(block);
        }
    }

    /// The next frame of those that were taken out of the buffer.
    #[inline(always)]
    fn next(&mut self) -> Option<Frame> {
        let block = self.block.as_ref()?;
        let rest = &block[self.at as usize..];
        let payload = self.length.payload(rest).ok().flatten()?;
        if payload.end > rest.len() {
            return None;
        }
        let (start, end) = (
            self.at + narrow(payload.start),
            self.at + narrow(payload.end),
        );
        self.at = end;
        let handle = if end as usize == block.len() {
            self.spare = None;
            self.block.take()?
        } else if let Some(spare) = self.spare.take() {
            spare
        } else {
            Arc::clone(block)
        };
        Some(Frame::new(handle, start, end))
    }
}

/// A place in a block, or in one frame.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a frame is of 1 GiB at most, and its header of 128 KiB"
)]
const fn narrow(place: usize) -> u32 {
    place as u32
}

impl Decoder for Frames {
    type Item = Frame;
    type Error = LengthError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, LengthError> {
        match self.next() {
            Some(frame) => Ok(Some(frame)),
            None => self.refill(src),
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, LengthError> {
        match self.next() {
            Some(frame) => Ok(Some(frame)),
            // one at a time: of a message transport what follows is too much
            None => {
                self.put_back(src);
                Ok(self.length.decode_eof(src)?.map(Frame::from))
            }
        }
    }
}

impl Encoder<Frame> for Frames {
    type Error = LengthError;

    #[inline(always)]
    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), LengthError> {
        self.length.put(&frame, dst)?;
        self.reuse(frame);
        Ok(())
    }
}

impl Encoder<Bytes> for Frames {
    type Error = LengthError;

    fn encode(&mut self, bytes: Bytes, dst: &mut BytesMut) -> Result<(), LengthError> {
        self.length.put(&bytes, dst)
    }
}

#[cfg(test)]
mod tests;
