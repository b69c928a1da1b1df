//! Bounds the time until a session is open.
//!
//! Layers that do I/O before the session, such as handshakes and hooks that greet, wait for a peer that may never
//! answer; and a connection may wait in somebody's queue. This layer is the deadline for all of it together: from accept
//! ([`opened_at`](ConnectionHandle::opened_at)) until the session loop opens the session.
//!
//! - *ready*: the inner service's. A connection that is accepted and waits for it has its time running.
//! - *call*: calls the inner service and times its future.
//! - *drop*: drops the inner future.
//! - *close*: when the time has passed and the session is not open, the inner future is dropped, and with it the
//!   connection, which closes as [`CloseReason::HandshakeTimeout`]; the future fails with [`HandshakeTimedOut`]. A
//!   session that has opened is left alone, and costs nothing any more: the timer is gone.
//!
//! Scope: session. It stands outside of everything that may take its time: first in the stack, or next to layers that
//! only look. Where it stands inside of a layer that does I/O, nobody times that layer.
//!
//! ```
//! use std::{future::pending, time::Duration};
//!
//! use getty_core::{CloseReason, Connection};
//! use getty_layers::{HandshakeTimeoutLayer, handshake_timeout::HandshakeTimedOut};
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let stack = ServiceBuilder::new()
//!     .layer(HandshakeTimeoutLayer::new(Duration::from_secs(3)))
//!     .service_fn(|connection: Connection<&'static str>| async move {
//!         let never = pending::<()>().await; // a handshake whose peer says nothing
//!         drop(connection);
//!         Ok::<_, BoxError>(never)
//!     });
//! let connection = Connection::new("any transport");
//! let handle = connection.handle().clone();
//! let error = stack.oneshot(connection).await.unwrap_err();
//! assert!(error.is::<HandshakeTimedOut>());
//! assert_eq!(handle.closed().await.reason, CloseReason::HandshakeTimeout);
//! # }
//! ```

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use getty_core::{CloseReason, Connection, ConnectionHandle};

type BoxError = Box<dyn Error + Send + Sync>;

/// Bounds the time until a session is open; see the [module](self).
#[derive(Clone, Debug)]
pub struct HandshakeTimeoutLayer {
    timeout: Duration,
}

impl HandshakeTimeoutLayer {
    /// How long it may take by [default](Self::default).
    pub const DEFAULT: Duration = Duration::from_secs(10);

    /// A session must be open within `timeout` of its accept. Zero admits none; a time too long to be told is no bound.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl Default for HandshakeTimeoutLayer {
    /// 10 s.
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl<S> Layer<S> for HandshakeTimeoutLayer {
    type Service = HandshakeTimeout<S>;

    fn layer(&self, inner: S) -> HandshakeTimeout<S> {
        HandshakeTimeout::new(inner, self.timeout)
    }
}

/// The service that [`HandshakeTimeoutLayer`] makes.
#[derive(Clone, Debug)]
pub struct HandshakeTimeout<S> {
    inner: S,
    timeout: Duration,
}

impl<S> HandshakeTimeout<S> {
    /// Wraps `inner`, as [`HandshakeTimeoutLayer::new`] does.
    pub const fn new(inner: S, timeout: Duration) -> Self {
        Self { inner, timeout }
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

impl<S, T> Service<Connection<T>> for HandshakeTimeout<S>
where
    S: Service<Connection<T>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let handle = connection.handle();
        let timing = handle.opened_at().checked_add(self.timeout).map(|end| {
            Box::new(Timing {
                sleep: sleep_until(end),
                handle: handle.clone(),
                timeout: self.timeout,
            })
        });
        ResponseFuture {
            inner: Some(self.inner.call(connection)),
            timing: timing.map(Box::into_pin),
        }
    }
}

pin_project! {
    /// The future of [`HandshakeTimeout`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        // apart, because it is needed for a short time of a long life
        timing: Option<Pin<Box<Timing>>>,
    }
}

pin_project! {
    /// What there is until the session is open.
    struct Timing {
        #[pin]
        sleep: Sleep,
        handle: ConnectionHandle,
        timeout: Duration,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // first, so that a connection that comes out of a queue too late is not begun with
        if let Some(timing) = this.timing {
            let mut timing = timing.as_mut().project();
            // the timer's ticks are coarse, and it may strike one late
            let late = timing.sleep.as_mut().poll(cx).is_ready()
                || timing.sleep.deadline() <= Instant::now();
            if late && !timing.handle.is_open() {
                let error = HandshakeTimedOut {
                    timeout: *timing.timeout,
                };
                timing
                    .handle
                    .close_because(CloseReason::HandshakeTimeout, error);
                this.inner.set(None);
                *this.timing = None;
                return Poll::Ready(Err(error.into()));
            }
        }
        let Some(inner) = this.inner.as_pin_mut() else {
            panic!("a handshake's future was polled after it was ready");
        };
        let polled = inner.poll(cx);
        if this
            .timing
            .as_ref()
            .is_some_and(|timing| timing.handle.is_open())
        {
            *this.timing = None;
        }
        polled.map_err(Into::into)
    }
}

impl<F: fmt::Debug> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .field("timed", &self.timing.is_some())
            .finish()
    }
}

/// A session was not open in time: what [`HandshakeTimeout`] fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeTimedOut {
    timeout: Duration,
}

impl HandshakeTimedOut {
    /// How much time there was.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl fmt::Display for HandshakeTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session was not open within {:?}", self.timeout)
    }
}

impl Error for HandshakeTimedOut {}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::future::pending;

    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;
    use crate::testing::assert_transparent;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn around_a_service_it_is_transparent() {
        assert_transparent(&HandshakeTimeoutLayer::default(), || Connection::new(()));
    }

    #[tokio::test(start_paused = true)]
    async fn when_time_is_over_the_inner_future_goes_and_with_it_the_connection() {
        let layer = HandshakeTimeoutLayer::new(3 * SECOND);
        let mut service = layer.layer(service_fn(|connection: Connection<()>| async {
            pending::<()>().await;
            drop(connection);
            Ok::<_, BoxError>(())
        }));
        let connection = Connection::new(());
        let handle = connection.handle().clone();
        let mut response = task::spawn(service.call(connection));
        assert_pending!(response.poll());
        advance(2 * SECOND).await;
        assert_pending!(response.poll());
        advance(SECOND + Duration::from_millis(1)).await;
        assert!(response.is_woken());
        let error = assert_ready_err!(response.poll());
        let error: &HandshakeTimedOut = error.downcast_ref().unwrap();
        assert_eq!(error.timeout(), 3 * SECOND);
        // before the future is dropped
        assert!(handle.is_closed());
        assert_eq!(handle.reason(), Some(CloseReason::HandshakeTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_session_is_open_the_timer_is_gone() {
        let layer = HandshakeTimeoutLayer::new(3 * SECOND);
        let (mut service, mut handle) = mock::spawn_layer::<Connection<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(Connection::new(())));
        assert_pending!(response.poll());
        assert!(response.timing.is_some());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        let ((), mut lease) = connection.into_parts();
        lease.open();
        assert_pending!(response.poll());
        assert!(response.timing.is_none());
        advance(10 * SECOND).await;
        assert_pending!(response.poll());
        inner.send_response(());
        assert_ready_ok!(response.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_was_opened_by_another_task_is_left_alone() {
        let layer = HandshakeTimeoutLayer::new(3 * SECOND);
        let (mut service, mut handle) = mock::spawn_layer::<Connection<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(Connection::new(())));
        assert_pending!(response.poll());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        let ((), mut lease) = connection.into_parts();
        lease.open();
        advance(4 * SECOND).await;
        assert!(response.is_woken());
        assert_pending!(response.poll());
        assert!(response.timing.is_none());
        inner.send_response(());
        assert_ready_ok!(response.poll());
    }

    #[test]
    fn it_adds_little_to_what_it_wraps() {
        struct Large(#[expect(dead_code, reason = "its size is what counts")] [u64; 1024]);
        assert!(size_of::<ResponseFuture<Large>>() <= size_of::<Large>() + 24);
    }
}
