//! One peer of a listener: its queue of received datagrams, and the means to wake its session.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use getty_core::sync::{Mutex, MutexGuard};
use tokio::runtime;

use super::{
    flow::Flow,
    settings::{Settings, UdpOverflow},
};
use crate::{
    net::udp::socket::{Ecn, IncomingDatagram, PeerQueue, recycle, take_queue},
    transport::Received,
};

/// State that the reader of the socket and the session of one peer share.
pub(super) struct Peer {
    flow: Flow,
    state: Mutex<PeerState>,
}

#[derive(Default)]
struct PeerState {
    /// `None` while the queue is empty.
    queue: Option<Box<PeerQueue>>,
    /// Waker of the session, while it waits for datagrams.
    waker: Option<Waker>,
    /// Future of the session's task, which the reader may poll. Set until the transport is dropped.
    inline: Option<Arc<dyn getty_core::sync::InlinePoll>>,
    /// ECN bits of the datagram that the session read last.
    ecn: Ecn,
    overflowed: u64,
    truncated: u64,
    /// Number of lost datagrams that have not been reported to the session yet.
    unreported: u32,
}

/// Result of [`Peer::push`].
pub(super) struct Pushed {
    /// The datagram is in the queue.
    pub(super) is_queued: bool,
    /// Number of dropped datagrams: this one, or older ones in its favor.
    pub(super) overflowed: u64,
    /// Set if the session waited for datagrams. It must be woken.
    pub(super) wake: Option<WakeHandle>,
}

/// A session that must be polled.
pub(super) struct WakeHandle {
    waker: Waker,
    inline: Option<Arc<dyn getty_core::sync::InlinePoll>>,
}

impl WakeHandle {
    /// Wakes the session's task.
    pub(super) fn wake(self) {
        self.waker.wake();
    }

    /// Polls the session on the current task, which runs on runtime `here`. Wakes the session's
    /// task if that is not possible.
    pub(super) fn poll_inline(self, here: runtime::Id) {
        match self.inline {
            Some(inline) => inline.poll_inline(self.waker, here),
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

    fn lock(&self) -> MutexGuard<'_, PeerState> {
        self.state.lock()
    }

    pub(super) const fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Returns `true` unless the session waits for datagrams: some are queued, a handler runs, or
    /// the session waits for readiness.
    pub(super) fn is_busy(&self) -> bool {
        self.lock().waker.is_none()
    }

    /// Adds a datagram to the queue. Drops it or older ones if the queue is full.
    pub(super) fn push(&self, datagram: &IncomingDatagram<'_>, settings: &Settings) -> Pushed {
        let mut state = self.lock();
        let state = &mut *state;
        let queue = state.queue.get_or_insert_with(take_queue);
        let len = datagram.bytes.len();
        let mut overflowed = 0;
        // an empty queue has room for one datagram of any length
        while !queue.is_empty()
            && (queue.len() >= settings.queue || queue.bytes() + len > settings.queue_bytes)
        {
            overflowed += 1;
            if settings.overflow == UdpOverflow::DropNewest {
                break;
            }
            queue.drop_next();
        }
        let is_queued = overflowed == 0 || settings.overflow == UdpOverflow::DropOldest;
        if is_queued {
            queue.push(datagram.bytes, datagram.ecn);
        }
        if overflowed > 0 {
            state.overflowed += overflowed;
            state.unreported = state
                .unreported
                .saturating_add(u32::try_from(overflowed).unwrap_or(u32::MAX));
        }
        Pushed {
            is_queued,
            overflowed,
            wake: state.take_wake_handle(),
        }
    }

    /// Records a datagram that exceeded the maximum length. The returned session must be woken.
    pub(super) fn record_truncated(&self) -> Option<WakeHandle> {
        let mut state = self.lock();
        state.truncated += 1;
        state.unreported = state.unreported.saturating_add(1);
        state.take_wake_handle()
    }

    /// Appends the next datagram to `buf`, and sets `has_more` if others follow.
    pub(super) fn poll_recv(
        &self,
        cx: &Context<'_>,
        buf: &mut BytesMut,
        has_more: &mut bool,
    ) -> Poll<Received> {
        let mut state = self.lock();
        if state.unreported > 0 {
            return Poll::Ready(Received::Lost(std::mem::take(&mut state.unreported)));
        }
        let Some(queue) = &mut state.queue else {
            if !state
                .waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let popped = queue.pop(buf);
        *has_more = !queue.is_empty();
        let emptied = if *has_more { None } else { state.queue.take() };
        if let Some((_, ecn)) = popped {
            state.ecn = ecn;
        }
        drop(state);
        emptied.into_iter().for_each(recycle);
        Poll::Ready(Received::Data(popped.map_or(0, |(len, _)| len)))
    }

    /// Stops inline polling of the session's future.
    pub(super) fn clear_inline(&self) {
        let inline = self.lock().inline.take();
        // unlocked first because this may be the last reference to the session's future
        drop(inline);
    }
}

impl PeerState {
    fn take_wake_handle(&mut self) -> Option<WakeHandle> {
        let waker = self.waker.take()?;
        let inline = self.inline.clone();
        Some(WakeHandle { waker, inline })
    }
}

/// UDP state of a session's peer, beyond that of its handle. An attribute of each session of a
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
///     Ok(format!("{} of your datagrams were dropped", udp.overflowed()))
/// }
/// ```
#[derive(Clone)]
pub struct UdpInfo(pub(super) Arc<Peer>);

impl UdpInfo {
    /// Lets the listener's reader poll the future of the session's task.
    pub(crate) fn set_inline(&self, inline: Arc<dyn getty_core::sync::InlinePoll>) {
        self.0.lock().inline = Some(inline);
    }

    /// Returns the ECN bits of the datagram that the session read last. That datagram is the
    /// current message if handlers run one at a time.
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

    /// Returns the number of the peer's datagrams that were dropped because its queue was full.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.0.lock().overflowed
    }

    /// Returns the number of the peer's datagrams that were dropped because they exceeded the
    /// maximum length.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.0.lock().truncated
    }

    /// Returns the number of datagrams in the peer's queue.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.lock().queue.as_ref().map_or(0, |queue| queue.len())
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

/// States of a session, for the tests of the table.
#[cfg(test)]
impl Peer {
    /// Makes the session wait for datagrams.
    pub(super) fn set_waiting(&self) {
        self.lock().waker = Some(Waker::noop().clone());
    }

    /// Makes the session handle a message.
    pub(super) fn set_busy(&self) {
        self.lock().waker = None;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn datagram(bytes: &[u8]) -> IncomingDatagram<'_> {
        IncomingDatagram {
            bytes,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            local: None,
            ecn: Ecn::NotCapable,
        }
    }

    #[test]
    fn queue_takes_datagrams_up_to_its_maximum_of_bytes() {
        let settings = Settings {
            queue_bytes: 10,
            ..Settings::new()
        };
        let peer = Peer::new(Flow::of(&datagram(b"")));
        for (length, is_queued) in [(4, true), (7, false), (6, true), (1, false)] {
            let pushed = peer.push(&datagram(&[b'x'; 10][..length]), &settings);
            assert_eq!(pushed.is_queued, is_queued, "{length}");
        }
    }
}
