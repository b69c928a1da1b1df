//! Closes a session when it has reached a maximum age.
//!
//! For load that is to spread again after servers were added, credentials that are to be shown again, leaks of others
//! that are to be bounded.
//!
//! - *ready*: the inner service's.
//! - *call*: registers one look at the session's clock, calls the inner service; no timer of its own, nothing a message.
//! - *drop*: drops the inner future.
//! - *close*: at that age the session closes gracefully, as [`CloseReason::LifetimeExpired`]: handlers in flight finish,
//!   what was accepted for sending is flushed, until the drain deadline. tower's `timeout` in this place would cut the
//!   connection off in the middle of a message.
//!
//! The age counts from accept or connect on ([`opened_at`](getty_core::ConnectionHandle::opened_at)). A session that is too
//! old before it opens closes as soon as the session loop has it; time before that is
//! [`HandshakeTimeoutLayer`](crate::HandshakeTimeoutLayer)'s.
//!
//! Scope: session. It may stand anywhere outside `SessionLayer`.
//!
//! ```
//! use std::{task::{Context, Waker}, time::Duration};
//!
//! use getty_core::{CloseReason, Connection, driver};
//! use getty_layers::LifetimeLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! const HOUR: Duration = Duration::from_secs(3600);
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(LifetimeLayer::new(HOUR).with_jitter(0.1))
//!     // what the session loop does with it, in place of it
//!     .service_fn(|connection: Connection<&'static str>| async move {
//!         let (session, mut driver) = driver::pair::<String>(connection.handle().clone());
//!         driver.turn(&Context::from_waker(Waker::noop()));
//!         let end = driver.next_check().ok_or("nothing to look for")?;
//!         driver.run_checks(end);
//!         assert_eq!(session.reason(), Some(CloseReason::LifetimeExpired));
//!         Ok::<_, BoxError>(end - session.opened_at())
//!     });
//! let lifetime = stack.oneshot(Connection::new("any transport")).await?;
//! assert!(lifetime >= HOUR * 9 / 10 && lifetime <= HOUR);
//! # Ok(())
//! # }
//! ```

use std::{
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{CloseReason, Connection};
use tower_layer::Layer;
use tower_service::Service;

use crate::jitter::Jitter;

/// Closes a session at a maximum age; see the [module](self).
#[derive(Clone, Debug)]
pub struct LifetimeLayer {
    max: Duration,
    jitter: Jitter,
}

impl LifetimeLayer {
    /// A session closes `max` after its connection was accepted. Zero closes it as soon as it opens; a time too long to
    /// be told never.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        Self {
            max,
            jitter: Jitter::new(0.0),
        }
    }

    /// Sessions close up to this part of the maximum age earlier, each by its own, so that clients which came together
    /// do not all come back together. From 0, the default, to 1.
    #[must_use]
    pub const fn with_jitter(mut self, fraction: f64) -> Self {
        self.jitter = Jitter::new(fraction);
        self
    }
}

impl<S> Layer<S> for LifetimeLayer {
    type Service = Lifetime<S>;

    fn layer(&self, inner: S) -> Lifetime<S> {
        Lifetime {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`LifetimeLayer`] makes.
#[derive(Clone, Debug)]
pub struct Lifetime<S> {
    inner: S,
    layer: LifetimeLayer,
}

impl<S> Lifetime<S> {
    /// Wraps `inner`, as [`LifetimeLayer::new`] does.
    pub const fn new(inner: S, max: Duration) -> Self {
        Self {
            inner,
            layer: LifetimeLayer::new(max),
        }
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

impl<S, T> Service<Connection<T>> for Lifetime<S>
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
        let handle = connection.handle();
        let LifetimeLayer { max, jitter } = self.layer;
        if let Some(end) = handle
            .opened_at()
            .checked_add(jitter.shorten(max, handle.id()))
        {
            handle.check_at(end, |handle, _| {
                handle.close_with(CloseReason::LifetimeExpired);
                None
            });
        }
        self.inner.call(connection)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use tokio_test::task;
    use tower::service_fn;

    use super::*;
    use crate::testing::{assert_transparent, drive, framed};

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn around_a_service_it_is_transparent() {
        assert_transparent(&LifetimeLayer::new(HOUR), || Connection::new(()));
    }

    #[test]
    fn there_is_one_look_at_the_end_and_it_closes() {
        for (layer, end) in [
            (LifetimeLayer::new(HOUR), Some(HOUR)),
            (LifetimeLayer::new(Duration::ZERO), Some(Duration::ZERO)),
            (LifetimeLayer::new(Duration::MAX), None),
        ] {
            let mut service = layer.layer(service_fn(|connection| async {
                let (mut driver, _lease) = drive(connection);
                let next = driver.next_check();
                next.into_iter().for_each(|end| driver.run_checks(end));
                assert_eq!(driver.next_check(), None);
                let opened = driver.session().opened_at();
                Ok::<_, ()>((next.map(|end| end - opened), driver.session().reason()))
            }));
            let seen = tokio_test::assert_ready_ok!(task::spawn(service.call(framed())).poll());
            assert_eq!(seen, (end, end.map(|_| CloseReason::LifetimeExpired)));
        }
    }
}
