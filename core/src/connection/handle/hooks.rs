//! The extension trait for authors of layers and the hooks that it hands to the driver.

use std::{any::Any, fmt, time::Duration};

use tokio::time::Instant;

use super::{AWAITS_RESPONSES, ConnectionHandle, RENAMED, Setting};
use crate::{
    connection::{
        Closed, Contained, TransportKind,
        deadlines::{Deadline, is_late},
    },
    sync::{Ordering, Signal},
};

/// Number of a request in its session. The first request has the number 1.
pub(crate) type RequestNumber = u64;

/// A value that the driver drops when the session's input has ended.
pub trait OnInputEnd: Send {
    /// Records that the codec refused the request with this number: no byte of the request will be
    /// sent. Called in the session's task.
    fn refused(&mut self, _: RequestNumber, _: &ConnectionHandle) {}
}

impl fmt::Debug for dyn OnInputEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnInputEnd")
    }
}

/// A layer's value, which is only dropped.
struct Value<T>(T);

impl<T: Any + Send> OnInputEnd for Value<T> {}

/// Hooks that layers have registered and the driver has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct LayerHooks {
    pub(crate) deadlines: Vec<Deadline>,
    /// The write timeout, if a layer has set one. `Some(None)` disables the timeout.
    pub(crate) write_timeout: Option<Option<Duration>>,
    /// Number of guards that delay the opening of the session.
    pub(crate) open_guards: u32,
    /// Values to drop at the end of the input.
    pub(crate) on_input_end: Vec<Contained<Box<dyn OnInputEnd>>>,
    /// `true` if all checks must run.
    pub(crate) recheck: bool,
    /// A maximum frame that the session loop has not applied.
    pub(crate) max_frame: Option<usize>,
    /// The maximum frame that the codec is to take now. It is apart, because other threads may set
    /// the next one meanwhile.
    applying_max_frame: Option<usize>,
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::ConnectionHandle {}
}

/// Methods of [`ConnectionHandle`] that layers need and applications rarely do.
///
/// A [`Session`](crate::Session) has them as well because it derefs to its handle. The trait
/// is sealed.
///
/// This layer closes connections that are older than a second:
///
/// ```
/// use std::time::Duration;
///
/// use getty_core::{CloseReason, Connection, hooks::HandleExt};
///
/// fn limit_age<T>(connection: Connection<T>) -> Connection<T> {
///     let handle = connection.handle();
///     let deadline = handle.opened_at() + Duration::from_secs(1);
///     handle.schedule(deadline, |handle, _now| {
///         handle.close_with(CloseReason::LifetimeExpired);
///         None // the deadline is not scheduled again
///     });
///     connection
/// }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// #     limit_age(Connection::new(()));
/// # });
/// ```
pub trait HandleExt: sealed::Sealed {
    /// Schedules `callback` at the time `at`.
    ///
    /// The callback returns the time of its next call. It is called until it returns `None` or the
    /// session closes. All deadlines of a session share one timer, which is reset lazily: a layer
    /// that watches for silence is called once for each period, independent of the traffic
    /// (design.md: Why do layers register deadlines and not timers?).
    ///
    /// The callback runs in the session's task, so it must not block. It may send, and may close
    /// the session. It is never called before the session loop runs nor while the session closes.
    #[doc(alias("timer", "timeout"))]
    fn schedule(
        &self,
        at: Instant,
        callback: impl FnMut(&ConnectionHandle, Instant) -> Option<Instant> + Send + 'static,
    );

    /// Schedules a check: like [`schedule`](Self::schedule), but each [`recheck`](Self::recheck)
    /// calls `callback` as well, before its time.
    ///
    /// The callback must not assume that its time has come. It compares the time with its settings
    /// each time that it is called, and returns the time of the next check. So a layer can read a
    /// setting that changes while the session is open, such as an
    /// [attribute](ConnectionHandle::insert), only when its check runs.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use getty_core::{CloseReason, Connection, ConnectionHandle, hooks::HandleExt};
    ///
    /// /// Maximum age of a session.
    /// #[derive(Clone, Copy)]
    /// struct MaxAge(Duration);
    ///
    /// fn limit_age<T>(connection: Connection<T>, default: MaxAge) -> Connection<T> {
    ///     let handle = connection.handle();
    ///     handle.schedule_check(handle.opened_at() + default.0, move |handle, now| {
    ///         let MaxAge(age) = handle.get().unwrap_or(default);
    ///         let end = handle.opened_at() + age;
    ///         if end <= now {
    ///             handle.close_with(CloseReason::LifetimeExpired);
    ///         }
    ///         Some(end)
    ///     });
    ///     connection
    /// }
    ///
    /// /// Changes the maximum of an open session.
    /// fn set_max_age(session: &ConnectionHandle, age: Duration) {
    ///     session.insert(MaxAge(age));
    ///     session.recheck();
    /// }
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// #     let connection = limit_age(Connection::new(()), MaxAge(Duration::from_secs(60)));
    /// #     let handle = connection.handle().clone();
    /// #     let (_session, mut driver) = getty_core::driver::pair::<()>(handle.clone());
    /// #     let cx = std::task::Context::from_waker(std::task::Waker::noop());
    /// #     driver.register(&cx);
    /// #     set_max_age(&handle, Duration::from_secs(5));
    /// #     assert!(driver.register(&cx));
    /// #     driver.run_checks(tokio::time::Instant::now());
    /// #     assert_eq!(driver.next_deadline(), Some(handle.opened_at() + Duration::from_secs(5)));
    /// # });
    /// ```
    fn schedule_check(
        &self,
        at: Instant,
        callback: impl FnMut(&ConnectionHandle, Instant) -> Option<Instant> + Send + 'static,
    );

    /// Like [`schedule_check`](Self::schedule_check), but also passes `true` to `callback` if it
    /// runs late because the thread was blocked.
    #[doc(hidden)]
    fn schedule_check_with_lateness(
        &self,
        at: Instant,
        callback: impl FnMut(&ConnectionHandle, Instant, bool) -> Option<Instant> + Send + 'static,
    );

    /// Runs all [checks](Self::schedule_check) of the session in the next poll of the session loop,
    /// which is woken. They may close the session.
    ///
    /// It may be called at any time and from any thread. While the session does not run or is
    /// closing, it has no effect.
    fn recheck(&self);

    /// Records that a layer of this connection has the setting.
    #[doc(hidden)]
    fn add_setting(&self, setting: Setting);

    /// Sets a setting of the open session, and [rechecks](Self::recheck) it. Returns `false` if no
    /// layer has the setting, or if the session is closing.
    #[doc(hidden)]
    fn set_setting(&self, setting: Setting, value: Duration) -> bool;

    /// Returns the value that was [set](Self::set_setting) last.
    #[doc(hidden)]
    fn setting(&self, setting: Setting) -> Option<Duration>;

    /// Takes the maximum frame that the session loop applies now, for the codec.
    #[doc(hidden)]
    fn take_max_frame(&self) -> Option<usize>;

    /// Keeps `value` until the session's input has ended, then drops it.
    ///
    /// The input has ended once the peer has ended its direction and everything it sent is
    /// decoded, or once the session is closing. If either has already happened, `value` is dropped
    /// at once. A layer whose users wait for messages of the peer can wake them in the destructor.
    /// It runs in the session's task, so it must not block.
    ///
    /// Nothing is decoded while the maximum number of messages is in flight, so the end may be
    /// seen only once a handler has finished. It is seen at once while a
    /// [request](crate::Session::request) awaits its response.
    fn drop_on_input_end(&self, value: impl Any + Send);

    /// Keeps the session from opening until the returned guard is dropped.
    ///
    /// Meanwhile the session loop sends queued messages but does not read and calls no handler.
    /// For layers that must act before the first message, as `OnOpenLayer` does (design.md: Why
    /// can a layer delay the opening of a session?).
    #[must_use = "the session opens when the guard is dropped"]
    fn delay_open(&self) -> OpenGuard;

    /// Sets the kind of transport. A layer that wraps a transport calls it, as `TlsLayer` does.
    fn set_transport(&self, kind: TransportKind);

    /// Sets whether getty logs the end of this connection. The default is `true`.
    ///
    /// The line is logged once, before the close callbacks run, with the handle, the reason and
    /// the source as the fields `connection`, `reason` and `error`, and with `code` where a
    /// protocol gave one. The target is `getty::session`.
    ///
    /// | reason | level |
    /// |---|---|
    /// | `Decode`, `Encode`, `Handler`, `Panicked` | `WARN` |
    /// | `PeerClosed`, `Io`, `Protocol`, `SlowConsumer`, `AnswerMissed`, `HeartbeatMissed`, every timeout | `DEBUG` |
    /// | `Local`, `Shutdown`, `LifetimeExpired`, `TakenOver`, `Refused`, `Dropped` | `DEBUG` with a source, otherwise no line |
    ///
    /// A layer that logs ends itself passes `false` when it is called, as `TraceLayer` does.
    fn set_logs_end(&self, logs: bool);

    /// Returns `true` if getty logs the end of this connection and has not done so: see
    /// [`set_logs_end`](Self::set_logs_end).
    #[must_use]
    fn logs_end(&self) -> bool;

    /// Returns the time at which the last handler finished that was in flight for more than one
    /// poll of the session loop. Before the first one it returns
    /// [`opened_at`](ConnectionHandle::opened_at).
    ///
    /// While a handler is in flight, a peer that waits for its reply is not idle: see
    /// [`in_flight`](ConnectionHandle::in_flight).
    #[must_use]
    fn last_handled(&self) -> Instant;

    /// Returns the time at which reading started or resumed, or `None` while the session does not
    /// read.
    ///
    /// The session does not read before it opens and after the peer has ended its direction. It
    /// does not read either while the read-ahead limit is reached because of handlers, a limit or
    /// a slow peer. The peer's silence then means nothing, and no receive deadline runs (design.md:
    /// Why do receive deadlines pause while the session does not read?).
    #[must_use]
    fn reading_since(&self) -> Option<Instant>;

    /// Returns the time since which the peer is silent, or `None` while the session does not read.
    /// It is the later of the last received byte and [the start of reading](Self::reading_since).
    #[must_use]
    fn silent_since(&self) -> Option<Instant>;

    /// Returns the time since which the transport takes no byte although bytes wait, or `None` if
    /// it takes bytes or none wait. A stall means that the peer does not read.
    #[must_use]
    fn stalled_since(&self) -> Option<Instant>;

    /// Returns the time since which a frame of the peer is incomplete, or `None` if there is no
    /// such frame.
    #[must_use]
    fn incomplete_since(&self) -> Option<Instant>;

    /// Returns the time at which the session opened, or `None` before. A session opens once the
    /// session loop has taken the connection and no [guard](Self::delay_open) delays it.
    #[must_use]
    fn open_since(&self) -> Option<Instant>;

    /// Sets how long the transport may take no byte while bytes wait. The default is the setting
    /// of `SessionLayer`. `None` disables the timeout.
    ///
    /// It may be called at any time and takes effect at once: a stalled write is measured by the
    /// new timeout, from the moment at which it stalled. The last call wins. Scope: session.
    fn set_write_timeout(&self, timeout: Option<Duration>);

    /// Returns `true` if the name was set since the last call. It costs one load of a flag, so it
    /// may be called in each poll of a connection.
    fn take_renamed(&self) -> bool;

    /// Returns `true` while requests of this session await responses.
    ///
    /// Meanwhile the session loop decodes past messages that wait for their handlers, up to its
    /// read-ahead limit.
    #[must_use]
    fn awaits_responses(&self) -> bool;

    /// Calls `callback` once the connection has closed, or at once if it has.
    #[doc(hidden)]
    fn once_closed(&self, callback: impl FnOnce(&Closed) + Send + 'static);

    /// Records whether a message counts as activity. Called by the layer that decides this.
    #[doc(hidden)]
    fn record_activity(&self, active: bool);

    /// Counts a message that an adapter of the codec consumed. Must be called from within the
    /// codec because the counters have one writer.
    #[doc(hidden)]
    fn record_intercepted(&self);

    /// Counts messages that were not sent, as [`Stats::dropped`](crate::Stats::dropped).
    #[doc(hidden)]
    fn count_dropped(&self, messages: u64);

    /// Returns the number of messages that wait for the encoder, as of the last time that
    /// deadlines ran. For callbacks of [`schedule`](Self::schedule).
    #[cfg(feature = "metrics")]
    #[doc(hidden)]
    fn queued_at_deadline(&self) -> u64;
}

impl HandleExt for ConnectionHandle {
    fn schedule(
        &self,
        at: Instant,
        mut callback: impl FnMut(&ConnectionHandle, Instant) -> Option<Instant> + Send + 'static,
    ) {
        self.add_deadline(Deadline::new(at, move |handle, now, at| {
            if at > now {
                return Some(at); // a recheck, and this is no check
            }
            callback(handle, now)
        }));
    }

    fn schedule_check(
        &self,
        at: Instant,
        mut callback: impl FnMut(&ConnectionHandle, Instant) -> Option<Instant> + Send + 'static,
    ) {
        self.add_deadline(Deadline::new(at, move |handle, now, _| {
            callback(handle, now)
        }));
    }

    fn schedule_check_with_lateness(
        &self,
        at: Instant,
        mut callback: impl FnMut(&ConnectionHandle, Instant, bool) -> Option<Instant> + Send + 'static,
    ) {
        self.add_deadline(Deadline::new(at, move |handle, now, at| {
            callback(handle, now, is_late(now, at))
        }));
    }

    fn recheck(&self) {
        self.change_hooks(|hooks| hooks.recheck = true);
    }

    fn add_setting(&self, setting: Setting) {
        self.0.locked.lock().settings |= setting as u8;
    }

    fn set_setting(&self, setting: Setting, value: Duration) -> bool {
        if !self.has_setting(setting) {
            return false;
        }
        self.insert_at(setting, value);
        self.recheck();
        true
    }

    fn setting(&self, setting: Setting) -> Option<Duration> {
        self.get_at(&setting)
    }

    fn take_max_frame(&self) -> Option<usize> {
        let mut locked = self.0.locked.lock();
        locked.hooks.get_mut()?.applying_max_frame.take()
    }

    fn drop_on_input_end(&self, value: impl Any + Send) {
        self.on_input_end(Value(value));
    }

    fn delay_open(&self) -> OpenGuard {
        let mut locked = self.0.locked.lock();
        locked.hooks.get_or_default().open_guards += 1;
        drop(locked);
        self.0.signal.raise(Signal::LAYER_HOOKS);
        OpenGuard {
            handle: self.clone(),
        }
    }

    fn set_transport(&self, kind: TransportKind) {
        self.0.locked.lock().kind = kind;
    }

    fn set_logs_end(&self, logs: bool) {
        self.0.locked.lock().end_logged = !logs;
    }

    fn logs_end(&self) -> bool {
        !self.0.locked.lock().end_logged
    }

    fn last_handled(&self) -> Instant {
        self.instant(self.0.timestamps.handled.get())
    }

    fn reading_since(&self) -> Option<Instant> {
        self.0
            .timestamps
            .resumed
            .get_if_set()
            .map(|resumed| self.instant(resumed))
    }

    fn silent_since(&self) -> Option<Instant> {
        let resumed = self.0.timestamps.resumed.get_if_set()?;
        Some(self.instant(resumed.max(self.0.timestamps.read.get())))
    }

    fn stalled_since(&self) -> Option<Instant> {
        let stalled = self.0.timestamps.stalled.get_if_set()?;
        Some(self.instant(stalled.max(self.0.timestamps.write.get())))
    }

    fn incomplete_since(&self) -> Option<Instant> {
        self.0
            .timestamps
            .incomplete
            .get_if_set()
            .map(|timestamp| self.instant(timestamp))
    }

    fn open_since(&self) -> Option<Instant> {
        self.0
            .timestamps
            .open
            .get_if_set()
            .map(|timestamp| self.instant(timestamp))
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) {
        let mut locked = self.0.locked.lock();
        locked.hooks.get_or_default().write_timeout = Some(timeout);
        drop(locked);
        self.0.signal.raise(Signal::LAYER_HOOKS);
    }

    #[inline]
    fn take_renamed(&self) -> bool {
        self.has(RENAMED) && {
            self.0.state.fetch_and(!RENAMED, Ordering::AcqRel);
            true
        }
    }

    #[inline]
    fn awaits_responses(&self) -> bool {
        self.has(AWAITS_RESPONSES)
    }

    fn once_closed(&self, callback: impl FnOnce(&Closed) + Send + 'static) {
        self.add_final_callback(callback);
    }

    #[inline]
    fn record_activity(&self, active: bool) {
        self.activity().set_active(active);
    }

    fn record_intercepted(&self) {
        self.0.counters.messages_in.add(1);
        // the driver has not seen the message: it sets the timestamp again for the bytes after it
        self.0.timestamps.incomplete.clear();
    }

    fn count_dropped(&self, messages: u64) {
        let mut locked = self.0.locked.lock();
        locked.close_state.get_or_default().rare_counts.dropped += messages;
    }

    #[cfg(feature = "metrics")]
    fn queued_at_deadline(&self) -> u64 {
        self.0.locked.lock().queued.into()
    }
}

impl ConnectionHandle {
    fn add_deadline(&self, deadline: Deadline) {
        let mut locked = self.0.locked.lock();
        if locked.closed().is_some() {
            drop(locked); // before the user's values in `deadline`
            return;
        }
        locked.hooks.get_or_default().deadlines.push(deadline);
        drop(locked);
        self.0.signal.raise(Signal::LAYER_HOOKS);
    }

    /// Changes the hooks and wakes the driver to take them. After the close nothing takes them.
    pub(super) fn change_hooks(&self, change: impl FnOnce(&mut LayerHooks)) {
        let mut locked = self.0.locked.lock();
        if locked.closed().is_some() {
            return;
        }
        change(locked.hooks.get_or_default());
        drop(locked);
        self.0.signal.raise(Signal::LAYER_HOOKS);
    }

    /// Returns the maximum frame that was set and not taken.
    pub(crate) fn pending_max_frame(&self) -> Option<usize> {
        self.0.locked.lock().hooks.get()?.max_frame
    }

    /// Returns the maximum frame that was set. Until the codec takes it, it is the one of
    /// [`take_max_frame`](HandleExt::take_max_frame).
    pub(crate) fn begin_max_frame(&self) -> Option<usize> {
        let mut locked = self.0.locked.lock();
        let hooks = locked.hooks.get_mut()?;
        hooks.applying_max_frame = hooks.max_frame.take();
        hooks.applying_max_frame
    }

    /// Like [`drop_on_input_end`](HandleExt::drop_on_input_end) for a value that is also notified
    /// of refused requests.
    pub(crate) fn on_input_end(&self, value: impl OnInputEnd + 'static) {
        let value: Contained<Box<dyn OnInputEnd>> = Contained::new(Box::new(value));
        let mut locked = self.0.locked.lock();
        if locked.closed().is_some() {
            drop(locked); // before the user's value
            return;
        }
        locked.hooks.get_or_default().on_input_end.push(value);
        drop(locked);
        self.0.signal.raise(Signal::LAYER_HOOKS);
    }

    /// Takes the registered hooks. While a guard delays the opening, the number of guards remains,
    /// and a maximum frame remains until the codec takes it.
    pub(crate) fn take_hooks(&self) -> LayerHooks {
        let mut locked = self.0.locked.lock();
        let Some(hooks) = locked.hooks.get_mut() else {
            return LayerHooks::default();
        };
        let taken = LayerHooks {
            deadlines: std::mem::take(&mut hooks.deadlines),
            on_input_end: std::mem::take(&mut hooks.on_input_end),
            ..*hooks
        };
        hooks.recheck = false;
        if hooks.open_guards == 0 && hooks.max_frame.is_none() {
            locked.hooks.reset();
        }
        taken
    }
}

/// Keeps a session from opening: see [`HandleExt::delay_open`].
#[derive(Debug)]
pub struct OpenGuard {
    handle: ConnectionHandle,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if let Some(hooks) = self.handle.0.locked.lock().hooks.get_mut() {
            // the close has discarded this guard's count: the current one may belong to later
            // guards
            hooks.open_guards = hooks.open_guards.saturating_sub(1);
        }
        self.handle.0.signal.raise(Signal::LAYER_HOOKS);
    }
}
