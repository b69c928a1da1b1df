//! Server side of STARTTLS.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use getty_core::{Connection, ConnectionHandle};
use tower::{Layer, Service};

use super::{
    layer::UPGRADE_TIMEOUT,
    upgradable::{Handshake, Upgradable, Upgrade},
};
use crate::{
    tls::{AcceptUpgrade, TlsConfig, TlsLayer, TlsStream},
    transport::ByteStream,
};

/// Lets a server upgrade an open session to TLS (STARTTLS). It turns `Connection<T>` into
/// `Connection<Upgradable<T, TlsStream<T>>>`.
///
/// The session begins in plain text. The handler of the peer's request replies with
/// [`Reply::and_upgrade`](crate::Reply::and_upgrade), and the handshake follows. See the
/// [module] for the rules of an upgrade and for security: the handler must forget all state
/// from before TLS.
///
/// [module]: crate::upgrade#upgrade-of-an-open-session
///
/// - *ready*: polls the inner service.
/// - *call*: calls the inner service with the connection.
/// - *drop*: drops the inner future. During a handshake this drops the connection.
/// - *close*: a failed handshake closes the session as
///   [`CloseReason::UpgradeFailed`](crate::CloseReason::UpgradeFailed), and a late one as
///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout). The source is a
///   [`TlsError`](crate::tls::TlsError). Bytes behind the peer's request close it as
///   [`CloseReason::Decode`](crate::CloseReason::Decode) with
///   [`BytesBeforeUpgrade`](super::BytesBeforeUpgrade).
///
/// Scope: the configuration is shared by all clones, and the deadline applies to each upgrade.
/// The layer belongs outside `CodecLayer`, where [`TlsLayer`](crate::tls::TlsLayer) would be.
/// That layer is for TLS from the first byte.
///
/// ```
/// use getty::{
///     BoxError, CodecLayer, Reply, Request, ServiceBuilder, Session, SessionLayer, TransportKind,
///     codec::Lines,
///     handle, net,
///     tls::{ClientTls, Pem, ServerTls},
///     upgrade::{StartTlsConnectLayer, StartTlsLayer},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # let (chain, key) = (Pem::inline(made.cert.pem()), Pem::inline(made.signing_key.serialize_pem()));
/// # let roots = chain.clone();
/// let app = ServiceBuilder::new()
///     .layer(StartTlsLayer::new(ServerTls::new(chain, key).load()?))
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service_fn(async |request: Request<String>| {
///         let is_secure = request.session().transport() == TransportKind::Tls;
///         Ok::<_, BoxError>(match request.message().as_str() {
///             // A real handler must reset its state here.
///             "STARTTLS" if !is_secure => Reply::one("220 ready".to_owned()).and_upgrade(),
///             "STARTTLS" => Reply::one("503 TLS is active".to_owned()),
///             _ if !is_secure => Reply::one("530 STARTTLS first".to_owned()),
///             line => Reply::one(format!("250 {line}")),
///         })
///     });
/// let (listener, connector) = net::memory(64 * 1024);
/// tokio::spawn(async move { getty::serve(listener, app).await });
///
/// let tls = ClientTls::new().with_roots(roots).load()?;
/// let connector = ServiceBuilder::new()
///     .layer(StartTlsConnectLayer::new(tls).with_server_name("localhost".try_into()?))
///     .service(connector);
/// let (answers, mut answer) = tokio::sync::mpsc::channel(8);
/// let (session, _task) = getty::connect(connector, (), |link| {
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(link)
///         .layer(SessionLayer::new())
///         .service(handle(async move |line: String, session: Session<String>| {
///             if session.transport() == TransportKind::Tls {
///                 let _ = answers.send(line).await;
///                 return Reply::none();
///             }
///             if line.starts_with("220") {
///                 return Reply::none().and_upgrade();
///             }
///             Reply::none().and_close() // the server, or an attacker, refuses TLS
///         }))
/// })
/// .await?;
/// session.send("STARTTLS".to_owned()).await?;
/// // `false` if the session closes without TLS, after a refusal or a failed handshake
/// assert!(session.upgraded().await);
/// session.send("PASS secret".to_owned()).await?;
/// assert_eq!(answer.recv().await.as_deref(), Some("250 PASS secret"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StartTlsLayer(AcceptUpgrade);

impl StartTlsLayer {
    /// Creates a new layer with `config`: a [`TlsConfig`] from PEM files or a
    /// [`rustls::ServerConfig`](crate::tls::rustls::ServerConfig).
    #[must_use]
    pub fn new(config: impl Into<TlsConfig>) -> Self {
        Self::from_layer(TlsLayer::new(config).with_handshake_timeout(UPGRADE_TIMEOUT))
    }

    /// Creates a new layer that runs handshakes with the settings of `tls`: a
    /// [choice](TlsLayer::choose) by the client's first message, a
    /// [rate](TlsLayer::with_handshake_rate), the time and the maximum size.
    ///
    /// The time counts from the flush of the reply that requests the handshake. A rate is shared
    /// with the clones of `tls`, so a server with a port for TLS and one for STARTTLS has one rate.
    /// A client that the choice or the rate refuses receives an alert, and its session closes as
    /// [`CloseReason::UpgradeFailed`](crate::CloseReason::UpgradeFailed).
    #[must_use]
    pub const fn from_layer(tls: TlsLayer) -> Self {
        Self(AcceptUpgrade::new(tls))
    }

    /// Sets the time for one handshake, from the flush of the reply that requests it. The default
    /// is 10 s. A time that exceeds the clock's range is unlimited.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.0.tls_mut().timeout = timeout;
        self
    }

    /// Sets the maximum size of a client's first message, the `ClientHello`, with its record
    /// headers in bytes. The default is 12 KiB; see
    /// [`TlsLayer::with_max_hello`](crate::tls::TlsLayer::with_max_hello).
    #[must_use]
    pub const fn with_max_hello(mut self, bytes: usize) -> Self {
        self.0.tls_mut().max_hello = bytes;
        self
    }
}

impl<S> Layer<S> for StartTlsLayer {
    type Service = StartTlsService<S>;

    fn layer(&self, inner: S) -> StartTlsService<S> {
        StartTlsService {
            inner,
            upgrade: Arc::new(self.0.clone()),
        }
    }
}

/// Service that [`StartTlsLayer`] creates.
#[derive(Clone, Debug)]
pub struct StartTlsService<S> {
    inner: S,
    upgrade: Arc<AcceptUpgrade>,
}

impl<S> StartTlsService<S> {
    getty_core::inner_service_accessors!();
}

impl<T: ByteStream> Upgrade<T, TlsStream<T>> for AcceptUpgrade {
    fn carries(&self) -> bool {
        false
    }

    fn start(&self, io: T, _: Bytes, handle: ConnectionHandle) -> Handshake<TlsStream<T>> {
        Self::start(self, io, handle)
    }
}

impl<S, T> Service<Connection<T>> for StartTlsService<S>
where
    S: Service<Connection<Upgradable<T, TlsStream<T>>>>,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Polls the inner service.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        let upgrade: Arc<dyn Upgrade<T, TlsStream<T>>> = Arc::clone(&self.upgrade) as _;
        self.inner
            .call(connection.map_transport(|io| Upgradable::new(io, upgrade)))
    }
}
