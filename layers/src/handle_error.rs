//! Turns the errors of handlers, and of the layers around them, into replies.
//!
//! - *ready*: the inner service's, errors included. An error of readiness is final for the service that returned it, so
//!   there is nobody left to answer for; it ends the session, as it does without this layer.
//! - *call*: passes the request on. What the inner service answers is the reply. An error is given
//!   to a function of yours, and what that returns is the reply: a message, an `Option` or `Vec` of
//!   it, or a [`Reply`] that also closes. The reply is marked with [`Reply::after_error`], so that
//!   the session loop goes on with a fresh clone of the stack. Under `SessionLayer::per_session`
//!   the loop has no fresh clone: put a [`ClonePerCallLayer`](crate::ClonePerCallLayer) around a
//!   shared limit there.
//! - *drop*: drops the inner future.
//! - *close*: nothing of its own.
//!
//! Scope: message. Without it an error of the message stack closes the session with
//! [`CloseReason::Handler`](getty_core::CloseReason::Handler). In a stack it stands inside `SessionLayer` and outside the
//! layers whose errors it is to answer, such as tower's timeout and load shedding; so it is mostly the first of the
//! message stack. A panic is no error: it passes through.
//!
//! ```
//! use getty_core::{Connection, Request, driver};
//! use getty_layers::HandleErrorLayer;
//! use std::time::Duration;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(HandleErrorLayer::new(|error| Some(format!("ERR {error}"))))
//!     .timeout(Duration::from_secs(1))
//!     .service_fn(|request: Request<String>| async move {
//!         tokio::time::sleep(Duration::from_secs(2)).await;
//!         Ok::<_, BoxError>(Some(request.into_message()))
//!     });
//!
//! let connection = Connection::new("any transport");
//! let (session, _driver) = driver::pair(connection.handle().clone());
//! let reply = stack.oneshot(Request::new("hello".to_owned(), session)).await?;
//! let (messages, close) = reply.into_parts();
//! assert_eq!(messages.collect::<Vec<_>>(), ["ERR request timed out"]);
//! assert_eq!(close, None);
//! # Ok(())
//! # }
//! ```

use std::{
    any::type_name,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use getty_core::{IntoReply, Reply, Request};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Turns errors of the message stack into replies; see the [module](self).
///
/// `K` is the kind of error that the handler takes: [`AnyError`] for [`new`](Self::new),
/// [`OnlyError`] for [`typed`](HandleErrorLayer::typed).
pub struct HandleErrorLayer<H, K = AnyError> {
    handler: H,
    kind: PhantomData<fn() -> K>,
}

/// The handler takes a boxed error, for any error type of the inner service.
#[derive(Clone, Copy, Debug)]
pub struct AnyError(());

/// The handler takes the inner service's error, which must be `E`.
#[derive(Clone, Copy, Debug)]
pub struct OnlyError<E>(PhantomData<fn() -> E>);

/// Argument of a handler, for an inner service whose error is `E`. Implemented for [`AnyError`] and
/// [`OnlyError`].
#[diagnostic::on_unimplemented(
    message = "the handler of `HandleErrorLayer::typed` does not take the error `{E}`",
    label = "a layer inside changes the error's type to `{E}`",
    note = "take that type, or any error with `HandleErrorLayer::new`"
)]
pub trait ErrorKind<E> {
    /// The handler's argument.
    type Argument;

    /// Makes the argument from the inner service's error.
    fn argument(error: E) -> Self::Argument;
}

impl<E: Into<BoxError>> ErrorKind<E> for AnyError {
    type Argument = BoxError;

    fn argument(error: E) -> BoxError {
        error.into()
    }
}

#[diagnostic::do_not_recommend]
impl<E> ErrorKind<E> for OnlyError<E> {
    type Argument = E;

    fn argument(error: E) -> E {
        error
    }
}

impl<H> HandleErrorLayer<H> {
    /// What `handler` makes of an error is the reply. It is cloned for every message, so what it captures should be cheap
    /// to clone; and it should not block.
    ///
    /// To tell errors apart it can look at their types. The error itself is not kept: a reply that closes says with which
    /// reason, which would else be [`CloseReason::Local`](getty_core::CloseReason::Local), as at an orderly end.
    ///
    /// ```
    /// use getty_core::{CloseReason, Reply};
    /// use getty_layers::HandleErrorLayer;
    /// use tower::timeout::error::Elapsed;
    ///
    /// let layer = HandleErrorLayer::new(|error| {
    ///     if error.is::<Elapsed>() {
    ///         Reply::one("ERR try again".to_owned())
    ///     } else {
    ///         Reply::one(format!("ERR {error}")).and_close_with(CloseReason::Handler)
    ///     }
    /// });
    /// ```
    // the bound on the closure is what lets its argument's type go unwritten
    pub const fn new<R>(handler: H) -> Self
    where
        H: Fn(BoxError) -> R + Clone,
    {
        Self {
            handler,
            kind: PhantomData,
        }
    }
}

impl<H, E> HandleErrorLayer<H, OnlyError<E>> {
    /// Like [`new`](HandleErrorLayer::new), for a `handler` that takes the inner service's error by
    /// its type `E`.
    ///
    /// A `match` over `E` is exhaustive, while a chain of `is` needs an `else`. A layer that is
    /// added later, such as tower's `timeout`, changes the type of the error. The stack then does
    /// not compile until the handler takes the new type.
    ///
    /// ```
    /// use getty_core::Request;
    /// use getty_layers::HandleErrorLayer;
    /// use tower::ServiceBuilder;
    ///
    /// #[derive(Debug)]
    /// enum Refused {
    ///     Unknown,
    ///     Locked,
    /// }
    ///
    /// let stack = ServiceBuilder::new()
    ///     .layer(HandleErrorLayer::typed(|error: Refused| match error {
    ///         Refused::Unknown => "ERR unknown".to_owned(),
    ///         Refused::Locked => "ERR locked".to_owned(),
    ///     }))
    ///     .service_fn(|request: Request<String>| async move {
    ///         match request.message().as_str() {
    ///             "open" => Err(Refused::Locked),
    ///             _ => Ok(Some(request.into_message())),
    ///         }
    ///     });
    /// # fn check<S: tower::Service<Request<String>>>(_: S) {}
    /// # check(stack);
    /// ```
    ///
    /// The session loop requires `Into<BoxError>`, so `Refused` must implement
    /// [`Error`](std::error::Error) there.
    pub const fn typed<R>(handler: H) -> Self
    where
        H: Fn(E) -> R + Clone,
    {
        Self {
            handler,
            kind: PhantomData,
        }
    }
}

impl<H: Clone, K> Clone for HandleErrorLayer<H, K> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            kind: PhantomData,
        }
    }
}

impl<H, K> fmt::Debug for HandleErrorLayer<H, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleErrorLayer")
            .field("handler", &format_args!("{}", type_name::<H>()))
            .finish()
    }
}

impl<S, H: Clone, K> Layer<S> for HandleErrorLayer<H, K> {
    type Service = HandleError<S, H, K>;

    fn layer(&self, inner: S) -> Self::Service {
        HandleError {
            inner,
            handler: self.handler.clone(),
            kind: PhantomData,
        }
    }
}

/// The service that [`HandleErrorLayer`] makes.
pub struct HandleError<S, H, K = AnyError> {
    inner: S,
    handler: H,
    kind: PhantomData<fn() -> K>,
}

impl<S, H> HandleError<S, H> {
    /// Wraps `inner`, as [`HandleErrorLayer::new`] does.
    pub const fn new<R>(inner: S, handler: H) -> Self
    where
        H: Fn(BoxError) -> R + Clone,
    {
        Self {
            inner,
            handler,
            kind: PhantomData,
        }
    }
}

impl<S, H, E> HandleError<S, H, OnlyError<E>> {
    /// Wraps `inner`, like [`HandleErrorLayer::typed`].
    pub const fn typed<R>(inner: S, handler: H) -> Self
    where
        H: Fn(E) -> R + Clone,
    {
        Self {
            inner,
            handler,
            kind: PhantomData,
        }
    }
}

impl<S, H, K> HandleError<S, H, K> {
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

impl<S: Clone, H: Clone, K> Clone for HandleError<S, H, K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            handler: self.handler.clone(),
            kind: PhantomData,
        }
    }
}

impl<S: fmt::Debug, H, K> fmt::Debug for HandleError<S, H, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleError")
            .field("inner", &self.inner)
            .field("handler", &format_args!("{}", type_name::<H>()))
            .finish()
    }
}

impl<S, H, K, R, In, Out> Service<Request<In, Out>> for HandleError<S, H, K>
where
    S: Service<Request<In, Out>>,
    S::Response: IntoReply<Out>,
    K: ErrorKind<S::Error>,
    H: Fn(K::Argument) -> R + Clone,
    R: IntoReply<Out>,
{
    type Response = Reply<Out>;
    /// Of readiness alone: the future never returns it.
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, H, Out, K>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<In, Out>) -> Self::Future {
        ResponseFuture {
            inner: self.inner.call(request),
            handler: self.handler.clone(),
            out: PhantomData,
            kind: PhantomData,
        }
    }
}

pin_project! {
    /// The future of [`HandleError`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, H, Out, K = AnyError> {
        #[pin]
        inner: F,
        handler: H,
        out: PhantomData<fn() -> Out>,
        kind: PhantomData<fn() -> K>,
    }
}

impl<F, H, K, R, Out, Response, Error> Future for ResponseFuture<F, H, Out, K>
where
    F: Future<Output = Result<Response, Error>>,
    Response: IntoReply<Out>,
    K: ErrorKind<Error>,
    H: Fn(K::Argument) -> R,
    R: IntoReply<Out>,
{
    type Output = Result<Reply<Out>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(Ok(match ready!(this.inner.poll(cx)) {
            Ok(response) => response.into_reply(),
            Err(error) => (this.handler)(K::argument(error))
                .into_reply()
                .after_error(),
        }))
    }
}

impl<F: fmt::Debug, H, Out, K> fmt::Debug for ResponseFuture<F, H, Out, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{convert::Infallible, future::pending, io, sync::Arc};

    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower::{BoxError, service_fn};
    use tower_test::mock;

    use super::*;
    use crate::testing::{assert_readiness, request};
    use getty_core::CloseReason;

    type Message = Request<&'static str, String>;

    /// A layer that answers with the error's text.
    fn layer() -> HandleErrorLayer<impl Fn(BoxError) -> String + Clone> {
        HandleErrorLayer::new(|error| error.to_string())
    }

    #[test]
    fn an_answer_passes_through() {
        let (mut service, mut handle) = mock::spawn_layer::<Message, _, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        assert_pending!(response.poll());
        let (request, inner) = tokio_test::assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(*request.message(), "hello");
        inner.send_response(Reply::one("answer".to_owned()).and_close());
        assert!(response.is_woken());
        let reply = assert_ready_ok!(response.poll());
        assert_eq!(reply, Reply::one("answer".to_owned()).and_close());
        assert!(!reply.is_after_error());
    }

    #[test]
    fn an_error_becomes_a_reply_that_says_so() {
        let (mut service, mut handle) = mock::spawn_layer::<Message, Option<String>, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        assert_pending!(response.poll());
        let (_, inner) = tokio_test::assert_ready!(handle.poll_request()).unwrap();
        inner.send_error("too bad");
        assert!(response.is_woken());
        let reply = assert_ready_ok!(response.poll());
        assert_eq!(reply, Reply::one("too bad".to_owned()).after_error());
        // and the service is as good as before
        assert_ready_ok!(service.poll_ready());
    }

    #[test]
    fn the_handler_sees_the_error_itself_and_may_answer_with_any_shape() {
        let layer = HandleErrorLayer::new(|error| {
            let error = error.downcast::<io::Error>().unwrap();
            Reply::many(vec![error.to_string(), "bye".to_owned()])
                .and_close_with(CloseReason::Shutdown)
        });
        let mut service = layer.layer(service_fn(|_: Message| async {
            Err::<Vec<_>, _>(io::Error::other("disk full"))
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert!(reply.is_after_error());
        let (messages, close) = reply.into_parts();
        assert_eq!(messages.collect::<Vec<_>>(), ["disk full", "bye"]);
        assert_eq!(close, Some(CloseReason::Shutdown));
    }

    #[test]
    fn a_typed_handler_takes_the_error_as_it_is() {
        #[derive(Debug, PartialEq)]
        struct Refused(u32); // no `Error`, which the layer does not require

        let layer = HandleErrorLayer::typed(|Refused(code)| format!("ERR {code}"));
        let mut service = layer.layer(service_fn(|_: Message| async {
            Err::<String, _>(Refused(7))
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert_eq!(reply, Reply::one("ERR 7".to_owned()).after_error());
    }

    #[test]
    fn an_error_may_go_unanswered() {
        let layer = HandleErrorLayer::new(|_| None);
        let mut service = layer.layer(service_fn(|_: Message| async {
            Err::<String, _>(io::Error::other("disk full"))
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert_eq!(reply, Reply::none().after_error());
    }

    #[test]
    fn a_service_that_cannot_fail_needs_no_other_handler() {
        let mut service = layer().layer(service_fn(|request: Message| async move {
            Ok::<_, Infallible>(request.into_message().to_owned())
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert_eq!(reply, Reply::one("hello".to_owned()));
    }

    #[test]
    fn it_is_ready_when_the_inner_service_is_and_a_clone_is_not() {
        assert_readiness::<_, Message, Option<String>, _>(&layer(), request);
    }

    #[test]
    fn a_future_that_is_dropped_drops_the_inner_one() {
        let held = Arc::new(());
        let captured = held.clone();
        let mut service = layer().layer(service_fn(move |_: Message| {
            let captured = captured.clone();
            async move {
                pending::<()>().await;
                drop(captured);
                Ok::<_, Infallible>(String::new())
            }
        }));
        let mut response = task::spawn(service.call(request()));
        assert_pending!(response.poll());
        assert_eq!(Arc::strong_count(&held), 3);
        drop(response);
        assert_eq!(Arc::strong_count(&held), 2);
    }
}
