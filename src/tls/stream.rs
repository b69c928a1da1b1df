//! Byte stream over TLS.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::CommonState;

/// Byte stream over TLS on either side. [`TlsLayer`](super::TlsLayer) and
/// [`TlsConnectLayer`](super::TlsConnectLayer) create it.
///
/// It is boxed because the state of TLS exceeds a kilobyte, and layers move transports.
// (design.md: What does an idle session hold over TLS?)
pub struct TlsStream<T>(Box<tokio_rustls::TlsStream<T>>);

impl<T> TlsStream<T> {
    pub(super) fn new(stream: impl Into<tokio_rustls::TlsStream<T>>) -> Self {
        Self(Box::new(stream.into()))
    }

    /// Returns a reference to the underlying stream.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        self.0.get_ref().0
    }

    /// Returns a mutable reference to the underlying stream. Bytes that are read from it or written
    /// to it are missing in TLS.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().0
    }

    /// Returns the state of the connection in rustls.
    #[must_use]
    pub fn state(&self) -> &CommonState {
        self.0.get_ref().1
    }

    /// Returns the name that a client requested from a server.
    pub(super) fn requested_name(&self) -> Option<&str> {
        match &*self.0 {
            tokio_rustls::TlsStream::Server(stream) => stream.get_ref().1.server_name(),
            tokio_rustls::TlsStream::Client(_) => None,
        }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut tokio_rustls::TlsStream<T>>
    where
        T: Unpin,
    {
        Pin::new(&mut *self.get_mut().0)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Fails at an end without a `close_notify` (design.md: Why is a stream that ends without
        // `close_notify` an error?).
        self.inner().poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<T> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    /// Sends a `close_notify` and ends our direction of the underlying stream.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

impl<T: fmt::Debug> fmt::Debug for TlsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TlsStream").field(self.get_ref()).finish()
    }
}
