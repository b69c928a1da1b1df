//! Byte stream that begins with bytes that were already read.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Byte stream that yields bytes that were read before it, and then continues as `T`.
///
/// A handshake or a detection that reads more than it consumes gives the rest back with it.
/// Writes, flushes and the shutdown go to `T` unchanged. The memory of the bytes is freed once
/// all are read. From then on a read costs one branch more than a read of `T`.
///
/// ```
/// use getty::transport::Prefixed;
/// use tokio::io::AsyncReadExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut stream = Prefixed::new(b"world".as_slice(), "hello ");
/// let mut text = String::new();
/// stream.read_to_string(&mut text).await?;
/// assert_eq!(text, "hello world");
/// # Ok(())
/// # }
/// ```
pub struct Prefixed<T> {
    inner: T,
    prefix: Bytes,
}

impl<T> Prefixed<T> {
    /// Creates a new stream that yields `prefix` before the bytes of `inner`.
    pub fn new(inner: T, prefix: impl Into<Bytes>) -> Self {
        Self {
            inner,
            prefix: prefix.into(),
        }
    }

    /// Returns the bytes of the prefix that have not been read.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Returns a reference to the stream. Reads from it would skip the prefix.
    pub const fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Returns the stream and the bytes of the prefix that have not been read.
    pub fn into_parts(self) -> (T, Bytes) {
        (self.inner, self.prefix)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let read = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..read]);
        this.prefix.advance(read);
        if this.prefix.is_empty() {
            this.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

// The prefix may contain what a peer sent in confidence, such as a password.
impl<T: fmt::Debug> fmt::Debug for Prefixed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefixed")
            .field("inner", &self.inner)
            .field("prefix_len", &self.prefix.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn prefix_is_read_before_the_stream_in_parts_of_any_size() {
        let mut stream = Prefixed::new(b"def".as_slice(), "abc");
        let mut all = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            all.push(byte);
            assert_eq!(stream.prefix().len(), 3_usize.saturating_sub(all.len()));
        }
        assert_eq!(all, b"abcdef");
    }

    #[test]
    fn debug_output_does_not_contain_the_prefix() {
        let stream = Prefixed::new((), "password");
        assert_eq!(
            format!("{stream:?}"),
            "Prefixed { inner: (), prefix_len: 8 }"
        );
    }
}
