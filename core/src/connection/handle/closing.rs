//! How a connection ends: the reason, which the first one records, those who wait for the end, and the end itself.

use std::{error::Error, time::Duration};

use tokio::time::Instant;

use super::{CLOSED, CLOSING, Callbacks, ConnectionHandle, OPEN, PEER_FINISHED, Refusal};
use crate::{
    connection::{
        CloseReason, Closed, SharedError,
        log::{end_level, log_end},
    },
    sync::Ordering,
    sync::Signal,
};

/// The cause of a close, as first recorded.
#[derive(Clone, Debug)]
pub(super) struct Requested {
    reason: CloseReason,
    source: Option<SharedError>,
    within: Option<Duration>,
    after_flush: bool,
}

impl Requested {
    const fn new(reason: CloseReason) -> Self {
        Self {
            reason,
            source: None,
            within: None,
            after_flush: false,
        }
    }
}

impl ConnectionHandle {
    /// Asks for a graceful close, with the reason [`CloseReason::Local`]: handlers in flight finish, what was accepted
    /// for sending is flushed, both until the drain deadline. Idempotent, never waits;
    /// [`closed`](Self::closed) tells when it is done.
    pub fn close(&self) {
        self.close_with(CloseReason::Local);
    }

    /// As [`close`](Self::close), with a reason of the caller's. The first reason recorded wins.
    pub fn close_with(&self, reason: impl Into<CloseReason>) {
        self.request(Requested::new(reason.into()));
    }

    /// As [`close_with`](Self::close_with), with the error that is the cause.
    pub fn close_because(
        &self,
        reason: impl Into<CloseReason>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) {
        self.close_shared(reason.into(), SharedError::from(source.into()));
    }

    pub(in crate::connection) fn close_shared(&self, reason: CloseReason, source: SharedError) {
        self.request(Requested {
            source: Some(source),
            ..Requested::new(reason)
        });
    }

    /// As [`close_with`](Self::close_with), with a drain deadline that takes the place of the session's own. After a
    /// [`close_after_flush`](Self::close_after_flush), which has none as long as the flush lasts, this is its deadline; other
    /// closes change nothing about one that was requested before.
    pub fn close_within(&self, reason: impl Into<CloseReason>, deadline: Duration) {
        self.request(Requested {
            within: Some(deadline),
            ..Requested::new(reason.into())
        });
    }

    /// As [`close`](Self::close), but nothing that was accepted for sending is cut off by the drain deadline, which begins
    /// only when all of it has left and then is for handlers in flight alone.
    ///
    /// Like every close it takes no new message and reads no more from the call on. A slow peer gets the time it needs as
    /// long as it takes bytes; one that takes none is ended by the write timeout, or never where that is switched off.
    pub fn close_after_flush(&self) {
        self.request(Requested {
            after_flush: true,
            ..Requested::new(CloseReason::Local)
        });
    }

    /// Sets whether getty logs the end of this connection. The default is `true`.
    ///
    /// The line is logged once, before the close callbacks run, with the handle, the reason and the
    /// source as the fields `connection`, `reason` and `error`, and with `code` where a protocol
    /// gave one. The target is `getty::session`.
    ///
    /// | reason | level |
    /// |---|---|
    /// | `Decode`, `Encode`, `Handler`, `Panicked` | `WARN` |
    /// | `PeerClosed`, `Io`, `Protocol`, `SlowConsumer`, `AnswerMissed`, `HeartbeatMissed`, every timeout | `DEBUG` |
    /// | `Local`, `Shutdown`, `LifetimeExpired`, `Refused`, `Dropped` | `DEBUG` with a source, otherwise no line |
    ///
    /// A layer that logs ends itself passes `false` when it is called, as
    /// `TraceLayer` does.
    pub fn set_logs_end(&self, logs: bool) {
        self.0.rare.lock().end_logged = !logs;
    }

    /// Returns `true` if getty logs the end of this connection and has not done so: see
    /// [`set_logs_end`](Self::set_logs_end).
    #[must_use]
    pub fn logs_end(&self) -> bool {
        !self.0.rare.lock().end_logged
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
            .requested()
            .map(|requested| requested.reason.clone())
    }

    /// The error recorded with the reason, if there is one.
    #[must_use]
    pub fn source(&self) -> Option<SharedError> {
        self.0
            .rare
            .lock()
            .requested()
            .and_then(|requested| requested.source.clone())
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

    fn request(&self, cause: Requested) {
        let mut rare = self.0.rare.lock();
        if let Some(earlier) = &mut rare.seldom().requested {
            if earlier.after_flush && cause.within.is_some() {
                earlier.after_flush = false;
                earlier.within = cause.within;
                drop(rare);
                self.0.signal.raise(Signal::CLOSE);
            }
            return;
        }
        rare.seldom().requested = Some(cause);
        // under the lock, so that a reason and the flag are always seen together
        self.0.state.fetch_or(CLOSING, Ordering::AcqRel);
        drop(rare);
        self.0.changed.notify_waiters();
        self.0.signal.raise(Signal::CLOSE);
    }

    pub(crate) fn closes_after_flush(&self) -> bool {
        let rare = self.0.rare.lock();
        rare.requested()
            .is_some_and(|requested| requested.after_flush)
    }

    pub(crate) fn requested_deadline(&self) -> Option<Duration> {
        self.0
            .rare
            .lock()
            .requested()
            .and_then(|requested| requested.within)
    }

    /// Adds an error to a close that was recorded without one.
    pub(crate) fn note_source(&self, source: SharedError) {
        // dropped, where there is one already, after the lock
        let mut source = Some(source);
        let mut rare = self.0.rare.lock();
        if let Some(requested) = &mut rare.seldom().requested
            && requested.source.is_none()
        {
            requested.source = source.take();
        }
        drop(rare);
    }

    pub(crate) fn mark_open(&self) {
        self.0.marks.open.set(self.moment(Instant::now()));
        self.set(OPEN);
    }

    pub(crate) fn mark_peer_finished(&self) {
        self.set(PEER_FINISHED);
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

    pub(in crate::connection) fn add_catcher(&self) {
        self.0.rare.lock().catchers += 1;
    }

    /// Whether there is a lease's duty to do, which no other catcher is left for.
    pub(in crate::connection) fn remove_catcher(&self) -> bool {
        let mut rare = self.0.rare.lock();
        rare.catchers -= 1;
        // one further out catches the panic that drops this one
        if !rare.left || (rare.catchers > 0 && std::thread::panicking()) {
            return false;
        }
        rare.left = false;
        true
    }

    pub(in crate::connection) fn defer_refusal(&self) {
        let mut rare = self.0.rare.lock();
        // a lease that was dropped since an earlier call stays so
        if rare.refusal == Refusal::Immediate {
            rare.refusal = Refusal::Deferred;
        }
    }

    /// Ends what `defer_refusal` began: finishes the connection if it was dropped meanwhile, with
    /// `error` as its source.
    pub(in crate::connection) fn end_refusal(&self, error: Option<SharedError>) {
        let mut rare = self.0.rare.lock();
        let refused = std::mem::take(&mut rare.refusal) == Refusal::Pending;
        let reason = rare.requested().map(|requested| requested.reason.clone());
        drop(rare);
        if let Some(error) = error
            && !self.is_closed()
        {
            match reason {
                Some(CloseReason::Refused | CloseReason::Dropped) => self.note_source(error),
                Some(_) => {}
                None if self.has(OPEN) => self.close_shared(CloseReason::Dropped, error),
                None => self.close_shared(CloseReason::Refused, error),
            }
        }
        if refused {
            self.finish();
        }
    }

    /// Records that a lease was dropped before its session opened. Returns `true` if `end_refusal`
    /// finishes the connection.
    fn leave_refusal(&self) -> bool {
        if self.has(OPEN) {
            return false;
        }
        self.abandon();
        let mut rare = self.0.rare.lock();
        let is_deferred = rare.refusal != Refusal::Immediate;
        if is_deferred {
            rare.refusal = Refusal::Pending;
        }
        is_deferred
    }

    /// Records that a lease was dropped. Returns `true` if its connection is finished elsewhere: by
    /// the catcher of a panic, or by `end_refusal`.
    pub(in crate::connection) fn leave_to_catcher(&self) -> bool {
        if !std::thread::panicking() {
            return self.leave_refusal();
        }
        self.abandon();
        let mut rare = self.0.rare.lock();
        rare.left = rare.catchers > 0;
        rare.left
    }

    /// The end: runs the callbacks and resolves those who wait. Only who has the lease's duty calls it, and only once.
    pub(in crate::connection) fn finish(&self) -> Closed {
        self.abandon();
        let mut rare = self.0.rare.lock();
        let Some(Requested { reason, source, .. }) = rare.requested().cloned() else {
            unreachable!("a reason is never taken back");
        };
        let losses = rare.seldom.as_ref().map(|seldom| seldom.losses);
        let stats = self.snapshot(&rare);
        let record = Closed::new(
            reason,
            source,
            stats,
            self.0.opened_at.elapsed(),
            losses.unwrap_or_default(),
        );
        rare.seldom().closed = Some(Box::new(record.clone()));
        let level = end_level(&record).filter(|_| !rare.end_logged);
        rare.end_logged |= level.is_some();
        drop(rare);
        if let Some(level) = level {
            log_end(self, &record, level);
        }
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
        drop(wishes);
        record
    }

    pub(in crate::connection) fn record(&self) -> Closed {
        match self.0.rare.lock().closed() {
            Some(record) => record.clone(),
            None => unreachable!("the record is made before CLOSED is set"),
        }
    }
}
