//! Closes sessions that exceed a maximum age.
//!
//! Limit the age to spread load again after servers were added, to make clients present their
//! credentials again, or to bound leaks of other software.
//!
//! - *ready*: as the inner service.
//! - *call*: registers one deadline with the session and calls the inner service. It creates no
//!   timer and costs nothing per message.
//! - *drop*: drops the inner future.
//! - *close*: at the maximum age the session closes gracefully as
//!   [`CloseReason::LifetimeExpired`]. Handlers in flight finish and accepted messages are
//!   flushed, until the drain deadline. tower's `timeout` in this place would cut the
//!   connection off in the middle of a message.
//!
//! The age counts from accept or connect
//! ([`opened_at`](getty_core::ConnectionHandle::opened_at)). A session that exceeds it before
//! it opens closes in its first poll. To limit the time before that, use
//! [`HandshakeTimeoutLayer`](crate::HandshakeTimeoutLayer).
//!
//! Scope: session. It may be placed anywhere outside `SessionLayer`.
//!
//! ```
//! use std::{task::{Context, Waker}, time::Duration};
//!
//! use getty_core::{CloseReason, Connection, driver};
//! use getty_layers::MaxAgeLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! const HOUR: Duration = Duration::from_secs(3600);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(MaxAgeLayer::new(HOUR).with_jitter(0.1))
//!     // in place of `SessionLayer`
//!     .service_fn(|connection: Connection<&'static str>| async move {
//!         let (session, mut driver) = driver::pair::<String>(connection.handle().clone());
//!         driver.register(&Context::from_waker(Waker::noop()));
//!         let end = driver.next_deadline().ok_or("no deadline")?;
//!         driver.run_deadlines(end);
//!         assert_eq!(session.reason(), Some(CloseReason::LifetimeExpired));
//!         Ok::<_, BoxError>(end - session.opened_at())
//!     });
//! let age = stack.oneshot(Connection::new("any transport")).await?;
//! assert!(age >= HOUR * 9 / 10 && age <= HOUR);
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use getty_core::{CloseReason, Connection, hooks::HandleExt};
use tower_layer::Layer;

use crate::{
    configure::{Configure, Configured},
    util::Jitter,
};

/// Closes sessions that exceed a maximum age; see the [module](self).
#[doc(alias = "lifetime")]
#[doc(alias = "ttl")]
#[derive(Clone, Debug)]
pub struct MaxAgeLayer {
    max: Duration,
    jitter: Jitter,
}

impl MaxAgeLayer {
    /// Creates a new layer that closes sessions `max` after accept or connect.
    ///
    /// Zero closes a session as soon as it opens. An age beyond the range of the clock never closes
    /// one.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        Self {
            max,
            jitter: Jitter::new(0.0),
        }
    }

    /// Sets the fraction of the maximum age by which sessions may close earlier, from 0 to 1. The
    /// default is 0.
    ///
    /// Each session has its own random part of the fraction, so clients that connected together do
    /// not all reconnect together.
    #[must_use]
    pub const fn with_jitter(mut self, fraction: f64) -> Self {
        self.jitter = self.jitter.with_fraction(fraction);
        self
    }

    /// Sets the seed of the jitter, which makes it repeatable in tests: the part of a session then
    /// depends on the seed and on the addresses of the session. By default it is random.
    #[must_use]
    pub const fn with_jitter_seed(mut self, seed: u64) -> Self {
        self.jitter = self.jitter.with_seed(seed);
        self
    }
}

impl<S> Layer<S> for MaxAgeLayer {
    type Service = MaxAge<S>;

    fn layer(&self, inner: S) -> MaxAge<S> {
        Configured::new(inner, self.clone())
    }
}

/// Service of [`MaxAgeLayer`].
pub type MaxAge<S> = Configured<S, MaxAgeLayer>;

impl<T> Configure<T> for MaxAgeLayer {
    fn configure(&self, connection: &Connection<T>) {
        let handle = connection.handle();
        let Self { max, jitter } = *self;
        if let Some(end) = handle.opened_at().checked_add(jitter.shorten(max, handle)) {
            // The session loop runs all deadlines with one timer (design.md: Why do layers register
            // deadlines and not timers?).
            handle.schedule(end, |handle, _| {
                handle.close_with(CloseReason::LifetimeExpired);
                None
            });
        }
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_test::assert_layer_contract;
    use tokio_test::task;
    use tower::{Service, service_fn};

    use super::*;
    use crate::testing::{drive, framed};

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&MaxAgeLayer::new(HOUR), || Connection::new(())).await;
    }

    #[test]
    fn one_deadline_closes_the_session_at_the_maximum_age() {
        for (layer, end) in [
            (MaxAgeLayer::new(HOUR), Some(HOUR)),
            (MaxAgeLayer::new(Duration::ZERO), Some(Duration::ZERO)),
            (MaxAgeLayer::new(Duration::MAX), None),
        ] {
            let mut service = layer.layer(service_fn(|connection| async {
                let (mut driver, _guard) = drive(connection);
                let next = driver.next_deadline();
                next.into_iter().for_each(|end| driver.run_deadlines(end));
                assert_eq!(driver.next_deadline(), None);
                let opened = driver.session().opened_at();
                Ok::<_, ()>((next.map(|end| end - opened), driver.session().reason()))
            }));
            let seen = tokio_test::assert_ready_ok!(task::spawn(service.call(framed())).poll());
            assert_eq!(seen, (end, end.map(|_| CloseReason::LifetimeExpired)));
        }
    }
}
