//! A TLS client as a transport.
//!
//! It takes the handshake and then encrypts all that it will ever send, as much in a short run as in a long one, of which
//! the short one delivers less: so that a difference between the two has nothing of it. What comes back is counted and not
//! decrypted.

use std::{
    collections::VecDeque,
    io::{self, Write},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

use super::no_cipher::TAG;

/// The bytes of a record with so many of content: its header, the content, what it is, the tag.
pub(super) const fn in_a_record(content: usize) -> usize {
    5 + content + 1 + TAG.len()
}

/// Opens a TLS connection, then brings batch after batch, as [`Scripted`](crate::scripted::Scripted) does.
#[derive(Debug)]
pub(super) struct Script {
    client: ClientConnection,
    batch: Bytes,
    /// How many batches are delivered, of how many that are encrypted.
    times: u64,
    most: u64,
    /// All of them, once the handshake is over.
    batches: Option<VecDeque<Vec<u8>>>,
    /// What has not been read of the current one, or of the handshake.
    rest: Bytes,
    written: Arc<AtomicU64>,
}

impl Script {
    /// Brings `batch` so many `times`, and encrypts it as often as `most`. What is written after the handshake goes to the
    /// counter's account.
    ///
    /// # Panics
    ///
    /// If `name` is none.
    pub(super) fn new(
        config: ClientConfig,
        name: &'static str,
        batch: &Bytes,
        times: u64,
        most: u64,
        written: Arc<AtomicU64>,
    ) -> Self {
        let name = ServerName::try_from(name).expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("it is complete");
        // records wait in it until they are taken, and a batch is one
        client.set_buffer_limit(None);
        Self {
            client,
            batch: batch.clone(),
            times,
            most: most.max(times),
            batches: None,
            rest: Bytes::new(),
            written,
        }
    }

    /// What the client wants to send.
    fn outgoing(&mut self) -> io::Result<Vec<u8>> {
        let mut outgoing = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut outgoing)?;
        }
        Ok(outgoing)
    }

    /// Encrypts everything, and leaves what is to be delivered.
    fn encrypt(&mut self) -> io::Result<VecDeque<Vec<u8>>> {
        let mut batches = VecDeque::new();
        for _ in 0..self.most {
            self.client.writer().write_all(&self.batch)?;
            batches.push_back(self.outgoing()?);
        }
        batches.truncate(usize::try_from(self.times).map_err(io::Error::other)?);
        Ok(batches)
    }
}

impl AsyncRead for Script {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            if let Some(batches) = &mut this.batches {
                let Some(batch) = batches.pop_front() else {
                    return Poll::Ready(Ok(()));
                };
                this.rest = batch.into();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let handshake = this.outgoing()?;
            if handshake.is_empty() {
                if !this.client.is_handshaking() {
                    this.batches = Some(this.encrypt()?);
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            this.rest = handshake.into();
        }
        let length = buf.remaining().min(this.rest.len());
        buf.put_slice(&this.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = bytes.len();
        if this.batches.is_some() {
            this.written.fetch_add(length as u64, Relaxed);
            return Poll::Ready(Ok(length));
        }
        while !bytes.is_empty() {
            this.client.read_tls(&mut bytes)?;
            let outcome = this.client.process_new_packets();
            outcome.map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
