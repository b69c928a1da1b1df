//! Client side of STARTTLS.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use getty_core::{Connection, ConnectionHandle};
use pin_project_lite::pin_project;
use tokio_rustls::rustls::{ClientConfig, pki_types::ServerName};
use tower::{BoxError, Layer, Service};

use super::{
    layer::UPGRADE_TIMEOUT,
    upgradable::{Handshake, Upgradable, Upgrade},
};
use crate::{
    tls::{ConnectUpgrade, TlsError, TlsStream, TlsTarget},
    transport::ByteStream,
};

/// Lets a client upgrade an open session to TLS (STARTTLS), around any connector. The new
/// connector returns a `Connection<Upgradable<T, TlsStream<T>>>`.
///
/// The session begins in plain text. The handler of the server's go-ahead returns
/// `Reply::none().and_upgrade()`, and the handshake follows. A task that waits for the upgrade
/// awaits [`upgraded`](crate::ConnectionHandle::upgraded). See the [module] for the rules of an
/// upgrade and for security: a client must require TLS.
///
/// [module]: crate::upgrade#upgrade-of-an-open-session
///
/// - *ready*: polls the connector.
/// - *call*: connects. The certificate will be verified for the [target's name](TlsTarget) or
///   for the [configured](Self::with_server_name) one. A target without a name fails with
///   [`TlsError::NoServerName`] and is not dialed.
/// - *drop*: abandons the attempt.
/// - *close*: a failed handshake closes the session as
///   [`CloseReason::UpgradeFailed`](crate::CloseReason::UpgradeFailed), and a late one as
///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout). The source is a
///   [`TlsError`]. Bytes behind the server's go-ahead close it as
///   [`CloseReason::Decode`](crate::CloseReason::Decode) with
///   [`BytesBeforeUpgrade`](super::BytesBeforeUpgrade).
///
/// Scope: all clones share the configuration with its cache of resumable TLS sessions. The
/// deadline applies to each upgrade.
///
/// ```no_run
/// use getty::{ServiceBuilder, net::TcpConnector, tls::ClientTls, upgrade::StartTlsConnectLayer};
/// use getty::tower::ServiceExt;
///
/// # async fn dial() -> Result<(), getty::BoxError> {
/// let connector = ServiceBuilder::new()
///     .layer(StartTlsConnectLayer::new(ClientTls::new().load()?))
///     .service(TcpConnector::new());
/// let connection = connector.oneshot("mail.example.com:587").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StartTlsConnectLayer {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    timeout: Duration,
}

impl StartTlsConnectLayer {
    /// Creates a new layer with `config`, from [`ClientTls::load`](crate::tls::ClientTls::load) or
    /// any other source.
    #[must_use]
    pub fn new(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self {
            config: config.into(),
            server_name: None,
            timeout: UPGRADE_TIMEOUT,
        }
    }

    /// Sets the name that is requested from the server and that its certificate is verified for.
    /// The default is the target's name.
    #[must_use]
    pub fn with_server_name(mut self, name: ServerName<'static>) -> Self {
        self.server_name = Some(name);
        self
    }

    /// Sets the time for one handshake, from the reply that requests it. The default is 10 s. A
    /// time that exceeds the clock's range is unlimited.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<C> Layer<C> for StartTlsConnectLayer {
    type Service = StartTlsConnect<C>;

    fn layer(&self, inner: C) -> StartTlsConnect<C> {
        StartTlsConnect {
            inner,
            layer: self.clone(),
        }
    }
}

/// Connector that [`StartTlsConnectLayer`] creates.
#[derive(Clone, Debug)]
pub struct StartTlsConnect<C> {
    inner: C,
    layer: StartTlsConnectLayer,
}

impl<S> StartTlsConnect<S> {
    getty_core::inner_service_accessors!();
}

impl<C, A, T> Service<A> for StartTlsConnect<C>
where
    C: Service<A, Response = Connection<T>, Error: Into<BoxError>>,
    A: TlsTarget,
    T: ByteStream,
{
    type Response = Connection<Upgradable<T, TlsStream<T>>>;
    type Error = BoxError;
    type Future = StartTlsConnecting<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: A) -> Self::Future {
        let StartTlsConnectLayer {
            config,
            server_name,
            timeout,
        } = self.layer.clone();
        let name = server_name.or_else(|| target.server_name());
        let Some(name) = name else {
            return StartTlsConnecting { dialed: None };
        };
        let upgrade = Arc::new(ConnectUpgrade {
            config,
            name,
            timeout,
        });
        StartTlsConnecting {
            dialed: Some(Dialed {
                dial: self.inner.call(target),
                upgrade,
            }),
        }
    }
}

impl<T: ByteStream> Upgrade<T, TlsStream<T>> for ConnectUpgrade {
    fn carries(&self) -> bool {
        false
    }

    fn start(&self, io: T, _: Bytes, handle: ConnectionHandle) -> Handshake<TlsStream<T>> {
        Box::pin(self.clone().run(io, handle))
    }
}

pin_project! {
    /// Future of [`StartTlsConnect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it abandons the attempt.
    #[must_use = "futures do nothing unless polled"]
    pub struct StartTlsConnecting<F> {
        // `None` if the target has no name
        #[pin]
        dialed: Option<Dialed<F>>,
    }
}

pin_project! {
    struct Dialed<F> {
        #[pin]
        dial: F,
        upgrade: Arc<ConnectUpgrade>,
    }
}

impl<F, T, E> Future for StartTlsConnecting<F>
where
    F: Future<Output = Result<Connection<T>, E>>,
    E: Into<BoxError>,
    T: ByteStream,
{
    type Output = Result<Connection<Upgradable<T, TlsStream<T>>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(dialed) = self.project().dialed.as_pin_mut() else {
            return Poll::Ready(Err(TlsError::NoServerName.into()));
        };
        let dialed = dialed.project();
        let connection = ready!(dialed.dial.poll(cx)).map_err(Into::into)?;
        let upgrade: Arc<dyn Upgrade<T, TlsStream<T>>> = Arc::clone(dialed.upgrade) as _;
        Poll::Ready(Ok(
            connection.map_transport(|io| Upgradable::new(io, upgrade))
        ))
    }
}

impl<F> fmt::Debug for StartTlsConnecting<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartTlsConnecting").finish_non_exhaustive()
    }
}
