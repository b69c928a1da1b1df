//! A function that matches messages and calls handlers.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    task::{Context, Poll},
};

use getty_core::{Reply, Request, Session};
use tower::{BoxError, Service};

use super::{Handler, HandlerFuture};

/// Creates a service of a function that matches a message and calls a handler with its content.
///
/// It is the router for enums. The compiler checks that each variant has an arm, and a call
/// allocates nothing. The function is `async` if a handler is. If no handler is, the function
/// returns the result of [`Scope::call`].
///
/// ```
/// use getty::handler::{NoReply, Scope, State, dispatch, handle_with};
/// use getty::{BoxError, Request, Service, Session};
///
/// enum Command {
///     Say(String),
///     Count { from: u32 },
///     Quit,
/// }
///
/// #[derive(Clone)]
/// struct Name(&'static str);
///
/// async fn say(text: String, State(Name(name)): State<Name>) -> String {
///     format!("{name}: {text}")
/// }
///
/// fn count(from: u32) -> Vec<String> {
///     (from..from + 3).map(|n| n.to_string()).collect()
/// }
///
/// fn quit(_: (), session: Session<String>) -> NoReply {
///     session.close();
///     NoReply
/// }
///
/// let service = dispatch(Name("ada"), async |command, scope: Scope<String, Name>| match command {
///     Command::Say(text) => scope.call(say, text).await,
///     Command::Count { from } => scope.call(count, from).await,
///     Command::Quit => scope.call(quit, ()).await,
/// });
/// # fn check<S: Service<Request<Command, String>>>(_: S) {}
/// # check(service);
/// ```
#[doc(alias("route", "match", "enum"))]
pub fn dispatch<In, Out, S, F, Fut>(state: S, f: F) -> Dispatch<F, S, In, Out>
where
    F: FnOnce(In, Scope<Out, S>) -> Fut + Clone,
    Fut: Future<Output = Result<Reply<Out>, BoxError>>,
{
    Dispatch {
        f,
        state,
        types: PhantomData,
    }
}

/// Session and state of one call of [`dispatch`], for the handlers that it calls.
#[must_use = "a message is handled by `Scope::call`"]
pub struct Scope<Out, S> {
    request: Request<(), Out>,
    state: S,
}

impl<Out: 'static, S> Scope<Out, S> {
    /// Calls `handler` with `message`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the handler's future.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a function is passed without a reference"
    )]
    #[inline]
    pub fn call<In, H, Args>(self, handler: H, message: In) -> HandlerFuture<H::Future, Out>
    where
        H: Handler<In, Out, S, Args>,
    {
        handler.call(self.request.map(|()| message), &self.state)
    }

    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> &Session<Out> {
        self.request.session()
    }

    /// Returns the state.
    #[must_use]
    pub const fn state(&self) -> &S {
        &self.state
    }
}

impl<Out, S> fmt::Debug for Scope<Out, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

/// Service of a function that matches messages: see [`dispatch`].
///
/// - *ready*: always.
/// - *call*: calls the function with the message, and with a clone of the state.
/// - *drop*: drops the function's future.
/// - *close*: nothing.
///
/// Scope: message.
pub struct Dispatch<F, S, In, Out> {
    f: F,
    state: S,
    types: PhantomData<fn(In) -> Out>,
}

impl<F, Fut, S, In, Out> Service<Request<In, Out>> for Dispatch<F, S, In, Out>
where
    F: FnOnce(In, Scope<Out, S>) -> Fut + Clone,
    Fut: Future<Output = Result<Reply<Out>, BoxError>>,
    S: Clone,
{
    type Response = Reply<Out>;
    type Error = BoxError;
    type Future = Fut;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<In, Out>) -> Fut {
        let (message, request) = request.take();
        let scope = Scope {
            request,
            state: self.state.clone(),
        };
        self.f.clone()(message, scope)
    }
}

impl<F: Clone, S: Clone, In, Out> Clone for Dispatch<F, S, In, Out> {
    fn clone(&self) -> Self {
        Self {
            f: self.f.clone(),
            state: self.state.clone(),
            types: PhantomData,
        }
    }
}

impl<F, S, In, Out> fmt::Debug for Dispatch<F, S, In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch").finish_non_exhaustive()
    }
}
