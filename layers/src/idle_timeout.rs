//! Closes idle sessions, or calls a hook for them.
//!
//! Choose the kind of traffic that keeps a session alive:
//!
//! | constructor | a session is idle without | measured by |
//! |---|---|---|
//! | [`new`](IdleTimeoutLayer::new) | bytes from the peer | received bytes |
//! | [`outbound`](IdleTimeoutLayer::outbound) | bytes to the peer | sent bytes |
//! | [`any_traffic`] | bytes in both directions | received and sent bytes |
//! | [`activity`] | activity of the application | messages for it, and [`touch`] |
//!
//! Use `new` to end sessions whose peer is gone, and `activity` to end sessions whose peer is
//! connected but does nothing. Pongs that [`HeartbeatLayer`](crate::HeartbeatLayer) removes are
//! bytes but no activity. A slow peer is not idle: every byte restarts the timeout, including a
//! part of a frame or a heartbeat.
//!
//! `outbound` and `any_traffic` count sent heartbeats. With a heartbeat of a shorter period
//! they will never close a session.
//!
//! - *ready*: as the inner service.
//! - *call*: registers a deadline with the session and calls the inner service. It creates no
//!   timer and costs nothing per message. An idle session is checked once per timeout.
//! - *drop*: drops the inner future.
//! - *close*: when the timeout has passed, the session closes gracefully as
//!   [`CloseReason::IdleTimeout`]. With a hook it stays open unless the hook closes it.
//!
//! The timeout does not run while a handler is in flight, because the peer waits for the
//! response. It also does not run while the session does not read
//! ([`reading_since`](HandleExt::reading_since)) because the peer may have sent
//! something. Neither exception applies to `outbound`.
//!
//! A handler that blocks its thread is not seen in flight, and its response leaves only
//! afterwards. So a check that runs more than 5 ms late restarts the timeout if the session has
//! received messages since the previous check. On an overloaded machine a session may therefore
//! close after up to twice its timeout.
//!
//! Scope: session. It may be placed anywhere outside `SessionLayer`; with a hook, between
//! `CodecLayer` and `SessionLayer`. Several may be stacked.
//!
//! ```
//! use std::{task::{Context, Waker}, time::Duration};
//!
//! use getty_core::{CloseReason, Connection, SessionIo, HasSession};
//! use getty_layers::{CodecLayer, IdleTimeoutLayer};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(IdleTimeoutLayer::outbound(Duration::from_secs(60)))
//!     // in place of `SessionLayer`
//!     .service_fn(|connection: Connection<SessionIo<&'static str, LinesCodec, String>>| async move {
//!         let (framed, _guard) = connection.into_parts();
//!         let mut driver = framed.into_parts().driver;
//!         driver.register(&Context::from_waker(Waker::noop()));
//!         let idle = driver.next_deadline().ok_or("no deadline")?;
//!         driver.run_deadlines(idle);
//!         Ok::<_, BoxError>(driver.session().reason())
//!     });
//! let reason = stack.oneshot(Connection::new("any transport")).await?;
//! assert_eq!(reason, Some(CloseReason::IdleTimeout));
//! # Ok(())
//! # }
//! ```
//!
//! [`any_traffic`]: IdleTimeoutLayer::any_traffic
//! [`activity`]: IdleTimeoutLayer::activity
//! [`touch`]: ConnectionHandle::touch

use std::{any::type_name, fmt, marker::PhantomData, time::Duration};

use getty_core::{
    CloseReason, Connection, ConnectionHandle, HasSession, Session,
    hooks::{Contained, HandleExt, Setting},
};
use tokio::time::Instant;
use tower_layer::Layer;

use crate::{
    configure::{Configure, Configured},
    util::check_time,
};

/// Closes idle sessions, or calls a hook for them; see the [module](self).
#[doc(alias = "keepalive")]
#[doc(alias = "kick")]
#[doc(alias = "ttl")]
#[derive(Clone, Debug)]
pub struct IdleTimeoutLayer<H = NoHook> {
    idleness: Idleness,
    hook: H,
}

/// Marker of an [`IdleTimeoutLayer`] without a hook, which closes the session.
#[derive(Clone, Copy, Debug)]
pub struct NoHook;

/// Hook of an [`IdleTimeoutLayer`].
pub struct Hook<Out, F> {
    call: Contained<F>,
    out: PhantomData<fn(Out)>,
}

/// Definition of an idle session: no traffic of a kind for a time.
#[derive(Clone, Copy, Debug)]
struct Idleness {
    traffic: Traffic,
    time: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Traffic {
    Inbound,
    Outbound,
    Any,
    Activity,
}

impl IdleTimeoutLayer {
    /// Creates a new layer for sessions that have received no byte for `time`.
    ///
    /// Zero is checked every millisecond. A time beyond the range of the clock will never expire.
    /// This applies to all constructors.
    #[must_use]
    pub const fn new(time: Duration) -> Self {
        Self::of(Traffic::Inbound, time)
    }

    /// Creates a new layer for sessions that have sent no byte for `time` even if there was nothing
    /// to send.
    #[must_use]
    pub const fn outbound(time: Duration) -> Self {
        Self::of(Traffic::Outbound, time)
    }

    /// Creates a new layer for sessions that have neither received nor sent a byte for `time`.
    ///
    /// A [`HeartbeatLayer`](crate::HeartbeatLayer) sends bytes. If its period is shorter than
    /// `time`, this layer never closes a session even if the peer is gone. Use [`new`](Self::new)
    /// or [`activity`](Self::activity) there.
    #[must_use]
    pub const fn any_traffic(time: Duration) -> Self {
        Self::of(Traffic::Any, time)
    }

    /// Creates a new layer for sessions without activity of the application for `time`: no message
    /// for it was received, and [`touch`](ConnectionHandle::touch) was not called.
    ///
    /// Every message counts, unless an [`ActivityLayer`](crate::ActivityLayer) excludes it.
    #[must_use]
    pub const fn activity(time: Duration) -> Self {
        Self::of(Traffic::Activity, time)
    }

    /// Sets the time of one session while it is open, for layers of [`new`](Self::new). The default
    /// is the layer's.
    ///
    /// Returns `true` if the session has such a layer. Without one, and once the session is
    /// closing, nothing changes and this function returns `false`. Several layers of the same kind
    /// all get the time.
    ///
    /// It may be called at any time and from any thread, such as from a handler or an open hook.
    /// The time takes effect in the next poll of the session loop, which is woken. A session that
    /// has been idle for longer closes in that poll, or its hook is called. Zero closes each
    /// session that is idle when it is checked, every millisecond. [`Duration::MAX`] will never
    /// expire.
    ///
    /// This applies to the functions for the other kinds of traffic as well.
    ///
    /// ```
    /// use std::time::Duration;
    /// use getty_core::Session;
    /// use getty_layers::IdleTimeoutLayer;
    ///
    /// /// A client of MQTT is gone after one and a half times its keep-alive. Zero disables that.
    /// fn set_keep_alive(session: &Session<String>, seconds: u16) {
    ///     let idle = match seconds {
    ///         0 => Duration::MAX,
    ///         _ => Duration::from_secs(seconds.into()) * 3 / 2,
    ///     };
    ///     IdleTimeoutLayer::set(session, idle);
    /// }
    /// # let _ = set_keep_alive;
    /// ```
    pub fn set(session: &ConnectionHandle, time: Duration) -> bool {
        session.set_setting(Setting::IdleInbound, time)
    }

    /// Sets the time of one session for layers of [`outbound`](Self::outbound); see
    /// [`set`](Self::set).
    pub fn set_outbound(session: &ConnectionHandle, time: Duration) -> bool {
        session.set_setting(Setting::IdleOutbound, time)
    }

    /// Sets the time of one session for layers of [`any_traffic`](Self::any_traffic); see
    /// [`set`](Self::set).
    pub fn set_any_traffic(session: &ConnectionHandle, time: Duration) -> bool {
        session.set_setting(Setting::IdleAny, time)
    }

    /// Sets the time of one session for layers of [`activity`](Self::activity); see
    /// [`set`](Self::set).
    pub fn set_activity(session: &ConnectionHandle, time: Duration) -> bool {
        session.set_setting(Setting::IdleActivity, time)
    }

    const fn of(traffic: Traffic, time: Duration) -> Self {
        Self {
            idleness: Idleness { traffic, time },
            hook: NoHook,
        }
    }

    /// Sets a hook that is called instead of closing the session. The default is to close it.
    ///
    /// The hook is called when the session has been idle for the time, and again after each further
    /// such time of the same idle period; [`Idle::nth`] counts the calls. It runs in the session's
    /// task, so it must not block. It may send with [`try_send`](Session::try_send), and it may
    /// close the session.
    ///
    /// ```
    /// use std::time::Duration;
    /// use getty_core::{CloseReason, Session};
    /// use getty_layers::IdleTimeoutLayer;
    ///
    /// let layer = IdleTimeoutLayer::new(Duration::from_secs(30))
    ///     .with_hook(|session: &Session<String>, idle| match idle.nth {
    ///         1 => drop(session.try_send("are you there?".to_owned())),
    ///         _ => session.close_with(CloseReason::IdleTimeout),
    ///     });
    /// ```
    // This bound on the closure makes its argument types inferable.
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

/// Argument of the hook of an [`IdleTimeoutLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Idle {
    /// Start of the idle period.
    pub since: Instant,
    /// Number of calls for this idle period, including this one. It starts at 1.
    pub nth: u64,
}

impl Traffic {
    const fn setting(self) -> Setting {
        match self {
            Self::Inbound => Setting::IdleInbound,
            Self::Outbound => Setting::IdleOutbound,
            Self::Any => Setting::IdleAny,
            Self::Activity => Setting::IdleActivity,
        }
    }
}

impl Idleness {
    /// Returns the start of the idle period or `None` while the timeout does not run.
    fn since(self, handle: &ConnectionHandle) -> Option<Instant> {
        // `silent_since` and `reading_since` are `None` while the session does not read (design.md:
        // Why do receive deadlines pause while the session does not read?).
        let since = match self.traffic {
            Traffic::Inbound => handle.silent_since()?,
            Traffic::Outbound => return Some(handle.last_write()),
            Traffic::Any => handle.silent_since()?.max(handle.last_write()),
            Traffic::Activity => handle.reading_since()?.max(handle.last_active()),
        };
        // A peer that waits for a response is not idle.
        (handle.in_flight() == 0).then(|| since.max(handle.last_handled()))
    }

    /// Registers `on_idle`, which is called each time the session has been idle for the time. It
    /// returns `false` to stop.
    fn watch(
        self,
        handle: &ConnectionHandle,
        mut on_idle: impl FnMut(&ConnectionHandle, Idle) -> bool + Send + 'static,
    ) {
        let opened = Instant::now();
        handle.add_setting(self.traffic.setting());
        // The current idle period: its start, the number of calls, and the time of the last call.
        let (mut known, mut nth, mut called) = (opened, 0_u32, opened);
        // Messages received at the last check. Two words of 32 bits keep the closure small.
        let mut seen = 0_u32;
        let first = check_time(opened, self.time);
        handle.schedule_check_with_lateness(first, move |handle, now, late| {
            let time = handle.setting(self.traffic.setting()).unwrap_or(self.time);
            let received = handle.stats().messages_in & u64::from(u32::MAX);
            let received = u32::try_from(received).unwrap_or(u32::MAX);
            let is_new = std::mem::replace(&mut seen, received) != received;
            let Some(since) = self.since(handle) else {
                // An idle period that starts later is not over before a full timeout from now.
                return Some(check_time(now, time));
            };
            let since = since.max(opened);
            if since != known {
                (known, nth, called) = (since, 0, since);
            }
            let due = check_time(called, time);
            if due > now {
                return Some(due);
            }
            called = now;
            if late && is_new {
                // A handler may have blocked the thread while the peer waited for its response
                // (design.md: When is a peer idle whose handler blocks the thread?).
                return Some(check_time(now, time));
            }
            nth = nth.saturating_add(1);
            let nth = u64::from(nth);
            on_idle(handle, Idle { since, nth }).then(|| check_time(now, time))
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
        Configured::new(inner, self.clone())
    }
}

/// Service of [`IdleTimeoutLayer`].
pub type IdleTimeout<S, H = NoHook> = Configured<S, IdleTimeoutLayer<H>>;

impl<T> Configure<T> for IdleTimeoutLayer {
    fn configure(&self, connection: &Connection<T>) {
        self.idleness.watch(connection.handle(), |handle, _| {
            handle.close_with(CloseReason::IdleTimeout);
            false
        });
    }
}

impl<T, Out, F> Configure<T> for IdleTimeoutLayer<Hook<Out, F>>
where
    T: HasSession<Out = Out>,
    F: Fn(&Session<Out>, Idle) + Clone + Send + 'static,
    Out: Send + 'static,
{
    fn configure(&self, connection: &Connection<T>) {
        let hook = F::clone(&self.hook.call);
        let session = connection.transport().session().clone();
        self.idleness.watch(connection.handle(), move |_, idle| {
            hook(&session, idle);
            true
        });
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_test::assert_layer_contract;

    use super::*;
    use crate::testing::{drive, framed};

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&IdleTimeoutLayer::new(TEN), || Connection::new(())).await;
        let hook = |_: &Session<String>, _| unreachable!("no loop runs the deadline");
        assert_layer_contract(&IdleTimeoutLayer::new(TEN).with_hook(hook), framed).await;
    }

    #[tokio::test(start_paused = true)]
    async fn late_check_after_a_message_restarts_the_timeout() {
        let connection = framed();
        let handle = connection.handle().clone();
        let opened = handle.opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let IdleTimeoutLayer { idleness, .. } = IdleTimeoutLayer::any_traffic(TEN);
        idleness.watch(&handle, |handle, _| {
            handle.close_with(CloseReason::IdleTimeout);
            false
        });
        let (mut driver, _guard) = drive(connection);
        driver.set_reading(true, driver.timestamp(at(0)));
        driver.record_messages_in(1, driver.timestamp(at(0)));
        driver.run_deadlines(at(25));
        assert_eq!(
            (driver.next_deadline(), handle.reason()),
            (Some(at(35)), None)
        );
        driver.record_received(1, driver.timestamp(at(30)));
        driver.record_messages_in(1, driver.timestamp(at(30)));
        driver.run_deadlines(at(35));
        assert_eq!(driver.next_deadline(), Some(at(40)));
        // The previous check, which was on time, has seen that message.
        driver.run_deadlines(at(45));
        assert_eq!(handle.reason(), Some(CloseReason::IdleTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn session_is_checked_once_per_timeout_despite_traffic() {
        let connection = framed();
        let handle = connection.handle().clone();
        let opened = handle.opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let IdleTimeoutLayer { idleness, .. } = IdleTimeoutLayer::new(TEN);
        idleness.watch(&handle, |handle, _| {
            handle.close_with(CloseReason::IdleTimeout);
            false
        });
        let (mut driver, _guard) = drive(connection);
        driver.set_reading(true, driver.timestamp(at(0)));
        for second in 1..10 {
            driver.record_received(1, driver.timestamp(at(second)));
            assert_eq!(driver.next_deadline(), Some(at(10)));
        }
        driver.run_deadlines(at(10));
        assert_eq!(driver.next_deadline(), Some(at(19)));
        driver.run_deadlines(at(19));
        assert_eq!(driver.next_deadline(), None);
        assert_eq!(handle.reason(), Some(CloseReason::IdleTimeout));
    }

    /// Returns the close reason of a session that sends a heartbeat every 5 s and receives nothing,
    /// after 30 s.
    fn reason_of_a_silent_peer(layer: &IdleTimeoutLayer) -> Option<CloseReason> {
        let connection = framed();
        let handle = connection.handle().clone();
        let opened = handle.opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        layer.configure(&connection);
        let (mut driver, _guard) = drive(connection);
        driver.set_reading(true, driver.timestamp(at(0)));
        for second in (5..=30).step_by(5) {
            driver.record_sent(1, driver.timestamp(at(second)));
            driver.run_deadlines(at(second));
        }
        handle.reason()
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_do_not_keep_a_silent_peer_alive_by_default() {
        let idle = Some(CloseReason::IdleTimeout);
        for layer in [IdleTimeoutLayer::new(TEN), IdleTimeoutLayer::activity(TEN)] {
            assert_eq!(reason_of_a_silent_peer(&layer), idle);
        }
        for layer in [
            IdleTimeoutLayer::any_traffic(TEN),
            IdleTimeoutLayer::outbound(TEN),
        ] {
            assert_eq!(reason_of_a_silent_peer(&layer), None);
        }
    }
}
