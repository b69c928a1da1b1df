//! Says which messages count as activity.
//!
//! - *ready*: the inner service's.
//! - *call*: asks a predicate of yours about the message, notes what it says on the session, and passes the request on.
//!   The note is a load, and a store at the most; the session loop makes a time of it at the end of its turn.
//! - *drop, close*: nothing of its own.
//!
//! Scope: message. Without this layer every message moves [`last_active`](getty_core::ConnectionHandle::last_active). With
//! it, from its first call on, those do for which the predicate is true: a client that only keeps its connection alive
//! is then told from one that works. The times of bytes, [`last_read`](getty_core::ConnectionHandle::last_read) and
//! [`last_write`](getty_core::ConnectionHandle::last_write), go on as before, and so do the deadlines that watch them.
//!
//! In a stack it stands inside `SessionLayer`, outside whatever answers in the handler's stead (a filter, a limit that
//! sheds) if what they take is to count, else inside of them; and outside whatever moves *calls* to another task, such as
//! tower's `buffer`, because only the session's own task makes a time of the note. A message that is decoded before the
//! first call, since the stack is not ready for it yet, counts whatever it is. Of several such layers each may say yes.
//!
//! ```
//! use getty_core::{Connection, Request, driver};
//! use getty_layers::ActiveLayer;
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let mut stack = ServiceBuilder::new()
//!     .layer(ActiveLayer::new(|message| *message != "PING"))
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

use tower_layer::Layer;
use tower_service::Service;

use getty_core::Request;

/// Says which messages count as activity; see the [module](self).
///
/// `In` is the type of the messages. It follows from the handler and is seldom written.
pub struct ActiveLayer<In, P> {
    predicate: P,
    message: PhantomData<fn(&In)>,
}

impl<In, P> ActiveLayer<In, P> {
    /// A message is activity if `predicate` says so. It is called for every message, so it should be quick.
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

impl<In, P: Clone> Clone for ActiveLayer<In, P> {
    fn clone(&self) -> Self {
        Self {
            predicate: self.predicate.clone(),
            message: PhantomData,
        }
    }
}

impl<In, P> fmt::Debug for ActiveLayer<In, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveLayer")
            .field("predicate", &format_args!("{}", type_name::<P>()))
            .finish()
    }
}

impl<S, In, P: Clone> Layer<S> for ActiveLayer<In, P> {
    type Service = Active<S, In, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Active {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`ActiveLayer`] makes.
pub struct Active<S, In, P> {
    inner: S,
    layer: ActiveLayer<In, P>,
}

impl<S, In, P> Active<S, In, P> {
    /// Wraps `inner`, as [`ActiveLayer::new`] does.
    pub const fn new(inner: S, predicate: P) -> Self
    where
        P: Fn(&In) -> bool + Clone,
    {
        Self {
            inner,
            layer: ActiveLayer::new(predicate),
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

impl<S: Clone, In, P: Clone> Clone for Active<S, In, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, In, P> fmt::Debug for Active<S, In, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Active")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, P, In, Out: 'static> Service<Request<In, Out>> for Active<S, In, P>
where
    S: Service<Request<In, Out>>,
    P: Fn(&In) -> bool,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
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

    use tokio::time::{Instant, advance};
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::testing::{assert_readiness, request};
    use getty_core::{Connection, Session, driver};

    type Message = Request<&'static str>;

    fn layer() -> ActiveLayer<&'static str, impl Fn(&&'static str) -> bool + Clone> {
        ActiveLayer::new(|message| *message != "PING")
    }

    fn session() -> (Session<&'static str>, driver::Driver<&'static str>) {
        let connection = Connection::new(());
        driver::pair(connection.handle().clone())
    }

    #[test]
    fn an_answer_passes_through() {
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
    fn an_error_passes_through_and_the_service_is_as_good_as_before() {
        let (mut service, mut handle) = mock::spawn_layer::<Message, u32, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        inner.send_error("too bad");
        assert_eq!(assert_ready_err!(response.poll()).to_string(), "too bad");
        assert_ready_ok!(service.poll_ready());
    }

    #[test]
    fn it_is_ready_when_the_inner_service_is_and_a_clone_is_not() {
        assert_readiness::<_, Message, u32, _>(&layer(), request);
    }

    #[tokio::test(start_paused = true)]
    async fn the_driver_marks_every_message_until_the_layer_has_seen_one() {
        let (session, driver) = session();
        let now = async |seconds| {
            advance(Duration::from_secs(seconds)).await;
            Instant::now()
        };
        let first = now(1).await;
        driver.messages_in(1, driver.moment(first));
        assert_eq!(session.last_active(), first);

        let (mut service, _handle) = mock::spawn_layer::<Message, u32, _>(layer());
        assert_ready_ok!(service.poll_ready());
        drop(service.call(Request::new("PING", session.clone())));
        let second = now(1).await;
        driver.messages_in(1, driver.moment(second));
        assert!(!driver.take_activity());
        assert_eq!(session.last_active(), first);
        assert_eq!(session.stats().messages_in, 2);

        // one that counts makes up for the others of its turn, once
        for message in ["PING", "hello", "PING"] {
            assert_ready_ok!(service.poll_ready());
            drop(service.call(Request::new(message, session.clone())));
        }
        assert!(driver.take_activity());
        driver.active(driver.moment(second));
        assert_eq!(session.last_active(), second);
        assert!(!driver.take_activity());

        let third = now(1).await;
        driver.messages_in(1, driver.moment(third));
        assert_eq!(session.last_active(), second);
        session.touch();
        assert_eq!(session.last_active(), third);
    }
}
