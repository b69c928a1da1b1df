//! Limits the number of connections that are accepted and whose session is not open.
//!
//! Peers that connect and send nothing cost a task and a socket each until a deadline ends
//! them. With a deadline alone, their number grows with the rate at which they connect. This
//! layer bounds it. Open sessions are not counted.
//!
//! - *ready*: as the inner service. A refused connection leaves the reservation for the next
//!   one.
//! - *call*: counts the connection and calls the inner service. If the limit is reached,
//!   [`Overflow`] decides. The default refuses the new connection. [`Overflow::DropOldest`]
//!   admits it
//!   and ends the one that has been pending longest.
//! - *drop*: drops the inner future. The connection is no longer counted.
//! - *close*: a refused connection closes as
//!   [`Refused`](getty_core::CloseReason::Refused), and [`TooManyPending`] is its source and
//!   the error of this service. The oldest connection will end in the same way: its inner future
//!   is dropped in its own task, unless its session has opened meanwhile.
//!
//! A connection is counted from the call until its session opens, or until the future of the
//! call ends.
//!
//! Scope: process, or everything that shares the layer: all clones of the layer and of its
//! services share the count. It should be inside
//! [`HandshakeTimeoutLayer`](crate::HandshakeTimeoutLayer) and tower's `concurrency_limit`,
//! and outside all layers that wait for the peer: `ProxyProtocolLayer`, TLS, WebSocket,
//! dialogues and open hooks.
//!
//! # Choosing a policy
//!
//! A flood of silent peers reaches the limit under either policy. With the default, honest
//! peers are refused until deadlines end the silent ones. With [`Overflow::DropOldest`], an
//! honest peer is served if its handshake is complete before `max` other peers connect. The
//! flood must then connect that many times during each honest handshake.
//! [`PeerLimitLayer`](crate::PeerLimitLayer) outside this layer keeps a single peer from that.
//!
//! ```
//! use std::{future::pending, time::Duration};
//!
//! use getty_core::{CloseReason, Connection};
//! use getty_layers::pending_limit::{Overflow, PendingLimitLayer};
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let limit = PendingLimitLayer::new(1).with_overflow(Overflow::DropOldest);
//! let mut stack = ServiceBuilder::new()
//!     .layer(limit.clone())
//!     .service_fn(|connection: Connection<&'static str>| async move {
//!         let never = pending::<()>().await; // a handshake with a silent peer
//!         drop(connection);
//!         Ok::<_, BoxError>(never)
//!     });
//! let silent = Connection::new("silent");
//! let handle = silent.handle().clone();
//! let silent = tokio::spawn(stack.ready().await?.call(silent));
//! let _next = stack.ready().await?.call(Connection::new("next"));
//! assert!(silent.await?.is_err());
//! assert_eq!(handle.closed().await.reason, CloseReason::Refused);
//! assert_eq!(limit.pending(), 1);
//! # Ok(())
//! # }
//! ```

mod pending;

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use getty_core::{Close, CloseReason, Connection, ConnectionHandle};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

pub use self::pending::Overflow;
use self::pending::Pending;

type BoxError = Box<dyn Error + Send + Sync>;

/// Limits the number of pending connections; see the [module](self).
#[doc(alias("backlog", "half-open"))]
#[derive(Clone, Debug)]
pub struct PendingLimitLayer {
    pending: Arc<Pending>,
    max: usize,
    overflow: Overflow,
}

impl PendingLimitLayer {
    /// Creates a new layer that allows at most `max` pending connections at a time. Further
    /// connections are refused.
    ///
    /// Zero refuses every connection under either policy.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            pending: Arc::default(),
            max,
            overflow: Overflow::default(),
        }
    }

    /// Sets the policy for a new connection when the limit is reached. The default is
    /// [`Overflow::RefuseNewest`].
    #[must_use]
    pub const fn with_overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Returns the current number of pending connections.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.count()
    }

    const fn error(&self) -> TooManyPending {
        TooManyPending { limit: self.max }
    }
}

impl<S> Layer<S> for PendingLimitLayer {
    type Service = PendingLimit<S>;

    fn layer(&self, inner: S) -> PendingLimit<S> {
        PendingLimit {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`PendingLimitLayer`].
#[derive(Clone, Debug)]
pub struct PendingLimit<S> {
    inner: S,
    layer: PendingLimitLayer,
}

impl<S> PendingLimit<S> {
    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for PendingLimit<S>
where
    S: Service<Connection<T>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, T>;

    /// Polls the inner service. A refused connection leaves the reservation for the next one, and
    /// a drop gives it back.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let PendingLimitLayer {
            pending,
            max,
            overflow,
        } = &self.layer;
        let error = self.layer.error();
        let handle = connection.handle().clone();
        let state = match pending.enter(*max, *overflow, &handle) {
            Some(permit) => Stage::Admitted {
                inner: self.inner.call(connection),
                pending_call: Some(PendingCall {
                    evicted: Box::pin(permit.evicted(handle.clone())),
                    handle,
                    error,
                }),
            },
            // The connection is dropped in its own task, so the accept loop does not wait for
            // close callbacks.
            None => {
                handle.close_with(Close::new(CloseReason::Refused).with_source(error));
                Stage::Refused {
                    refused: Some((connection, error)),
                }
            }
        };
        ResponseFuture { state }
    }
}

/// State of a connection whose session is not open.
struct PendingCall {
    /// Boxed because it is short-lived. It owns the permit.
    evicted: Pin<Box<dyn Future<Output = bool> + Send>>,
    handle: ConnectionHandle,
    error: TooManyPending,
}

pin_project! {
    /// Future of [`PendingLimit`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, T> {
        #[pin]
        state: Stage<F, T>,
    }
}

pin_project! {
    #[project = StateProj]
    enum Stage<F, T> {
        Admitted {
            #[pin]
            inner: F,
            pending_call: Option<PendingCall>,
        },
        Refused {
            refused: Option<(Connection<T>, TooManyPending)>,
        },
    }
}

impl<F, T, Response, E> Future for ResponseFuture<F, T>
where
    F: Future<Output = Result<Response, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let error = match state.as_mut().project() {
            StateProj::Admitted {
                inner,
                pending_call,
            } => match poll_admitted(inner, pending_call, cx) {
                Ok(polled) => return polled,
                Err(error) => error,
            },
            StateProj::Refused { refused } => match refused.take() {
                Some((connection, error)) => {
                    drop(connection);
                    error
                }
                None => panic!("a connection's future was polled after it was ready"),
            },
        };
        // Drops the inner future of the oldest connection, which was evicted.
        state.set(Stage::Refused { refused: None });
        Poll::Ready(Err(error.into()))
    }
}

/// Polls the inner future. Fails if the connection must end because it is the oldest.
fn poll_admitted<F, Response, E>(
    inner: Pin<&mut F>,
    pending_call: &mut Option<PendingCall>,
    cx: &mut Context<'_>,
) -> Result<Poll<Result<Response, BoxError>>, TooManyPending>
where
    F: Future<Output = Result<Response, E>>,
    E: Into<BoxError>,
{
    // Checked before the inner future is polled, which may open the session.
    if let Some(PendingCall {
        evicted,
        handle,
        error,
    }) = pending_call
        && let Poll::Ready(evicted) = evicted.as_mut().poll(cx)
    {
        let error = *error;
        if evicted && !handle.is_open() {
            handle.close_with(Close::new(CloseReason::Refused).with_source(error));
            *pending_call = None;
            return Err(error);
        }
        *pending_call = None;
    }
    let polled = inner.poll(cx);
    if let Some(pending) = pending_call
        && (polled.is_ready() || pending.handle.is_open())
    {
        *pending_call = None;
    }
    Ok(polled.map_err(Into::into))
}

impl<F: fmt::Debug, T> fmt::Debug for ResponseFuture<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("ResponseFuture");
        match &self.state {
            Stage::Admitted {
                inner,
                pending_call,
            } => f
                .field("inner", inner)
                .field("pending", &pending_call.is_some()),
            Stage::Refused { refused } => {
                f.field("refused", &refused.as_ref().map(|(_, error)| error))
            }
        };
        f.finish()
    }
}

/// Error of [`PendingLimit`]: the limit of pending connections is reached.
///
/// The connection was refused, or it was the oldest and made room for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyPending {
    limit: usize,
}

impl TooManyPending {
    /// Returns the maximum number of pending connections.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }
}

impl fmt::Display for TooManyPending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the limit of {} pending connections is reached",
            self.limit
        )
    }
}

impl Error for TooManyPending {}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_test::assert_layer_contract;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;

    type Plain = Connection<()>;

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        for overflow in [Overflow::RefuseNewest, Overflow::DropOldest] {
            let layer = PendingLimitLayer::new(10).with_overflow(overflow);
            assert_layer_contract(&layer, || Connection::new(())).await;
            assert_eq!(layer.pending(), 0);
        }
    }

    #[test]
    fn newest_is_refused_in_its_own_task_and_leaves_the_reservation() {
        let layer = PendingLimitLayer::new(1);
        let (mut service, mut handle) = mock::spawn_layer::<Plain, (), _>(layer.clone());
        handle.allow(2);
        assert_ready_ok!(service.poll_ready());
        let mut first = task::spawn(service.call(Connection::new(())));
        assert_pending!(first.poll());
        assert_ready_ok!(service.poll_ready());
        let connection = Connection::new(());
        let refused = connection.handle().clone();
        let mut second = task::spawn(service.call(connection));
        assert!(!refused.is_closed());
        let error = assert_ready_err!(second.poll());
        assert_eq!(
            error.downcast_ref(),
            Some(&TooManyPending { limit: 1 }),
            "{error}"
        );
        assert!(refused.is_closed());
        assert_eq!(refused.reason(), Some(CloseReason::Refused));
        assert!(refused.source().unwrap().is::<TooManyPending>());

        drop(first);
        assert_eq!(layer.pending(), 0);
        // the second permit of the mock is still available
        assert_ready_ok!(service.poll_ready());
        let _response = service.call(Connection::new(()));
        assert_eq!(layer.pending(), 1);
    }

    #[test]
    fn oldest_is_woken_and_dropped() {
        let layer = PendingLimitLayer::new(2).with_overflow(Overflow::DropOldest);
        let mut service = layer.layer(tower::service_fn(async |connection: Plain| {
            std::future::pending::<()>().await;
            drop(connection);
            Ok::<_, BoxError>(())
        }));
        let mut start = || {
            let connection = Connection::new(());
            let handle = connection.handle().clone();
            let mut response = task::spawn(service.call(connection));
            assert_pending!(response.poll());
            (response, handle)
        };
        let (mut first, handle) = start();
        let (second, _) = start();
        assert!(!first.is_woken());
        let (_third, _) = start();
        assert_eq!(layer.pending(), 2);
        assert!(first.is_woken() && !second.is_woken());
        let error = assert_ready_err!(first.poll());
        assert!(error.is::<TooManyPending>());
        assert!(handle.is_closed());
        assert_eq!(handle.reason(), Some(CloseReason::Refused));
    }

    #[test]
    fn session_that_opens_in_another_task_is_no_longer_counted() {
        let layer = PendingLimitLayer::new(1).with_overflow(Overflow::DropOldest);
        let (mut service, mut handle) = mock::spawn_layer::<Plain, (), _>(layer.clone());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(Connection::new(())));
        assert_pending!(response.poll());
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        let ((), mut guard) = connection.into_parts();
        guard.open();
        assert_eq!(layer.pending(), 0);
        assert!(response.is_woken());
        assert_pending!(response.poll());
        assert_eq!(layer.pending(), 0);
    }

    #[test]
    fn oldest_whose_session_opens_before_its_next_poll_stays_open() {
        let layer = PendingLimitLayer::new(1).with_overflow(Overflow::DropOldest);
        let (mut service, mut handle) = mock::spawn_layer::<Plain, (), _>(layer.clone());
        assert_ready_ok!(service.poll_ready());
        let mut first = task::spawn(service.call(Connection::new(())));
        assert_pending!(first.poll());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        let ((), mut guard) = connection.into_parts();
        guard.open();
        assert_ready_ok!(service.poll_ready());
        let _second = task::spawn(service.call(Connection::new(())));
        assert_pending!(first.poll());
        inner.send_response(());
        assert_ready_ok!(first.poll());
        assert_eq!(layer.pending(), 1);
    }

    #[test]
    fn session_that_opened_in_this_poll_makes_room() {
        let layer = PendingLimitLayer::new(1);
        let mut service = layer.layer(tower::service_fn({
            let layer = layer.clone();
            move |connection: Plain| {
                let layer = layer.clone();
                async move {
                    assert_eq!(layer.pending(), 1);
                    let ((), mut guard) = connection.into_parts();
                    guard.open();
                    assert_eq!(layer.pending(), 0);
                    let next = Connection::new(());
                    let permit = layer
                        .pending
                        .enter(1, Overflow::RefuseNewest, next.handle());
                    assert!(permit.is_some());
                    Ok::<_, BoxError>(())
                }
            }
        }));
        let mut response = task::spawn(service.call(Connection::new(())));
        assert_ready_ok!(response.poll());
    }

    #[test]
    fn limit_of_zero_refuses_every_connection() {
        for overflow in [Overflow::RefuseNewest, Overflow::DropOldest] {
            let layer = PendingLimitLayer::new(0).with_overflow(overflow);
            let (mut service, _handle) = mock::spawn_layer::<Plain, (), _>(layer);
            let mut response = task::spawn(service.call(Connection::new(())));
            assert_ready_err!(response.poll());
        }
    }

    #[test]
    fn response_future_adds_at_most_40_bytes() {
        struct Large(#[expect(dead_code, reason = "only its size is used")] [u64; 1024]);
        assert!(size_of::<ResponseFuture<Large, ()>>() <= size_of::<Large>() + 40);
    }
}
