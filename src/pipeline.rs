//! Trait alias for a whole stack, and a stack whose type is erased.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use getty_core::{Closed, Connection};
use tower::{BoxError, Service, ServiceExt, util::BoxCloneSyncService};

use crate::transport::{BoxTransport, Transport};

/// Stack that serves connections over the transport `Io`, from the outermost connection layer
/// to the handler.
///
/// It is an alias. Every `Service<Connection<Io>, Response = Closed>` implements it if its
/// error can be boxed and if the service and its future are `Send`. Use it as a bound, or as
/// the return type of a function that builds a stack:
/// `fn app<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone`.
#[diagnostic::on_unimplemented(
    message = "this stack cannot serve `Connection<{Io}>`",
    label = "not a pipeline for `Connection<{Io}>`",
    note = "outermost to innermost: connection layers, `CodecLayer`, session-aware layers, `SessionLayer`, message layers, handler"
)]
// (design.md: Why does `serve` name one trait, `Pipeline`?)
pub trait Pipeline<Io>:
    Service<
        Connection<Io>,
        Response = Closed,
        Error = <Self as Pipeline<Io>>::PipelineError,
        Future = <Self as Pipeline<Io>>::PipelineFuture,
    > + Send
    + 'static
{
    /// Error of the service.
    type PipelineError: Into<BoxError>;
    /// Future of the service, which runs for the life of one connection.
    type PipelineFuture: Future<Output = Result<Closed, Self::PipelineError>> + Send + 'static;
}

// Must not be `do_not_recommend`: compiler errors must name the layer or handler that does not
// fit.
impl<Io, S> Pipeline<Io> for S
where
    S: Service<Connection<Io>, Response = Closed> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type PipelineError = S::Error;
    type PipelineFuture = S::Future;
}

/// Type-erased [`Pipeline`], for large applications and short build times.
///
/// One compiled stack serves every transport. The erasure costs two allocations a connection:
/// one for the stack's future and one for the transport. The type is `Clone + Send + Sync`.
///
/// ```
/// use getty::{
///     BoxError, BoxPipeline, CodecLayer, Request, ServiceBuilder,
///     SessionLayer, codec, net,
/// };
///
/// fn app() -> BoxPipeline {
///     BoxPipeline::new(
///         ServiceBuilder::new()
///             .layer(CodecLayer::new(codec::Lines::new()))
///             .layer(SessionLayer::new())
///             .service_fn(|request: Request<String>| async move {
///                 Ok::<_, BoxError>(request.into_message())
///             }),
///     )
/// }
///
/// let (listener, _connector) = net::memory(1024);
/// let _serve = getty::serve(listener, app());
/// ```
#[derive(Clone)]
pub struct BoxPipeline(BoxCloneSyncService<Connection<BoxTransport>, Closed, BoxError>);

impl BoxPipeline {
    /// Creates a new `BoxPipeline` from `stack`.
    pub fn new<S>(stack: S) -> Self
    where
        S: Pipeline<BoxTransport> + Clone + Sync,
    {
        Self(BoxCloneSyncService::new(stack.map_err(Into::into)))
    }
}

impl<T: Transport + Send + 'static> Service<Connection<T>> for BoxPipeline {
    type Response = Closed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Closed, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        self.0.call(connection.map_transport(BoxTransport::new))
    }
}

impl fmt::Debug for BoxPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxPipeline").finish_non_exhaustive()
    }
}
