//! Client side: the layer around a connector.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::Connection;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    FallibleConnect, TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    error::TlsError,
    handshake::{self, HANDSHAKE_TIMEOUT, SEND_BUFFER},
    info::TlsInfo,
    stream::TlsStream,
    target::TlsTarget,
};
use crate::transport::ByteStream;

/// Runs the client's side of a TLS handshake, around any connector: any service from a target
/// to a `Connection<T>`. The new connector returns a `Connection<TlsStream<T>>`.
///
/// - *ready*: polls the connector.
/// - *call*: connects and then runs the handshake. The certificate is verified for the
///   [target's name](TlsTarget) or for the [configured](Self::with_server_name) one.
/// - *drop*: abandons the attempt and closes its connection.
/// - *close*: if the handshake fails, the connection closes as
///   [`CloseReason::Refused`](crate::CloseReason::Refused) or
///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout). The source, which
///   is also the error of this service, is a [`TlsError`]. If the connector fails, its error is
///   returned.
///
/// With TLS 1.3 a client's handshake is complete before the server has verified the client's
/// certificate. If the server does not accept it, the session opens and then closes as
/// [`CloseReason::Io`](crate::CloseReason::Io) with the server's alert as its source.
///
/// Scope: all clones share the configuration with its cache of resumable TLS sessions. The
/// deadline applies to each call.
///
/// ```no_run
/// use getty::{ServiceBuilder, net::TcpConnector, tls::{ClientTls, TlsConnectLayer}};
/// use getty::tower::ServiceExt;
///
/// # async fn dial() -> Result<(), getty::BoxError> {
/// let connector = ServiceBuilder::new()
///     .layer(TlsConnectLayer::new(ClientTls::new().load()?))
///     .service(TcpConnector::new());
/// let connection = connector.oneshot("example.com:7000").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TlsConnectLayer {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    timeout: Duration,
}

impl TlsConnectLayer {
    /// Creates a new layer with `config`, from [`ClientTls::load`](super::ClientTls::load) or any
    /// other source.
    #[must_use]
    pub fn new(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self {
            config: config.into(),
            server_name: None,
            timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// Sets the name that is requested from the server and that its certificate is verified for.
    /// The default is the target's name.
    #[must_use]
    pub fn with_server_name(mut self, name: ServerName<'static>) -> Self {
        self.server_name = Some(name);
        self
    }

    /// Sets the timeout of the connect together with the handshake. The default is 10 s. The
    /// connector's own timeout applies in addition. It is usually 3 s. A timeout that exceeds the
    /// clock's range is unlimited.
    #[must_use]
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<C> Layer<C> for TlsConnectLayer {
    type Service = TlsConnect<C>;

    fn layer(&self, inner: C) -> TlsConnect<C> {
        TlsConnect {
            inner,
            layer: self.clone(),
        }
    }
}

/// Connector that [`TlsConnectLayer`] creates.
#[derive(Clone, Debug)]
pub struct TlsConnect<C> {
    inner: C,
    layer: TlsConnectLayer,
}

impl<S> TlsConnect<S> {
    getty_core::inner_service_accessors!();
}

impl<C, A, T> Service<A> for TlsConnect<C>
where
    C: Service<A, Response = Connection<T>, Error: Into<BoxError>, Future: Send + 'static>,
    A: TlsTarget,
    T: ByteStream,
{
    type Response = Connection<TlsStream<T>>;
    type Error = BoxError;
    type Future = TlsConnecting<T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: A) -> Self::Future {
        let TlsConnectLayer {
            config,
            server_name,
            timeout,
        } = self.layer.clone();
        let Some(name) = server_name.or_else(|| target.server_name()) else {
            return TlsConnecting(Box::pin(async { Err(TlsError::NoServerName.into()) }));
        };
        let deadline = Instant::now().checked_add(timeout);
        let dial = self.inner.call(target);
        TlsConnecting(Box::pin(async move {
            let dialed = match deadline {
                Some(deadline) => timeout_at(deadline, dial)
                    .await
                    .map_err(|_| TlsError::TimedOut(timeout))?,
                None => dial.await,
            };
            let (transport, rest) = dialed.map_err(Into::into)?.take_transport();
            let handshake = handshake::outcome(connect(config, name.clone(), transport));
            let stream = handshake::run(rest.handle(), timeout, deadline, handshake).await?;
            let info = TlsInfo::connected(&stream, &name);
            Ok(handshake::secured(rest, stream, info))
        }))
    }
}

// A separate function because a future keeps room for every value that is created in it.
pub(super) fn connect<T>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    transport: T,
) -> Box<FallibleConnect<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(config);
    let connect = connector.connect_with(name, transport, |tls| {
        tls.set_buffer_limit(Some(SEND_BUFFER));
    });
    Box::new(connect.into_fallible())
}

/// Future of [`TlsConnect`].
///
/// # Cancel safety
///
/// Dropping it abandons the attempt and closes its connection.
#[must_use = "futures do nothing unless polled"]
pub struct TlsConnecting<T>(BoxFuture<'static, Result<Connection<TlsStream<T>>, BoxError>>);

impl<T> Future for TlsConnecting<T> {
    type Output = Result<Connection<TlsStream<T>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for TlsConnecting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnecting").finish_non_exhaustive()
    }
}
