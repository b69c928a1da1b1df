//! Services of one handler.

use std::{
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
};

use getty_core::{Reply, Request};
use tower::{BoxError, Service};

use super::{Handler, HandlerFuture, via};

/// Creates a service that calls `handler` with each message.
///
/// The session sends the type that it receives. Use [`handle_with`] where the two differ, or
/// where the handler has a [`State`](super::State).
///
/// ```
/// use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
///
/// let app = ServiceBuilder::new()
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service(handle(async |line: String| line.to_ascii_uppercase()));
/// # let (listener, _) = getty::net::memory(1024);
/// # let _ = getty::serve(listener, app);
/// ```
#[doc(alias("handler", "handler_fn", "service_fn"))]
pub fn handle<H, In, Out, Args>(handler: H) -> HandlerService<H, (), In, Out, Args>
where
    H: Handler<In, Out, (), Args>,
    In: via::Echoes<Out>,
{
    handle_with((), handler)
}

/// Creates a service that calls `handler` with each message and with parts of `state`.
///
/// ```
/// use std::sync::Arc;
///
/// use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Lines};
/// use getty::{Request, handler::{State, handle_with}};
///
/// #[derive(Clone)]
/// struct Greeting(Arc<str>);
///
/// async fn greet(name: String, State(Greeting(greeting)): State<Greeting>) -> String {
///     format!("{greeting}, {name}")
/// }
///
/// let app = ServiceBuilder::new()
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service(handle_with::<_, _, String, String, _>(Greeting("hello".into()), greet));
/// # let (listener, _) = getty::net::memory(1024);
/// # let _ = getty::serve(listener, app);
/// ```
pub fn handle_with<H, S, In, Out, Args>(state: S, handler: H) -> HandlerService<H, S, In, Out, Args>
where
    // here as well as below, so that a mistake is reported where the handler is named
    H: Handler<In, Out, S, Args>,
{
    HandlerService {
        handler,
        state,
        types: PhantomData,
    }
}

/// Service of one handler: see [`handle`].
///
/// - *ready*: always.
/// - *call*: makes the arguments and calls the handler. The result of a handler that is not
///   `async` is ready at once, without an allocation.
/// - *drop*: drops the handler's future.
/// - *close*: nothing.
///
/// Scope: message.
pub struct HandlerService<H, S, In, Out, Args> {
    handler: H,
    state: S,
    types: PhantomData<fn(In, Args) -> Out>,
}

impl<H, S, In, Out, Args> Service<Request<In, Out>> for HandlerService<H, S, In, Out, Args>
where
    H: Handler<In, Out, S, Args>,
{
    type Response = Reply<Out>;
    type Error = BoxError;
    type Future = HandlerFuture<H::Future, Out>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline(always)]
    fn call(&mut self, request: Request<In, Out>) -> Self::Future {
        self.handler.call(request, &self.state)
    }
}

impl<H: Clone, S: Clone, In, Out, Args> Clone for HandlerService<H, S, In, Out, Args> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            state: self.state.clone(),
            types: PhantomData,
        }
    }
}

impl<H, S, In, Out, Args> fmt::Debug for HandlerService<H, S, In, Out, Args> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandlerService")
            .field(&std::any::type_name::<H>())
            .finish()
    }
}
