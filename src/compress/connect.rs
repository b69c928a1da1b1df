//! Client side: the layer around a connector.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_core::Connection;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Compressed, Contexts, Level,
    layer::compress,
    settings::{Format, Settings, settings},
};
use crate::transport::ByteStream;

/// Compresses the connections of any connector: any service from a target to a
/// `Connection<T>`. The new connector returns a `Connection<Compressed<T>>`.
///
/// - *ready*: polls the connector.
/// - *call*: connects. The error is the connector's.
/// - *drop*: abandons the attempt.
/// - *close*: as for [`CompressionLayer`](super::CompressionLayer).
///
/// Scope: the pool of contexts is shared by all clones. It belongs outside `TlsConnectLayer`,
/// whose connections it compresses.
///
/// ```no_run
/// use getty::compress::{CompressionConnectLayer, Level};
/// use getty::{ServiceBuilder, net::TcpConnector};
/// use getty::tower::ServiceExt;
///
/// # async fn dial() -> Result<(), getty::BoxError> {
/// let connector = ServiceBuilder::new()
///     .layer(CompressionConnectLayer::deflate(Level::FAST))
///     .service(TcpConnector::new());
/// let connection = connector.oneshot("example.com:7000").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CompressionConnectLayer {
    settings: Arc<Settings>,
}

impl CompressionConnectLayer {
    settings!();
}

impl<C> Layer<C> for CompressionConnectLayer {
    type Service = CompressionConnect<C>;

    fn layer(&self, inner: C) -> CompressionConnect<C> {
        CompressionConnect {
            inner,
            settings: Arc::clone(&self.settings),
        }
    }
}

/// Connector that [`CompressionConnectLayer`] creates.
#[derive(Clone, Debug)]
pub struct CompressionConnect<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> CompressionConnect<S> {
    getty_core::inner_service_accessors!();
}

impl<C, A, T> Service<A> for CompressionConnect<C>
where
    C: Service<A, Response = Connection<T>>,
    T: ByteStream,
{
    type Response = Connection<Compressed<T>>;
    type Error = C::Error;
    type Future = CompressionConnecting<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, target: A) -> Self::Future {
        CompressionConnecting {
            inner: self.inner.call(target),
            settings: Arc::clone(&self.settings),
        }
    }
}

pin_project! {
    /// Future of [`CompressionConnect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it abandons the attempt, as dropping the connector's future does.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct CompressionConnecting<F> {
        #[pin]
        inner: F,
        settings: Arc<Settings>,
    }
}

impl<F, T, E> Future for CompressionConnecting<F>
where
    F: Future<Output = Result<Connection<T>, E>>,
{
    type Output = Result<Connection<Compressed<T>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let connection = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(compress(connection, this.settings)))
    }
}
