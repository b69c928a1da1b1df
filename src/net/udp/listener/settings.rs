//! Settings of a listener for its peers.

use std::{
    error::Error,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::net::{
    bind::BACKLOG,
    udp::{probe::ProbePolicy, socket::MAX_PAYLOAD},
};

/// Datagram to drop when a peer's queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UdpOverflow {
    /// Drops the arriving datagram, as operating systems do. The end of a sequence is lost.
    #[default]
    DropNewest,
    /// Drops the oldest queued datagram. Suited to messages that later ones replace, such as
    /// positions.
    DropOldest,
}

/// Treatment of a new peer when the maximum number of peers is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// Drops the datagram of the new peer and keeps the existing peers.
    #[default]
    Refuse,
    /// Evicts the peer that has been silent longest. Peers that were heard only once go first, so
    /// that a flood from forged addresses replaces itself and not active peers. The evicted session
    /// closes with [`IdleTimeout`](crate::CloseReason::IdleTimeout) and [`Evicted`] as the source.
    LongestIdle,
}

/// A datagram of an address without a session.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct FirstDatagram<'a> {
    /// Source address of the datagram. A sender can forge it.
    pub peer: SocketAddr,
    /// Local address that it was sent to, where the operating system reports it.
    pub local: Option<IpAddr>,
    /// Payload of the datagram.
    pub payload: &'a [u8],
}

/// Decision about an address without a session, returned by the hook of
/// [`with_admit`](super::UdpListenerBuilder::with_admit).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UdpAdmission {
    /// Opens a session. The datagram is its first message.
    Open,
    /// Drops and counts the datagram.
    Ignore,
    /// Sends these bytes back and keeps no state.
    ///
    /// This can carry a cookie that the peer must repeat, which proves that it receives at its
    /// address. The bytes must be shorter than the datagram. Longer ones amplify a flood, and two
    /// servers that answer each other with as many bytes never stop.
    Answer(Bytes),
}

/// Source of the [`IdleTimeout`](crate::CloseReason::IdleTimeout) of a session that was closed
/// to make room for another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted;

impl fmt::Display for Evicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the longest silent peer was evicted to make room for another")
    }
}

impl Error for Evicted {}

type AdmitHook = Arc<dyn Fn(FirstDatagram<'_>) -> UdpAdmission + Send + Sync>;

/// Settings that a listener and its sessions share.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) max_peers: usize,
    pub(super) eviction: Eviction,
    /// Maximum number of datagrams in a peer's queue.
    pub(super) queue: usize,
    /// Maximum number of bytes in a peer's queue.
    pub(super) queue_bytes: usize,
    pub(super) overflow: UdpOverflow,
    pub(super) backlog: usize,
    pub(super) accept_timeout: Duration,
    pub(super) idle_timeout: Option<Duration>,
    /// Maximum length of a datagram, in bytes of payload.
    pub(super) max_datagram: usize,
    /// Empty datagrams are messages.
    pub(super) empty: bool,
    pub(super) probe: ProbePolicy,
    pub(super) inline_polling: bool,
    pub(super) admit: Option<AdmitHook>,
}

impl Settings {
    pub(super) const fn new() -> Self {
        Self {
            max_peers: 65_536,
            eviction: Eviction::Refuse,
            queue: 256,
            queue_bytes: 256 * 1024,
            overflow: UdpOverflow::DropNewest,
            backlog: BACKLOG as usize,
            accept_timeout: Duration::from_secs(10),
            // (design.md: Why does a UDP session have an idle timeout by default?)
            idle_timeout: Some(Duration::from_secs(60)),
            max_datagram: MAX_PAYLOAD,
            empty: false,
            probe: ProbePolicy::Deliver,
            inline_polling: true,
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
            .field("inline_polling", &self.inline_polling)
            .finish_non_exhaustive()
    }
}
