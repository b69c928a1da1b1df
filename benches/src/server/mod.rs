//! The servers that are compared: each echoes frames of a 4-byte big-endian length and that many bytes, or WebSocket
//! messages.
//!
//! All use two threads for their connections, write what they read in one go, and refuse frames of more than 16 MiB.

pub mod codec;
pub mod epoll;
pub mod framed;
pub mod getty;
pub mod per_core;
pub mod tokio_loop;
pub mod ws;

use std::{env, io, net::TcpListener};

use ::getty::Pipeline;
pub use getty_benches_harness::Protocol;
use getty_benches_harness::accept::{WORKERS, accept, runtime};
use getty_benches_harness::child::{self, Place, Server};
use tokio::net::TcpStream;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// getty: codec and session loop.
    Getty,
    /// getty, where each message is `Bytes`.
    GettyBytes,
    /// getty with tower's own layers.
    GettyTower,
    /// getty with what a production server has.
    GettyFull,
    /// getty: codec and session loop, with a runtime and a listener of its own on each thread.
    GettyPerCore,
    /// No runtime, no tasks: threads that wait for the kernel's readiness events.
    Epoll,
    /// A tokio loop that parses by hand, with reads of 8 KiB.
    Tokio8K,
    /// A tokio loop that parses by hand, with reads of 64 KiB.
    Tokio64K,
    /// A tokio loop around getty's own codec, with reads of 8 KiB.
    Codec8K,
    /// A tokio loop around getty's own codec, with reads of 64 KiB.
    Codec64K,
    /// `tokio_util::codec::Framed`, its stream forwarded into its sink.
    FramedForward,
    /// `tokio_util::codec::Framed`, one send an item.
    FramedSend,
    /// getty over WebSocket.
    WsGetty,
    /// tokio-tungstenite, its stream forwarded into its sink.
    WsForward,
    /// tokio-tungstenite, one send an item.
    WsSend,
}

impl Kind {
    /// Every kind, the reference first.
    pub const ALL: [Self; 15] = [
        Self::Tokio8K,
        Self::Getty,
        Self::GettyBytes,
        Self::GettyTower,
        Self::GettyFull,
        Self::GettyPerCore,
        Self::Epoll,
        Self::Tokio64K,
        Self::Codec8K,
        Self::Codec64K,
        Self::FramedForward,
        Self::FramedSend,
        Self::WsSend,
        Self::WsGetty,
        Self::WsForward,
    ];

    /// What it speaks.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Self::WsGetty | Self::WsForward | Self::WsSend => Protocol::WebSocket,
            _ => Protocol::Length,
        }
    }

    /// Its name in tables and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Getty => "getty",
            Self::GettyTower => "getty-tower",
            Self::GettyBytes => "getty-bytes",
            Self::GettyFull => "getty-full",
            Self::GettyPerCore => "getty-per-core",
            Self::Epoll => "epoll",
            Self::Tokio8K => "tokio-8k",
            Self::Tokio64K => "tokio-64k",
            Self::Codec8K => "codec-8k",
            Self::Codec64K => "codec-64k",
            Self::FramedForward => "framed-forward",
            Self::FramedSend => "framed-send",
            Self::WsGetty => "ws-getty",
            Self::WsForward => "ws-forward",
            Self::WsSend => "ws-send",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Starts it in a process of its own, which is this program again.
    ///
    /// # Errors
    ///
    /// If the process does not start, or ends before it listens.
    pub fn start(self, place: Place) -> io::Result<Server> {
        Server::start(&env::current_exe()?, self.name(), place)
    }

    /// The child's side of [`start`](Self::start): serves until the standard input ends.
    ///
    /// # Errors
    ///
    /// If it cannot listen or keep to its place, or the parent's pipes break.
    pub fn serve(self, place: Place) -> io::Result<()> {
        let run = move |listener| self.run(listener);
        child::serve(self.name(), place, self.listen()?, run)
    }

    /// Listens on a port of this machine that the system chooses.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn listen(self) -> io::Result<TcpListener> {
        child::listen(self == Self::GettyPerCore)
    }

    /// Serves on `listener`, which it has made by [`listen`](Self::listen), and only returns when that fails.
    ///
    /// # Errors
    ///
    /// If the listener or the runtime fails.
    pub fn run(self, listener: TcpListener) -> io::Result<()> {
        match self {
            Self::Getty => serve(listener, getty::bare()),
            Self::GettyTower => serve(listener, getty::tower()),
            Self::GettyBytes => serve(listener, getty::bytes()),
            Self::GettyFull => serve(listener, getty::full()),
            Self::GettyPerCore => per_core::run(listener, WORKERS, getty::bare),
            Self::Epoll => epoll::run(&listener, WORKERS),
            Self::Tokio8K => accept(listener, |stream| tokio_loop::by_hand(stream, 8 * 1024)),
            Self::Tokio64K => accept(listener, |stream| tokio_loop::by_hand(stream, 64 * 1024)),
            Self::Codec8K => accept(listener, |stream| {
                tokio_loop::with_codec(stream, codec::length(), 8 * 1024)
            }),
            Self::Codec64K => accept(listener, |stream| {
                tokio_loop::with_codec(stream, codec::length(), 64 * 1024)
            }),
            Self::FramedForward => accept(listener, framed::forward),
            Self::FramedSend => accept(listener, framed::send_each),
            Self::WsGetty => serve(listener, ws::getty()),
            Self::WsForward => accept(listener, ws::forward),
            Self::WsSend => accept(listener, ws::send_each),
        }
    }
}

fn serve(listener: TcpListener, stack: impl Pipeline<TcpStream>) -> io::Result<()> {
    runtime()?.block_on(async {
        let listener = ::getty::net::TcpListener::try_from(listener)?;
        ::getty::serve(listener, stack)
            .await
            .map_err(io::Error::other)?;
        Ok(())
    })
}
