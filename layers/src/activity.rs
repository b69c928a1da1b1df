//! Decides which messages count as activity of the peer.
//!
//! - *ready*: as the inner service.
//! - *call*: calls a predicate with the message, records the result on the session, and passes
//!   the request on. The cost is a load and at most one store. The session loop updates the
//!   timestamp at the end of its poll.
//! - *drop, close*: nothing.
//!
//! Scope: message. Without this layer every message updates
//! [`last_active`](getty_core::ConnectionHandle::last_active). With it, from its first call on,
//! only messages that satisfy the predicate do. A client that only keeps its connection alive
//! can then be distinguished from a client that works. The timestamps of bytes,
//! [`last_read`](getty_core::ConnectionHandle::last_read) and
//! [`last_write`](getty_core::ConnectionHandle::last_write), are not affected, and neither are
//! the deadlines that use them.
//!
//! It must be inside `SessionLayer`. A layer that replies instead of the handler, such as a
//! filter or a limit that sheds load, should be inside this layer if the messages that it takes
//! should count. Otherwise it should be outside. Layers that move *calls* to another task, such
//! as tower's `buffer`, must be inside, because only the session's own task updates the
//! timestamp. A message that is decoded before the first call, because the stack is not ready
//! yet, always counts. With several such layers, a message counts if any layer accepts it.
//!
//! ```
//! use getty_core::{Connection, Request, driver};
//! use getty_layers::ActivityLayer;
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let mut stack = ServiceBuilder::new()
//!     .layer(ActivityLayer::new(|message| *message != "PING"))
//!     .service_fn(|request: Request<&'static str>| async move {
//!         Ok::<_, BoxError>(request.into_message())
//!     });
//!
//! let connection = Connection::new("any transport");
//! let (session, driver) = driver::pair(connection.handle().clone());
//! stack.ready().await?.call(Request::new("PING", session.clone())).await?;
//! assert!(!driver.take_activity());
//! stack.ready().await?.call(Request::new("BUY 7", session)).await?;
//! assert!(driver.take_activity());
//! # Ok(())
//! # }
//! ```

use std::{
    any::type_name,
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
};

use getty_core::{Request, hooks::HandleExt};
use tower_layer::Layer;
use tower_service::Service;

/// Decides which messages count as activity; see the [module](self).
///
/// `In` is the type of the messages. It is inferred from the handler.
#[doc(alias = "keepalive")]
pub struct ActivityLayer<In, P> {
    predicate: P,
    message: PhantomData<fn(&In)>,
}

impl<In, P> ActivityLayer<In, P> {
    /// Creates a new layer that counts messages as activity if `predicate` returns `true`.
    ///
    /// The predicate is called for every message, so it should be fast.
    #[must_use]
    pub const fn new(predicate: P) -> Self
    where
        P: Fn(&In) -> bool + Clone,
    {
        Self {
            predicate,
            message: PhantomData,
        }
    }
}

impl<In, P: Clone> Clone for ActivityLayer<In, P> {
    fn clone(&self) -> Self {
        Self {
            predicate: self.predicate.clone(),
            message: PhantomData,
        }
    }
}

impl<In, P> fmt::Debug for ActivityLayer<In, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivityLayer")
            .field("predicate", &format_args!("{}", type_name::<P>()))
            .finish()
    }
}

impl<S, In, P: Clone> Layer<S> for ActivityLayer<In, P> {
    type Service = Activity<S, In, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Activity {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`ActivityLayer`].
pub struct Activity<S, In, P> {
    inner: S,
    layer: ActivityLayer<In, P>,
}

impl<S, In, P> Activity<S, In, P> {
    /// Creates a new service around `inner`; see [`ActivityLayer::new`].
    pub const fn new(inner: S, predicate: P) -> Self
    where
        P: Fn(&In) -> bool + Clone,
    {
        Self {
            inner,
            layer: ActivityLayer::new(predicate),
        }
    }

    getty_core::inner_service_accessors!();
}

impl<S: Clone, In, P: Clone> Clone for Activity<S, In, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, In, P> fmt::Debug for Activity<S, In, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, P, In, Out: 'static> Service<Request<In, Out>> for Activity<S, In, P>
where
    S: Service<Request<In, Out>>,
    P: Fn(&In) -> bool,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<In, Out>) -> S::Future {
        let active = (self.layer.predicate)(request.message());
        request.session().record_activity(active);
        self.inner.call(request)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::time::Duration;

    use getty_core::{Connection, Session, driver};
    use getty_test::assert_layer_contract;
    use tokio::time::{Instant, advance};
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::testing::request;

    type Message = Request<&'static str>;

    fn layer() -> ActivityLayer<&'static str, impl Fn(&&'static str) -> bool + Clone> {
        ActivityLayer::new(|message| *message != "PING")
    }

    fn session() -> (Session<&'static str>, driver::Driver<&'static str>) {
        let connection = Connection::new(());
        driver::pair(connection.handle().clone())
    }

    #[test]
    fn response_passes_through() {
        let (mut service, mut handle) = mock::spawn_layer::<Message, u32, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        let (request, inner) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(*request.message(), "hello");
        assert_pending!(response.poll());
        inner.send_response(7);
        assert!(response.is_woken());
        assert_eq!(assert_ready_ok!(response.poll()), 7);
    }

    #[test]
    fn error_passes_through_and_the_service_is_still_usable() {
        let (mut service, mut handle) = mock::spawn_layer::<Message, u32, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        inner.send_error("handler failed");
        assert_eq!(
            assert_ready_err!(response.poll()).to_string(),
            "handler failed"
        );
        assert_ready_ok!(service.poll_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&layer(), request::<String>).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_message_is_activity_until_the_first_call_of_the_layer() {
        let (session, driver) = session();
        let now = async |seconds| {
            advance(Duration::from_secs(seconds)).await;
            Instant::now()
        };
        let first = now(1).await;
        driver.record_messages_in(1, driver.timestamp(first));
        assert_eq!(session.last_active(), first);

        let (mut service, _handle) = mock::spawn_layer::<Message, u32, _>(layer());
        assert_ready_ok!(service.poll_ready());
        drop(service.call(Request::new("PING", session.clone())));
        let second = now(1).await;
        driver.record_messages_in(1, driver.timestamp(second));
        assert!(!driver.take_activity());
        assert_eq!(session.last_active(), first);
        assert_eq!(session.stats().messages_in, 2);

        // One counted message in a poll is enough, and is taken once.
        for message in ["PING", "hello", "PING"] {
            assert_ready_ok!(service.poll_ready());
            drop(service.call(Request::new(message, session.clone())));
        }
        assert!(driver.take_activity());
        driver.record_active(driver.timestamp(second));
        assert_eq!(session.last_active(), second);
        assert!(!driver.take_activity());

        let third = now(1).await;
        driver.record_messages_in(1, driver.timestamp(third));
        assert_eq!(session.last_active(), second);
        session.touch();
        assert_eq!(session.last_active(), third);
    }
}
