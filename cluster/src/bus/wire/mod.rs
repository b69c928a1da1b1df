//! Core protocol of NATS, for the messages of topics.
//!
//! A client library has a channel for each subscription, and allocates for each message. Here
//! frames are copied into one buffer to be written, and are parts of the buffer into which they
//! were read (design.md: Why does the bus over NATS have its own codec?).

mod parse;
mod writes;

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use async_nats::ServerAddr;
use bytes::{Buf, BytesMut};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tower::BoxError;

use self::parse::{Operation, parse};
pub(super) use self::writes::Writes;
use super::{
    Sink,
    wanted::{Subscription, Wanted},
};
use crate::lock;

/// Capacity of the buffer into which is read, in bytes. A frame that waits keeps a buffer.
const READ: usize = 32 * 1024;
/// Free bytes of the buffer below which there is a new one.
const MIN_READ: usize = 4 * 1024;
/// Longest message that is read, in bytes. The server has a lower limit.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Credentials of a URL: a user and a password, or a token alone.
pub(super) type Credentials = Option<(String, Option<String>)>;

type Reading = Box<dyn AsyncRead + Send + Unpin>;
type Writing = Box<dyn AsyncWrite + Send + Unpin>;

/// Connection to a server of NATS.
pub(super) struct Wire {
    read: Reading,
    write: Writing,
    /// Bytes that were read and not handled.
    buffer: BytesMut,
    pub(super) max_payload: usize,
}

impl Wire {
    /// Opens a connection. Returns `None` if the server requires TLS.
    pub(super) async fn connect(
        server: &ServerAddr,
        credentials: Credentials,
    ) -> Result<Option<Self>, BoxError> {
        let stream = TcpStream::connect((server.host(), server.port())).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let mut wire = Self {
            read: Box::new(read),
            write: Box::new(write),
            buffer: BytesMut::with_capacity(READ),
            max_payload: 0,
        };
        let info = wire.info().await?;
        if info["tls_required"] == true {
            return Ok(None);
        }
        wire.max_payload = info["max_payload"]
            .as_u64()
            .and_then(|max| usize::try_from(max).ok())
            .unwrap_or(usize::MAX);
        wire.log_in(credentials).await?;
        Ok(Some(wire))
    }

    /// Reads the first operation of the server.
    async fn info(&mut self) -> Result<Value, BoxError> {
        let mut info = None;
        while info.is_none() {
            self.next(|operation| {
                if let Operation::Info(text) = operation {
                    info = Some(serde_json::from_slice(text)?);
                    Ok(())
                } else {
                    Err("the server does not begin as NATS does".into())
                }
            })
            .await?;
        }
        Ok(info.unwrap_or_default())
    }

    async fn log_in(&mut self, credentials: Credentials) -> Result<(), BoxError> {
        let mut connect = json!({
            "verbose": false,
            "pedantic": false,
            "tls_required": false,
            "echo": false,
            "name": "getty data",
            "lang": "rust",
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": 1,
            // A message with headers is no frame, but it may be a stranger's.
            "headers": true,
        });
        match credentials {
            Some((user, Some(password))) => {
                connect["user"] = user.into();
                connect["pass"] = password.into();
            }
            Some((token, None)) => connect["auth_token"] = token.into(),
            None => {}
        }
        let connect = format!("CONNECT {connect}\r\nPING\r\n");
        self.write.write_all(connect.as_bytes()).await?;
        let mut is_ready = false;
        while !is_ready {
            self.next(|operation| {
                match operation {
                    Operation::Pong => is_ready = true,
                    Operation::Error(text) => return Err(error(text)),
                    _ => {}
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Passes the next operation to `handle`.
    async fn next(
        &mut self,
        mut handle: impl FnMut(&Operation<'_>) -> Result<(), BoxError>,
    ) -> Result<(), BoxError> {
        loop {
            if let Some((operation, len)) = parse(&self.buffer, MAX_MESSAGE)? {
                handle(&operation)?;
                self.buffer.advance(len);
                return Ok(());
            }
            self.buffer.reserve(MIN_READ);
            if self.read.read_buf(&mut self.buffer).await? == 0 {
                return Err(ENDED.into());
            }
        }
    }
}

const ENDED: &str = "the connection to NATS has ended";

fn error(text: &[u8]) -> BoxError {
    let text = String::from_utf8_lossy(text);
    format!(
        "NATS has refused the connection: {}",
        text.trim_matches('\'')
    )
    .into()
}

/// State of a connection while it works.
pub(super) struct Work<'a> {
    writes: &'a Writes,
    wanted: &'a Wanted,
    /// Subject of probes that arrive on this connection.
    probe: &'a str,
    probed: Notify,
    /// For each `PING` without an answer, the number of the last change before it.
    pings: Mutex<VecDeque<u64>>,
    max_payload: &'a AtomicUsize,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        writes: &'a Writes,
        wanted: &'a Wanted,
        probe: &'a str,
        max_payload: &'a AtomicUsize,
    ) -> Self {
        Self {
            writes,
            wanted,
            probe,
            probed: Notify::new(),
            pings: Mutex::default(),
            max_payload,
        }
    }

    /// Subscribes to all that is wanted.
    pub(super) async fn set_up(&self) {
        let (wanted, number) = self.wanted.restart();
        // No change has the number 0.
        let probe = format!("SUB {} 0\r\n", self.probe);
        self.writes
            .push_operations(|to| to.extend_from_slice(probe.as_bytes()));
        for batch in wanted.chunks(super::wanted::BATCH) {
            self.subscribe(batch).await;
        }
        self.confirm(number);
    }

    /// Publishes a probe to the other connection.
    pub(super) fn probe(&self, subject: &str) {
        let probe = format!("PUB {subject} 0\r\n\r\n");
        self.writes
            .push_operations(|to| to.extend_from_slice(probe.as_bytes()));
    }

    /// Waits for a probe of the other connection.
    pub(super) async fn probed(&self) {
        self.probed.notified().await;
    }

    async fn subscribe(&self, subscriptions: &[Subscription]) {
        self.writes.push_operations(|to| {
            for Subscription { subject, number } in subscriptions {
                to.extend_from_slice(b"SUB ");
                to.extend_from_slice(subject.as_str().as_bytes());
                to.push(b' ');
                writes::put_number(to, *number);
                to.extend_from_slice(b"\r\n");
            }
        });
        self.writes.has_room().await;
    }

    /// The server answers once it has all before.
    fn confirm(&self, number: u64) {
        // The answer cannot come before the entry.
        lock(&self.pings).push_back(number);
        self.writes
            .push_operations(|to| to.extend_from_slice(b"PING\r\n"));
    }

    /// Follows what is wanted until it is dropped.
    pub(super) async fn follow(&self) {
        loop {
            let batch = self.wanted.take();
            self.writes.push_operations(|to| {
                for Subscription { number, .. } in &batch.remove {
                    to.extend_from_slice(b"UNSUB ");
                    writes::put_number(to, *number);
                    to.extend_from_slice(b"\r\n");
                }
            });
            self.subscribe(&batch.add).await;
            if let Some(number) = batch.number {
                self.confirm(number);
                self.wanted.changed().await;
            }
        }
    }

    /// Reads and writes until the connection fails.
    pub(super) async fn run(&self, wire: Wire, sink: &dyn Sink) -> Result<(), BoxError> {
        let Wire {
            read,
            write,
            buffer,
            ..
        } = wire;
        tokio::try_join!(self.read(read, buffer, sink), self.write(write))?;
        Ok(())
    }

    async fn write(&self, mut stream: Writing) -> Result<(), BoxError> {
        let mut buffer = Vec::new();
        loop {
            if self.writes.take(&mut buffer) {
                stream.write_all(&buffer).await?;
                stream.flush().await?;
                self.writes.pause().await;
            } else {
                self.writes.pushed().await;
            }
        }
    }

    async fn read(
        &self,
        mut stream: Reading,
        mut buffer: BytesMut,
        sink: &dyn Sink,
    ) -> Result<(), BoxError> {
        let mut subject = String::new();
        loop {
            while let Some((operation, len)) = parse(&buffer, MAX_MESSAGE)? {
                match operation {
                    Operation::Message(message) => {
                        subject.clear();
                        subject.push_str(message.subject);
                        let (start, end) = (message.start, message.end);
                        let mut message = buffer.split_to(len);
                        message.truncate(end);
                        message.advance(start);
                        if subject == self.probe {
                            self.probed.notify_one();
                        } else {
                            sink.deliver(&subject, message.freeze());
                        }
                        continue;
                    }
                    Operation::Ping => {
                        self.writes
                            .push_operations(|to| to.extend_from_slice(b"PONG\r\n"));
                    }
                    Operation::Pong => {
                        let number = lock(&self.pings).pop_front();
                        if let Some(number) = number {
                            self.wanted.confirm(number);
                        }
                    }
                    Operation::Info(info) => self.changed(info)?,
                    Operation::Error(text) => {
                        let error = String::from_utf8_lossy(text);
                        tracing::warn!(target: "getty::cluster", %error, "NATS has reported an error");
                    }
                    Operation::Ok => {}
                }
                buffer.advance(len);
            }
            if buffer.capacity() - buffer.len() < MIN_READ {
                // A message that has arrived in part is copied, so the buffer is not long.
                let rest = buffer.len();
                buffer.reserve(READ.max(rest));
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(ENDED.into());
            }
        }
    }

    /// Handles new facts about the server.
    fn changed(&self, info: &[u8]) -> Result<(), BoxError> {
        let info: Value = serde_json::from_slice(info)?;
        if info["ldm"] == true {
            return Err("the server of NATS is going to end".into());
        }
        let max = info["max_payload"].as_u64();
        if let Some(max) = max.and_then(|max| usize::try_from(max).ok()) {
            self.max_payload.fetch_min(max, Relaxed);
        }
        Ok(())
    }
}
