//! Calls a fresh clone of the inner service each time.
//!
//! - *ready*: makes a clone of the inner service, and is ready when the clone is.
//! - *call*: calls the clone that was polled ready, and drops it. The drop gives back what
//!   `poll_ready` reserved and `call` did not use: a permit, or a position in the queue of a limit.
//! - *drop*: drops the clone at hand.
//! - *close*: nothing.
//!
//! Scope: all that the inner service's clones share. It takes any request, so it fits connections,
//! messages and the calls of a client.
//!
//! tower's `LoadShed` refuses while the limit inside goes on waiting for a permit. `Steer` polls
//! all its services ready and calls one. Such a service keeps the permit until its next call, which
//! may be hours away. [`serve_all`] and `SessionLayer::new` replace the service automatically. This
//! layer is for stacks that they do not clone: around a shared limit in a stack that
//! `SessionLayer::per_session` makes, and around the part of a stack that several `serve` share.
//!
//! The inner service must be `Clone`. State inside a clone, such as a counter in a closure, does
//! not last from one call to the next. Each call costs one clone.
//!
//! [`serve_all`]: https://docs.rs/getty/latest/getty/fn.serve_all.html
//!
//! ```
//! use std::sync::Arc;
//!
//! use getty_layers::ClonePerCallLayer;
//! use tokio::sync::Semaphore;
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt, limit::GlobalConcurrencyLimitLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let permits = Arc::new(Semaphore::new(1));
//! let mut stack = ServiceBuilder::new()
//!     .layer(ClonePerCallLayer::new())
//!     .load_shed()
//!     .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
//!     .service_fn(|_: ()| std::future::pending::<Result<(), BoxError>>());
//!
//! let first = stack.ready().await?.call(());
//! let refused = stack.ready().await?.call(()).await;
//! assert_eq!(refused.unwrap_err().to_string(), "service overloaded");
//! drop(first);
//! assert_eq!(permits.available_permits(), 1);
//! # Ok(())
//! # }
//! ```

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

/// Calls a fresh clone of the inner service each time; see the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct ClonePerCallLayer(());

impl ClonePerCallLayer {
    /// Creates a new `ClonePerCallLayer`.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for ClonePerCallLayer {
    type Service = ClonePerCall<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClonePerCall::new(inner)
    }
}

/// The service that [`ClonePerCallLayer`] makes.
#[derive(Debug)]
pub struct ClonePerCall<S> {
    /// The original, which is cloned and never polled.
    inner: S,
    /// The clone that is polled ready, from `poll_ready` to `call`.
    at_hand: Option<S>,
}

impl<S> ClonePerCall<S> {
    /// Wraps `inner`.
    pub const fn new(inner: S) -> Self {
        Self {
            inner,
            at_hand: None,
        }
    }

    /// Returns the service that is cloned for each call.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the service that is cloned for each call. A change takes effect with the next clone.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the service that is cloned for each call, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone> Clone for ClonePerCall<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

impl<S, R> Service<R> for ClonePerCall<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Polls a clone ready, which may reserve a permit. A call uses the permit or gives it back,
    /// and a drop gives it back.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.at_hand
            .get_or_insert_with(|| self.inner.clone())
            .poll_ready(cx)
    }

    /// # Panics
    ///
    /// Panics if the service was not polled ready.
    fn call(&mut self, request: R) -> S::Future {
        let Some(mut ready) = self.at_hand.take() else {
            panic!("`ClonePerCall` was called without having been polled ready");
        };
        ready.call(request)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, ServiceBuilder, limit::GlobalConcurrencyLimitLayer, service_fn};
    use tower_test::mock;

    use super::*;
    use crate::testing::assert_readiness;

    #[test]
    fn it_is_ready_when_the_inner_service_is_and_a_clone_is_not() {
        assert_readiness::<_, &str, (), _>(&ClonePerCallLayer::new(), || "hello");
    }

    #[test]
    fn after_a_call_nothing_that_was_reserved_is_kept() {
        let permits = Arc::new(Semaphore::new(1));
        let mut service = mock::Spawn::new(
            ServiceBuilder::new()
                .layer(ClonePerCallLayer::new())
                .load_shed()
                .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
                .service(service_fn(|()| {
                    std::future::pending::<Result<(), BoxError>>()
                })),
        );
        assert_ready_ok!(service.poll_ready());
        let mut first = task::spawn(service.call(()));
        assert_pending!(first.poll());
        assert_ready_ok!(service.poll_ready());
        assert_ready_err!(task::spawn(service.call(())).poll());
        drop(first);
        assert_eq!(permits.available_permits(), 1);
        // reserved and not used
        assert_ready_ok!(service.poll_ready());
        assert_eq!(permits.available_permits(), 0);
        drop(service);
        assert_eq!(permits.available_permits(), 1);
    }

    #[test]
    #[should_panic(expected = "without having been polled ready")]
    fn a_call_without_readiness_panics() {
        let mut service = ClonePerCall::new(service_fn(|()| async { Ok::<_, BoxError>(()) }));
        drop(service.call(()));
    }
}
