//! The loops of the servers over transports that never leave the process, on the calling thread alone.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use getty::{Connection, Pipeline};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    runtime::{self, Runtime},
};

use crate::{
    frames::{Form, Frames},
    scripted::Scripted,
    server::{codec, getty as stacks, tokio_loop, ws},
    websocket,
};

/// How much the hand-written loops read at once, and how much a duplex pipe holds.
const READ: usize = 64 * 1024;

/// What is between the transport and the echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// The hand-written loop around getty's own codec.
    Codec,
    /// The hand-written loop that parses by hand.
    ByHand,
    /// getty: codec and session loop.
    Getty,
    /// getty, where each message is `Bytes`.
    GettyBytes,
    /// getty with ten message layers that only pass on.
    GettyTenLayers,
    /// getty with tower's own layers.
    GettyTower,
    /// getty with what a production server has.
    GettyFull,
    /// getty over WebSocket.
    WsGetty,
    /// tokio-tungstenite, one send an item.
    WsSend,
}

impl Loop {
    /// Every loop over frames with a length, the reference first.
    pub const ALL: [Self; 7] = [
        Self::Codec,
        Self::ByHand,
        Self::Getty,
        Self::GettyBytes,
        Self::GettyTenLayers,
        Self::GettyTower,
        Self::GettyFull,
    ];

    /// Its name in tables and on the command line.
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
            Self::Codec => tokio_loop::with_codec(transport, codec::length(), READ).await,
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

/// The life of one connection over `transport`.
///
/// # Errors
///
/// If the stack refuses it.
pub async fn session<T>(transport: T, mut stack: impl Pipeline<T>) -> io::Result<()> {
    poll_fn(|cx| stack.poll_ready(cx))
        .await
        .map_err(|error| io::Error::other(error.into()))?;
    let closed = stack.call(Connection::new(transport)).await;
    closed.map_err(|error| io::Error::other(error.into()))?;
    Ok(())
}

/// A connection about to be served: all that is not the loop's work has been done.
#[derive(Debug)]
pub struct Prepared {
    runtime: Runtime,
    kind: Loop,
    batch: Bytes,
    /// How many bytes the answer to a batch has.
    answer: usize,
    times: u64,
}

impl Prepared {
    /// `times` batches of so many `frames` of so many `payload` bytes for this loop.
    ///
    /// # Panics
    ///
    /// If there is no runtime to be had.
    #[must_use]
    pub fn new(kind: Loop, frames: usize, payload: usize, times: u64) -> Self {
        let (out, back) = if kind.is_websocket() {
            (Form::Masked, Form::Unmasked)
        } else {
            (Form::Length, Form::Length)
        };
        let batch = |form| Frames::in_form(form, payload).concatenated(frames);
        Self {
            runtime: runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the process may open descriptors"),
            kind,
            batch: batch(out).into(),
            answer: batch(back).len(),
            times,
        }
    }

    /// Echoes over a transport that costs next to nothing.
    ///
    /// # Panics
    ///
    /// If the loop fails or has not echoed everything.
    pub fn scripted(&self) {
        let written = Arc::new(AtomicU64::new(0));
        let mut transport = Scripted::new(self.batch.clone(), self.times, Arc::clone(&written));
        if self.kind.is_websocket() {
            transport = transport.with_head(websocket::REQUEST);
        }
        // on a task: the waker of `block_on` is none that a future could recognise, so each turn would register it anew
        let outcome = self.runtime.block_on(async {
            let task = tokio::spawn(self.kind.run(transport));
            task.await.expect("the loop does not panic")
        });
        outcome.expect("the script contains nothing that could fail");
        let expected = self.answer as u64 * self.times;
        let written = written.load(Ordering::Relaxed);
        // a WebSocket may have said goodbye
        let goodbye = if self.kind.is_websocket() { 4 } else { 0 };
        let right = (expected..=expected + goodbye).contains(&written);
        assert!(right, "{}: {written} of {expected}", self.kind.name());
    }

    /// Echoes over [`tokio::io::duplex`] to a client on the same thread, whose work is part of the cost. Not of WebSocket.
    ///
    /// # Panics
    ///
    /// If the loop fails or the echo differs from what was sent.
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
            outcome.expect("the client sends nothing that could fail");
        });
    }
}
