//! Length-delimited frames that share the memory they were read into.

use std::{
    cell::Cell,
    fmt,
    hash::{Hash, Hasher},
    ops::{Deref, Range},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};

use super::{Decoder, Encoder, FrameCodec, FrameLimit, LengthDelimited, LengthDelimitedError};

/// Maximum number of bytes that are taken out of the read buffer at once unless a single frame
/// is longer. It bounds the undecoded bytes beside that buffer. The reference count is updated
/// once per block.
const BLOCK: usize = 8 * 1024;

thread_local! {
    /// The counter of a block without references, for the thread's next block.
    static SPARE: Cell<Option<Arc<Bytes>>> = const { Cell::new(None) };
}

/// Wraps a block in a reference counter.
fn share(bytes: Bytes) -> Arc<Bytes> {
    // While a thread ends, its thread-local is gone.
    let spare = SPARE.try_with(Cell::take).ok().flatten();
    if let Some(mut spare) = spare
        && let Some(counted) = Arc::get_mut(&mut spare)
    {
        *counted = bytes;
        return spare;
    }
    Arc::new(bytes)
}

/// Drops a reference to a block. After the last one the counter is kept for the thread's next
/// block so that a read does not allocate it.
#[inline(never)]
fn retire(mut block: Arc<Bytes>) {
    if let Some(bytes) = Arc::get_mut(&mut block) {
        *bytes = Bytes::new();
        _ = SPARE.try_with(|spare| spare.set(Some(block)));
    }
}

/// One message: an immutable view of memory that frames which arrived together share.
///
/// A `Frame` dereferences to `[u8]`. Cloning it does not copy bytes. A frame that is kept keeps
/// its whole block of memory alive.
///
/// Use [`From`] to create a frame from a `Vec<u8>`, a `String`, [`Bytes`], or `'static` bytes
/// or text. Other bytes must be copied: `Frame::from(part.to_vec())`. To send a part of a frame
/// without a copy, take a slice of [`into_bytes`](Self::into_bytes).
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
    // A frame has two words because two words are returned in registers (design.md: Why are the
    // codecs' fast paths inlined into the loop?).
    block: Arc<Bytes>,
    /// Start offset in the lower half, end offset in the upper half.
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
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the lower half is the start"
        )]
        let start = self.range as u32;
        start as usize..(self.range >> 32) as usize
    }

    /// Converts the frame into [`Bytes`] without a copy.
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
    /// Converts `bytes` into a frame without a copy, with one small allocation.
    ///
    /// # Panics
    ///
    /// Panics if `bytes` has 4 GiB or more. No codec sends such a message.
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

/// Codec for length-delimited [`Frame`]s.
///
/// On the wire [`Frames`] and [`LengthDelimited`] are the same. They differ in the received
/// message. [`LengthDelimited`] returns [`Bytes`], and each of these counts a reference to
/// shared memory. That costs two atomic operations per message, which take as long as the rest
/// of a small message. A [`Frame`] needs no atomic operation if it is sent back or
/// [returned](Frames::reuse) before the next frame is decoded.
///
/// Use [`Frames`] for many small frames over a stream. Only frames that arrive together share
/// memory. So [`LengthDelimited`] is as good or better for messages that are kept, that are
/// large, or that arrive one at a time (as over WebSocket and UDP).
///
/// Pass it to `CodecLayer` in a stack. Scope: session. It keeps no state between reads.
///
/// The codec takes up to 8 KiB at a time out of the read buffer. These bytes may wait in
/// addition to the session's bound on undecoded bytes. While one of them waits, the buffer that
/// they were read into stays allocated. Its size is 64 KiB, or 260 KiB for a peer that sends
/// without a pause. With [`LengthDelimited`] undecoded bytes are moved to a small buffer
/// instead. A reply is a [`Frame`]. It may be `Bytes` if the stack's request is
/// `Request<Frame, Bytes>`.
///
/// ```
/// use getty::codec::{BytesMut, Decoder, FieldWidth, Frames, LengthDelimited};
///
/// # fn main() -> Result<(), getty::codec::LengthDelimitedError> {
/// let mut codec = Frames::new().max_frame_length(1024);
/// let mut buffer = BytesMut::new();
/// codec.encode(vec![1, 2, 3].into(), &mut buffer)?;
/// codec.encode("hello".into(), &mut buffer)?;
/// assert_eq!(buffer, b"\0\0\0\x03\x01\x02\x03\0\0\0\x05hello"[..]);
///
/// let numbers = codec.decode(&mut buffer)?.unwrap();
/// assert_eq!(numbers[..], [1, 2, 3]);
/// // A frame may be kept, and may be sent to other threads.
/// let hello = codec.decode(&mut buffer)?.unwrap();
/// std::thread::spawn(move || assert_eq!(hello.into_bytes(), "hello")).join().unwrap();
///
/// // Another header: a length of two bytes.
/// let header = LengthDelimited::new().length_field_length(FieldWidth::U16);
/// Frames::with_header(header).encode("hi".into(), &mut buffer)?;
/// assert_eq!(buffer, b"\0\x02hi"[..]);
/// # Ok(())
/// # }
/// ```
///
/// A codec that wraps `Frames` and converts frames to another type should return each frame
/// with [`reuse`](Self::reuse). To send, it should write the header itself because a [`Frame`]
/// that is created only to be encoded costs an allocation per message. The wrapping codec must
/// then check the maximum:
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
/// The errors are those of [`LengthDelimited`].
// (design.md: Why are there two codecs for frames with a length?)
#[derive(Clone, Debug, Default)]
pub struct Frames {
    length: LengthDelimited,
    /// Offset in `block` of the next frame to decode.
    at: u32,
    /// Whole frames, and possibly the start of one more.
    block: Option<Arc<Bytes>>,
    /// A reference to `block` from a returned frame, which the next frame reuses.
    spare: Option<Arc<Bytes>>,
}

impl Frames {
    /// Creates a new codec with the defaults of [`LengthDelimited`]: a header of four bytes,
    /// big-endian, and a maximum of 64 KiB.
    #[must_use]
    pub const fn new() -> Self {
        Self::with_header(LengthDelimited::new())
    }

    /// Creates a new codec with the header and the maximum of `header`.
    ///
    /// ```
    /// use getty::codec::{Frames, LengthDelimited};
    ///
    /// const CODEC: Frames = Frames::with_header(LengthDelimited::new().little_endian());
    /// # let _ = CODEC;
    /// ```
    #[must_use]
    pub const fn with_header(header: LengthDelimited) -> Self {
        Self {
            length: header,
            at: 0,
            block: None,
            spare: None,
        }
    }

    /// Sets the maximum length of a payload in bytes, as
    /// [`LengthDelimited::max_frame_length`] does. The default is 64 KiB.
    #[must_use]
    pub const fn max_frame_length(mut self, bytes: usize) -> Self {
        self.length = self.length.max_frame_length(bytes);
        self
    }

    /// Appends a frame to `dst` and takes it back, as [`reuse`](Self::reuse) does.
    ///
    /// The argument has one type, so `codec.encode(vec.into(), dst)` compiles. The codec
    /// implements [`Encoder`] for [`Bytes`] and `&[u8]` as well, without the small allocation
    /// that their conversion into a frame needs. `Encoder::encode(&mut codec, bytes, dst)` calls
    /// these.
    ///
    /// # Errors
    ///
    /// Fails if the payload exceeds the maximum or its length does not fit the header. `dst` is
    /// then unchanged.
    #[inline(always)]
    pub fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), LengthDelimitedError> {
        self.length.put(&frame, dst)?;
        self.reuse(frame);
        Ok(())
    }

    /// Takes back a frame that is no longer needed so that the next frame can reuse its reference.
    /// A frame may also be dropped instead, which is slower.
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

    /// Takes the buffered bytes if they begin with a whole frame and returns that frame.
    #[inline(never)]
    fn refill(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, LengthDelimitedError> {
        self.put_back(src);
        let Some(first) = self.length.whole(src)? else {
            return Ok(None);
        };
        // A partial frame at the end is put back when it is reached. Finding it here would parse
        // each header twice.
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

    /// Returns the end of the whole frames that share a block with the first one. The first frame
    /// ends at `end`.
    fn whole_frames(&self, src: &[u8], mut end: usize) -> usize {
        while end < BLOCK
            && let Some(next) = self.length.following(&src[end..])
            && end + next <= BLOCK
        {
            end += next;
        }
        end
    }

    /// Puts the partial frame at the end of the block back, before bytes that have arrived since.
    #[inline]
    pub(super) fn put_back(&mut self, src: &mut BytesMut) {
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

    /// Returns the next frame of the block.
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

/// Converts an offset in a block, or in one frame.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a frame has at most 1 GiB, and its header 128 KiB"
)]
const fn narrow(offset: usize) -> u32 {
    offset as u32
}

impl FrameLimit for Frames {
    fn set_max_frame(&mut self, bytes: usize) {
        self.length.set_max_frame(bytes);
    }
}

impl Decoder for Frames {
    type Item = Frame;
    type Error = LengthDelimitedError;

    #[inline(always)]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, LengthDelimitedError> {
        match self.next() {
            Some(frame) => Ok(Some(frame)),
            None => self.refill(src),
        }
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, LengthDelimitedError> {
        match self.next() {
            Some(frame) => Ok(Some(frame)),
            // A message of a message transport is one frame. The session reports bytes after it.
            None => {
                self.put_back(src);
                Ok(self.length.decode_eof(src)?.map(Frame::from))
            }
        }
    }
}

impl Encoder<Frame> for Frames {
    type Error = LengthDelimitedError;

    #[inline(always)]
    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), LengthDelimitedError> {
        Self::encode(self, frame, dst)
    }
}

impl Encoder<Bytes> for Frames {
    type Error = LengthDelimitedError;

    fn encode(&mut self, bytes: Bytes, dst: &mut BytesMut) -> Result<(), LengthDelimitedError> {
        self.length.put(&bytes, dst)
    }
}

impl Encoder<&[u8]> for Frames {
    type Error = LengthDelimitedError;

    fn encode(&mut self, bytes: &[u8], dst: &mut BytesMut) -> Result<(), LengthDelimitedError> {
        self.length.put(bytes, dst)
    }
}

/// Reads frames in the read buffer and takes no block out of it.
impl FrameCodec for Frames {
    #[inline]
    fn read_frame<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, LengthDelimitedError> {
        self.put_back(src);
        self.length.read_frame(src, read)
    }

    fn read_frame_eof<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, LengthDelimitedError> {
        self.put_back(src);
        self.length.read_frame_eof(src, read)
    }

    #[inline]
    fn begin_frame(&mut self, dst: &mut BytesMut) {
        self.length.begin_frame(dst);
    }

    #[inline]
    fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> Result<(), LengthDelimitedError> {
        self.length.end_frame(dst, start)
    }

    fn max_payload(&self) -> usize {
        self.length.get_max_frame_length()
    }
}

#[cfg(test)]
mod tests;
