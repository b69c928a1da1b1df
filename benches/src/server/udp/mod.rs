//! Echo servers over UDP.
//!
//! As in [`child`] a server is this program again. Its arguments are
//! `serve-udp <kind> <placement> <workers>`.

mod mmsg;
mod servers;

use std::{io, time::Duration};

use tokio::runtime;

pub use self::servers::EXPIRY;
use crate::{
    child::{self, Placement, Server},
    load::{self, Shape, UdpLoad},
    measure::Sample,
};

/// First argument of a child process that serves datagrams.
pub const COMMAND: &str = "serve-udp";

/// A server over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hand-written: one task calls `recv_from` and `send_to` in a loop. There are no sessions.
    Hand,
    /// Hand-written: the same with `recvmmsg` and `sendmmsg`.
    HandMmsg,
    /// Hand-written: one task receives and a task for each peer answers. There is a channel between
    /// them.
    HandTasks,
    /// Hand-written: two sockets on one port with a loop for each.
    HandTwoSockets,
    /// `UdpListener`: a session for each peer.
    Getty,
    /// `UdpListener` with two sockets on one port.
    GettyTwoSockets,
    /// `UdpEndpoint`: one session for the socket.
    GettyEndpoint,
}

impl Kind {
    /// All servers. The reference is first.
    pub const ALL: [Self; 7] = [
        Self::Hand,
        Self::HandMmsg,
        Self::Getty,
        Self::GettyEndpoint,
        Self::HandTasks,
        Self::HandTwoSockets,
        Self::GettyTwoSockets,
    ];

    /// Returns the name in tables and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hand => "hand",
            Self::HandMmsg => "hand-mmsg",
            Self::HandTasks => "hand-tasks",
            Self::HandTwoSockets => "hand-two-sockets",
            Self::Getty => "getty",
            Self::GettyTwoSockets => "getty-two-sockets",
            Self::GettyEndpoint => "getty-endpoint",
        }
    }

    /// Returns the server with this name.
    ///
    /// # Errors
    ///
    /// If there is no such server.
    pub fn from_name(name: &str) -> io::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                io::Error::other(format!("unknown server {name:?}; known servers: {names}"))
            })
    }
}

/// Measures a new server process under a load. The connections of the shape are peers.
///
/// Lost datagrams are reported on standard error.
///
/// # Errors
///
/// If the server cannot be started or an answer is wrong.
pub fn measure(
    kind: Kind,
    placement: Placement,
    workers: usize,
    shape: Shape,
    duration: Duration,
) -> io::Result<Sample> {
    let mut server = start(kind, placement, workers)?;
    let mut load = UdpLoad::open(server.address(), shape)?;
    load.start(shape.in_flight)?;
    let sample = load::sample(&mut server, duration, |duration| load.run(duration))?;
    if load.lost() > 0 {
        eprintln!(
            "{}: {} datagrams were lost and sent again",
            kind.name(),
            load.lost()
        );
    }
    Ok(sample)
}

/// Starts the server in a child process.
///
/// # Errors
///
/// If the process cannot be started or ends before it listens.
pub fn start(kind: Kind, placement: Placement, workers: usize) -> io::Result<Server> {
    Server::spawn(&[COMMAND, kind.name(), placement.name(), &workers.to_string()])
}

/// Serves until standard input ends. This is the child's side of [`start`].
///
/// # Errors
///
/// If the arguments are invalid, the server cannot listen, or the pipes of the parent break.
pub fn serve(kind: &str, placement: &str, workers: &str) -> io::Result<()> {
    let kind = Kind::from_name(kind)?;
    Placement::from_name(placement)?.apply()?;
    let workers = workers.parse().map_err(io::Error::other)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    let address = runtime.block_on(kind.listen())?;
    child::answer_parent(address)
}
