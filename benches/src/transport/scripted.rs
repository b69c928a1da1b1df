//! A transport with a minimal cost. The cost of the loop above it remains.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A transport that delivers the same batch of bytes again and again.
///
/// It behaves like a peer that waits for the answers to one batch before it sends the next.
/// After each batch, one read returns `Pending`. Written bytes are only counted, except for the
/// answer to a [head](Self::with_head). After the last batch the stream ends, unless
/// [`staying`](Self::staying) is set.
#[derive(Debug)]
pub struct Scripted {
    batch: Bytes,
    /// Unread bytes of the current batch.
    rest: Bytes,
    /// Number of batches after the current one.
    left: u64,
    /// Set when the first batch starts.
    begun: bool,
    /// Set if the stream does not end after the last batch.
    stays: bool,
    written: Arc<AtomicU64>,
}

impl Scripted {
    /// Creates a transport that delivers `batch` a number of `times` and then ends.
    ///
    /// `written` counts the bytes that are written after the first batch has started.
    #[must_use]
    pub fn new(batch: Bytes, times: u64, written: Arc<AtomicU64>) -> Self {
        Self {
            rest: Bytes::new(),
            batch,
            left: times,
            begun: false,
            stays: false,
            written,
        }
    }

    /// Keeps the stream open after the last batch. So may a peer that stays connected and sends
    /// nothing.
    #[must_use]
    pub const fn staying(mut self) -> Self {
        self.stays = true;
        self
    }

    /// Delivers `head` before the first batch, like a client that must open with a handshake.
    #[must_use]
    pub fn with_head(mut self, head: &'static [u8]) -> Self {
        self.rest = Bytes::from_static(head);
        self
    }

    fn count(&self, bytes: usize) {
        if self.begun {
            self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            if self.left == 0 {
                return if self.stays {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            self.left -= 1;
            self.begun = true;
            self.rest = self.batch.clone();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = buf.remaining().min(self.rest.len());
        buf.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.count(bytes.len());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.count(length);
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
