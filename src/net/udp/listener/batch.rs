//! Delivery of one batch of datagrams to their peers, and the admission of new peers.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use getty_core::{
    Address, Close, CloseReason, Connection, Endpoints, Panic, TransportKind, internal::log,
    sync::AcceptQueue,
};
use tokio::time::Instant;

use super::{
    flow::Flow,
    listener_socket::ListenerSocket,
    peer::{Peer, UdpInfo, WakeHandle},
    settings::{Evicted, Eviction, FirstDatagram, UdpAdmission},
    table::PeerTable,
    transport::UdpPeer,
};
use crate::net::udp::{
    probe::{PROBE_ANSWER, ProbePolicy, is_probe},
    socket::{IncomingDatagram, Route, Socket},
};

/// A new peer's connection that waits to be accepted.
pub(super) struct PendingAccept {
    pub(super) connection: Connection<UdpPeer>,
    pub(super) since: Instant,
}

impl PendingAccept {
    /// Returns `true` if the connection has waited for `timeout`.
    pub(super) fn is_late(&self, timeout: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= timeout
    }
}

/// One batch of datagrams, while it is delivered.
pub(super) struct Batch<'a> {
    socket: &'a Arc<ListenerSocket>,
    accept_queue: &'a AcceptQueue<PendingAccept>,
    now: Instant,
    /// Locked until a datagram of a new peer arrives.
    table: Option<MutexGuard<'a, PeerTable>>,
    /// Sessions to poll after the batch so that each sees all its datagrams at once.
    wakes: &'a mut Vec<WakeHandle>,
    received: u64,
    delivered: u64,
    /// A new peer has been added.
    opened: bool,
}

impl<'a> Batch<'a> {
    /// Receives one batch with `recv` and delivers it. Adds the sessions to poll to `wakes`.
    /// Returns the result of `recv`, and `true` if a peer is new.
    pub(super) fn receive<T>(
        socket: &'a Arc<ListenerSocket>,
        accept_queue: &'a AcceptQueue<PendingAccept>,
        wakes: &'a mut Vec<WakeHandle>,
        now: Instant,
        recv: impl FnOnce(&Socket, &mut Self) -> T,
    ) -> (T, bool) {
        let mut batch = Batch {
            socket,
            accept_queue,
            now,
            table: None,
            wakes,
            received: 0,
            delivered: 0,
            opened: false,
        };
        let received = recv(socket.socket(), &mut batch);
        if batch.received > 0 {
            socket.counters().received.add(batch.received);
            socket.counters().delivered.add(batch.delivered);
        }
        (received, batch.opened)
    }

    /// Delivers one datagram.
    pub(super) fn deliver(&mut self, datagram: &IncomingDatagram<'_>) {
        self.received += 1;
        let Self { socket, wakes, .. } = self;
        let settings = socket.settings();
        if settings.probe != ProbePolicy::Deliver && is_probe(datagram.bytes) {
            socket.counters().probes.add(1);
            if settings.probe == ProbePolicy::Answer && !socket.socket().is_unanswerable(datagram) {
                self.answer(datagram, PROBE_ANSWER);
            }
            return;
        }
        let truncated = datagram.bytes.len() > settings.max_datagram;
        let empty = datagram.bytes.is_empty() && !settings.empty;
        if truncated {
            socket.counters().truncated.add(1);
        } else if empty {
            socket.counters().empty.add(1);
        }
        let table = self.table.get_or_insert_with(|| socket.lock_table());
        match table.touch(&Flow::of(datagram), self.now) {
            Some(peer) if truncated => wakes.extend(peer.record_truncated()),
            // only shows that the peer is alive
            Some(_) if empty => {}
            Some(peer) => self.delivered += push(peer, socket, datagram, wakes),
            None if truncated || empty => {}
            None => {
                let is_closed = table.is_closed();
                self.table = None;
                if is_closed {
                    socket.counters().ignored.add(1);
                } else {
                    self.consider(datagram);
                }
            }
        }
    }

    /// Opens a session for a new peer if the limits and the admit hook allow it.
    fn consider(&mut self, datagram: &IncomingDatagram<'_>) {
        let socket = self.socket;
        let counters = socket.counters();
        if socket.socket().is_unanswerable(datagram) {
            counters.ignored.add(1);
            return;
        }
        // checked before the hook so that a refusal costs little even if the hook is slow
        let full = socket.shared().is_full();
        let evicts = socket.settings().eviction == Eviction::LongestIdle;
        if (full && !evicts) || !self.has_room() {
            counters.refused.add(1);
            return;
        }
        match self.admit(datagram) {
            UdpAdmission::Open => {}
            UdpAdmission::Ignore => return counters.ignored.add(1),
            UdpAdmission::Answer(bytes) => {
                counters.ignored.add(1);
                return self.answer(datagram, &bytes);
            }
        }
        if full && !self.evict() {
            counters.refused.add(1);
            return;
        }
        self.open(datagram);
    }

    /// Returns `true` if the backlog has room for a new peer. It bounds the sessions that are being
    /// closed as well.
    fn has_room(&self) -> bool {
        let backlog = self.socket.settings().backlog;
        self.socket.shared().ending_sessions() < backlog && self.accept_queue.len() < backlog
    }

    fn admit(&self, datagram: &IncomingDatagram<'_>) -> UdpAdmission {
        let Some(hook) = &self.socket.settings().admit else {
            return UdpAdmission::Open;
        };
        let first = FirstDatagram {
            peer: datagram.peer,
            local: datagram.local,
            payload: datagram.bytes,
        };
        Panic::catch(|| hook(first)).unwrap_or_else(|panic| {
            let peer = datagram.peer;
            log(|| tracing::error!(%panic, %peer, "the admit hook panicked; the datagram is dropped"));
            UdpAdmission::Ignore
        })
    }

    /// Closes the session of another peer. Returns `false` if this socket has none.
    fn evict(&self) -> bool {
        let Some(evicted) = self.socket.lock_table().evict() else {
            return false; // all peers belong to other sockets
        };
        self.socket.shared().peer_removed();
        self.socket.counters().evicted.add(1);
        evicted.close_with(Close::new(CloseReason::IdleTimeout).with_source(Evicted));
        true
    }

    fn open(&mut self, datagram: &IncomingDatagram<'_>) {
        let socket = self.socket;
        let peer = Arc::new(Peer::new(Flow::of(datagram)));
        self.delivered += push(&peer, socket, datagram, self.wakes);
        self.opened = true;
        let endpoints = Endpoints::new(
            TransportKind::Udp,
            Address::Ip(socket.socket().local_addr_for(datagram.local)),
            Address::Ip(datagram.peer),
        );
        let connection = Connection::with_endpoints(datagram.peer, endpoints);
        let handle = connection.handle().clone();
        handle.insert(UdpInfo(Arc::clone(&peer)));
        let key = socket
            .lock_table()
            .insert(Arc::clone(&peer), handle, self.now);
        socket.shared().peer_added();
        let connection = connection.map_transport(|_| UdpPeer::new(Arc::clone(socket), peer, key));
        self.accept_queue.push(PendingAccept {
            connection,
            since: self.now,
        });
    }

    /// Sends an answer without waiting. If the socket is full, the answer is lost, as it might be
    /// on the network.
    fn answer(&self, datagram: &IncomingDatagram<'_>, bytes: &[u8]) {
        let socket = self.socket.socket();
        let route = Route {
            peer: datagram.peer,
            local: socket.reply_source(datagram.local),
        };
        if let Err(error) = socket.try_send(&route, bytes, None) {
            log(|| tracing::debug!(peer = %datagram.peer, %error, "an answer was not sent"));
            self.socket.counters().unsent.add(1);
        }
    }
}

/// Adds a datagram to its peer's queue. Returns the number of delivered datagrams, 0 or 1.
fn push(
    peer: &Peer,
    socket: &ListenerSocket,
    datagram: &IncomingDatagram<'_>,
    wakes: &mut Vec<WakeHandle>,
) -> u64 {
    let pushed = peer.push(datagram, socket.settings());
    wakes.extend(pushed.wake);
    if pushed.overflowed > 0 {
        socket.counters().overflowed.add(pushed.overflowed);
    }
    u64::from(pushed.is_queued)
}
