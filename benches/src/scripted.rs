//! A transport that costs next to nothing, so that what remains is the loop over it.

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

/// Brings the same bytes again and again, as a peer would that waits for the answers to one batch before it sends the
/// next: after each batch there is nothing to be read until the reader's next turn. What is written is only counted; what
/// answers to a [head](Self::with_head) is not. After the last batch the stream ends, unless the peer
/// [stays](Self::staying).
#[derive(Debug)]
pub struct Scripted {
    batch: Bytes,
    /// What of the current batch has not been read.
    rest: Bytes,
    /// Batches that follow the current one.
    left: u64,
    /// The first batch has begun.
    begun: bool,
    /// There is no end after the last batch.
    stays: bool,
    written: Arc<AtomicU64>,
}

impl Scripted {
    /// Brings `batch` so many `times`, then the end. Batches are written to the counter's account.
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

    /// As a peer that falls silent after the last batch and stays connected.
    #[must_use]
    pub const fn staying(mut self) -> Self {
        self.stays = true;
        self
    }

    /// Brings `head` before the first batch, as a client does that opens with a handshake.
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
