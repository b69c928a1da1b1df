//! Closes a session in which nothing has moved for a time, or tells a hook of it.
//!
//! Four kinds of "nothing":
//!
//! | | nothing was | measured by |
//! |---|---|---|
//! | [`all`](IdleTimeoutLayer::all), [`new`](IdleTimeoutLayer::new) | received or sent | bytes |
//! | [`read`](IdleTimeoutLayer::read) | received | bytes |
//! | [`write`](IdleTimeoutLayer::write) | sent | bytes |
//! | [`active`](IdleTimeoutLayer::active) | done by the application | messages for it, and [`touch`](ConnectionHandle::touch) |
//!
//! Slow is not idle: by bytes, every byte that moves starts the time anew, be it a part of a frame or a heartbeat. So
//! `all` and `read` end sessions whose peer is gone, `active` those whose peer is there and does nothing: pongs that
//! [`HeartbeatLayer`](crate::HeartbeatLayer) takes are bytes, and no activity.
//!
//! - *ready*: the inner service's.
//! - *call*: registers a look at the session's clock, calls the inner service; no timer of its own, nothing a message.
//!   An idle session is looked at once a time.
//! - *drop*: drops the inner future.
//! - *close*: when the time has passed, the session closes gracefully, as [`CloseReason::IdleTimeout`]; with a hook it
//!   does not, unless the hook closes it.
//!
//! While a handler is in flight the peer waits for us, and while we ourselves do not read
//! ([`reading_since`](ConnectionHandle::reading_since)) nobody knows what it might have sent; so the time does not run
//! then, but for `write`.
//!
//! A handler that blocks its thread is not seen in flight, and its answer leaves only afterwards.
//! So a check that runs late restarts the timeout if the session has received messages since the
//! previous check.
//!
//! Scope: session. It may stand anywhere outside `SessionLayer`, with a hook between `CodecLayer` and `SessionLayer`.
//! Several may be stacked.
//!
//! ```
//! use std::{task::{Context, Waker}, time::Duration};
//!
//! use getty_core::{CloseReason, Connection, Framed, HasSession};
//! use getty_layers::{CodecLayer, IdleTimeoutLayer};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(IdleTimeoutLayer::write(Duration::from_secs(60)))
//!     // what the session loop does with it, in place of it
//!     .service_fn(|connection: Connection<Framed<&'static str, LinesCodec, String>>| async move {
//!         let (framed, _lease) = connection.into_parts();
//!         let mut driver = framed.into_parts().driver;
//!         driver.turn(&Context::from_waker(Waker::noop()));
//!         let idle = driver.next_check().ok_or("nothing to look for")?;
//!         driver.run_checks(idle);
//!         Ok::<_, BoxError>(driver.session().reason())
//!     });
//! let reason = stack.oneshot(Connection::new("any transport")).await?;
//! assert_eq!(reason, Some(CloseReason::IdleTimeout));
//! # Ok(())
//! # }
//! ```

use std::{
    any::type_name,
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use getty_core::{
    CloseReason, Connection, ConnectionHandle, HasSession, Session, internal::Contained,
};

/// Closes a session in which nothing moves, or tells a hook of it; see the [module](self).
#[derive(Clone, Debug)]
pub struct IdleTimeoutLayer<H = Close> {
    idleness: Idleness,
    hook: H,
}

/// What an [`IdleTimeoutLayer`] without a hook does: it closes the session.
#[derive(Clone, Copy, Debug)]
pub struct Close;

/// The hook of an [`IdleTimeoutLayer`].
pub struct Hook<Out, F> {
    call: Contained<F>,
    out: PhantomData<fn(Out)>,
}

/// What moves nothing for how long.
#[derive(Clone, Copy, Debug)]
struct Idleness {
    kind: Kind,
    time: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    All,
    Read,
    Write,
    Active,
}

impl IdleTimeoutLayer {
    /// As [`all`](Self::all).
    #[must_use]
    pub const fn new(time: Duration) -> Self {
        Self::all(time)
    }

    /// Idle is a session that has neither received nor sent a byte for `time`. Zero is looked for every millisecond; a
    /// time too long to be told never comes. So it is with the others.
    #[must_use]
    pub const fn all(time: Duration) -> Self {
        Self::of(Kind::All, time)
    }

    /// Idle is a session that has received no byte for `time`.
    #[must_use]
    pub const fn read(time: Duration) -> Self {
        Self::of(Kind::Read, time)
    }

    /// Idle is a session that has sent no byte for `time`, be there any to send or not.
    #[must_use]
    pub const fn write(time: Duration) -> Self {
        Self::of(Kind::Write, time)
    }

    /// Idle is a session whose application was not active for `time`: no message came for it, and nobody called
    /// [`touch`](ConnectionHandle::touch).
    #[must_use]
    pub const fn active(time: Duration) -> Self {
        Self::of(Kind::Active, time)
    }

    const fn of(kind: Kind, time: Duration) -> Self {
        Self {
            idleness: Idleness { kind, time },
            hook: Close,
        }
    }

    /// Calls `hook` instead of closing: when the session has been idle for the time, and again after each further such
    /// time of the same silence ([`Idle::nth`] tells them apart). It runs in the session's task, so it must not block;
    /// it may send with [`try_send`](Session::try_send), and close the session.
    ///
    /// ```
    /// use std::time::Duration;
    /// use getty_core::{CloseReason, Session};
    /// use getty_layers::IdleTimeoutLayer;
    ///
    /// let layer = IdleTimeoutLayer::read(Duration::from_secs(30))
    ///     .with_hook(|session: &Session<String>, idle| match idle.nth {
    ///         1 => drop(session.try_send("are you there?".to_owned())),
    ///         _ => session.close_with(CloseReason::IdleTimeout),
    ///     });
    /// ```
    // the bound on the closure is what lets its arguments' types go unwritten
    pub const fn with_hook<Out, F>(self, hook: F) -> IdleTimeoutLayer<Hook<Out, F>>
    where
        F: Fn(&Session<Out>, Idle) + Clone,
    {
        IdleTimeoutLayer {
            idleness: self.idleness,
            hook: Hook {
                call: Contained::new(hook),
                out: PhantomData,
            },
        }
    }
}

/// What the hook of an [`IdleTimeoutLayer`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Idle {
    /// Since when the session is idle.
    pub since: Instant,
    /// How often the hook was called for this silence, this time included: 1 for the first.
    pub nth: u64,
}

impl Idleness {
    /// Since when the session is idle in this sense; `None` while that cannot be said.
    fn since(self, handle: &ConnectionHandle) -> Option<Instant> {
        let since = match self.kind {
            Kind::All => handle.silent_since()?.max(handle.last_write()),
            Kind::Read => handle.silent_since()?,
            Kind::Write => return Some(handle.last_write()),
            Kind::Active => handle.reading_since()?.max(handle.last_active()),
        };
        // a peer that waits for an answer of ours is not idle
        (handle.in_flight() == 0).then(|| since.max(handle.last_answered()))
    }

    /// Registers `tell`, which is called whenever the session has been idle for the time.
    fn watch(
        self,
        handle: &ConnectionHandle,
        mut tell: impl FnMut(&ConnectionHandle, Idle) -> bool + Send + 'static,
    ) {
        let Self { time, .. } = self;
        let opened = Instant::now();
        let Some(first) = opened.checked_add(time) else {
            return;
        };
        // of the silence at hand: since when it lasts, how often that was told, and when last
        let (mut known, mut nth, mut told) = (opened, 0_u32, opened);
        // messages received at the last check; two words of 32 bits keep the check small
        let mut seen = 0_u32;
        handle.check_lateness_at(first, move |handle, now, late| {
            let received = handle.stats().messages_in & u64::from(u32::MAX);
            let received = u32::try_from(received).unwrap_or(u32::MAX);
            let is_new = std::mem::replace(&mut seen, received) != received;
            let Some(since) = self.since(handle) else {
                // a silence that begins later is not long enough before a whole time from now
                return now.checked_add(time);
            };
            let since = since.max(opened);
            if since != known {
                (known, nth, told) = (since, 0, since);
            }
            let due = told.checked_add(time)?;
            if due > now {
                return Some(due);
            }
            told = now;
            if late && is_new {
                // a handler may have blocked the thread while the peer waited for its answer
                return now.checked_add(time);
            }
            nth = nth.saturating_add(1);
            let nth = u64::from(nth);
            tell(handle, Idle { since, nth }).then(|| now.checked_add(time))?
        });
    }
}

impl<Out, F: Clone> Clone for Hook<Out, F> {
    fn clone(&self) -> Self {
        Self {
            call: self.call.clone(),
            out: PhantomData,
        }
    }
}

impl<Out, F> fmt::Debug for Hook<Out, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&type_name::<F>()).finish()
    }
}

impl<S, H: Clone> Layer<S> for IdleTimeoutLayer<H> {
    type Service = IdleTimeout<S, H>;

    fn layer(&self, inner: S) -> Self::Service {
        IdleTimeout {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`IdleTimeoutLayer`] makes.
#[derive(Clone, Debug)]
pub struct IdleTimeout<S, H = Close> {
    inner: S,
    layer: IdleTimeoutLayer<H>,
}

impl<S, H> IdleTimeout<S, H> {
    /// Wraps `inner` as `layer` says.
    pub const fn new(inner: S, layer: IdleTimeoutLayer<H>) -> Self {
        Self { inner, layer }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, T> Service<Connection<T>> for IdleTimeout<S, Close>
where
    S: Service<Connection<T>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        self.layer.idleness.watch(connection.handle(), |handle, _| {
            handle.close_with(CloseReason::IdleTimeout);
            false
        });
        self.inner.call(connection)
    }
}

impl<S, Out, F, T> Service<Connection<T>> for IdleTimeout<S, Hook<Out, F>>
where
    T: HasSession<Out = Out>,
    S: Service<Connection<T>>,
    F: Fn(&Session<Out>, Idle) + Clone + Send + 'static,
    Out: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        let hook = F::clone(&self.layer.hook.call);
        let session = connection.transport().session().clone();
        self.layer
            .idleness
            .watch(connection.handle(), move |_, idle| {
                hook(&session, idle);
                true
            });
        self.inner.call(connection)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;
    use crate::testing::{assert_transparent, drive, framed};

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn around_a_service_it_is_transparent() {
        assert_transparent(&IdleTimeoutLayer::new(TEN), || Connection::new(()));
        let hook = |_: &Session<String>, _| unreachable!("no loop runs the check");
        assert_transparent(&IdleTimeoutLayer::new(TEN).with_hook(hook), framed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_check_after_a_message_restarts_the_timeout() {
        let connection = framed();
        let handle = connection.handle().clone();
        let opened = handle.opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let IdleTimeoutLayer { idleness, .. } = IdleTimeoutLayer::all(TEN);
        idleness.watch(&handle, |handle, _| {
            handle.close_with(CloseReason::IdleTimeout);
            false
        });
        let (mut driver, _lease) = drive(connection);
        driver.reading(true, driver.moment(at(0)));
        driver.messages_in(1, driver.moment(at(0)));
        driver.run_checks(at(25));
        assert_eq!((driver.next_check(), handle.reason()), (Some(at(35)), None));
        driver.received(1, driver.moment(at(30)));
        driver.messages_in(1, driver.moment(at(30)));
        driver.run_checks(at(35));
        assert_eq!(driver.next_check(), Some(at(40)));
        // that message was seen by the check before, which was in time
        driver.run_checks(at(45));
        assert_eq!(handle.reason(), Some(CloseReason::IdleTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_session_is_looked_at_once_a_time_however_much_moves() {
        let connection = framed();
        let handle = connection.handle().clone();
        let opened = handle.opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let IdleTimeoutLayer { idleness, .. } = IdleTimeoutLayer::read(TEN);
        idleness.watch(&handle, |handle, _| {
            handle.close_with(CloseReason::IdleTimeout);
            false
        });
        let (mut driver, _lease) = drive(connection);
        driver.reading(true, driver.moment(at(0)));
        for second in 1..10 {
            driver.received(1, driver.moment(at(second)));
            assert_eq!(driver.next_check(), Some(at(10)));
        }
        driver.run_checks(at(10));
        assert_eq!(driver.next_check(), Some(at(19)));
        driver.run_checks(at(19));
        assert_eq!(driver.next_check(), None);
        assert_eq!(handle.reason(), Some(CloseReason::IdleTimeout));
    }
}
