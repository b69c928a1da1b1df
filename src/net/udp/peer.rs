//! One peer of a listener: its queue, and the transport of its session.

use std::{
    fmt,
    io::{self, IoSlice},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use getty_core::CloseReason;
use tokio::runtime;

use super::{
    Ecn, Overflow, longest_to,
    outgoing::Outgoing,
    reader::Port,
    settings::Settings,
    socket::{Arrived, Route},
    table::Flow,
    units::{self, PeerUnits},
};
use crate::{
    serve::Lend,
    transport::{Framing, Received, Transport},
};

/// What the reader of the socket and the session of one peer share.
pub(super) struct Peer {
    flow: Flow,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None while nothing waits.
    units: Option<Box<PeerUnits>>,
    /// The session, while it waits.
    waker: Option<Waker>,
    /// The future of the session's task, until its transport is dropped.
    lent: Option<Arc<dyn Lend>>,
    /// Of the datagram that the session took last.
    ecn: Ecn,
    overflowed: u64,
    truncated: u64,
    /// How many of these the session has not been told of.
    untold: u32,
}

/// What became of a datagram in its peer's queue.
pub(super) struct Queued {
    /// Whether it is in the queue.
    pub(super) taken: bool,
    /// How many datagrams were dropped: itself, or older ones for it.
    pub(super) overflowed: u64,
    /// The session that waits for it.
    pub(super) waiting: Option<Woken>,
}

/// A session that has something to do.
pub(super) struct Woken {
    waker: Waker,
    lent: Option<Arc<dyn Lend>>,
}

impl Woken {
    /// Lets its task have a turn.
    pub(super) fn wake(self) {
        self.waker.wake();
    }

    /// Takes its task's turn here and now, where that can be.
    pub(super) fn run(self, here: runtime::Id) {
        match self.lent {
            Some(lent) => lent.poll_in_place(self.waker, here),
            None => self.waker.wake(),
        }
    }
}

impl Peer {
    pub(super) fn new(flow: Flow) -> Self {
        Self {
            flow,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Returns `true` unless the session waits for datagrams: some are queued, a handler runs, or
    /// the session waits for readiness.
    pub(super) fn is_busy(&self) -> bool {
        self.lock().waker.is_none()
    }

    /// Puts a datagram into the queue, or drops one as the settings say.
    pub(super) fn push(&self, arrived: &Arrived<'_>, settings: &Settings) -> Queued {
        let mut state = self.lock();
        let state = &mut *state;
        let units = state.units.get_or_insert_with(units::take);
        let len = arrived.bytes.len();
        let mut overflowed = 0;
        // whatever its length, one datagram has room
        while !units.is_empty()
            && (units.len() >= settings.queue || units.bytes() + len > settings.queue_bytes)
        {
            overflowed += 1;
            if settings.overflow == Overflow::DropNewest {
                break;
            }
            units.drop_next();
        }
        let taken = overflowed == 0 || settings.overflow == Overflow::DropOldest;
        if taken {
            units.push(arrived.bytes, arrived.ecn);
        }
        if overflowed > 0 {
            state.overflowed += overflowed;
            state.untold = state
                .untold
                .saturating_add(u32::try_from(overflowed).unwrap_or(u32::MAX));
        }
        Queued {
            taken,
            overflowed,
            waiting: state.waiting(),
        }
    }

    /// A datagram of this peer's was longer than the setting allows.
    pub(super) fn truncated(&self) -> Option<Woken> {
        let mut state = self.lock();
        state.truncated += 1;
        state.untold = state.untold.saturating_add(1);
        state.waiting()
    }
}

impl State {
    fn waiting(&mut self) -> Option<Woken> {
        let waker = self.waker.take()?;
        let lent = self.lent.clone();
        Some(Woken { waker, lent })
    }
}

/// What is known of a session's peer beside what its handle says: an attribute of each session of a
/// [`UdpListener`](super::UdpListener).
///
/// ```
/// use getty::{BoxError, Request, net::{Ecn, UdpInfo}};
///
/// async fn handler(request: Request<String>) -> Result<String, BoxError> {
///     let udp = request.session().get::<UdpInfo>().ok_or("not over UDP")?;
///     if udp.ecn() == Ecn::Congested {
///         // send less
///     }
///     Ok(format!("{} datagrams of yours found no room", udp.overflowed()))
/// }
/// ```
#[derive(Clone)]
pub struct UdpInfo(pub(super) Arc<Peer>);

impl UdpInfo {
    /// From here on the listener's reader may poll the future of the session's task.
    pub(crate) fn lend(&self, lent: Arc<dyn Lend>) {
        self.0.lock().lent = Some(lent);
    }

    /// The congestion bits of the datagram that the session took from its queue last: of the message at hand, where
    /// handlers run one at a time.
    #[must_use]
    pub fn ecn(&self) -> Ecn {
        self.0.lock().ecn
    }

    /// Returns the local address that the peer sends to, where the operating system reports it.
    ///
    /// It is the same for all datagrams of a session. Datagrams to another local address belong to
    /// another session.
    #[must_use]
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.0.flow.local
    }

    /// How many datagrams of the peer's were dropped because its queue was full.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.0.lock().overflowed
    }

    /// How many datagrams of the peer's were dropped because they were longer than the setting allows.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.0.lock().truncated
    }

    /// How many datagrams wait in the peer's queue.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.lock().units.as_ref().map_or(0, |units| units.len())
    }
}

impl fmt::Debug for UdpInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpInfo")
            .field("ecn", &self.ecn())
            .field("local_ip", &self.local_ip())
            .field("overflowed", &self.overflowed())
            .field("truncated", &self.truncated())
            .finish()
    }
}

/// The transport of one peer's session, as [`UdpListener`](super::UdpListener) makes it.
///
/// What the operating system refuses to send is dropped and counted, as if the network had lost it: no error of a
/// datagram ends a session.
pub struct UdpPeer {
    port: Arc<Port>,
    peer: Arc<Peer>,
    /// Where the peer stands in the port's table.
    key: usize,
    outgoing: Outgoing,
    /// The next read will find something.
    more: bool,
}

impl UdpPeer {
    pub(super) fn new(port: Arc<Port>, peer: Arc<Peer>, key: usize) -> Self {
        Self {
            port,
            peer,
            key,
            outgoing: Outgoing::new(),
            more: false,
        }
    }

    fn route(&self) -> Route {
        let Flow { peer, local } = *self.peer.flow();
        Route {
            peer,
            local: self.port.socket().answer_from(local),
        }
    }

    /// What was refused is lost, as it might have been on the way.
    fn lost(&self, error: &io::Error) {
        tracing::debug!(peer = %self.peer.flow().peer, %error, "a datagram was not sent");
        self.port.counts().unsent.add(1);
    }
}

impl Transport for UdpPeer {
    fn framing(&self) -> Framing {
        Framing::Datagrams
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<Received>> {
        let mut state = self.peer.lock();
        if state.untold > 0 {
            return Poll::Ready(Ok(Received::Lost(std::mem::take(&mut state.untold))));
        }
        let Some(units) = &mut state.units else {
            if !state
                .waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let popped = units.pop(buf);
        self.more = !units.is_empty();
        let emptied = if self.more { None } else { state.units.take() };
        if let Some((_, ecn)) = popped {
            state.ecn = ecn;
        }
        drop(state);
        emptied.into_iter().for_each(units::give);
        Poll::Ready(Ok(Received::Data(popped.map_or(0, |(len, _)| len))))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let route = self.route();
        loop {
            match ready!(self.outgoing.poll_push(self.port.socket(), cx, route, bufs)) {
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(error) => self.lost(&error),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match ready!(self.outgoing.poll_flush(self.port.socket(), cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => self.lost(&error),
            }
        }
    }

    fn max_message(&self) -> usize {
        longest_to(self.peer.flow().peer).min(self.port.settings().max_datagram)
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.more
    }

    /// UDP has no close of its own: the peer learns nothing of it.
    fn poll_close(&mut self, _: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for UdpPeer {
    fn drop(&mut self) {
        let lent = self.peer.lock().lent.take();
        drop(lent);
        self.port.leave(self.key, &self.peer);
    }
}

impl fmt::Debug for UdpPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpPeer")
            .field("peer", &self.peer.flow().peer)
            .field("local", &self.port.socket().local())
            .finish_non_exhaustive()
    }
}

/// Steps of a session, for the tests of the table.
#[cfg(test)]
impl Peer {
    /// Waits for datagrams.
    pub(super) fn rest(&self) {
        self.lock().waker = Some(Waker::noop().clone());
    }

    /// Has a message to handle.
    pub(super) fn wake(&self) {
        self.lock().waker = None;
    }
}
