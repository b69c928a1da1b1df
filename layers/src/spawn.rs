//! Runs each call in a separate task.
//!
//! - *ready*: when the inner service is ready and there is a permit for one more task. The next
//!   call passes the permit to its task. A drop gives the permit back.
//! - *call*: calls the inner service at once, in the caller's task, and spawns its future. The
//!   permit is released when that future is complete and dropped.
//! - *drop*: aborts the task. With
//!   [`with_abort_on_drop(false)`](SpawnLayer::with_abort_on_drop) the handler continues to its
//!   end, and its response or error is lost.
//! - *close*: handlers in flight may finish until the drain deadline, which then drops their
//!   futures.
//!
//! Scope: process. All clones of the layer and of its services share the permits, so all
//! sessions of a stack do. For a limit per session, create the layer in the make-service of
//! `SessionLayer::per_session`.
//!
//! A handler in a separate task does not delay the reads, writes and timers of its session, and
//! handlers of one session may use several cores. Use this layer for handlers that compute for
//! longer than some 100 µs at a time. They must still not block; use
//! [`spawn_blocking`](tokio::task::spawn_blocking) for that.
//!
//! Replies keep the order of their requests, as with any handler. A session has one call in
//! flight, unless `SessionLayer::with_in_flight` allows more.
//!
//! A panic of the handler is resumed in the task that awaits the response, as if the handler
//! had run there. It ends the session as `Panicked`. If the future was dropped and the task was
//! not aborted, only the panic hook observes the panic.
//!
//! Place it inside `SessionLayer`, `HandleErrorLayer` and tower's `load_shed` and `timeout`,
//! which then abort the task as well. Place it outside everything that should run in the task.
//! Only futures run there; `call` itself runs in the session's task. Each message costs a spawn
//! and an allocation. The layer requires a tokio runtime.
//!
//! ```
//! use getty_core::{Connection, Request, driver};
//! use getty_layers::SpawnLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let caller = tokio::task::try_id();
//! let stack = ServiceBuilder::new()
//!     .layer(SpawnLayer::new(64))
//!     .service_fn(move |request: Request<String>| async move {
//!         assert_ne!(tokio::task::try_id(), caller);
//!         Ok::<_, BoxError>(request.into_message())
//!     });
//!
//! let connection = Connection::new("any transport");
//! let (session, _driver) = driver::pair(connection.handle().clone());
//! assert_eq!(stack.oneshot(Request::new("hello".to_owned(), session)).await?, "hello");
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::sync::{InFlightLimit, Permit};
use tokio::task::JoinHandle;
use tower_layer::Layer;
use tower_service::Service;

/// Runs each call in a separate task; see the [module](self).
#[doc(alias = "offload")]
#[derive(Clone, Debug)]
pub struct SpawnLayer {
    permits: InFlightLimit,
    abort_on_drop: bool,
}

impl SpawnLayer {
    /// Creates a new layer that allows at most `tasks` tasks at a time, for this layer and all its
    /// clones together. Zero means 1.
    #[must_use]
    pub fn new(tasks: usize) -> Self {
        Self {
            permits: InFlightLimit::new(tasks.clamp(1, InFlightLimit::MAX)),
            abort_on_drop: true,
        }
    }

    /// Sets whether the task is aborted when its future is dropped, for example at the end of the
    /// session. The default is `true`.
    ///
    /// With `false` a handler that has started continues to its end.
    #[must_use]
    pub const fn with_abort_on_drop(mut self, abort: bool) -> Self {
        self.abort_on_drop = abort;
        self
    }
}

impl<S> Layer<S> for SpawnLayer {
    type Service = Spawn<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Spawn {
            inner,
            permits: self.permits.clone(),
            permit: None,
            abort_on_drop: self.abort_on_drop,
        }
    }
}

/// Service of [`SpawnLayer`].
pub struct Spawn<S> {
    inner: S,
    permits: InFlightLimit,
    permit: Option<Permit>,
    abort_on_drop: bool,
}

impl<S> Spawn<S> {
    getty_core::inner_service_accessors!();
}

impl<S: Clone> Clone for Spawn<S> {
    /// Clones the service without its permit.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            permits: self.permits.clone(),
            permit: None,
            abort_on_drop: self.abort_on_drop,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Spawn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawn")
            .field("inner", &self.inner)
            .field("permits", &self.permits)
            .field("permit", &self.permit)
            .field("abort_on_drop", &self.abort_on_drop)
            .finish()
    }
}

impl<S, R> Service<R> for Spawn<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Response, S::Error>;

    /// Polls the inner service, then acquires a permit. A drop gives both back.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // The permit is acquired last, so that a service that waits for something else keeps no
        // permit from other sessions.
        ready!(self.inner.poll_ready(cx))?;
        if self.permit.is_none() {
            self.permit = Some(ready!(self.permits.poll_acquire(cx)));
        }
        Poll::Ready(Ok(()))
    }

    /// Spawns the future of the inner service.
    ///
    /// # Panics
    ///
    /// Panics if the service was not polled ready or outside a tokio runtime.
    fn call(&mut self, request: R) -> Self::Future {
        let Some(permit) = self.permit.take() else {
            panic!("a service was called without having been polled ready");
        };
        let future = self.inner.call(request);
        ResponseFuture {
            task: Some(tokio::spawn(async move {
                let response = future.await;
                drop(permit);
                response
            })),
            abort_on_drop: self.abort_on_drop,
        }
    }
}

/// Future of [`Spawn`].
#[must_use = "a drop aborts the task, or loses its response"]
pub struct ResponseFuture<T, E> {
    /// Task of the call, or `None` after the runtime has cancelled it.
    task: Option<JoinHandle<Result<T, E>>>,
    abort_on_drop: bool,
}

impl<T, E> Future for ResponseFuture<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.task else {
            return Poll::Pending;
        };
        match ready!(Pin::new(task).poll(cx)) {
            Ok(response) => Poll::Ready(response),
            Err(error) => match error.try_into_panic() {
                Ok(payload) => resume_unwind(payload),
                Err(_) => {
                    // The runtime shuts down and drops the caller of this future as well.
                    self.task = None;
                    Poll::Pending
                }
            },
        }
    }
}

impl<T, E> Drop for ResponseFuture<T, E> {
    fn drop(&mut self) {
        if let Some(task) = &self.task
            && self.abort_on_drop
        {
            task.abort();
        }
    }
}

impl<T, E> fmt::Debug for ResponseFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("task", &self.task.as_ref().map(JoinHandle::id))
            .field("abort_on_drop", &self.abort_on_drop)
            .finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        future::pending,
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Arc,
    };

    use getty_test::assert_layer_contract;
    use tokio::{runtime, task::yield_now};
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, Service, service_fn};
    use tower_test::mock;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&SpawnLayer::new(9), || "hello").await;
    }

    /// Lets the other tasks of the test's thread run.
    async fn others() {
        for _ in 0..4 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn responses_and_errors_pass_through() {
        let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(SpawnLayer::new(1));
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call("hello"));
        let (request, inner) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(request, "hello");
        others().await;
        assert_pending!(response.poll());
        inner.send_response("response");
        others().await;
        assert!(response.is_woken());
        assert_eq!(assert_ready_ok!(response.poll()), "response");

        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call("again"));
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        inner.send_error("handler failed");
        others().await;
        assert_eq!(
            assert_ready_err!(response.poll()).to_string(),
            "handler failed"
        );
    }

    #[tokio::test]
    async fn future_runs_even_if_it_is_not_awaited() {
        let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(SpawnLayer::new(1));
        assert_ready_ok!(service.poll_ready());
        let response = service.call("hello");
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        inner.send_response("response");
        others().await;
        // The permit was released, so the task has ended although the response was not polled.
        assert_ready_ok!(service.poll_ready());
        assert_eq!(response.await.unwrap(), "response");
    }

    #[tokio::test]
    async fn no_permit_is_taken_before_the_inner_service_is_ready() {
        let layer = SpawnLayer::new(1);
        let permits = layer.permits.clone();
        let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer);
        handle.allow(0);
        assert_pending!(service.poll_ready());
        assert_eq!(permits.free(), 1);
        handle.allow(1);
        assert!(service.is_woken());
        assert_ready_ok!(service.poll_ready());
        assert_eq!(permits.free(), 0);

        handle.send_error("worker gone");
        let mut clone = service.clone();
        assert_ready_err!(clone.poll_ready());
    }

    #[tokio::test]
    async fn clones_wait_for_tasks_and_unused_permits_of_each_other() {
        let layer = SpawnLayer::new(1);
        let (mut first, mut handle) = mock::spawn_layer::<&str, &str, _>(layer);
        let mut second = first.clone();
        assert_ready_ok!(first.poll_ready());
        assert_pending!(second.poll_ready());
        // A dropped service gives its unused permit back.
        drop(first);
        assert!(second.is_woken());
        assert_ready_ok!(second.poll_ready());

        let mut third = second.clone();
        let response = second.call("hello");
        assert_pending!(third.poll_ready());
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        inner.send_response("response");
        assert_eq!(response.await.unwrap(), "response");
        assert!(third.is_woken());
        assert_ready_ok!(third.poll_ready());
    }

    #[tokio::test]
    #[should_panic(expected = "without having been polled ready")]
    async fn clone_of_a_ready_service_is_not_ready() {
        let (mut service, _handle) = mock::spawn_layer::<&str, &str, _>(SpawnLayer::new(2));
        assert_ready_ok!(service.poll_ready());
        drop(service.clone().call("hello"));
    }

    /// Returns a service whose futures never end. Each future holds a clone of `held`.
    fn endless(
        held: &Arc<()>,
    ) -> impl Service<(), Response = (), Error = BoxError, Future: Send + 'static> + use<> {
        let held = Arc::downgrade(held);
        service_fn(move |()| {
            let held = held.upgrade();
            async move {
                pending::<()>().await;
                drop(held);
                Ok::<_, BoxError>(())
            }
        })
    }

    #[tokio::test]
    async fn dropped_future_aborts_its_task_and_releases_the_permit() {
        let held = Arc::new(());
        let mut service = task::spawn(SpawnLayer::new(1).layer(endless(&held)));
        assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
        let response = service.call(());
        others().await;
        assert_eq!(Arc::strong_count(&held), 2);
        assert_pending!(service.enter(|cx, mut service| service.poll_ready(cx)));
        drop(response);
        others().await;
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(service.is_woken());
        assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
    }

    #[tokio::test]
    async fn task_without_abort_outlives_its_future_and_keeps_its_permit() {
        let layer = SpawnLayer::new(1).with_abort_on_drop(false);
        let permits = layer.permits.clone();
        let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer);
        assert_ready_ok!(service.poll_ready());
        drop(service.call("hello"));
        others().await;
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(permits.free(), 0);
        inner.send_response("this response is lost");
        others().await;
        assert_eq!(permits.free(), 1);
    }

    #[tokio::test]
    async fn panic_is_resumed_in_the_awaiting_task_and_releases_the_permit() {
        let mut service = task::spawn(SpawnLayer::new(1).layer(service_fn(
            |message: &'static str| {
                assert!(message != "panic", "a bad handler");
                async move {
                    assert!(message != "late", "a bad future");
                    Ok::<_, BoxError>(())
                }
            },
        )));
        for (message, expected) in [("panic", "a bad handler"), ("late", "a bad future")] {
            assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
            let caught = match catch_unwind(AssertUnwindSafe(|| service.call(message))) {
                Err(caught) => caught,
                Ok(response) => {
                    others().await;
                    let mut response = task::spawn(response);
                    catch_unwind(AssertUnwindSafe(|| response.poll().is_ready())).unwrap_err()
                }
            };
            assert_eq!(*caught.downcast_ref::<&str>().unwrap(), expected);
        }
        assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
    }

    #[test]
    fn runtime_shutdown_leaves_the_response_pending() {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let held = Arc::new(());
        let mut service = task::spawn(SpawnLayer::new(1).layer(endless(&held)));
        let guard = runtime.enter();
        assert_ready_ok!(service.enter(|cx, mut service| service.poll_ready(cx)));
        let mut response = task::spawn(service.call(()));
        drop(guard);
        drop(runtime);
        assert_pending!(response.poll());
        assert_pending!(response.poll());
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn limits_are_clamped() {
        for (tasks, permits) in [(0, 1), (7, 7), (usize::MAX, InFlightLimit::MAX)] {
            assert_eq!(SpawnLayer::new(tasks).permits.free(), permits);
        }
    }
}
