//! The loops of the servers over in-memory transports. They run on the calling thread.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    runtime::Runtime,
};

use super::{runtime, session};
use crate::{
    frames::{Form, Frames},
    server::{codec, getty as stacks, tokio_loop, ws},
    transport::Scripted,
    websocket,
};

/// Size of a read of the hand-written loops and capacity of a duplex pipe, in bytes.
const READ: usize = 64 * 1024;

/// A loop between the transport and the echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// The hand-written loop with getty's codec.
    Codec,
    /// The hand-written loop that parses frames in place.
    ByHand,
    /// getty: codec and session loop.
    Getty,
    /// getty with `Bytes` messages.
    GettyBytes,
    /// getty with ten message layers that only forward.
    GettyTenLayers,
    /// getty with tower's layers.
    GettyTower,
    /// getty with the layers of a production server.
    GettyFull,
    /// getty over WebSocket.
    WsGetty,
    /// tokio-tungstenite with one `send` for each message.
    WsSend,
}

impl Loop {
    /// All loops over length-delimited frames. The reference is first.
    pub const ALL: [Self; 7] = [
        Self::Codec,
        Self::ByHand,
        Self::Getty,
        Self::GettyBytes,
        Self::GettyTenLayers,
        Self::GettyTower,
        Self::GettyFull,
    ];

    /// Returns the name in tables and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Codec => "hand-written, codec",
            Self::ByHand => "hand-written, parsed by hand",
            Self::Getty => "getty",
            Self::GettyBytes => "getty, `Bytes`",
            Self::GettyTenLayers => "getty, ten pass-through layers",
            Self::GettyTower => "getty, tower's layers",
            Self::GettyFull => "getty, full stack",
            Self::WsGetty => "getty, WebSocket",
            Self::WsSend => "tokio-tungstenite, send",
        }
    }

    async fn run<T>(self, transport: T) -> io::Result<()>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self {
            Self::Codec => tokio_loop::with_codec(transport, codec::length_delimited(), READ).await,
            Self::ByHand => tokio_loop::by_hand(transport, READ).await,
            Self::Getty => session(transport, stacks::bare()).await,
            Self::GettyBytes => session(transport, stacks::bytes()).await,
            Self::GettyTenLayers => session(transport, stacks::ten_layers()).await,
            Self::GettyTower => session(transport, stacks::tower()).await,
            Self::GettyFull => session(transport, stacks::full()).await,
            Self::WsGetty => session(transport, ws::getty()).await,
            Self::WsSend => ws::send_each(transport).await,
        }
    }

    fn is_websocket(self) -> bool {
        matches!(self, Self::WsGetty | Self::WsSend)
    }
}

/// A connection to be served. All work that is not part of the loop is already done.
#[derive(Debug)]
pub struct Prepared {
    runtime: Runtime,
    kind: Loop,
    batch: Bytes,
    /// Number of bytes in the answer to a batch.
    answer: usize,
    times: u64,
}

impl Prepared {
    /// Prepares `times` batches of `frames` frames. Each frame has `payload` bytes.
    ///
    /// # Panics
    ///
    /// If no runtime can be created.
    #[must_use]
    pub fn new(kind: Loop, frames: usize, payload: usize, times: u64) -> Self {
        let (out, back) = if kind.is_websocket() {
            (Form::Masked, Form::Unmasked)
        } else {
            (Form::Length, Form::Length)
        };
        let batch = |form| Frames::in_form(form, payload).concatenated(frames);
        Self {
            runtime: runtime(),
            kind,
            batch: batch(out).into(),
            answer: batch(back).len(),
            times,
        }
    }

    /// Echoes over a [`Scripted`] transport.
    ///
    /// # Panics
    ///
    /// If the loop fails or does not echo everything.
    pub fn scripted(&self) {
        let written = Arc::new(AtomicU64::new(0));
        let mut transport = Scripted::new(self.batch.clone(), self.times, Arc::clone(&written));
        if self.kind.is_websocket() {
            transport = transport.with_head(websocket::REQUEST);
        }
        // A spawned task has a waker that futures can compare. The waker of `block_on` would be
        // registered again in each poll.
        let outcome = self.runtime.block_on(async {
            let task = tokio::spawn(self.kind.run(transport));
            task.await.expect("the loop does not panic")
        });
        outcome.expect("the script is valid");
        let expected = self.answer as u64 * self.times;
        let written = written.load(Ordering::Relaxed);
        // A WebSocket may send a close frame.
        let goodbye = if self.kind.is_websocket() { 4 } else { 0 };
        let right = (expected..=expected + goodbye).contains(&written);
        assert!(right, "{}: {written} of {expected}", self.kind.name());
    }

    /// Echoes over [`tokio::io::duplex`] to a client on the same thread. The cost of the client is
    /// included.
    ///
    /// This does not work for WebSocket.
    ///
    /// # Panics
    ///
    /// If the loop fails or an answer differs from the sent frame.
    pub fn duplex(&self) {
        let (mut client, transport) = tokio::io::duplex(READ);
        let mut received = vec![0; self.batch.len()];
        self.runtime.block_on(async {
            let server = tokio::spawn(self.kind.run(transport));
            for _ in 0..self.times {
                client
                    .write_all(&self.batch)
                    .await
                    .expect("the server reads until the end");
                client
                    .read_exact(&mut received)
                    .await
                    .expect("the server answers everything");
                assert_eq!(received, self.batch, "{}", self.kind.name());
            }
            drop(client);
            let outcome = server.await.expect("the loop does not panic");
            outcome.expect("the client sends valid frames");
        });
    }
}
