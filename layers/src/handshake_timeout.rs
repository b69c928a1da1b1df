//! Limits the time until a session opens.
//!
//! Layers that do I/O before the session, such as handshakes and open hooks, wait for a peer
//! that may never respond. A connection may also wait in a queue of the stack. This layer is
//! the deadline for all these waits together. It counts from accept
//! ([`opened_at`](ConnectionHandle::opened_at)) until the session loop opens the session.
//!
//! - *ready*: as the inner service. The time of an accepted connection that waits for readiness
//!   is running.
//! - *call*: calls the inner service and times its future.
//! - *drop*: drops the inner future.
//! - *close*: if the session is not open in time, the inner future is dropped together with the
//!   connection, which closes as [`CloseReason::HandshakeTimeout`]. The future fails with
//!   [`HandshakeTimedOut`]. An open session is not affected and costs nothing because the timer
//!   is dropped.
//!
//! Scope: session. Place it outside everything that may take time: outermost, or beside layers
//! that only observe. If a layer that does I/O is outside it, that layer is not limited.
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
//!         let never = pending::<()>().await; // a handshake with a silent peer
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

use getty_core::{Close, CloseReason, Connection, ConnectionHandle};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// Limits the time until a session opens; see the [module](self).
#[derive(Clone, Debug)]
pub struct HandshakeTimeoutLayer {
    timeout: Duration,
}

impl HandshakeTimeoutLayer {
    /// Time limit of the [default](Self::default) layer: 10 s.
    pub const DEFAULT: Duration = Duration::from_secs(10);

    /// Creates a new layer that requires a session to open within `timeout` of its accept.
    ///
    /// Zero admits no session. A timeout beyond the range of the clock is no limit.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl Default for HandshakeTimeoutLayer {
    /// Creates a new layer with a timeout of 10 s.
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

/// Service of [`HandshakeTimeoutLayer`].
#[derive(Clone, Debug)]
pub struct HandshakeTimeout<S> {
    inner: S,
    timeout: Duration,
}

impl<S> HandshakeTimeout<S> {
    /// Creates a new service around `inner`; see [`HandshakeTimeoutLayer::new`].
    pub const fn new(inner: S, timeout: Duration) -> Self {
        Self { inner, timeout }
    }

    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for HandshakeTimeout<S>
where
    S: Service<Connection<T>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Polls the inner service. A drop will give back its reservation.
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
    /// Future of [`HandshakeTimeout`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        // Boxed, because it is needed only for a short part of a long life.
        timing: Option<Pin<Box<Timing>>>,
    }
}

pin_project! {
    /// Timer until the session is open. A registered deadline does not work here because the
    /// session loop that runs deadlines has not started yet (design.md: Why does
    /// `HandshakeTimeoutLayer` have a separate timer?).
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
        // Checked first, so that the work on a connection that waited too long in a queue is not
        // started.
        if let Some(timing) = this.timing {
            let mut timing = timing.as_mut().project();
            // The timer has a coarse resolution and may fire one tick late.
            let late = timing.sleep.as_mut().poll(cx).is_ready()
                || timing.sleep.deadline() <= Instant::now();
            if late && !timing.handle.is_open() {
                let error = HandshakeTimedOut {
                    timeout: *timing.timeout,
                };
                timing
                    .handle
                    .close_with(Close::new(CloseReason::HandshakeTimeout).with_source(error));
                this.inner.set(None);
                *this.timing = None;
                return Poll::Ready(Err(error.into()));
            }
        }
        let Some(inner) = this.inner.as_pin_mut() else {
            panic!("a connection's future was polled after completion");
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

/// Error of [`HandshakeTimeout`]: the session did not open in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeTimedOut {
    timeout: Duration,
}

impl HandshakeTimedOut {
    /// Returns the time limit that was exceeded.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }
}

impl fmt::Display for HandshakeTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session did not open within {:?}", self.timeout)
    }
}

impl Error for HandshakeTimedOut {}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::future::pending;

    use getty_test::assert_layer_contract;
    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&HandshakeTimeoutLayer::default(), || Connection::new(())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_drops_the_inner_future_and_its_connection() {
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
        // Closed already, although the response future is still alive.
        assert!(handle.is_closed());
        assert_eq!(handle.reason(), Some(CloseReason::HandshakeTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn open_session_has_no_timer() {
        let layer = HandshakeTimeoutLayer::new(3 * SECOND);
        let (mut service, mut handle) = mock::spawn_layer::<Connection<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(Connection::new(())));
        assert_pending!(response.poll());
        assert!(response.timing.is_some());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        let ((), mut guard) = connection.into_parts();
        guard.open();
        assert_pending!(response.poll());
        assert!(response.timing.is_none());
        advance(10 * SECOND).await;
        assert_pending!(response.poll());
        inner.send_response(());
        assert_ready_ok!(response.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn session_opened_by_another_task_is_not_timed_out() {
        let layer = HandshakeTimeoutLayer::new(3 * SECOND);
        let (mut service, mut handle) = mock::spawn_layer::<Connection<()>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(Connection::new(())));
        assert_pending!(response.poll());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        let ((), mut guard) = connection.into_parts();
        guard.open();
        advance(4 * SECOND).await;
        assert!(response.is_woken());
        assert_pending!(response.poll());
        assert!(response.timing.is_none());
        inner.send_response(());
        assert_ready_ok!(response.poll());
    }

    #[test]
    fn response_future_adds_at_most_24_bytes() {
        struct Large(#[expect(dead_code, reason = "only its size is used")] [u64; 1024]);
        assert!(size_of::<ResponseFuture<Large>>() <= size_of::<Large>() + 24);
    }
}
