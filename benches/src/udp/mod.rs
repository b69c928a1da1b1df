//! Echo servers of datagrams, and what a datagram costs each of them.
//!
//! As in [`child`], a server is this very program, started again: as `serve-udp <kind> <place> <workers>`.

mod load;
mod mmsg;
mod servers;

use std::{io, time::Duration};

use tokio::runtime;

pub use self::{load::Load, servers::EXPIRY};
use crate::{
    child::{self, Place, Server},
    histogram::Histogram,
    load::Shape,
    memory,
};

/// With this word a program starts itself again as a server of datagrams.
pub const COMMAND: &str = "serve-udp";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// tokio's `recv_from` and `send_to` in a loop: no sessions, one task.
    Hand,
    /// The same with `recvmmsg` and `sendmmsg`.
    HandMmsg,
    /// A task that receives and a task a peer that answers, with a channel between them.
    HandTasks,
    /// Two sockets on one port, a loop for each.
    HandTwoSockets,
    /// `UdpListener`: a session a peer.
    Getty,
    /// `UdpListener` with two sockets on one port.
    GettyTwoSockets,
    /// `UdpEndpoint`: one session for the socket.
    GettyEndpoint,
}

impl Kind {
    /// Every kind, the reference first.
    pub const ALL: [Self; 7] = [
        Self::Hand,
        Self::HandMmsg,
        Self::Getty,
        Self::GettyEndpoint,
        Self::HandTasks,
        Self::HandTwoSockets,
        Self::GettyTwoSockets,
    ];

    /// Its name in tables and on the command line.
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

    /// The kind of that name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn from_name(name: &str) -> io::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                io::Error::other(format!("there is no server {name:?} among {names}"))
            })
    }
}

/// What was seen of a server under load.
#[derive(Clone, Debug)]
pub struct Figures {
    /// CPU nanoseconds a datagram.
    pub cpu: f64,
    /// Datagrams a second.
    pub rate: f64,
    /// Datagrams that never came back.
    pub lost: u64,
    /// From sending a datagram to having it back.
    pub latency: Histogram,
    /// The highest resident set of the server, in bytes.
    pub peak: u64,
}

/// Measures a server of its own for so long, after it has run for `warm_up`. A shape's connections are peers.
///
/// # Errors
///
/// If the server cannot be started, or does not echo what it is sent to whom it is from.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub fn measure(
    kind: Kind,
    place: Place,
    workers: usize,
    shape: Shape,
    warm_up: Duration,
    duration: Duration,
) -> io::Result<Figures> {
    let mut server = start(kind, place, workers)?;
    let mut load = Load::open(server.address(), shape)?;
    load.start(shape.in_flight)?;
    load.run(warm_up)?;
    let before = server.cpu()?;
    let echoed = load.run(duration)?;
    let used = server.cpu()? - before;
    Ok(Figures {
        cpu: used as f64 / echoed.messages as f64,
        rate: echoed.messages as f64 / echoed.elapsed.as_secs_f64(),
        lost: load.lost(),
        latency: echoed.latency,
        peak: memory::peak(server.pid())?,
    })
}

/// Starts a server in a process of its own.
///
/// # Errors
///
/// If the process does not start, or ends before it listens.
pub fn start(kind: Kind, place: Place, workers: usize) -> io::Result<Server> {
    Server::spawn(&[COMMAND, kind.name(), place.name(), &workers.to_string()])
}

/// The child's side of [`start`], given the words after [`COMMAND`].
///
/// # Errors
///
/// If it does not know them, cannot listen, or the parent's pipes break.
pub fn serve(kind: &str, place: &str, workers: &str) -> io::Result<()> {
    let kind = Kind::from_name(kind)?;
    Place::from_name(place)?.take()?;
    let workers = workers.parse().map_err(io::Error::other)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    let address = runtime.block_on(kind.listen())?;
    child::answer(address)
}
