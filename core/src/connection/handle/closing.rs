//! The close of a connection: recording its reason, waiting for its end, finishing it.

use tokio::time::Instant;

use super::{CLOSED, CLOSING, Callbacks, ConnectionHandle, OPEN, PEER_FINISHED, Refusal};
use crate::{
    connection::{
        Close, CloseReason, Closed, SharedError,
        log::{end_level, log_end},
    },
    sync::Ordering,
    sync::Signal,
};

impl ConnectionHandle {
    /// Requests a graceful close with the reason [`CloseReason::Local`].
    ///
    /// Handlers in flight finish and everything accepted for sending is flushed, both until the
    /// drain deadline. This method is idempotent and never waits: [`closed`](Self::closed)
    /// resolves when the close is complete.
    #[doc(alias("kick", "disconnect", "shutdown", "terminate"))]
    pub fn close(&self) {
        self.close_with(CloseReason::Local);
    }

    /// Requests a close with a reason, and optionally with a source, a drain deadline or a wait
    /// for the flush: see [`Close`].
    ///
    /// The first reason recorded wins (design.md: Why is the first close reason kept?). Like
    /// [`close`](Self::close), this method never waits.
    ///
    /// ```
    /// use getty_core::{Close, CloseReason, Connection};
    ///
    /// let connection = Connection::new("any transport");
    /// connection.handle().close_with(CloseReason::Shutdown);
    ///
    /// let connection = Connection::new("any transport");
    /// connection.handle().close_with(Close::new(CloseReason::Local).after_flush());
    /// ```
    #[doc(alias("kick", "disconnect"))]
    pub fn close_with(&self, close: impl Into<Close>) {
        self.record_close(close.into());
    }

    pub(in crate::connection) fn close_shared(&self, reason: CloseReason, source: SharedError) {
        self.record_close(Close::new(reason).with_shared_source(source));
    }

    /// Returns `true` once the session loop has taken the connection, also after its close.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.has(OPEN)
    }

    /// Returns `true` once a close was requested or a cause for one was found.
    #[must_use]
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.has(CLOSING)
    }

    /// Returns `true` once the close is complete: the transport is dropped and all callbacks have
    /// run.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.has(CLOSED)
    }

    /// Returns the recorded reason of the close if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<CloseReason> {
        self.0
            .locked
            .lock()
            .requested()
            .map(|requested| requested.reason.clone())
    }

    /// Returns the error recorded with the reason if there is one.
    #[must_use]
    pub fn source(&self) -> Option<SharedError> {
        self.0
            .locked
            .lock()
            .requested()
            .and_then(|requested| requested.source.clone())
    }

    /// Resolves when a close is requested or a cause for one is found.
    ///
    /// A handler may wait for this future or for [`peer_finished`](Self::peer_finished). It must
    /// not wait for [`closed`](Self::closed) because the close waits for the handler.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub async fn closing(&self) {
        self.wait_for(CLOSING).await;
    }

    /// Resolves when the peer has ended its direction or the connection is closing.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub async fn peer_finished(&self) {
        self.wait_for(PEER_FINISHED | CLOSING).await;
    }

    /// Resolves when the session has opened, or when it closes before that. Returns `true` if it
    /// opened.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub async fn opened(&self) -> bool {
        self.wait_for(OPEN | CLOSED).await;
        self.has(OPEN)
    }

    /// Resolves when the session has upgraded its transport, or when it closes without an upgrade.
    /// Returns `true` if it upgraded.
    ///
    /// A handler requests an upgrade with [`Reply::and_upgrade`](crate::Reply::and_upgrade).
    /// Messages that are sent after this future has returned `true` leave through the upgraded
    /// transport. A message that a task sends before the handler has returned may leave through
    /// the old one. So a client waits for this future before it sends a password. A handler of the
    /// same session must not wait for it because the upgrade waits for the handler.
    ///
    /// The wait has no limit while the session is open. If the peer refuses the upgrade, the
    /// handler of its reply should close the session.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub async fn upgraded(&self) -> bool {
        loop {
            // created before the check so that it sees every notification after the check
            let changed = self.0.changed.notified();
            let upgraded = self.0.locked.lock().upgraded;
            if upgraded || self.has(CLOSED) {
                return upgraded;
            }
            changed.await;
        }
    }

    pub(crate) fn mark_upgraded(&self) {
        self.0.locked.lock().upgraded = true;
        self.0.changed.notify_waiters();
    }

    /// Resolves when the close is complete: the transport is dropped and all callbacks have run.
    ///
    /// A handler of the same session must not wait for it because the close waits for the handler.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub async fn closed(&self) -> Closed {
        self.wait_for(CLOSED).await;
        self.record()
    }

    fn record_close(&self, close: Close) {
        let mut locked = self.0.locked.lock();
        let requested = &mut locked.close_state.get_or_default().requested;
        if let Some(earlier) = requested {
            if earlier.after_flush && close.deadline.is_some() {
                earlier.after_flush = false;
                earlier.deadline = close.deadline;
                drop(locked);
                self.0.signal.raise(Signal::CLOSE);
            }
            return;
        }
        *requested = Some(close);
        // set under the lock so that a reason and the flag are always seen together
        self.0.state.fetch_or(CLOSING, Ordering::AcqRel);
        drop(locked);
        self.0.changed.notify_waiters();
        self.0.signal.raise(Signal::CLOSE);
    }

    pub(crate) fn closes_after_flush(&self) -> bool {
        let locked = self.0.locked.lock();
        locked.requested().is_some_and(|close| close.after_flush)
    }

    pub(crate) fn requested_deadline(&self) -> Option<std::time::Duration> {
        self.0.locked.lock().requested()?.deadline
    }

    /// Adds an error to a close that was recorded without one.
    pub(crate) fn add_source(&self, source: SharedError) {
        // if there is an error already, this one is dropped after the lock
        let mut source = Some(source);
        let mut locked = self.0.locked.lock();
        if let Some(requested) = &mut locked.close_state.get_or_default().requested
            && requested.source.is_none()
        {
            requested.source = source.take();
        }
        drop(locked);
    }

    pub(crate) fn mark_open(&self) {
        self.0.timestamps.open.set(self.timestamp(Instant::now()));
        self.set(OPEN);
    }

    pub(crate) fn mark_peer_finished(&self) {
        self.set(PEER_FINISHED);
    }

    /// Records a reason if there is none, when the holder of the connection is dropped or done.
    pub(crate) fn abandon(&self) {
        self.close_with(if std::thread::panicking() {
            CloseReason::Panicked
        } else if self.has(OPEN) {
            CloseReason::Dropped
        } else {
            CloseReason::Refused
        });
    }

    pub(in crate::connection) fn add_panic_guard(&self) {
        self.0.locked.lock().panic_guards += 1;
    }

    /// Returns `true` if the caller must finish the connection: its `CloseGuard` was dropped by a
    /// panic, and no other `PanicGuard` remains that will catch it.
    pub(in crate::connection) fn remove_panic_guard(&self) -> bool {
        let mut locked = self.0.locked.lock();
        locked.panic_guards -= 1;
        // an outer guard catches the panic that drops this one
        if !locked.finish_deferred || (locked.panic_guards > 0 && std::thread::panicking()) {
            return false;
        }
        locked.finish_deferred = false;
        true
    }

    pub(in crate::connection) fn defer_refusal(&self) {
        let mut locked = self.0.locked.lock();
        // `Pending` stays: a guard was dropped since an earlier call
        if locked.refusal == Refusal::Immediate {
            locked.refusal = Refusal::Deferred;
        }
    }

    /// Ends the deferral by `defer_refusal`. Finishes the connection if it was dropped meanwhile,
    /// with `error` as its source.
    pub(in crate::connection) fn end_refusal(&self, error: Option<SharedError>) {
        let mut locked = self.0.locked.lock();
        let refused = std::mem::take(&mut locked.refusal) == Refusal::Pending;
        let reason = locked.requested().map(|requested| requested.reason.clone());
        drop(locked);
        if let Some(error) = error
            && !self.is_closed()
        {
            match reason {
                Some(CloseReason::Refused | CloseReason::Dropped) => self.add_source(error),
                Some(_) => {}
                None if self.has(OPEN) => self.close_shared(CloseReason::Dropped, error),
                None => self.close_shared(CloseReason::Refused, error),
            }
        }
        if refused {
            self.finish();
        }
    }

    /// Records that the close guard was dropped before the session opened. Returns `true` if
    /// `end_refusal` will finish the connection.
    fn defer_refused(&self) -> bool {
        if self.has(OPEN) {
            return false;
        }
        self.abandon();
        let mut locked = self.0.locked.lock();
        let is_deferred = locked.refusal != Refusal::Immediate;
        if is_deferred {
            locked.refusal = Refusal::Pending;
        }
        is_deferred
    }

    /// Records that the close guard was dropped. Returns `true` if the connection is finished
    /// elsewhere: by a `PanicGuard`, or by `end_refusal`.
    pub(in crate::connection) fn defer_finish(&self) -> bool {
        if !std::thread::panicking() {
            return self.defer_refused();
        }
        self.abandon();
        let mut locked = self.0.locked.lock();
        locked.finish_deferred = locked.panic_guards > 0;
        locked.finish_deferred
    }

    /// Runs the callbacks and wakes the tasks that wait for the close. Must be called once, by the
    /// owner of the close guard.
    pub(in crate::connection) fn finish(&self) -> Closed {
        self.abandon();
        let mut locked = self.0.locked.lock();
        let Some(Close { reason, source, .. }) = locked.requested().cloned() else {
            unreachable!("a recorded reason is never removed");
        };
        let losses = locked
            .close_state
            .get()
            .map(|close_state| close_state.losses);
        let stats = self.snapshot(&locked);
        let record = Closed::new(
            reason,
            source,
            stats,
            self.0.opened_at.elapsed(),
            losses.unwrap_or_default(),
        );
        locked.close_state.get_or_default().closed = Some(Box::new(record.clone()));
        let level = end_level(&record).filter(|_| !locked.end_logged);
        locked.end_logged |= level.is_some();
        drop(locked);
        if let Some(level) = level {
            log_end(self, &record, level);
        }
        let hooks = loop {
            let mut callbacks = self.0.callbacks.lock();
            if let Some(entry) = callbacks.pop_first() {
                drop(callbacks);
                entry.run(&record);
                continue;
            }
            *callbacks = Callbacks::default();
            let mut locked = self.0.locked.lock();
            // under both locks: a callback or attribute added now is either found here or sees the
            // close
            self.0.state.fetch_or(CLOSED, Ordering::AcqRel);
            break locked.hooks.take();
        };
        self.0.changed.notify_waiters();
        self.0.attributes.clear();
        drop(hooks);
        record
    }

    pub(in crate::connection) fn record(&self) -> Closed {
        match self.0.locked.lock().closed() {
            Some(record) => record.clone(),
            None => unreachable!("the record is made before CLOSED is set"),
        }
    }
}
