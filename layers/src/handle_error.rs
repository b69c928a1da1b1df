//! Converts errors of handlers and of message layers into replies.
//!
//! - *ready*: as the inner service, including errors. A readiness error is final for the
//!   service that returned it, so there is no reply to it. It ends the session, as without this
//!   layer.
//! - *call*: calls the inner service. Its response becomes the reply. An error is passed to a
//!   function, whose result is the reply: a message, an `Option` or `Vec` of messages, a
//!   [`Reply`] that also closes, or any other [`IntoReply`]. The reply is marked with
//!   [`Reply::after_error`], so that the session loop continues with a fresh clone of the stack.
//!   Under `SessionLayer::per_session` the loop has no fresh clone: put a
//!   [`ClonePerCallLayer`](crate::ClonePerCallLayer) around a shared limit there.
//! - *drop*: drops the inner future.
//! - *close*: nothing.
//!
//! Scope: message. Without this layer an error of the message stack closes the session with
//! [`CloseReason::Handler`](getty_core::CloseReason::Handler). It must be inside `SessionLayer`
//! and outside the layers whose errors it should handle such as tower's timeout and load
//! shedding. So it is usually the outermost layer of the message stack. A panic is not an
//! error: it passes through.
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
    error::Error,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::{IntoReply, Reply, Request};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// Converts errors of the message stack into replies; see the [module](self).
///
/// | constructor | argument of the function | errors |
/// |---|---|---|
/// | [`new`](Self::new) | a boxed error | all |
/// | [`typed`](HandleErrorLayer::typed) | the inner service's error type | all |
/// | [`downcast`] | the type in the inner service's boxed error | those of this type; the others pass through |
///
/// An error type that implements [`IntoReply`] is a reply itself. `|error: ChatError| error` is
/// then the whole function.
///
/// `K` is the kind of error that the function accepts: [`AnyError`], [`OnlyError`] or
/// [`DowncastError`].
///
/// [`downcast`]: HandleErrorLayer::downcast
pub struct HandleErrorLayer<H, K = AnyError> {
    handler: H,
    kind: PhantomData<fn() -> K>,
}

/// Marker of a function that accepts a boxed error, for any error type of the inner service.
#[derive(Clone, Copy, Debug)]
pub struct AnyError(());

/// Marker of a function that accepts the inner service's error, which must be `E`.
#[derive(Clone, Copy, Debug)]
pub struct OnlyError<E>(PhantomData<fn() -> E>);

/// Marker of a function that accepts the errors of type `E` among the boxed errors of the inner
/// service.
#[derive(Clone, Copy, Debug)]
pub struct DowncastError<E>(PhantomData<fn() -> E>);

/// Conversion of the inner service's error `E` into the argument of the function. Implemented
/// for [`AnyError`], [`OnlyError`] and [`DowncastError`].
#[diagnostic::on_unimplemented(
    message = "the handler of this `HandleErrorLayer` does not take the error `{E}`",
    label = "a layer inside changes the error's type to `{E}`",
    note = "take that type, or any error with `HandleErrorLayer::new`"
)]
pub trait ErrorKind<E> {
    /// Argument of the function.
    type Argument;

    /// Converts the inner service's error into the argument.
    ///
    /// # Errors
    ///
    /// Returns an error that the function does not accept. It passes through the layer.
    fn argument(error: E) -> Result<Self::Argument, E>;
}

impl<E: Into<BoxError>> ErrorKind<E> for AnyError {
    type Argument = BoxError;

    #[inline]
    fn argument(error: E) -> Result<BoxError, E> {
        Ok(error.into())
    }
}

#[diagnostic::do_not_recommend]
impl<E> ErrorKind<E> for OnlyError<E> {
    type Argument = E;

    #[inline]
    fn argument(error: E) -> Result<E, E> {
        Ok(error)
    }
}

#[diagnostic::do_not_recommend]
impl<E: Error + 'static> ErrorKind<BoxError> for DowncastError<E> {
    type Argument = E;

    fn argument(error: BoxError) -> Result<E, BoxError> {
        error.downcast().map(|error| *error)
    }
}

impl<H> HandleErrorLayer<H> {
    /// Creates a new layer that replies to errors with the result of `handler`.
    ///
    /// The handler is cloned for every message, so its captured values should be cheap to clone. It
    /// must not block.
    ///
    /// It may downcast the error to distinguish types. The error itself is not stored. A reply that
    /// closes should set the close reason; the default is
    /// [`CloseReason::Local`](getty_core::CloseReason::Local), as for an orderly end.
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
    // This bound on the closure makes its argument type inferable.
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
    /// Creates a new layer with a `handler` that accepts the inner service's error type `E`; see
    /// [`new`](HandleErrorLayer::new).
    ///
    /// A `match` over `E` is exhaustive, while a chain of `is` needs an `else`. A layer that is
    /// added later, such as tower's `timeout`, changes the error type. The stack then does not
    /// compile until the handler accepts the new type.
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
    /// [`Error`] there.
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

impl<H, E> HandleErrorLayer<H, DowncastError<E>> {
    /// Creates a new layer with a `handler` that accepts errors of the type `E`, where the inner
    /// service's error is boxed; see [`new`](HandleErrorLayer::new).
    ///
    /// Other errors pass through. So there may be a layer for each type, and one of
    /// [`new`](HandleErrorLayer::new) outside them for the rest:
    ///
    /// ```
    /// use getty_core::{IntoReply, Reply, Request};
    /// use getty_layers::{HandleErrorLayer, Malformed};
    /// use tower::{BoxError, ServiceBuilder};
    ///
    /// #[derive(Debug)]
    /// enum ChatError {
    ///     NoRoom,
    /// }
    ///
    /// impl std::error::Error for ChatError {}
    ///
    /// impl std::fmt::Display for ChatError {
    ///     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    ///         f.write_str("there is no such room")
    ///     }
    /// }
    ///
    /// impl IntoReply<String> for ChatError {
    ///     fn into_reply(self) -> Reply<String> {
    ///         Reply::one(format!("NO {self}"))
    ///     }
    /// }
    ///
    /// let stack = ServiceBuilder::new()
    ///     .layer(HandleErrorLayer::new(|_| "ERR internal error".to_owned()))
    ///     .layer(HandleErrorLayer::downcast(|error: Malformed| format!("BAD {}", error.reason())))
    ///     .layer(HandleErrorLayer::downcast(|error: ChatError| error))
    ///     .service_fn(|request: Request<String>| async move {
    ///         match request.message().as_str() {
    ///             "join" => Err(BoxError::from(ChatError::NoRoom)),
    ///             _ => Ok(Some(request.into_message())),
    ///         }
    ///     });
    /// # fn check<S: tower::Service<Request<String>>>(_: S) {}
    /// # check(stack);
    /// ```
    pub const fn downcast<R>(handler: H) -> Self
    where
        H: Fn(E) -> R + Clone,
        E: Error + 'static,
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

/// Service of [`HandleErrorLayer`].
pub struct HandleError<S, H, K = AnyError> {
    inner: S,
    handler: H,
    kind: PhantomData<fn() -> K>,
}

impl<S, H> HandleError<S, H> {
    /// Creates a new service around `inner`; see [`HandleErrorLayer::new`].
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
    /// Creates a new service around `inner`; see [`HandleErrorLayer::typed`].
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

impl<S, H, E> HandleError<S, H, DowncastError<E>> {
    /// Creates a new service around `inner`; see [`HandleErrorLayer::downcast`].
    pub const fn downcast<R>(inner: S, handler: H) -> Self
    where
        H: Fn(E) -> R + Clone,
        E: Error + 'static,
    {
        Self {
            inner,
            handler,
            kind: PhantomData,
        }
    }
}

impl<S, H, K> HandleError<S, H, K> {
    getty_core::inner_service_accessors!();
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
    /// Error of readiness, or one that the function does not accept.
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, H, Out, K>;

    /// Polls the inner service. A drop will give back its reservation.
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
    /// Future of [`HandleError`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, H, Out, K = AnyError> {
        #[pin]
        inner: F,
        handler: H,
        out: PhantomData<fn() -> Out>,
        kind: PhantomData<fn() -> K>,
    }
}

impl<F, H, K, R, Out, Response, E> Future for ResponseFuture<F, H, Out, K>
where
    F: Future<Output = Result<Response, E>>,
    Response: IntoReply<Out>,
    K: ErrorKind<E>,
    H: Fn(K::Argument) -> R,
    R: IntoReply<Out>,
{
    type Output = Result<Reply<Out>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.inner.poll(cx)) {
            Ok(response) => Ok(response.into_reply()),
            Err(error) => match K::argument(error) {
                Ok(argument) => Ok((this.handler)(argument).into_reply().after_error()),
                Err(error) => Err(error),
            },
        })
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

    use getty_core::CloseReason;
    use getty_test::{LayerContract, Rule};
    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower::{BoxError, service_fn};
    use tower_test::mock;

    use super::*;
    use crate::testing::request;

    type Message = Request<&'static str, String>;

    /// Returns a layer that replies with the error's text.
    fn layer() -> HandleErrorLayer<impl Fn(BoxError) -> String + Clone> {
        HandleErrorLayer::new(|error| error.to_string())
    }

    #[test]
    fn response_passes_through() {
        let (mut service, mut handle) = mock::spawn_layer::<Message, _, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        assert_pending!(response.poll());
        let (request, inner) = tokio_test::assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(*request.message(), "hello");
        inner.send_response(Reply::one("response".to_owned()).and_close());
        assert!(response.is_woken());
        let reply = assert_ready_ok!(response.poll());
        assert_eq!(reply, Reply::one("response".to_owned()).and_close());
        assert!(!reply.is_after_error());
    }

    #[test]
    fn error_becomes_a_reply_marked_after_error() {
        let (mut service, mut handle) = mock::spawn_layer::<Message, Option<String>, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        assert_pending!(response.poll());
        let (_, inner) = tokio_test::assert_ready!(handle.poll_request()).unwrap();
        inner.send_error("handler failed");
        assert!(response.is_woken());
        let reply = assert_ready_ok!(response.poll());
        assert_eq!(reply, Reply::one("handler failed".to_owned()).after_error());
        // The service is still usable.
        assert_ready_ok!(service.poll_ready());
    }

    #[test]
    fn handler_gets_the_error_and_may_return_any_reply() {
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
        assert_eq!(close, Some(CloseReason::Shutdown.into()));
    }

    #[test]
    fn typed_handler_gets_the_unboxed_error() {
        #[derive(Debug, PartialEq)]
        struct Refused(u32); // The layer does not require `Error`.

        let layer = HandleErrorLayer::typed(|Refused(code)| format!("ERR {code}"));
        let mut service = layer.layer(service_fn(|_: Message| async {
            Err::<String, _>(Refused(7))
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert_eq!(reply, Reply::one("ERR 7".to_owned()).after_error());
    }

    #[test]
    fn downcasting_handler_gets_its_type_and_other_errors_pass_through() {
        let layer = HandleErrorLayer::downcast(|error: io::Error| format!("ERR {error}"));
        for (fails, expected) in [("disk full", "ERR disk full"), ("other", "not io")] {
            let mut service = layer.layer(service_fn(move |_: Message| async move {
                Err::<String, BoxError>(match fails {
                    "other" => "not io".into(),
                    _ => io::Error::other(fails).into(),
                })
            }));
            match tokio_test::assert_ready!(task::spawn(service.call(request())).poll()) {
                Ok(reply) => assert_eq!(reply, Reply::one(expected.to_owned()).after_error()),
                Err(error) => assert_eq!(error.to_string(), expected),
            }
        }
    }

    #[test]
    fn error_that_is_a_reply_is_the_reply() {
        #[derive(Debug)]
        struct Refused(u32);

        impl IntoReply<String> for Refused {
            fn into_reply(self) -> Reply<String> {
                Reply::one(format!("NO {}", self.0)).and_close()
            }
        }

        let layer = HandleErrorLayer::typed(|error: Refused| error);
        let mut service = layer.layer(service_fn(|_: Message| async {
            Err::<String, _>(Refused(7))
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
        let expected = Reply::one("NO 7".to_owned()).and_close().after_error();
        assert_eq!(reply, expected);
    }

    #[test]
    fn handler_may_return_no_reply() {
        let layer = HandleErrorLayer::new(|_| None);
        let mut service = layer.layer(service_fn(|_: Message| async {
            Err::<String, _>(io::Error::other("disk full"))
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert_eq!(reply, Reply::none().after_error());
    }

    #[test]
    fn same_handler_accepts_an_infallible_service() {
        let mut service = layer().layer(service_fn(|request: Message| async move {
            Ok::<_, Infallible>(request.into_message().to_owned())
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
        assert_eq!(reply, Reply::one("hello".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        // it replies to errors
        let contract = LayerContract::new().except(Rule::Errors);
        contract.assert(&layer(), request::<String>).await;
    }

    #[test]
    fn dropped_future_drops_the_inner_future() {
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
