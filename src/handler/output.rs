//! Results of handlers.

use std::{
    convert::Infallible,
    fmt,
    future::{self, Future},
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::{IntoReply, Reply};
use pin_project_lite::pin_project;
use tower::BoxError;

use super::{Rejection, via};

/// Result of a handler that does not reply.
///
/// `()` is not a result of handlers: a handler that loses its reply through a stray semicolon
/// will not compile.
///
/// ```
/// use getty::{Session, handler::NoReply};
///
/// fn quit(_line: String, session: Session<String>) -> NoReply {
///     session.close();
///     NoReply
/// }
///
/// let service = getty::handle(quit);
/// # fn check<S: getty::Service<getty::Request<String>>>(_: S) {}
/// # check(service);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "return it from the handler"]
pub struct NoReply;

/// Return types of handler functions.
///
/// | type | effect |
/// |---|---|
/// | any [`IntoReply`] type: `Out`, or an `Option`, `Vec` or [`Reply`] of it | replies |
/// | [`NoReply`] | does not reply |
/// | `Result<R, E>`, where `E` is [`IntoReply`] | replies with the error |
/// | `Result<R, BoxError>` | the error fails the call |
/// | `Result<R, Rejection<Out>>` | the rejection is a reply, or fails the call |
///
/// `R` is any return type of this table. A failed call closes the session, unless a
/// [`HandleErrorLayer`](crate::layers::HandleErrorLayer) converts the error into a reply.
///
/// `Via` is a marker that keeps the kinds apart. The compiler infers it.
#[doc(alias("IntoResponse", "IntoAnswer"))]
#[diagnostic::on_unimplemented(
    message = "a handler whose session sends `{Out}` cannot return `{Self}`",
    label = "return `{Out}`, an `Option`, `Vec` or `Reply` of it, `NoReply`, or a `Result` of one of these",
    note = "the error of a `Result` is a `BoxError`, a `Rejection<{Out}>`, or a type that is `IntoReply<{Out}>`"
)]
pub trait HandlerOutput<Out, Via> {
    /// Converts the value into the result of the call.
    ///
    /// # Errors
    ///
    /// Returns the error of the handler.
    fn into_result(self) -> Result<Reply<Out>, BoxError>;
}

#[diagnostic::do_not_recommend]
impl<Out, R: IntoReply<Out>> HandlerOutput<Out, via::Replies> for R {
    #[inline]
    fn into_result(self) -> Result<Reply<Out>, BoxError> {
        Ok(self.into_reply())
    }
}

#[diagnostic::do_not_recommend]
impl<Out> HandlerOutput<Out, via::Silent> for NoReply {
    #[inline]
    fn into_result(self) -> Result<Reply<Out>, BoxError> {
        Ok(Reply::none())
    }
}

#[diagnostic::do_not_recommend]
impl<Out, V, R, E> HandlerOutput<Out, via::OrReplies<V>> for Result<R, E>
where
    R: HandlerOutput<Out, V>,
    E: IntoReply<Out>,
{
    #[inline]
    fn into_result(self) -> Result<Reply<Out>, BoxError> {
        match self {
            Ok(output) => output.into_result(),
            Err(error) => Ok(error.into_reply()),
        }
    }
}

#[diagnostic::do_not_recommend]
impl<Out, V, R: HandlerOutput<Out, V>> HandlerOutput<Out, via::OrFails<V>> for Result<R, BoxError> {
    #[inline]
    fn into_result(self) -> Result<Reply<Out>, BoxError> {
        self?.into_result()
    }
}

#[diagnostic::do_not_recommend]
impl<Out, V, R> HandlerOutput<Out, via::OrRejects<V>> for Result<R, Rejection<Out>>
where
    R: HandlerOutput<Out, V>,
{
    #[inline]
    fn into_result(self) -> Result<Reply<Out>, BoxError> {
        match self {
            Ok(output) => output.into_result(),
            Err(rejection) => rejection.into_result(),
        }
    }
}

#[diagnostic::do_not_recommend]
impl<Out, V, R> HandlerOutput<Out, via::Never<V>> for Result<R, Infallible>
where
    R: HandlerOutput<Out, V>,
{
    #[inline]
    fn into_result(self) -> Result<Reply<Out>, BoxError> {
        match self {
            Ok(output) => output.into_result(),
            Err(never) => match never {},
        }
    }
}

/// Return types of handler functions, `async` or not: a [`HandlerOutput`], or a future of one.
#[diagnostic::on_unimplemented(
    message = "a handler whose session sends `{Out}` cannot return `{Self}`",
    label = "return `{Out}`, an `Option`, `Vec` or `Reply` of it, `NoReply`, or a `Result` of one of these",
    note = "the error of a `Result` is a `BoxError`, a `Rejection<{Out}>`, or a type that is `IntoReply<{Out}>`"
)]
pub trait Outcome<Out, Via> {
    /// The rest of the call.
    type Future: Future<Output = Result<Reply<Out>, BoxError>>;

    /// Converts the value into the future of the call.
    fn into_future(self) -> HandlerFuture<Self::Future, Out>;
}

#[diagnostic::do_not_recommend]
impl<Out, V, R: Future<Output: HandlerOutput<Out, V>>> Outcome<Out, via::Async<V>> for R {
    type Future = OutputFuture<R, Out, V>;

    #[inline]
    fn into_future(self) -> HandlerFuture<Self::Future, Out> {
        HandlerFuture::pending(OutputFuture {
            future: self,
            types: PhantomData,
        })
    }
}

#[diagnostic::do_not_recommend]
impl<Out, V, R: HandlerOutput<Out, V>> Outcome<Out, via::Immediate<V>> for R {
    type Future = future::Pending<Result<Reply<Out>, BoxError>>;

    #[inline]
    fn into_future(self) -> HandlerFuture<Self::Future, Out> {
        HandlerFuture::ready(self.into_result())
    }
}

pin_project! {
    /// Future of an `async` handler, with its output converted.
    #[must_use = "futures do nothing unless polled"]
    pub struct OutputFuture<F, Out, V> {
        #[pin]
        future: F,
        types: PhantomData<fn() -> (Out, V)>,
    }
}

impl<F, Out, V> Future for OutputFuture<F, Out, V>
where
    F: Future<Output: HandlerOutput<Out, V>>,
{
    type Output = Result<Reply<Out>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(self.project().future.poll(cx)).into_result())
    }
}

impl<F, Out, V> fmt::Debug for OutputFuture<F, Out, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// Future of one call of a handler. It is ready at once if the handler is not `async`.
    ///
    /// Dropping it drops the handler's future.
    #[must_use = "futures do nothing unless polled"]
    pub struct HandlerFuture<F, Out> {
        #[pin]
        call: Call<F, Out>,
    }
}

/// Future of a handler that is not `async`. It is the return type of a function for
/// [`dispatch`](super::dispatch) none of whose handlers is `async`.
pub type Immediate<Out> = HandlerFuture<future::Pending<Result<Reply<Out>, BoxError>>, Out>;

pin_project! {
    // Most results are one message or none. Others are boxed, so that the drop of the enum is a
    // few instructions, which the compiler inlines into the session loop and then removes
    // (design.md: Why does a handler without `async` cost nothing?).
    #[project = CallProj]
    pub(super) enum Call<F, Out> {
        Plain { message: Option<Out> },
        Other { result: Option<Box<Result<Reply<Out>, BoxError>>> },
        Pending { #[pin] future: F },
    }
}

impl<F, Out> HandlerFuture<F, Out> {
    /// Creates a future that is ready with `result`.
    #[inline(always)]
    pub fn ready(result: Result<Reply<Out>, BoxError>) -> Self {
        let call = match result.map(Reply::into_plain) {
            Ok(Ok(message)) => Call::Plain { message },
            Ok(Err(reply)) => Self::other(Ok(reply)),
            Err(error) => Self::other(Err(error)),
        };
        Self { call }
    }

    #[cold]
    fn other(result: Result<Reply<Out>, BoxError>) -> Call<F, Out> {
        Call::Other {
            result: Some(Box::new(result)),
        }
    }

    /// Creates a future that resolves to the output of `future`.
    #[inline(always)]
    pub fn pending(future: F) -> Self {
        Self {
            call: Call::Pending { future },
        }
    }

    /// Changes the type of the future if it is not ready.
    #[inline(always)]
    pub(super) fn map<G>(self, f: impl FnOnce(F) -> G) -> HandlerFuture<G, Out> {
        let call = match self.call {
            Call::Plain { message } => Call::Plain { message },
            Call::Other { result } => Call::Other { result },
            Call::Pending { future } => Call::Pending { future: f(future) },
        };
        HandlerFuture { call }
    }
}

impl<F, Out> Future for HandlerFuture<F, Out>
where
    F: Future<Output = Result<Reply<Out>, BoxError>>,
{
    type Output = Result<Reply<Out>, BoxError>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().call.project() {
            CallProj::Plain { message } => Poll::Ready(Ok(
                <Option<Out> as IntoReply<Out>>::into_reply(message.take()),
            )),
            CallProj::Other { result } => {
                Poll::Ready(*result.take().expect("not polled after completion"))
            }
            CallProj::Pending { future } => future.poll(cx),
        }
    }
}

impl<F, Out> fmt::Debug for HandlerFuture<F, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = !matches!(self.call, Call::Pending { .. });
        f.debug_struct("HandlerFuture")
            .field("ready", &ready)
            .finish_non_exhaustive()
    }
}
