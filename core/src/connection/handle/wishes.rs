//! What layers ask of the driver of a session: checks at a time, a write timeout, pings, a later beginning.

use std::{any::Any, fmt, time::Duration};

use tokio::time::Instant;

use super::{ConnectionHandle, HAS_PING};
use crate::{
    connection::{Contained, checks::Check},
    session::Number,
    sync::Ordering,
    sync::Signal,
};

/// What is dropped when nothing more will be received.
pub trait Kept: Send {
    /// The codec has refused the request with this number: nothing of it will be sent. Called in the session's task.
    fn refused(&mut self, _: Number, _: &ConnectionHandle) {}
}

impl fmt::Debug for dyn Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

/// A layer's value, of which nothing is known.
struct Value<T>(T);

impl<T: Any + Send> Kept for Value<T> {}

/// What layers ask of the driver.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) checks: Vec<Check>,
    pub(crate) write_timeout: Option<Option<Duration>>,
    pub(crate) holds: u32,
    /// Dropped when nothing more will be received.
    pub(crate) until_input_ends: Vec<Contained<Box<dyn Kept>>>,
}

impl ConnectionHandle {
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
        mut check: impl FnMut(&Self, Instant) -> Option<Instant> + Send + 'static,
    ) {
        self.check_lateness_at(at, move |handle, now, _| check(handle, now));
    }

    /// Like [`check_at`](Self::check_at), but also passes `true` to `check` if it runs late because
    /// the thread was blocked.
    #[doc(hidden)]
    pub fn check_lateness_at(
        &self,
        at: Instant,
        check: impl FnMut(&Self, Instant, bool) -> Option<Instant> + Send + 'static,
    ) {
        let check = Check::new(at, check);
        let mut rare = self.0.rare.lock();
        if rare.closed().is_some() {
            drop(rare); // before the user's values, which go with `check`
            return;
        }
        rare.wishes.get_or_insert_default().checks.push(check);
        drop(rare);
        self.0.signal.raise(Signal::WISHES);
    }

    /// Has the driver keep `value` until no further message will be received, and drop it then: the peer has ended its
    /// direction and all that it sent is decoded, or the session is closing. At once where that has been. For layers whose
    /// users wait for something of the peer's: the value's drop tells them that it will not come. It runs in the session's
    /// task, so it must not block.
    ///
    /// While as many handlers are at work as may be, nothing is decoded, and so the end is not seen before one of them is
    /// done; but it is where a [request](crate::Session::request) waits for its answer.
    pub fn keep_until_input_ends(&self, value: impl Any + Send) {
        self.keep(Value(value));
    }

    /// The same, for what wants to know more.
    pub(crate) fn keep(&self, value: impl Kept + 'static) {
        let value: Contained<Box<dyn Kept>> = Contained::new(Box::new(value));
        let mut rare = self.0.rare.lock();
        if rare.closed().is_some() {
            drop(rare); // before the user's value
            return;
        }
        let wishes = rare.wishes.get_or_insert_default();
        wishes.until_input_ends.push(value);
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

    /// Sets how long the transport may take no byte while bytes wait, in place of the session
    /// loop's setting. `None` disables the timeout.
    ///
    /// It may be called at any time and takes effect at once: a write that is stalled is measured
    /// by the new timeout, from the moment at which it stalled. The last call wins. Scope: session.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        let mut rare = self.0.rare.lock();
        rare.wishes.get_or_insert_default().write_timeout = Some(timeout);
        drop(rare);
        self.0.signal.raise(Signal::WISHES);
    }

    /// Takes what layers have asked for; while one of them holds the session, that stays.
    pub(crate) fn take_wishes(&self) -> Wishes {
        let mut rare = self.0.rare.lock();
        let Some(wishes) = &mut rare.wishes else {
            return Wishes::default();
        };
        let taken = Wishes {
            checks: std::mem::take(&mut wishes.checks),
            until_input_ends: std::mem::take(&mut wishes.until_input_ends),
            ..**wishes
        };
        if wishes.holds == 0 {
            rare.wishes = None;
        }
        taken
    }

    pub(crate) fn mark_has_ping(&self) {
        self.0.state.fetch_or(HAS_PING, Ordering::AcqRel);
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
