//! A TLS client as a transport.
//!
//! The client performs the handshake and then encrypts the batches of the longest run. It does
//! so even in a short run, which delivers fewer. The difference between two runs can then
//! contain no work of the client. Answers are counted but not decrypted.

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

/// Returns the size of a record with `content` bytes: header, content, content type, tag.
pub(super) const fn in_a_record(content: usize) -> usize {
    5 + content + 1 + TAG.len()
}

/// Opens a TLS connection, then delivers batch after batch like
/// [`Scripted`](crate::transport::Scripted).
#[derive(Debug)]
pub(super) struct Script {
    client: ClientConnection,
    batch: Bytes,
    /// Number of batches to deliver and number of batches to encrypt.
    times: u64,
    encrypted: u64,
    /// All batches. `None` during the handshake.
    batches: Option<VecDeque<Vec<u8>>>,
    /// Unread bytes of the handshake or of the current batch.
    rest: Bytes,
    written: Arc<AtomicU64>,
}

impl Script {
    /// Creates a client that delivers `batch` a number of `times` and encrypts it `encrypted`
    /// times.
    ///
    /// `written` counts the bytes that the server writes after the handshake.
    ///
    /// # Panics
    ///
    /// If `name` is not a valid server name.
    pub(super) fn new(
        config: ClientConfig,
        name: &'static str,
        batch: &Bytes,
        times: u64,
        encrypted: u64,
        written: Arc<AtomicU64>,
    ) -> Self {
        let name = ServerName::try_from(name).expect("the server name is valid");
        let mut client =
            ClientConnection::new(Arc::new(config), name).expect("the configuration is complete");
        // A batch is encrypted at once and its records wait in this buffer.
        client.set_buffer_limit(None);
        Self {
            client,
            batch: batch.clone(),
            times,
            encrypted: encrypted.max(times),
            batches: None,
            rest: Bytes::new(),
            written,
        }
    }

    /// Returns the bytes that the client must send.
    fn outgoing(&mut self) -> io::Result<Vec<u8>> {
        let mut outgoing = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut outgoing)?;
        }
        Ok(outgoing)
    }

    /// Encrypts all batches and returns those to be delivered.
    fn encrypt(&mut self) -> io::Result<VecDeque<Vec<u8>>> {
        let mut batches = VecDeque::new();
        for _ in 0..self.encrypted {
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
