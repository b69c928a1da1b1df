//! The untyped handle of a connection: created at accept or connect, readable after the close.

mod addresses;
mod attributes;
mod callbacks;
mod closing;
mod hooks;
mod outbound;
mod settings;
mod times;

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{sync::Notify, time::Instant};

pub(crate) use self::hooks::RequestNumber;
use self::{addresses::Addresses, attributes::Attributes, callbacks::Callbacks, hooks::LayerHooks};
pub use self::{
    addresses::AddressesFixed,
    callbacks::CallbackAdded,
    hooks::{HandleExt, OnInputEnd, OpenGuard},
    settings::Setting,
};
use super::{
    Close, Closed, Endpoints, Stats, TransportKind,
    closed::LossCounts,
    stats::{Counters, RareCounts},
    timestamps::{Activity, Timestamps},
};
use crate::sync::{AtomicU8, Lazy, Mutex, Ordering, Signal};

/// The session loop has taken the connection.
const OPEN: u8 = 1;
/// A close was requested or the session loop found a cause for one.
const CLOSING: u8 = 2;
/// The peer has ended its direction.
const PEER_FINISHED: u8 = 4;
/// The close is complete: all callbacks have run.
const CLOSED: u8 = 8;
/// The name was set, and no layer has taken note.
const RENAMED: u8 = 16;
/// Senders wait because the peer reads too slowly.
const BACKPRESSURED: u8 = 32;
/// This side has ended its direction.
const FINISHED: u8 = 64;
/// Requests of this session await responses.
const AWAITS_RESPONSES: u8 = 128;

/// Untyped handle of one connection.
///
/// It can be cloned and used from any thread. Scope: session. Addresses, times and statistics
/// stay readable after the close and inside close callbacks. A handle keeps a few hundred
/// bytes alive, but not the transport or its task. [`Session`](crate::Session) derefs to it.
/// Authors of layers find more methods in [`HandleExt`].
///
/// ```
/// use getty_core::{CloseReason, Connection};
///
/// let connection = Connection::new("any transport");
/// let handle = connection.handle().clone();
/// handle.insert(42_u32);
/// assert_eq!(handle.get::<u32>(), Some(42));
///
/// handle.add_close_callback("docs", 1, |closed| assert_eq!(closed.reason, CloseReason::Local));
/// handle.close();
/// handle.close_with(CloseReason::Shutdown); // too late: the first reason wins
/// drop(connection);
/// assert_eq!(handle.reason(), Some(CloseReason::Local));
/// assert!(handle.is_closed());
/// ```
#[derive(Clone)]
pub struct ConnectionHandle(Arc<Inner>);

// This order keeps the fields that each poll of the driver touches on the same cache lines.
// With many connections, a cache line more costs more than the work on it.
#[repr(C)]
struct Inner {
    state: AtomicU8,
    activity: Activity,
    /// Number of abandoned requests whose responses are outstanding. It fits into the padding
    /// here.
    abandoned: AtomicU16,
    in_flight: AtomicU32,
    signal: Signal,
    opened_at: Instant,
    counters: Counters,
    pending: AtomicUsize,
    timestamps: Timestamps,
    addresses: Box<Addresses>,
    changed: Notify,
    attributes: Attributes,
    id: u64,
    /// Locked before `locked` where both are locked. Comparing and hashing keys runs under this
    /// lock, and may use the handle except for its callbacks.
    callbacks: Mutex<Callbacks>,
    locked: Mutex<LockedState>,
}

/// State that is accessed a few times in a connection's life. No code of the user runs under
/// its lock.
#[derive(Default)]
struct LockedState {
    kind: TransportKind,
    /// Created when it is first needed, which is at the close for most connections.
    close_state: Lazy<CloseState>,
    /// Hooks of layers, until the driver takes them.
    hooks: Lazy<LayerHooks>,
    /// Number of messages that wait for the encoder, as of the last time that deadlines ran. It
    /// fits into the padding here.
    #[cfg(feature = "metrics")]
    queued: u32,
    /// The [settings](Setting) that layers of this connection have, as bits.
    settings: u8,
    /// `true` if the transport has a ping.
    has_ping: bool,
    /// Number of guards that catch panics around the owner of the close guard.
    panic_guards: u8,
    /// `true` if a panic has dropped the close guard: a `PanicGuard` will finish the connection.
    finish_deferred: bool,
    /// `true` once the end of the connection was logged, or if a layer logs it.
    end_logged: bool,
    /// `true` once the transport of the open session was upgraded.
    upgraded: bool,
    refusal: Refusal,
}

/// Finisher of a connection whose close guard is dropped before the session opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Refusal {
    /// The close guard.
    #[default]
    Immediate,
    /// `end_refusal` if the close guard is dropped before it.
    Deferred,
    /// `end_refusal` because the close guard was dropped.
    Pending,
}

/// State that few connections have before their close.
#[derive(Default)]
struct CloseState {
    name: Option<Arc<str>>,
    requested: Option<Close>,
    closed: Option<Box<Closed>>,
    rare_counts: RareCounts,
    losses: LossCounts,
}

impl LockedState {
    fn requested(&self) -> Option<&Close> {
        self.close_state.get()?.requested.as_ref()
    }

    fn closed(&self) -> Option<&Closed> {
        self.close_state.get()?.closed.as_deref()
    }
}

impl ConnectionHandle {
    pub(in crate::connection) fn new(endpoints: Endpoints) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Endpoints { kind, local, peer } = endpoints;
        Self(Arc::new(Inner {
            signal: Signal::new(),
            counters: Counters::default(),
            timestamps: Timestamps::default(),
            state: AtomicU8::new(0),
            activity: Activity::default(),
            abandoned: AtomicU16::new(0),
            in_flight: AtomicU32::new(0),
            pending: AtomicUsize::new(0),
            opened_at: Instant::now(),
            addresses: Box::new(Addresses::new(local, peer)),
            changed: Notify::new(),
            attributes: Attributes::default(),
            id: NEXT.fetch_add(1, Relaxed),
            callbacks: Mutex::default(),
            locked: Mutex::new(LockedState {
                kind,
                ..LockedState::default()
            }),
        }))
    }

    /// Returns the id, which is unique within the process. The first id is 1.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Returns the name set with [`set_name`](Self::set_name). The default is the kind of
    /// transport and the id such as `tcp-7`.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        let locked = self.0.locked.lock();
        match locked
            .close_state
            .get()
            .and_then(|close_state| close_state.name.as_ref())
        {
            Some(name) => Arc::clone(name),
            None => format!("{}-{}", locked.kind, self.0.id).into(),
        }
    }

    /// Sets a name for logs. The default is the kind of transport and the id such as `tcp-7`.
    ///
    /// It may be set at any time, for example when the peer has logged in. `TraceLayer` records it
    /// in the span of the connection after the poll in which it was set.
    pub fn set_name(&self, name: impl Into<Arc<str>>) {
        let name = name.into();
        let mut locked = self.0.locked.lock();
        let _earlier = locked.close_state.get_or_default().name.replace(name);
        self.0.state.fetch_or(RENAMED, Ordering::AcqRel);
    }

    /// Returns the current kind of transport. Layers such as TLS and WebSocket change it as they
    /// wrap the transport.
    #[must_use]
    pub fn transport(&self) -> TransportKind {
        self.0.locked.lock().kind
    }

    /// Returns the time at which the connection was accepted or connected.
    #[must_use]
    pub fn opened_at(&self) -> Instant {
        self.0.opened_at
    }

    /// Returns the counts of bytes and messages, as of the last poll of the session loop. A handler
    /// may not see the messages of the current poll, including its own.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.snapshot(&self.0.locked.lock())
    }

    fn snapshot(&self, locked: &LockedState) -> Stats {
        let close_state = locked.close_state.get();
        let rare_counts =
            close_state.map_or_else(RareCounts::default, |close_state| close_state.rare_counts);
        self.0.counters.snapshot(rare_counts)
    }

    pub(crate) fn count_skipped(&self, messages: u64) {
        let mut locked = self.0.locked.lock();
        locked.close_state.get_or_default().rare_counts.skipped += messages;
    }

    pub(crate) fn count_losses(&self, count: impl FnOnce(&mut LossCounts)) {
        count(&mut self.0.locked.lock().close_state.get_or_default().losses);
    }

    /// Returns the number of messages whose handlers are in flight, as of the driver's last poll.
    #[must_use]
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Relaxed) as usize
    }

    /// Returns the number of abandoned requests whose responses are outstanding.
    ///
    /// A request is abandoned when its deadline passes or its future is dropped. Where responses
    /// come in order, the peer must respond to it before all later requests, so it is load like a
    /// request in flight: see `CorrelateLayer::in_order`. With responses by id the number is
    /// always 0 because an abandoned request then delays no other.
    #[must_use]
    #[inline]
    pub fn abandoned_requests(&self) -> usize {
        self.0.abandoned.load(Relaxed).into()
    }

    pub(crate) fn set_abandoned_requests(&self, requests: usize) {
        let requests = u16::try_from(requests).unwrap_or(u16::MAX);
        self.0.abandoned.store(requests, Relaxed);
    }

    /// Returns a handle that keeps nothing alive for lists of connections.
    #[must_use]
    pub fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    /// Sets the number of messages that wait for the encoder. Called when deadlines run.
    #[cfg(feature = "metrics")]
    pub(crate) fn set_queued(&self, messages: usize) {
        self.0.locked.lock().queued = u32::try_from(messages).unwrap_or(u32::MAX);
    }

    #[inline]
    fn has(&self, bits: u8) -> bool {
        self.0.state.load(Ordering::Acquire) & bits != 0
    }

    fn set(&self, bit: u8) {
        self.0.state.fetch_or(bit, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }

    async fn wait_for(&self, bits: u8) {
        loop {
            // created before the check so that it sees every notification after the check
            let changed = self.0.changed.notified();
            if self.has(bits) {
                return;
            }
            changed.await;
        }
    }

    #[inline]
    pub(crate) fn signal(&self) -> &Signal {
        &self.0.signal
    }

    #[inline]
    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    #[inline]
    pub(crate) fn timestamps(&self) -> &Timestamps {
        &self.0.timestamps
    }

    #[inline]
    pub(crate) fn activity(&self) -> &Activity {
        &self.0.activity
    }

    #[inline]
    pub(crate) fn set_in_flight(&self, messages: usize) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.0.in_flight.store(messages, Relaxed);
    }

    /// Counts a response that an adapter of the codec consumed. `late` if no request waited for
    /// it.
    pub(crate) fn record_response(&self, late: bool) {
        self.record_intercepted();
        self.0.activity.intercepted();
        if late {
            self.0
                .locked
                .lock()
                .close_state
                .get_or_default()
                .rare_counts
                .late += 1;
        }
    }

    pub(crate) fn mark_awaits_responses(&self, awaits: bool) {
        if awaits {
            self.0.state.fetch_or(AWAITS_RESPONSES, Ordering::AcqRel);
        } else {
            self.0.state.fetch_and(!AWAITS_RESPONSES, Ordering::AcqRel);
        }
    }
}

impl fmt::Display for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}[{} #{} {} <-> {}]",
            self.name(),
            self.transport(),
            self.id(),
            self.local_addr(),
            self.peer_addr(),
        )
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("transport", &self.transport())
            .field("local_addr", self.local_addr())
            .field("peer_addr", self.peer_addr())
            .field("reason", &self.reason())
            .finish_non_exhaustive()
    }
}

/// A [`ConnectionHandle`] that keeps nothing alive. Created by
/// [`ConnectionHandle::downgrade`].
#[derive(Clone)]
pub struct WeakHandle(Weak<Inner>);

impl WeakHandle {
    /// Returns the handle if the connection or another handle of it is still alive.
    #[must_use]
    pub fn upgrade(&self) -> Option<ConnectionHandle> {
        self.0.upgrade().map(ConnectionHandle)
    }
}

impl fmt::Debug for WeakHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WeakHandle").field(&self.upgrade()).finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;
    use crate::connection::Address;

    #[test]
    fn idle_handle_takes_at_most_four_hundred_and_sixteen_bytes() {
        // on 64-bit Linux at most 352, and 64 for the addresses
        assert!(size_of::<Inner>() + size_of::<(Address, Address)>() <= 392);
    }

    #[test]
    fn unused_real_addresses_take_no_further_block_of_the_allocator() {
        // glibc rounds both up to 8 less than a multiple of 16: an `Arc` has two counters more
        assert!(size_of::<Inner>() + 2 * size_of::<usize>() <= 328);
        assert!(size_of::<Addresses>() <= 72);
    }
}
