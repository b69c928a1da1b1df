//! Calls a fresh clone of the inner service each time.
//!
//! - *ready*: clones the inner service and is ready when the clone is.
//! - *call*: calls the clone that was polled ready, then drops it. The drop gives back what
//!   `poll_ready` has reserved and `call` did not use such as a permit or a position in the
//!   queue of a limit.
//! - *drop*: drops the current clone.
//! - *close*: nothing.
//!
//! Scope: the state that clones of the inner service share. It accepts any request type, so it
//! works for connections, messages and the calls of a client.
//!
//! tower's `LoadShed` sheds a request while the limit inside it continues to wait for a permit.
//! `Steer` polls all its services ready and calls one. Such a service keeps the permit until
//! its next call, which may be hours later. [`serve_all`] and `SessionLayer::new` replace the
//! service automatically. Use this layer for stacks that they do not clone: around a shared
//! limit in a stack that `SessionLayer::per_session` creates and around a part of the stack
//! that several `serve` share.
//!
//! The inner service must be `Clone`. State inside a clone, such as a counter in a closure, is
//! lost after each call. Each call costs one clone.
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

/// Service of [`ClonePerCallLayer`].
#[derive(Debug)]
pub struct ClonePerCall<S> {
    /// Original, which is cloned and never polled.
    inner: S,
    /// Clone that was polled ready, from `poll_ready` to `call`.
    ready: Option<S>,
}

impl<S> ClonePerCall<S> {
    /// Creates a new service that clones `inner` for each call.
    pub const fn new(inner: S) -> Self {
        Self { inner, ready: None }
    }

    /// Returns a reference to the service that is cloned for each call.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the service that is cloned for each call. A change applies to
    /// the next clone.
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
        self.ready
            .get_or_insert_with(|| self.inner.clone())
            .poll_ready(cx)
    }

    /// Calls the clone that was polled ready.
    ///
    /// # Panics
    ///
    /// Panics if the service was not polled ready.
    fn call(&mut self, request: R) -> S::Future {
        let Some(mut ready) = self.ready.take() else {
            panic!("`ClonePerCall` was called without having been polled ready");
        };
        ready.call(request)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::sync::Arc;

    use getty_test::assert_layer_contract;
    use tokio::sync::Semaphore;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, ServiceBuilder, limit::GlobalConcurrencyLimitLayer, service_fn};
    use tower_test::mock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&ClonePerCallLayer::new(), || "hello").await;
    }

    #[test]
    fn call_gives_back_unused_reservations() {
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
        // A drop gives back a permit that was reserved and not used.
        assert_ready_ok!(service.poll_ready());
        assert_eq!(permits.available_permits(), 0);
        drop(service);
        assert_eq!(permits.available_permits(), 1);
    }

    #[test]
    #[should_panic(expected = "without having been polled ready")]
    fn call_without_readiness_panics() {
        let mut service = ClonePerCall::new(service_fn(|()| async { Ok::<_, BoxError>(()) }));
        drop(service.call(()));
    }
}
