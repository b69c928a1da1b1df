//! Echo servers for length-delimited frames, WebSocket messages and datagrams ([`udp`]).
//!
//! All servers must use two threads for their connections, write the answers to a read at once,
//! and refuse frames over 16 MiB.

pub mod codec;
pub mod epoll;
pub mod framed;
pub mod getty;
pub mod per_core;
pub mod tokio_loop;
pub mod udp;
pub mod ws;

use std::{env, io, net::TcpListener};

use ::getty::Pipeline;
pub use getty_benches_harness::Protocol;
use getty_benches_harness::{
    accept::{WORKERS, accept, runtime},
    child::{self, Placement, Server},
};
use tokio::net::TcpStream;

/// A server over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// getty: codec and session loop.
    Getty,
    /// getty with `Bytes` messages.
    GettyBytes,
    /// getty with tower's layers.
    GettyTower,
    /// getty with the layers of a production server.
    GettyFull,
    /// getty: codec and session loop with a runtime and a listener on each thread.
    GettyPerCore,
    /// No runtime and no tasks: threads that wait for readiness events of the kernel.
    Epoll,
    /// A tokio loop that parses frames in place with reads of 8 KiB.
    Tokio8K,
    /// A tokio loop that parses frames in place with reads of 64 KiB.
    Tokio64K,
    /// A tokio loop with getty's codec with reads of 8 KiB.
    Codec8K,
    /// A tokio loop with getty's codec with reads of 64 KiB.
    Codec64K,
    /// `tokio_util::codec::Framed` with its stream forwarded to its sink.
    FramedForward,
    /// `tokio_util::codec::Framed` with one `send` for each frame.
    FramedSend,
    /// getty over WebSocket.
    WsGetty,
    /// tokio-tungstenite with its stream forwarded to its sink.
    WsForward,
    /// tokio-tungstenite with one `send` for each message.
    WsSend,
}

impl Kind {
    /// All servers. The reference is first.
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

    /// Returns the protocol of the server.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        match self {
            Self::WsGetty | Self::WsForward | Self::WsSend => Protocol::WebSocket,
            _ => Protocol::Length,
        }
    }

    /// Returns the name in tables and on the command line.
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

    /// Returns the server with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Starts the server in a child process. The child runs this program again.
    ///
    /// # Errors
    ///
    /// If the process cannot be started or ends before it listens.
    pub fn start(self, placement: Placement) -> io::Result<Server> {
        Server::start(&env::current_exe()?, self.name(), placement)
    }

    /// Serves until standard input ends. This is the child's side of [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// If the server cannot listen or the pipes of the parent break.
    pub fn serve(self, placement: Placement) -> io::Result<()> {
        let run = move |listener| self.run(listener);
        child::serve(self.name(), placement, self.listen()?, run)
    }

    /// Listens on a free port of this machine.
    ///
    /// # Errors
    ///
    /// If there is no free port.
    pub fn listen(self) -> io::Result<TcpListener> {
        child::listen(self == Self::GettyPerCore)
    }

    /// Serves on a listener that [`listen`](Self::listen) has created. It will return only if
    /// serving fails.
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
                tokio_loop::with_codec(stream, codec::length_delimited(), 8 * 1024)
            }),
            Self::Codec64K => accept(listener, |stream| {
                tokio_loop::with_codec(stream, codec::length_delimited(), 64 * 1024)
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

/// Runs this process as a server if the arguments ask for that.
///
/// Returns `None` for other arguments. Each program that starts servers must call this first.
///
/// # Errors
///
/// If the server is unknown or it fails.
pub fn run_as_child(arguments: &[&str]) -> Option<io::Result<()>> {
    match *arguments {
        ["serve", kind, placement] => Some(serve_named(kind, placement)),
        [udp::COMMAND, kind, placement, workers] => Some(udp::serve(kind, placement, workers)),
        _ => None,
    }
}

fn serve_named(kind: &str, placement: &str) -> io::Result<()> {
    let kind = Kind::from_name(kind)
        .ok_or_else(|| io::Error::other(format!("unknown server {kind:?}")))?;
    kind.serve(Placement::from_name(placement)?)
}
