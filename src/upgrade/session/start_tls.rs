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
    tls::{AcceptUpgrade, TlsConfig, TlsStream},
    transport::ByteStream,
};

/// Lets a server upgrade an open session to TLS (STARTTLS). It turns `Connection<T>` into
/// `Connection<Upgradable<T, TlsStream<T>>>`.
///
/// The session begins in plain text. The handler of the peer's request replies with
/// [`Reply::and_upgrade`](crate::Reply::and_upgrade), and the handshake follows. See the
/// [module](super) for an example, for the rules of an upgrade and for security: the handler must
/// forget what the peer said before TLS.
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
/// Scope: the configuration is shared by all clones, and the deadline applies to each upgrade. The
/// layer belongs outside `CodecLayer`, where [`TlsLayer`](crate::tls::TlsLayer) would be. That
/// layer is for TLS from the first byte.
#[derive(Clone, Debug)]
pub struct StartTlsLayer(AcceptUpgrade);

impl StartTlsLayer {
    /// Creates a new layer with `config`: a [`TlsConfig`] from PEM files or a
    /// [`rustls::ServerConfig`](crate::tls::rustls::ServerConfig).
    #[must_use]
    pub fn new(config: impl Into<TlsConfig>) -> Self {
        Self(AcceptUpgrade::new(config.into(), UPGRADE_TIMEOUT))
    }

    /// Sets the time for one handshake, from the flush of the reply that requests it. The default
    /// is 10 s. A time that exceeds the clock's range is unlimited.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = timeout;
        self
    }

    /// Sets the maximum size of a client's first message, the `ClientHello`, with its record
    /// headers in bytes. The default is 12 KiB; see
    /// [`TlsLayer::with_max_hello`](crate::tls::TlsLayer::with_max_hello).
    #[must_use]
    pub const fn with_max_hello(mut self, bytes: usize) -> Self {
        self.0.max_hello = bytes;
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
        Box::pin(self.clone().run(io, handle))
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
