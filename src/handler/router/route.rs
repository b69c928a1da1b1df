//! Routes: handlers and services with their types erased.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use getty_core::{IntoReply, Reply, Request, Session};
use tower::{BoxError, Service, ServiceExt, util::BoxCloneSyncService};

use crate::handler::{Handler, HandlerFuture, Rejection};

type BoxFuture<Out> = Pin<Box<dyn Future<Output = Result<Reply<Out>, BoxError>> + Send>>;

/// Future of a [`Router`](super::Router): ready at once, or boxed.
pub type RouteFuture<Out> = HandlerFuture<BoxFuture<Out>, Out>;

/// A handler or a service whose type is erased.
pub(super) trait Erased<In, Out, S>: Send + Sync {
    fn call(&self, request: Request<In, Out>, state: &S) -> RouteFuture<Out>;
}

pub(super) type ErasedRoute<In, Out, S> = Arc<dyn Erased<In, Out, S>>;

pub(super) struct HandlerRoute<H, Args> {
    handler: H,
    args: PhantomData<fn() -> Args>,
}

impl<H, Args> HandlerRoute<H, Args> {
    pub(super) const fn new(handler: H) -> Self {
        Self {
            handler,
            args: PhantomData,
        }
    }
}

impl<H, Args, In, Out, S> Erased<In, Out, S> for HandlerRoute<H, Args>
where
    H: Handler<In, Out, S, Args>,
    Out: Send + 'static,
{
    #[inline]
    fn call(&self, request: Request<In, Out>, state: &S) -> RouteFuture<Out> {
        let call = self.handler.call(request, state);
        call.map(|future| Box::pin(future) as BoxFuture<Out>)
    }
}

/// Services that can be routes.
///
/// It is an alias. Every service of requests implements it if it is `Clone + Send + Sync` and
/// its response is [`IntoReply`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service of messages that can be a route",
    label = "not a `Service<Request<{In}, {Out}>>` that is `Clone + Send + Sync`",
    note = "its response is `IntoReply<{Out}>`, its error can be boxed, and its future is `Send`"
)]
pub trait RouteService<In, Out>: Clone + Send + Sync + Sized + 'static {
    /// Erases the type of the service.
    #[doc(hidden)]
    fn erase(self) -> BoxCloneSyncService<Request<In, Out>, Reply<Out>, BoxError>;
}

impl<In, Out, T> RouteService<In, Out> for T
where
    In: Send + 'static,
    Out: Send + 'static,
    T: Service<Request<In, Out>, Response: IntoReply<Out>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    fn erase(self) -> BoxCloneSyncService<Request<In, Out>, Reply<Out>, BoxError> {
        let service = self.map_response(IntoReply::into_reply).map_err(Into::into);
        BoxCloneSyncService::new(service)
    }
}

struct ServiceRoute<In, Out>(BoxCloneSyncService<Request<In, Out>, Reply<Out>, BoxError>);

impl<In: Send + 'static, Out: Send + 'static, S> Erased<In, Out, S> for ServiceRoute<In, Out> {
    fn call(&self, request: Request<In, Out>, _: &S) -> RouteFuture<Out> {
        HandlerFuture::pending(Box::pin(self.0.clone().oneshot(request)))
    }
}

pub(super) fn service_route<In, Out, S>(
    service: impl RouteService<In, Out>,
) -> ErasedRoute<In, Out, S>
where
    In: Send + 'static,
    Out: Send + 'static,
{
    Arc::new(ServiceRoute(service.erase()))
}

type Provide<Out, S> = dyn Fn(&Session<Out>) -> Result<S, Rejection<Out>> + Send + Sync;

/// Source of the handlers' state.
pub(super) enum Source<Out, S> {
    Value(S),
    OfSession(Arc<Provide<Out, S>>),
}

impl<Out, S> Source<Out, S> {
    #[inline(always)]
    pub(super) fn call<In>(
        &self,
        route: &ErasedRoute<In, Out, S>,
        request: Request<In, Out>,
    ) -> RouteFuture<Out>
    where
        Out: 'static,
    {
        match self {
            Self::Value(state) => route.call(request, state),
            Self::OfSession(provide) => match provide(request.session()) {
                Ok(state) => route.call(request, &state),
                Err(rejection) => HandlerFuture::ready(rejection.into_result()),
            },
        }
    }
}

impl<Out, S: Clone> Clone for Source<Out, S> {
    fn clone(&self) -> Self {
        match self {
            Self::Value(state) => Self::Value(state.clone()),
            Self::OfSession(provide) => Self::OfSession(Arc::clone(provide)),
        }
    }
}

/// Service inside the layers of one route of a [`Router`](super::Router).
///
/// - *ready*: always.
/// - *call*: calls the handler.
/// - *drop*: drops the handler's future.
/// - *close*: nothing.
///
/// Scope: message.
pub struct Route<In, Out, S> {
    pub(super) route: ErasedRoute<In, Out, S>,
    pub(super) state: Source<Out, S>,
}

// a route of a router with another state
impl<In, Out, S, Other> Erased<In, Out, Other> for Route<In, Out, S>
where
    Out: 'static,
    S: Send + Sync,
{
    fn call(&self, request: Request<In, Out>, _: &Other) -> RouteFuture<Out> {
        self.state.call(&self.route, request)
    }
}

impl<In, Out: 'static, S> Service<Request<In, Out>> for Route<In, Out, S> {
    type Response = Reply<Out>;
    type Error = BoxError;
    type Future = RouteFuture<Out>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<In, Out>) -> RouteFuture<Out> {
        self.state.call(&self.route, request)
    }
}

impl<In, Out, S: Clone> Clone for Route<In, Out, S> {
    fn clone(&self) -> Self {
        Self {
            route: Arc::clone(&self.route),
            state: self.state.clone(),
        }
    }
}

impl<In, Out, S> fmt::Debug for Route<In, Out, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}
