//! Runs each call on a task of its own.
//!
//! - *ready*: when the inner service is, and there is room for one more task: a permit is taken, which the next call
//!   hands to its task. A service that is dropped gives its permit back.
//! - *call*: calls the inner service at once, in the caller's task, and spawns its future. The permit is given back when
//!   that future has ended and is gone.
//! - *drop*: aborts the task, unless the layer is [detached](SpawnLayer::detached): the handler then runs to its end, and
//!   its answer and its error are lost.
//! - *close*: a close lets handlers in flight finish until the drain deadline, then it is a drop.
//!
//! Scope: process. The permits are shared by all clones of the layer and of its services, so by all sessions of a stack.
//! For a bound of each session's own make the layer within the make-service of `SessionLayer::per_session`.
//!
//! What a handler does on a task of its own does not hold up its session's reading, writing and timers, and the handlers
//! of one session may use several cores: it is for handlers that compute for longer than some 100 µs at a time. They must
//! not block there either; that is what [`spawn_blocking`](tokio::task::spawn_blocking) is for.
//!
//! Replies keep the order of their requests as with any handler. A session has one call at a time unless
//! `SessionLayer::in_flight` gives it more.
//!
//! A panic of the handler goes on in the task that awaits its answer, as if it had run there: it ends the session as
//! `Panicked`. When detached and nobody awaits it any more, the panic hook alone has seen it.
//!
//! In a stack it stands inside `SessionLayer`; inside `HandleErrorLayer` and tower's `load_shed` and `timeout`, which
//! then cut off the task, too; outside whatever is to run on the task, although only futures do: `call` itself runs in the
//! session's. It costs a spawn and an allocation a message, and a runtime of tokio to spawn on.
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
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::sync::PollSemaphore;
use tower_layer::Layer;
use tower_service::Service;

/// Runs each call on a task of its own; see the [module](self).
#[derive(Clone, Debug)]
pub struct SpawnLayer {
    permits: Arc<Semaphore>,
    detached: bool,
}

impl SpawnLayer {
    /// At most so many tasks at a time, for this layer and all clones of it together. 0 means 1.
    #[must_use]
    pub fn new(tasks: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(tasks.clamp(1, Semaphore::MAX_PERMITS))),
            detached: false,
        }
    }

    /// A handler that was begun runs to its end, whatever becomes of its session. Aborted with the session by default.
    #[must_use]
    pub const fn detached(mut self) -> Self {
        self.detached = true;
        self
    }
}

impl<S> Layer<S> for SpawnLayer {
    type Service = Spawn<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Spawn {
            inner,
            permits: PollSemaphore::new(Arc::clone(&self.permits)),
            permit: None,
            detached: self.detached,
        }
    }
}

/// The service that [`SpawnLayer`] makes.
pub struct Spawn<S> {
    inner: S,
    permits: PollSemaphore,
    permit: Option<OwnedSemaphorePermit>,
    detached: bool,
}

impl<S> Spawn<S> {
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

impl<S: Clone> Clone for Spawn<S> {
    /// The clone has no permit, even if this service has one.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            permits: self.permits.clone(),
            permit: None,
            detached: self.detached,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Spawn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawn")
            .field("inner", &self.inner)
            .field("permits", &self.permits)
            .field("permit", &self.permit)
            .field("detached", &self.detached)
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

    /// Reserves what the inner service reserves, then a permit; both are given back when the service is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // the permit last: a session that has to wait for something of its own keeps none from the others
        ready!(self.inner.poll_ready(cx))?;
        if self.permit.is_none() {
            self.permit = ready!(self.permits.poll_acquire(cx));
            debug_assert!(self.permit.is_some(), "nobody closes the semaphore");
        }
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// When the service was not ready, and outside of a tokio runtime.
    fn call(&mut self, request: R) -> Self::Future {
        let Some(permit) = self.permit.take() else {
            panic!("a service was called before it was ready");
        };
        let future = self.inner.call(request);
        ResponseFuture {
            task: Some(tokio::spawn(async move {
                let answer = future.await;
                drop(permit);
                answer
            })),
            detached: self.detached,
        }
    }
}

/// The future of [`Spawn`].
#[must_use = "dropped, it aborts its task or detaches it"]
pub struct ResponseFuture<T, E> {
    /// None once the runtime has cancelled it.
    task: Option<JoinHandle<Result<T, E>>>,
    detached: bool,
}

impl<T, E> Future for ResponseFuture<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.task else {
            return Poll::Pending;
        };
        match ready!(Pin::new(task).poll(cx)) {
            Ok(answer) => Poll::Ready(answer),
            Err(error) => match error.try_into_panic() {
                Ok(payload) => resume_unwind(payload),
                Err(_) => {
                    // the runtime shuts down, and drops whoever awaits this as well
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
            && !self.detached
        {
            task.abort();
        }
    }
}

impl<T, E> fmt::Debug for ResponseFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("task", &self.task.as_ref().map(JoinHandle::id))
            .field("detached", &self.detached)
            .finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        future::pending,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use tokio::{runtime, task::yield_now};
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, Service, service_fn};
    use tower_test::mock;

    use super::*;

    /// Lets the tasks of the test's one thread run.
    async fn others() {
        for _ in 0..4 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_answer_and_an_error_pass_through() {
        let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(SpawnLayer::new(1));
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call("hello"));
        let (request, inner) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(request, "hello");
        others().await;
        assert_pending!(response.poll());
        inner.send_response("answer");
        others().await;
        assert!(response.is_woken());
        assert_eq!(assert_ready_ok!(response.poll()), "answer");

        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call("again"));
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        inner.send_error("too bad");
        others().await;
        assert_eq!(assert_ready_err!(response.poll()).to_string(), "too bad");
    }

    #[tokio::test]
    async fn the_future_runs_whether_or_not_it_is_awaited() {
        let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(SpawnLayer::new(1));
        assert_ready_ok!(service.poll_ready());
        let response = service.call("hello");
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        inner.send_response("answer");
        others().await;
        // the permit is back: the task has ended, although nobody has polled the response
        assert_ready_ok!(service.poll_ready());
        assert_eq!(response.await.unwrap(), "answer");
    }

    #[tokio::test]
    async fn it_is_not_ready_before_the_inner_service_is_and_takes_no_permit_until_then() {
        let layer = SpawnLayer::new(1);
        let permits = Arc::clone(&layer.permits);
        let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer);
        handle.allow(0);
        assert_pending!(service.poll_ready());
        assert_eq!(permits.available_permits(), 1);
        handle.allow(1);
        assert!(service.is_woken());
        assert_ready_ok!(service.poll_ready());
        assert_eq!(permits.available_permits(), 0);

        handle.send_error("worker gone");
        let mut clone = service.clone();
        assert_ready_err!(clone.poll_ready());
    }

    #[tokio::test]
    async fn clones_wait_for_one_anothers_tasks_and_for_permits_not_yet_used() {
        let layer = SpawnLayer::new(1);
        let (mut first, mut handle) = mock::spawn_layer::<&str, &str, _>(layer);
        let mut second = first.clone();
        assert_ready_ok!(first.poll_ready());
        assert_pending!(second.poll_ready());
        // given back by a service that goes without having called
        drop(first);
        assert!(second.is_woken());
        assert_ready_ok!(second.poll_ready());

        let mut third = second.clone();
        let response = second.call("hello");
        assert_pending!(third.poll_ready());
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        inner.send_response("answer");
        assert_eq!(response.await.unwrap(), "answer");
        assert!(third.is_woken());
        assert_ready_ok!(third.poll_ready());
    }

    #[tokio::test]
    #[should_panic(expected = "before it was ready")]
    async fn a_clone_of_a_ready_service_is_not_ready() {
        let (mut service, _handle) = mock::spawn_layer::<&str, &str, _>(SpawnLayer::new(2));
        assert_ready_ok!(service.poll_ready());
        drop(service.clone().call("hello"));
    }

    /// A service whose futures never end, and whose captured value tells whether one is alive.
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
    async fn a_future_that_is_dropped_aborts_its_task_and_gives_the_permit_back() {
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
    async fn a_detached_task_outlives_its_future_and_keeps_its_permit_until_its_end() {
        let layer = SpawnLayer::new(1).detached();
        let permits = Arc::clone(&layer.permits);
        let (mut service, mut handle) = mock::spawn_layer::<&str, &str, _>(layer);
        assert_ready_ok!(service.poll_ready());
        drop(service.call("hello"));
        others().await;
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(permits.available_permits(), 0);
        inner.send_response("nobody hears this");
        others().await;
        assert_eq!(permits.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_panic_goes_on_where_the_answer_is_awaited_and_gives_the_permit_back() {
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
    fn a_runtime_that_shuts_down_leaves_the_answer_pending() {
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
    fn absurd_bounds_are_made_sensible() {
        for (tasks, permits) in [(0, 1), (7, 7), (usize::MAX, Semaphore::MAX_PERMITS)] {
            assert_eq!(SpawnLayer::new(tasks).permits.available_permits(), permits);
        }
    }
}
