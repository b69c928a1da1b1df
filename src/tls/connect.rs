//! The client's side: the layer around a connector.

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
    TlsError, TlsInfo, TlsStream, TlsTarget,
    handshake::{self, HANDSHAKE_TIMEOUT, SEND_BUFFER},
};
use crate::transport::ByteStream;

/// Takes the client's side of a TLS handshake: a layer around a connector, any service from a target to a
/// `Connection<T>`, that gives a `Connection<TlsStream<T>>`.
///
/// - *ready*: the connector's.
/// - *call*: dials, and then takes the handshake, for the name that the [target says](TlsTarget) or that was
///   [given](Self::with_server_name).
/// - *drop*: gives the dial or the connection up.
/// - *close*: a connection whose handshake fails closes as [`CloseReason::Refused`](crate::CloseReason::Refused) or
///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout), with the [`TlsError`] that is the error of
///   this service. Where the dial failed, the error is the connector's.
///
/// With TLS 1.3 a client's handshake is complete before the server has looked at the client's certificate. If the server
/// does not accept it, the session opens and then closes as [`CloseReason::Io`](crate::CloseReason::Io), with the
/// server's alert as its source.
///
/// Scope: the configuration, with its memory of sessions to resume, is shared by all clones; the deadline is a dial's.
///
/// ```no_run
/// use getty::{ServiceBuilder, net::TcpConnector, tls::{ClientTls, TlsConnectLayer}};
/// use tower::ServiceExt;
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
    /// Takes handshakes as `config` says: from [`ClientTls::load`](super::ClientTls::load), or any other of rustls.
    #[must_use]
    pub fn new(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self {
            config: config.into(),
            server_name: None,
            timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// The name to ask the server for, and to verify its certificate for, whatever the target says. By default it is the
    /// target's.
    #[must_use]
    pub fn with_server_name(mut self, name: ServerName<'static>) -> Self {
        self.server_name = Some(name);
        self
    }

    /// How long a dial may take together with the handshake. 10 s by default; the connector's own limit for its part, of
    /// 3 s as a rule, holds besides. A time too long to be told is no bound.
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

/// The connector that [`TlsConnectLayer`] makes.
#[derive(Clone, Debug)]
pub struct TlsConnect<C> {
    inner: C,
    layer: TlsConnectLayer,
}

impl<C> TlsConnect<C> {
    /// The inner connector.
    pub const fn get_ref(&self) -> &C {
        &self.inner
    }

    /// The inner connector.
    pub const fn get_mut(&mut self) -> &mut C {
        &mut self.inner
    }

    /// The inner connector, by value.
    pub fn into_inner(self) -> C {
        self.inner
    }
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
            let dialled = match deadline {
                Some(deadline) => timeout_at(deadline, dial)
                    .await
                    .map_err(|_| TlsError::TimedOut(timeout))?,
                None => dial.await,
            };
            let (transport, rest) = dialled.map_err(Into::into)?.take_transport();
            let handshake = handshake::outcome(connect(config, name.clone(), transport));
            let stream = handshake::run(rest.handle(), timeout, deadline, handshake).await?;
            let info = TlsInfo::connected(&stream, &name);
            Ok(handshake::secured(rest, stream, info))
        }))
    }
}

// a function, for a future keeps the room of all that it has made in it
fn connect<T>(
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

/// A dial in progress: the future of [`TlsConnect`].
///
/// # Cancel safety
///
/// Dropped, it gives the dial up and closes its connection.
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
