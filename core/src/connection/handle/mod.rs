//! The untyped handle of a connection, alive from accept on and readable for ever after.

mod attributes;
mod callbacks;
mod closing;
mod pressure;
mod times;
mod wishes;

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{sync::Notify, time::Instant};

pub use self::wishes::Kept;
use self::{attributes::Attributes, callbacks::Callbacks, closing::Requested, wishes::Wishes};
pub use self::{callbacks::CallbackAdded, wishes::Hold};
use super::{
    Address, Closed, Endpoints, Stats, TransportKind,
    close::Losses,
    marks::{Activity, Marks},
    stats::{Counters, Tallies},
};
use crate::{
    sync::Signal,
    sync::{AtomicU8, Mutex, Ordering},
};

/// The session loop has taken the connection over.
const OPEN: u8 = 1;
/// A close was requested, or the loop found a cause for one.
const CLOSING: u8 = 2;
/// The peer has ended its direction.
const PEER_FINISHED: u8 = 4;
/// Callbacks have run.
const CLOSED: u8 = 8;
/// The transport has a ping of its own.
const HAS_PING: u8 = 16;
/// Senders wait, because the peer reads too slowly.
const BACKPRESSURED: u8 = 32;
/// Our direction has ended.
const FINISHED: u8 = 64;
/// Requests of ours wait for the peer's answers.
const AWAITS: u8 = 128;

/// What anybody may know of, and do to, one connection, whatever its transport and messages.
///
/// Clonable, `Send + Sync`, one a connection, alive from accept or connect on. Scope: session. Addresses, times and
/// statistics stay readable after the close and inside close callbacks. A handle keeps a few hundred bytes alive, never
/// the transport or its task; [`Session`](crate::Session) derefs to it.
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

// In this order, so that what each turn of the driver touches lies together: with many connections a cache line more or
// less counts for more than what is done with it.
#[repr(C)]
struct Inner {
    state: AtomicU8,
    activity: Activity,
    /// Number of requests that were given up and whose answers are outstanding. It fits into the
    /// padding here.
    given_up: AtomicU16,
    in_flight: AtomicU32,
    signal: Signal,
    opened_at: Instant,
    counters: Counters,
    pending: AtomicUsize,
    marks: Marks,
    id: u64,
    /// Ours and the peer's.
    addresses: Box<(Address, Address)>,
    changed: Notify,
    /// Locked before `rare` where both are locked. The keys' comparison and hash run under this
    /// lock, and may use the handle except for its callbacks.
    callbacks: Mutex<Callbacks>,
    rare: Mutex<Rare>,
}

/// What is touched a few times in a connection's life. No code of the user's runs under its lock.
#[derive(Default)]
struct Rare {
    kind: TransportKind,
    attributes: Attributes,
    /// Made when it is first needed: at the close, as a rule.
    seldom: Option<Box<Seldom>>,
    /// What layers ask of the driver, until it has taken it.
    wishes: Option<Box<Wishes>>,
    /// How many messages wait for the encoder, as of the last time that checks were run. Here, where it takes no room.
    #[cfg(feature = "metrics")]
    queued: u32,
    /// How many layers around the lease's holder catch panics.
    catchers: u8,
    /// A panic has dropped the lease: a catcher finishes the connection.
    left: bool,
    /// The end of the connection was logged, or a layer logs it.
    end_logged: bool,
    refusal: Refusal,
}

/// Who finishes the connection of a lease that is dropped before the session opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Refusal {
    /// The lease.
    #[default]
    Immediate,
    /// `end_refusal`, if the lease is dropped before it.
    Deferred,
    /// `end_refusal`, because the lease was dropped.
    Pending,
}

/// What few connections have before their close: all the others are smaller without it.
#[derive(Default)]
struct Seldom {
    name: Option<Arc<str>>,
    requested: Option<Requested>,
    closed: Option<Box<Closed>>,
    tallies: Tallies,
    losses: Losses,
}

impl Rare {
    fn seldom(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_default()
    }

    fn requested(&self) -> Option<&Requested> {
        self.seldom.as_ref()?.requested.as_ref()
    }

    fn closed(&self) -> Option<&Closed> {
        self.seldom.as_ref()?.closed.as_deref()
    }
}

impl ConnectionHandle {
    pub(in crate::connection) fn new(endpoints: Endpoints) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Endpoints { kind, local, peer } = endpoints;
        Self(Arc::new(Inner {
            signal: Signal::new(),
            counters: Counters::default(),
            marks: Marks::default(),
            state: AtomicU8::new(0),
            activity: Activity::default(),
            given_up: AtomicU16::new(0),
            in_flight: AtomicU32::new(0),
            pending: AtomicUsize::new(0),
            id: NEXT.fetch_add(1, Relaxed),
            opened_at: Instant::now(),
            addresses: Box::new((local, peer)),
            changed: Notify::new(),
            callbacks: Mutex::default(),
            rare: Mutex::new(Rare {
                kind,
                ..Rare::default()
            }),
        }))
    }

    /// A number that no other connection of this process has or had; the first is 1.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The name given with [`set_name`](Self::set_name), or else the transport's kind and the id, such as `tcp-7`.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        let rare = self.0.rare.lock();
        match rare.seldom.as_ref().and_then(|seldom| seldom.name.as_ref()) {
            Some(name) => Arc::clone(name),
            None => format!("{}-{}", rare.kind, self.0.id).into(),
        }
    }

    /// Names the connection, for people who read logs.
    pub fn set_name(&self, name: impl Into<Arc<str>>) {
        let name = name.into();
        let mut rare = self.0.rare.lock();
        let _earlier = rare.seldom().name.replace(name);
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> &Address {
        &self.0.addresses.1
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        &self.0.addresses.0
    }

    /// What carries the connection now; layers such as TLS and WebSocket change it as they wrap the transport.
    #[must_use]
    pub fn transport(&self) -> TransportKind {
        self.0.rare.lock().kind
    }

    /// Says what carries the connection from now on, for layers that wrap a transport.
    pub fn set_transport(&self, kind: TransportKind) {
        self.0.rare.lock().kind = kind;
    }

    /// When the connection was accepted or connected.
    #[must_use]
    pub fn opened_at(&self) -> Instant {
        self.0.opened_at
    }

    /// What has moved until now, as of the driver's last turn.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.snapshot(&self.0.rare.lock())
    }

    fn snapshot(&self, rare: &Rare) -> Stats {
        let seldom = rare.seldom.as_ref();
        let tallies = seldom.map_or_else(Tallies::default, |seldom| seldom.tallies);
        self.0.counters.snapshot(tallies)
    }

    pub(crate) fn count_skipped(&self, messages: u64) {
        let mut rare = self.0.rare.lock();
        rare.seldom().tallies.skipped += messages;
    }

    #[doc(hidden)]
    pub fn count_dropped(&self, messages: u64) {
        let mut rare = self.0.rare.lock();
        rare.seldom().tallies.dropped += messages;
    }

    pub(crate) fn count_losses(&self, count: impl FnOnce(&mut Losses)) {
        count(&mut self.0.rare.lock().seldom().losses);
    }

    /// How many messages are with their handlers, as of the driver's last turn.
    #[must_use]
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Relaxed) as usize
    }

    /// Returns the number of requests that were given up, at a deadline or by a drop, and whose
    /// answers are outstanding. The peer must answer them before all later requests, so they are
    /// load like requests in flight: see
    /// `CorrelateLayer::in_order`. With answers by id it is
    /// always 0, because a request that is given up then holds nothing up.
    #[must_use]
    #[inline]
    pub fn given_up_requests(&self) -> usize {
        self.0.given_up.load(Relaxed).into()
    }

    pub(crate) fn set_given_up_requests(&self, requests: usize) {
        let requests = u16::try_from(requests).unwrap_or(u16::MAX);
        self.0.given_up.store(requests, Relaxed);
    }

    /// A handle that keeps nothing alive, for lists of connections.
    #[must_use]
    pub fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    /// How many messages wait for the encoder, when asked by a check.
    #[cfg(feature = "metrics")]
    #[doc(hidden)]
    pub fn queued_at_check(&self) -> u64 {
        self.0.rare.lock().queued.into()
    }

    /// So many messages wait for the encoder, now that checks are run.
    #[cfg(feature = "metrics")]
    pub(crate) fn set_queued(&self, messages: usize) {
        self.0.rare.lock().queued = u32::try_from(messages).unwrap_or(u32::MAX);
    }

    #[inline]
    fn has(&self, bits: u8) -> bool {
        self.0.state.load(Ordering::Acquire) & bits != 0
    }

    fn set(&self, bit: u8) {
        self.0.state.fetch_or(bit, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }

    async fn until(&self, bits: u8) {
        loop {
            // made before the check: it sees every notification from here on
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
    pub(crate) fn marks(&self) -> &Marks {
        &self.0.marks
    }

    /// Records whether a message counts as activity. Called by the layer that decides this.
    #[doc(hidden)]
    pub fn record_activity(&self, active: bool) {
        self.activity().say(active);
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

    /// A codec's adapter has kept a message to itself. Only from within the codec, for the counters have one writer.
    #[doc(hidden)]
    pub fn intercepted(&self) {
        self.0.counters.messages_in.add(1);
        // the driver, which has not seen the message, marks what may come after it anew
        self.0.marks.incomplete.clear();
    }

    /// As [`intercepted`](Self::intercepted), for an answer: the application has waited for it, unless it is `late`.
    pub(crate) fn answered(&self, late: bool) {
        self.intercepted();
        self.0.activity.intercepted();
        if late {
            self.0.rare.lock().seldom().tallies.late += 1;
        }
    }

    /// Whether requests of ours wait for the peer's answers. While they do, the session loop decodes past messages that
    /// have to wait for their handlers, up to its read-ahead bound.
    #[must_use]
    #[inline]
    pub fn awaits_answers(&self) -> bool {
        self.has(AWAITS)
    }

    pub(crate) fn set_awaits_answers(&self, awaits: bool) {
        if awaits {
            self.0.state.fetch_or(AWAITS, Ordering::AcqRel);
        } else {
            self.0.state.fetch_and(!AWAITS, Ordering::AcqRel);
        }
    }
}

impl fmt::Display for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { id, addresses, .. } = &*self.0;
        let (local, peer) = &**addresses;
        write!(
            f,
            "{}[{} #{id} {local} <-> {peer}]",
            self.name(),
            self.transport()
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

/// A [`ConnectionHandle`] that keeps nothing alive: made by [`ConnectionHandle::downgrade`].
#[derive(Clone)]
pub struct WeakHandle(Weak<Inner>);

impl WeakHandle {
    /// The handle, as long as the connection lives or another handle of it does.
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

    #[test]
    fn an_idle_handle_takes_at_most_four_hundred_and_sixteen_bytes() {
        // on 64-bit Linux 352 at the most, and 64 for the addresses
        assert!(size_of::<Inner>() + size_of::<(Address, Address)>() <= 392);
    }
}
