//! The untyped handle of a connection, alive from accept on and readable for ever after.

use std::{
    any::Any,
    error::Error,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Address, CallbackAdded, CloseReason, Closed, Endpoints, Stats, TransportKind,
    attributes::{Attributes, Slot},
    callbacks::{Callbacks, Entry},
    checks::Check,
    close::SharedError,
    contain,
    marks::{Activity, Marks},
    stats::Counters,
};
use crate::{
    session::{driver::Moment, signal::Signal},
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

/// What anybody may know of, and do to, one connection, whatever its transport and messages.
///
/// Clonable, `Send + Sync`, one a connection, alive from accept or connect on. Scope: session. Addresses, times and
/// statistics stay readable after the close and inside close callbacks. A handle keeps a few hundred bytes alive, never
/// the transport or its task; [`Session`](crate::Session) derefs to it.
///
/// ```
/// use getty_layers::{CloseReason, Connection};
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

struct Inner {
    signal: Signal,
    counters: Counters,
    marks: Marks,
    state: AtomicU8,
    activity: Activity,
    in_flight: AtomicU32,
    id: u64,
    opened_at: Instant,
    /// Ours and the peer's.
    addresses: Box<(Address, Address)>,
    changed: Notify,
    /// Locked before `rare` where both are. The keys' comparison runs under this lock, and may use the handle for
    /// all but callbacks.
    callbacks: Mutex<Callbacks>,
    rare: Mutex<Rare>,
}

/// What is touched a few times in a connection's life. No code of the user's runs under its lock.
#[derive(Default)]
struct Rare {
    kind: TransportKind,
    name: Option<Arc<str>>,
    requested: Option<Box<Requested>>,
    attributes: Attributes,
    closed: Option<Box<Closed>>,
    /// What layers ask of the driver, until it has taken it.
    wishes: Option<Box<Wishes>>,
    /// How many messages wait for the encoder, as of the last time that checks were run. Here, where it takes no room.
    #[cfg(feature = "metrics")]
    queued: u32,
    /// How many layers around the lease's holder catch panics.
    catchers: u8,
    /// A panic has dropped the lease: a catcher finishes the connection.
    left: bool,
}

/// What layers ask of the driver.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) checks: Vec<Check>,
    pub(crate) write_timeout: Option<Option<Duration>>,
    pub(crate) holds: u32,
}

/// The cause of a close, as first recorded.
#[derive(Clone, Debug)]
struct Requested {
    reason: CloseReason,
    source: Option<SharedError>,
    within: Option<Duration>,
}

impl ConnectionHandle {
    pub(super) fn new(endpoints: Endpoints) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Endpoints { kind, local, peer } = endpoints;
        Self(Arc::new(Inner {
            signal: Signal::new(),
            counters: Counters::default(),
            marks: Marks::default(),
            state: AtomicU8::new(0),
            activity: Activity::default(),
            in_flight: AtomicU32::new(0),
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
        match &rare.name {
            Some(name) => Arc::clone(name),
            None => format!("{}-{}", rare.kind, self.0.id).into(),
        }
    }

    /// Names the connection, for people who read logs.
    pub fn set_name(&self, name: impl Into<Arc<str>>) {
        self.0.rare.lock().name = Some(name.into());
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

    /// When bytes were last received; [`opened_at`](Self::opened_at) as long as there were none.
    #[must_use]
    pub fn last_read(&self) -> Instant {
        self.at(self.0.marks.read.get())
    }

    /// When the transport last took bytes; [`opened_at`](Self::opened_at) as long as it took none.
    #[must_use]
    pub fn last_write(&self) -> Instant {
        self.at(self.0.marks.write.get())
    }

    /// When the application was last active: a message was received, or [`touch`](Self::touch) called. Which messages
    /// count [`ActiveLayer`](crate::ActiveLayer) may say; all do by default.
    #[must_use]
    pub fn last_active(&self) -> Instant {
        self.at(self.0.marks.active.get())
    }

    /// Since when we read: since the session opened, or since reading went on after we had paused it. `None` while we do
    /// not read: before the session opens, while a handler, a limit or a slow peer keeps us from it, and after the peer
    /// has ended its direction. Silence then says nothing of the peer, and no receive deadline runs.
    #[must_use]
    pub fn reading_since(&self) -> Option<Instant> {
        self.0
            .marks
            .resumed
            .get_if_set()
            .map(|resumed| self.at(resumed))
    }

    /// Since when the peer is silent: when bytes were last received, or [reading](Self::reading_since) began or went on.
    /// `None` while we do not read.
    #[must_use]
    pub fn silent_since(&self) -> Option<Instant> {
        let resumed = self.0.marks.resumed.get_if_set()?;
        Some(self.at(resumed.max(self.0.marks.read.get())))
    }

    /// Since when the transport takes no byte although some wait, which means that the peer does not read; `None` while
    /// nothing waits.
    #[must_use]
    pub fn stalled_since(&self) -> Option<Instant> {
        let stalled = self.0.marks.stalled.get_if_set()?;
        Some(self.at(stalled.max(self.0.marks.write.get())))
    }

    /// Since when a frame of the peer's is incomplete; `None` while there is no such frame.
    #[must_use]
    pub fn incomplete_since(&self) -> Option<Instant> {
        self.0
            .marks
            .incomplete
            .get_if_set()
            .map(|mark| self.at(mark))
    }

    /// When the session loop took the connection over and began to read, after every [hold](Self::hold); `None` before.
    #[must_use]
    pub fn open_since(&self) -> Option<Instant> {
        self.0.marks.open.get_if_set().map(|mark| self.at(mark))
    }

    /// Marks the application as active now.
    pub fn touch(&self) {
        self.0.marks.active.set(self.moment(Instant::now()));
    }

    /// What has moved until now, as of the driver's last turn.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.snapshot()
    }

    /// How many messages are with their handlers, as of the driver's last turn.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Relaxed) as usize
    }

    /// A handle that keeps nothing alive, for lists of connections.
    #[must_use]
    pub fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    /// Keeps `value` with the connection until its close, in the place of an earlier one of the same type, which is
    /// given back. After the close nothing is kept: `value` is dropped.
    ///
    /// An attribute may hold a clone of the [`Session`](crate::Session): the close breaks the cycle.
    pub fn insert<A: Any + Send + Sync>(&self, value: A) -> Option<A> {
        let slot = Slot::new(value);
        let mut rare = self.0.rare.lock();
        if self.has(CLOSED) {
            drop(rare); // the user's value is dropped outside of the lock
            return None;
        }
        let old = rare.attributes.insert(slot);
        drop(rare);
        old?.take()
    }

    /// A clone of the attribute of type `A`. Its `Clone` may use the connection, but for the attribute of this type.
    #[must_use]
    pub fn get<A: Any + Send + Sync + Clone>(&self) -> Option<A> {
        let slot = self.0.rare.lock().attributes.get::<A>()?;
        slot.get()
    }

    /// Takes the attribute of type `A` away.
    pub fn remove<A: Any + Send + Sync>(&self) -> Option<A> {
        let slot = self.0.rare.lock().attributes.remove::<A>()?;
        slot.take()
    }

    /// Asks for a graceful close, with the reason [`CloseReason::Local`]: handlers in flight finish, what was accepted
    /// for sending is flushed, both until the drain deadline. Idempotent, never waits;
    /// [`closed`](Self::closed) tells when it is done.
    pub fn close(&self) {
        self.close_with(CloseReason::Local);
    }

    /// As [`close`](Self::close), with a reason of the caller's. The first reason recorded wins.
    pub fn close_with(&self, reason: impl Into<CloseReason>) {
        self.request(Requested {
            reason: reason.into(),
            source: None,
            within: None,
        });
    }

    /// As [`close_with`](Self::close_with), with the error that is the cause.
    pub fn close_because(
        &self,
        reason: impl Into<CloseReason>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) {
        self.close_shared(reason.into(), SharedError::from(source.into()));
    }

    pub(super) fn close_shared(&self, reason: CloseReason, source: SharedError) {
        self.request(Requested {
            reason,
            source: Some(source),
            within: None,
        });
    }

    /// As [`close_with`](Self::close_with), with a drain deadline that takes the place of the session's own.
    pub fn close_within(&self, reason: impl Into<CloseReason>, deadline: Duration) {
        self.request(Requested {
            reason: reason.into(),
            source: None,
            within: Some(deadline),
        });
    }

    /// Whether the session loop has taken the connection over. It stays so after the close.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.has(OPEN)
    }

    /// Whether a close was requested or a cause for one was found, be it finished or not.
    #[must_use]
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.has(CLOSING)
    }

    /// Whether the close is complete: the transport is gone and all callbacks have run.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.has(CLOSED)
    }

    /// The reason recorded, as soon as there is one.
    #[must_use]
    pub fn reason(&self) -> Option<CloseReason> {
        self.0
            .rare
            .lock()
            .requested
            .as_ref()
            .map(|requested| requested.reason.clone())
    }

    /// Resolves when a close is requested or a cause for one is found. Handlers wait on this or on
    /// [`peer_finished`](Self::peer_finished), never on [`closed`](Self::closed), which waits for them.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn closing(&self) {
        self.until(CLOSING).await;
    }

    /// Resolves when the peer has ended its direction, or the connection is closing.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn peer_finished(&self) {
        self.until(PEER_FINISHED | CLOSING).await;
    }

    /// Resolves when the session is open, and says so; `false` when it closes before that.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn opened(&self) -> bool {
        self.until(OPEN | CLOSED).await;
        self.has(OPEN)
    }

    /// Resolves when the close is complete: the transport is gone and all callbacks have run. A handler of the same
    /// session must not await this, for the close waits for the handler.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn closed(&self) -> Closed {
        self.until(CLOSED).await;
        self.record()
    }

    /// Has `callback` called once when the connection has closed, under a pair of keys that can be used to replace or
    /// [remove](Self::remove_close_callback) it.
    ///
    /// Callbacks run in the order added, one after another, once the transport is gone, at the end of the connection's
    /// task or where its future is dropped; never on a task of their own. So they must not block. They run exactly once
    /// however the connection ends: an error, a panic, an aborted task, a runtime that shuts down. A panic in one is
    /// logged and the next still runs. They may add and remove callbacks: one added by a callback runs after the others.
    ///
    /// The same pair of keys, equal in type and value, replaces in place. After the close the callback is called at
    /// once, before this returns. Comparing and dropping keys may use the connection, but a comparison must not add or
    /// remove callbacks.
    pub fn add_close_callback<H, K>(
        &self,
        handler: H,
        key: K,
        callback: impl FnOnce(&Closed) + Send + 'static,
    ) -> CallbackAdded
    where
        H: Eq + Send + 'static,
        K: Eq + Send + 'static,
    {
        // the user's values are bound outside of the lock, so that they are dropped there, even in a panic
        let entry = Entry::new((handler, key), callback);
        let mut callbacks = self.0.callbacks.lock();
        if self.has(CLOSED) {
            drop(callbacks);
            entry.run(&self.record());
            return CallbackAdded::RanNow;
        }
        let position = callbacks.position(entry.keys());
        let replaced = callbacks.put(position, entry);
        drop(callbacks);
        if replaced.is_some() {
            CallbackAdded::Replaced
        } else {
            CallbackAdded::Appended
        }
    }

    /// Removes the callback under this pair of keys; `false` where there is none (any more).
    pub fn remove_close_callback<H, K>(&self, handler: H, key: K) -> bool
    where
        H: Eq + Send + 'static,
        K: Eq + Send + 'static,
    {
        let keys = (handler, key);
        let mut callbacks = self.0.callbacks.lock();
        let position = callbacks.position(&keys);
        let removed = position.map(|position| callbacks.remove(position));
        drop(callbacks);
        removed.is_some()
    }

    /// How many messages wait for the encoder, when asked by a check.
    #[cfg(feature = "metrics")]
    pub(crate) fn queued_at_check(&self) -> u64 {
        self.0.rare.lock().queued.into()
    }

    /// So many messages wait for the encoder, now that checks are run.
    #[cfg(feature = "metrics")]
    pub(crate) fn set_queued(&self, messages: usize) {
        self.0.rare.lock().queued = u32::try_from(messages).unwrap_or(u32::MAX);
    }

    /// Calls `callback` once the connection has closed: at once, where it has.
    pub(crate) fn once_closed(&self, callback: impl FnOnce(&Closed) + Send + 'static) {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        #[derive(PartialEq, Eq)]
        struct Own;

        if self.is_closed() {
            // without the allocations that a callback takes
            contain("a close callback", || callback(&self.record()));
        } else {
            self.add_close_callback(Own, NEXT.fetch_add(1, Relaxed), callback);
        }
    }

    /// Has the driver call `check` at `at`, and again at the time that it answers, until it answers `None` or the
    /// session closes. All checks of a session share one timer, which is set back lazily: a check that looks for silence
    /// is called once a period, however much moves meanwhile. For layers that have a deadline; see also [`driver`].
    ///
    /// It runs in the session's task, so it must not block. It may send, and close the session. It never runs before the
    /// session loop does nor while the session closes.
    ///
    /// [`driver`]: crate::driver
    pub fn check_at(
        &self,
        at: Instant,
        check: impl FnMut(&Self, Instant) -> Option<Instant> + Send + 'static,
    ) {
        let check = Check::new(at, check);
        let mut rare = self.0.rare.lock();
        if rare.closed.is_some() {
            drop(rare); // before the user's values, which go with `check`
            return;
        }
        rare.wishes.get_or_insert_default().checks.push(check);
        drop(rare);
        self.0.signal.raise(Signal::WISHES);
    }

    /// Keeps the session from opening as long as the result lives: the session loop sends what is queued, but reads
    /// nothing and calls no handler. For layers with something to do before that.
    #[must_use = "the session opens when this is dropped"]
    pub fn hold(&self) -> Hold {
        let mut rare = self.0.rare.lock();
        rare.wishes.get_or_insert_default().holds += 1;
        drop(rare);
        self.0.signal.raise(Signal::WISHES);
        Hold {
            handle: self.clone(),
        }
    }

    /// Whether the transport has a [ping](Self::ping) of its own, as WebSocket does. Known once the session loop has
    /// taken the connection over.
    #[must_use]
    pub fn has_ping(&self) -> bool {
        self.has(HAS_PING)
    }

    /// Asks for the transport's own ping, such as WebSocket's. Without effect on transports that have none.
    pub fn ping(&self) {
        self.0.signal.raise(Signal::PING);
    }

    /// Sets how long the transport may take no byte while bytes wait, in place of the session loop's own setting; `None`
    /// is for ever. Without effect once the session loop runs.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        let mut rare = self.0.rare.lock();
        rare.wishes.get_or_insert_default().write_timeout = Some(timeout);
        drop(rare);
        self.0.signal.raise(Signal::WISHES);
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

    fn at(&self, mark: Moment) -> Instant {
        self.0.opened_at + Duration::from_nanos(mark.0)
    }

    /// Nanoseconds since the connection was opened, which suffice for 584 years.
    #[inline]
    pub(crate) fn moment(&self, now: Instant) -> Moment {
        let since = now.saturating_duration_since(self.0.opened_at);
        Moment(since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos()))
    }

    fn request(&self, cause: Requested) {
        let mut rare = self.0.rare.lock();
        if rare.requested.is_some() {
            return;
        }
        rare.requested = Some(Box::new(cause));
        // under the lock, so that a reason and the flag are always seen together
        self.0.state.fetch_or(CLOSING, Ordering::AcqRel);
        drop(rare);
        self.0.changed.notify_waiters();
        self.0.signal.raise(Signal::CLOSE);
    }

    // for the driver half

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

    #[inline]
    pub(crate) fn activity(&self) -> &Activity {
        &self.0.activity
    }

    pub(crate) fn set_in_flight(&self, messages: usize) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.0.in_flight.store(messages, Relaxed);
    }

    /// Takes what layers have asked for; while one of them holds the session, that stays.
    pub(crate) fn take_wishes(&self) -> Wishes {
        let mut rare = self.0.rare.lock();
        let Some(wishes) = &mut rare.wishes else {
            return Wishes::default();
        };
        let taken = Wishes {
            checks: std::mem::take(&mut wishes.checks),
            ..**wishes
        };
        if wishes.holds == 0 {
            rare.wishes = None;
        }
        taken
    }

    pub(crate) fn mark_open(&self) {
        self.0.marks.open.set(self.moment(Instant::now()));
        self.set(OPEN);
    }

    pub(crate) fn mark_has_ping(&self) {
        self.0.state.fetch_or(HAS_PING, Ordering::AcqRel);
    }

    /// A codec's adapter has kept a message to itself. Only from within the codec, for the counters have one writer.
    pub(crate) fn intercepted(&self) {
        self.0.counters.messages_in.add(1);
        // the driver, which has not seen the message, marks what may come after it anew
        self.0.marks.incomplete.clear();
    }

    pub(crate) fn mark_peer_finished(&self) {
        self.set(PEER_FINISHED);
    }

    pub(crate) fn requested_deadline(&self) -> Option<Duration> {
        self.0
            .rare
            .lock()
            .requested
            .as_ref()
            .and_then(|requested| requested.within)
    }

    /// The error recorded with the reason, if there is one.
    #[must_use]
    pub fn source(&self) -> Option<SharedError> {
        self.0
            .rare
            .lock()
            .requested
            .as_ref()
            .and_then(|requested| requested.source.clone())
    }

    /// Adds an error to a close that was recorded without one.
    pub(crate) fn note_source(&self, source: SharedError) {
        // dropped, where there is one already, after the lock
        let mut source = Some(source);
        let mut rare = self.0.rare.lock();
        if let Some(requested) = &mut rare.requested
            && requested.source.is_none()
        {
            requested.source = source.take();
        }
        drop(rare);
    }

    /// What holds the connection is dropped or done: finds a reason, if nobody has given one.
    pub(crate) fn abandon(&self) {
        self.close_with(if std::thread::panicking() {
            CloseReason::Panicked
        } else if self.has(OPEN) {
            CloseReason::Dropped
        } else {
            CloseReason::Refused
        });
    }

    pub(super) fn add_catcher(&self) {
        self.0.rare.lock().catchers += 1;
    }

    /// Whether there is a lease's duty to do, which no other catcher is left for.
    pub(super) fn remove_catcher(&self) -> bool {
        let mut rare = self.0.rare.lock();
        rare.catchers -= 1;
        // one further out catches the panic that drops this one
        if !rare.left || (rare.catchers > 0 && std::thread::panicking()) {
            return false;
        }
        rare.left = false;
        true
    }

    /// In a panic that somebody catches: the lease's duty is theirs from here on.
    pub(super) fn leave_to_catcher(&self) -> bool {
        if !std::thread::panicking() {
            return false;
        }
        self.abandon();
        let mut rare = self.0.rare.lock();
        rare.left = rare.catchers > 0;
        rare.left
    }

    /// The end: runs the callbacks and resolves those who wait. Only who has the lease's duty calls it, and only once.
    pub(super) fn finish(&self) -> Closed {
        self.abandon();
        let mut rare = self.0.rare.lock();
        let Some(Requested { reason, source, .. }) = rare.requested.as_deref().cloned() else {
            unreachable!("a reason is never taken back");
        };
        let record = Closed {
            reason,
            source,
            stats: self.stats(),
            lifetime: self.0.opened_at.elapsed(),
        };
        rare.closed = Some(Box::new(record.clone()));
        drop(rare);
        let (attributes, wishes) = loop {
            let mut callbacks = self.0.callbacks.lock();
            if let Some(entry) = callbacks.pop_first() {
                drop(callbacks);
                entry.run(&record);
                continue;
            }
            *callbacks = Callbacks::default();
            let mut rare = self.0.rare.lock();
            // under both locks: what is added is either found here or sees the close
            self.0.state.fetch_or(CLOSED, Ordering::AcqRel);
            break (std::mem::take(&mut rare.attributes), rare.wishes.take());
        };
        self.0.changed.notify_waiters();
        attributes.clear();
        contain("dropping a check", || drop(wishes));
        record
    }

    fn record(&self) -> Closed {
        match &self.0.rare.lock().closed {
            Some(record) => Closed::clone(record),
            None => unreachable!("the record is made before CLOSED is set"),
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

/// Keeps a session from opening: see [`ConnectionHandle::hold`].
#[derive(Debug)]
pub struct Hold {
    handle: ConnectionHandle,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(wishes) = &mut self.handle.0.rare.lock().wishes {
            // the close has forgotten ours; what is here now may be of others that came later
            wishes.holds = wishes.holds.saturating_sub(1);
        }
        self.handle.0.signal.raise(Signal::WISHES);
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_idle_handle_takes_less_than_four_hundred_bytes() {
        // 328 on 64-bit Linux, and 64 for the addresses
        assert!(size_of::<Inner>() + size_of::<(Address, Address)>() <= 400);
    }
}
