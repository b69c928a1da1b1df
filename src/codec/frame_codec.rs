//! Codecs of frames, whose payload a format reads and writes in place.

use bytes::BytesMut;

use super::Decoder;

/// Codecs whose messages are bytes or text, so that a [format](super::format) can read them
/// and write into them.
///
/// All codecs of frames in this [module](super) implement it. An application's codec needs
/// one method:
///
/// ```
/// # #[cfg(feature = "json")]
/// use getty::codec::Json;
/// use getty::codec::{Buf, BufMut, Bytes, BytesMut, Decoder, Encoder, FrameCodec};
/// use std::io;
///
/// /// Frames of at most 255 bytes: a length of one byte, then the payload.
/// #[derive(Clone, Debug, Default)]
/// struct Short;
///
/// impl Decoder for Short {
///     type Item = Bytes;
///     type Error = io::Error;
///
///     fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
///         match src.first() {
///             Some(&length) if src.len() > usize::from(length) => {
///                 src.advance(1);
///                 Ok(Some(src.split_to(length.into()).freeze()))
///             }
///             _ => Ok(None),
///         }
///     }
/// }
///
/// impl FrameCodec for Short {
///     fn begin_frame(&mut self, dst: &mut BytesMut) {
///         dst.put_u8(0);
///     }
///
///     fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> io::Result<()> {
///         let length = dst.len() - start - 1;
///         dst[start] = u8::try_from(length).map_err(io::Error::other)?;
///         Ok(())
///     }
/// }
///
/// # #[cfg(not(feature = "json"))]
/// # fn main() {}
/// # #[cfg(feature = "json")]
/// # fn main() -> Result<(), getty::BoxError> {
/// let mut codec = Json::new(Short);
/// let mut buffer = BytesMut::new();
/// codec.encode([1, 2, 3], &mut buffer)?;
/// assert_eq!(buffer, "\u{7}[1,2,3]");
/// assert_eq!(codec.decode(&mut buffer)?, Some([1, 2, 3]));
/// # Ok(())
/// # }
/// ```
pub trait FrameCodec: Decoder<Item: AsRef<[u8]>> {
    /// Passes the payload of the next frame to `read` and removes the frame from `src`. Returns
    /// `None` if the frame is incomplete.
    ///
    /// The default implementation calls [`decode`](Decoder::decode). A codec that finds the
    /// payload in the buffer should pass that part to `read` and create no message.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes contain no frame, as [`decode`](Decoder::decode) does.
    fn read_frame<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Self::Error> {
        Ok(self.decode(src)?.map(|frame| read(frame.as_ref())))
    }

    /// Does the same as [`read_frame`](Self::read_frame) at the end of the stream, and for each
    /// message of a message transport.
    ///
    /// The default implementation calls [`decode_eof`](Decoder::decode_eof).
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes contain no frame, as [`decode_eof`](Decoder::decode_eof) does.
    fn read_frame_eof<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Self::Error> {
        Ok(self.decode_eof(src)?.map(|frame| read(frame.as_ref())))
    }

    /// Begins a frame: appends room for the header to `dst`, which may contain other frames. The
    /// caller then appends the payload. The default implementation appends nothing.
    fn begin_frame(&mut self, dst: &mut BytesMut) {
        let _ = dst;
    }

    /// Completes the frame that begins at the offset `start` and ends with `dst`: checks its
    /// payload, writes the header and appends what follows the payload.
    ///
    /// # Errors
    ///
    /// Returns an error if the payload cannot be sent in a frame. The caller must then truncate
    /// `dst` to `start`.
    fn end_frame(&mut self, dst: &mut BytesMut, start: usize) -> Result<(), Self::Error>;

    /// Returns the maximum length of a payload in bytes, for a codec that wraps this one. The
    /// default implementation returns [`DEFAULT_MAX_FRAME`](super::DEFAULT_MAX_FRAME).
    fn max_payload(&self) -> usize {
        super::DEFAULT_MAX_FRAME
    }
}
