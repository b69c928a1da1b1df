//! What a listener can be told about its peers.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::LONGEST_V6;
use crate::net::bind::BACKLOG;

/// What is dropped when a peer's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// The datagram that has just come, as operating systems do: what was sent in order is lost at its end.
    #[default]
    DropNewest,
    /// The one that has waited longest: for messages of which only the latest matter, such as positions.
    DropOldest,
}

/// What happens to a new peer when there are as many as there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// Its datagram is dropped: those who are there stay.
    #[default]
    Refuse,
    /// It takes the place of the peer that has been silent longest, among those that were heard only once if there are
    /// any: a flood from invented addresses replaces itself, and no peer that talks. The evicted session closes as
    /// [`IdleTimeout`](crate::CloseReason::IdleTimeout), with [`Evicted`] as the source.
    LongestIdle,
}

/// What a listener does with the Go library's probe: a datagram that is `connect-ping` and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProbePolicy {
    /// It is a datagram as any other.
    #[default]
    Deliver,
    /// It is dropped and counted, and opens no session, as that library's own servers do.
    Discard,
    /// It is answered with an empty datagram and not passed on. The client need not wait for its
    /// timeout, because that library's clients take any answer.
    ///
    /// The answer is not a probe. Servers drop empty datagrams by default, so a forged probe does
    /// not make two servers answer each other.
    Answer,
}

/// The first datagram of an address that has no session.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FirstDatagram<'a> {
    /// Whom it claims to be from: any address can be written there.
    pub peer: SocketAddr,
    /// To which of our addresses it was sent, where the operating system says.
    pub local: Option<IpAddr>,
    /// What it says.
    pub payload: &'a [u8],
}

/// What becomes of an address that has no session: the answer of the hook that
/// [`with_admit`](super::UdpListenerBuilder::with_admit) sets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admit {
    /// A session, whose first message the datagram is.
    Open,
    /// Nothing: the datagram is dropped and counted.
    Ignore,
    /// These bytes are sent back, and nothing is remembered: for a cookie that the peer has to
    /// repeat, and so proves that it can be reached at that address. It must be shorter than the
    /// datagram: a longer one amplifies a flood, and two servers that answer each other with as
    /// many bytes never stop.
    Answer(Bytes),
}

/// What the record of a session says that made room for another peer: the source of its
/// [`IdleTimeout`](crate::CloseReason::IdleTimeout).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted;

impl fmt::Display for Evicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it was silent longest, and its place was needed for another peer")
    }
}

impl Error for Evicted {}

type AdmitHook = Arc<dyn Fn(FirstDatagram<'_>) -> Admit + Send + Sync>;

/// The settings that a listener and its sessions share.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) max_peers: usize,
    pub(super) eviction: Eviction,
    pub(super) queue: usize,
    pub(super) queue_bytes: usize,
    pub(super) overflow: Overflow,
    pub(super) backlog: usize,
    pub(super) accept_timeout: Duration,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_datagram: usize,
    pub(super) empty: bool,
    pub(super) probe: ProbePolicy,
    pub(super) turns_in_place: bool,
    pub(super) admit: Option<AdmitHook>,
}

impl Settings {
    pub(super) const fn new() -> Self {
        Self {
            max_peers: 65_536,
            eviction: Eviction::Refuse,
            queue: 256,
            queue_bytes: 256 * 1024,
            overflow: Overflow::DropNewest,
            backlog: BACKLOG as usize,
            accept_timeout: Duration::from_secs(10),
            idle_timeout: Some(Duration::from_secs(60)),
            max_datagram: LONGEST_V6,
            empty: false,
            probe: ProbePolicy::Deliver,
            turns_in_place: true,
            admit: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("max_peers", &self.max_peers)
            .field("eviction", &self.eviction)
            .field("queue", &self.queue)
            .field("queue_bytes", &self.queue_bytes)
            .field("overflow", &self.overflow)
            .field("backlog", &self.backlog)
            .field("accept_timeout", &self.accept_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_datagram", &self.max_datagram)
            .field("empty", &self.empty)
            .field("probe", &self.probe)
            .field("turns_in_place", &self.turns_in_place)
            .finish_non_exhaustive()
    }
}
