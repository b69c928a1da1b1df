//! Server side: the layer that runs handshakes.

use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::{Connection, ConnectionHandle, Rate, hooks::Contained};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tokio_rustls::rustls::{ServerConfig, server::Accepted};
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    choose::{Choice, Hello},
    config::TlsConfig,
    error::TlsError,
    handshake::{self, HANDSHAKE_TIMEOUT},
    hello::{self, MAX_HELLO},
    info::TlsInfo,
    rate::HandshakeRate,
    refusal::TlsRefusal,
    stream::TlsStream,
};
use crate::transport::ByteStream;

/// Runs the server's side of a TLS handshake and turns `Connection<T>` into
/// `Connection<TlsStream<T>>`.
///
/// - *ready*: polls the inner service.
/// - *call*: runs the handshake in the connection's task, so the accept loop never waits. Then
///   calls the inner service. The instance that was polled ready is kept until then, with its
///   reservation.
/// - *drop*: drops the connection or the inner future.
/// - *close*: a failed handshake closes the connection as
///   [`CloseReason::Refused`](crate::CloseReason::Refused), and a late one as
///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout). The source, which
///   is also the error of this service, is a [`TlsError`]. For later ends see the
///   [module](super).
///
/// Scope: the configuration is shared by all clones, and the deadline applies to each
/// connection. In a stack it belongs outside `CodecLayer` and inside layers that limit, refuse
/// or observe connections. These then hold their permits and refuse peers before any
/// cryptography runs. The inner service must be `Clone`.
/// [`rate_limit`](tower::limit::RateLimit) is not, so it belongs outside.
///
/// [`HandshakeTimeoutLayer`](crate::layers::HandshakeTimeoutLayer) limits the time until the
/// session is open, if it is outermost. The deadline of this layer limits only the handshake.
/// The earlier of the two applies.
// (design.md: Why is TLS a layer and not a listener?)
#[derive(Clone, Debug)]
pub struct TlsLayer {
    pub(super) choice: Choice,
    pub(crate) timeout: Duration,
    pub(crate) max_hello: usize,
    rate: Option<HandshakeRate>,
    max_rate_wait: Duration,
}

impl TlsLayer {
    /// Creates a new layer with `config`: a [`TlsConfig`] from PEM files or a
    /// [`rustls::ServerConfig`](super::rustls::ServerConfig).
    #[must_use]
    pub fn new(config: impl Into<TlsConfig>) -> Self {
        Self::with_choice(Choice::Same(config.into()))
    }

    /// Creates a new layer that chooses the configuration by a client's first message: by the
    /// requested name and the offered protocols.
    ///
    /// `choose` is called once for each connection when its `ClientHello` is complete. It answers
    /// at once, so it must not block. A refusal sends its alert before the close, and the error is
    /// [`TlsError::Refused`]. A panic ends the connection alone.
    ///
    /// All parts of a configuration apply only to the names that it is chosen for: certificates,
    /// client certificates, protocols and tickets. TLS sessions cannot be resumed with another
    /// configuration. Two configurations of rustls that share a ticketer or a session storage
    /// would lose this separation, and a client without a certificate could resume into a
    /// configuration that requires one.
    ///
    /// ```
    /// use getty::tls::{TlsConfig, TlsLayer, TlsRefusal};
    ///
    /// fn layer(public: TlsConfig, admin: TlsConfig) -> TlsLayer {
    ///     TlsLayer::choose(move |hello| match hello.server_name() {
    ///         Some("admin.example.com") => Ok(admin.clone()),
    ///         Some("example.com") if hello.offers("chat/1") => Ok(public.clone()),
    ///         Some("example.com") => Err(TlsRefusal::no_application_protocol()),
    ///         _ => Err(TlsRefusal::unrecognized_name()),
    ///     })
    /// }
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn choose<F>(choose: F) -> Self
    where
        F: Fn(Hello<'_>) -> Result<TlsConfig, TlsRefusal> + Send + Sync + 'static,
    {
        Self::with_choice(Choice::by_hello(choose))
    }

    const fn with_choice(choice: Choice) -> Self {
        Self {
            choice,
            timeout: HANDSHAKE_TIMEOUT,
            max_hello: MAX_HELLO,
            rate: None,
            max_rate_wait: Duration::MAX,
        }
    }

    /// Sets the maximum rate of handshakes. The default is no limit.
    ///
    /// The rate is charged when a `ClientHello` is complete and was not refused. So silent peers
    /// do not use it, and the limit is on the expensive part. Further handshakes wait in the order
    /// of their hellos. A handshake that would have to wait beyond its deadline is refused at once
    /// as [`TlsError::TooManyHandshakes`], with the alert `internal_error`, and does not use the
    /// rate. A peer that leaves while it waits has used the rate.
    ///
    /// Scope: process, or everything that shares this layer. One peer can use the whole rate, so
    /// limit each peer outside this layer, for example with
    /// [`PeerLimitLayer`](crate::layers::PeerLimitLayer). A waiting handshake holds its
    /// `ClientHello`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use getty::{Rate, tls::{TlsConfig, TlsLayer}};
    ///
    /// fn layer(config: TlsConfig) -> TlsLayer {
    ///     TlsLayer::new(config)
    ///         .with_handshake_rate(Rate::per_second(500).with_burst(200))
    ///         .with_max_rate_wait(Duration::from_secs(2))
    /// }
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn with_handshake_rate(mut self, rate: Rate) -> Self {
        self.rate = Some(HandshakeRate::new(rate));
        self
    }

    /// Sets the maximum time that a handshake may wait for the
    /// [rate](Self::with_handshake_rate). The default is the time until its deadline. Zero refuses
    /// every handshake that exceeds the rate.
    #[must_use]
    pub const fn with_max_rate_wait(mut self, wait: Duration) -> Self {
        self.max_rate_wait = wait;
        self
    }

    /// Sets the time from a connection's accept until its handshake must be complete. The default
    /// is 10 s. The time includes a wait for a permit before this layer. Zero refuses every
    /// connection, and a time that exceeds the clock's range is unlimited.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the maximum size of a client's first message, the `ClientHello`, with its record
    /// headers in bytes. The default is 12 KiB, and rustls accepts at most 64 KiB. A longer message
    /// fails with [`TlsError::HelloTooLong`].
    ///
    /// A handshake that stalls in this message holds the received bytes and 9 KB more. rustls
    /// rounds the received bytes up. The sum is 21 KB with the default. Later messages come from a
    /// peer that has agreed on keys. They may have up to 64 KiB each.
    #[must_use]
    pub const fn with_max_hello(mut self, bytes: usize) -> Self {
        self.max_hello = bytes;
        self
    }
}

impl TlsLayer {
    /// Runs a handshake until its deadline. A failure closes the connection.
    pub(super) fn accept<T: ByteStream>(
        &self,
        handle: ConnectionHandle,
        transport: T,
    ) -> BoxFuture<'static, Result<TlsStream<T>, TlsError>> {
        // Two futures, so that a handshake without a choice or a rate has no room for them.
        if let Some(config) = self.fixed_config() {
            let (config, timeout, max_hello) = (config.clone(), self.timeout, self.max_hello);
            return Box::pin(async move {
                let deadline = handle.opened_at().checked_add(timeout);
                let accept = async {
                    let config = config.current().await;
                    hello::accept(config, transport, max_hello).await
                };
                handshake::run(&handle, timeout, deadline, accept).await
            });
        }
        let layer = self.clone();
        Box::pin(async move {
            let deadline = layer.deadline(&handle);
            let accept = layer.accept_chosen(&handle, deadline, transport);
            handshake::run(&handle, layer.timeout, deadline, accept).await
        })
    }

    /// Returns the configuration if it is the same for all clients and there is no rate.
    pub(super) const fn fixed_config(&self) -> Option<&TlsConfig> {
        match (&self.choice, &self.rate) {
            (Choice::Same(config), None) => Some(config),
            _ => None,
        }
    }

    /// Returns the end of the time for a handshake.
    pub(super) fn deadline(&self, handle: &ConnectionHandle) -> Option<Instant> {
        handle.opened_at().checked_add(self.timeout)
    }

    /// Runs a handshake whose configuration is decided when the `ClientHello` is complete.
    pub(super) async fn accept_chosen<T: ByteStream>(
        &self,
        handle: &ConnectionHandle,
        deadline: Option<Instant>,
        transport: T,
    ) -> Result<TlsStream<T>, TlsError> {
        let (accepted, transport) = hello::receive(transport, self.max_hello).await?;
        match self.decide(&accepted, handle, deadline).await {
            Ok(config) => hello::answer(config, accepted, transport).await,
            Err(error) => Err(hello::refuse(transport, error).await),
        }
    }

    /// Chooses the configuration and waits for the rate. The rate is charged after the choice, so
    /// silent peers and refused ones do not use it.
    async fn decide(
        &self,
        accepted: &Accepted,
        handle: &ConnectionHandle,
        deadline: Option<Instant>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let config = self.choice.config(accepted, handle)?;
        if let Some(rate) = &self.rate {
            rate.wait(self.max_rate_wait, deadline).await?;
        }
        Ok(config.current().await)
    }
}

impl<S> Layer<S> for TlsLayer {
    type Service = Tls<S>;

    fn layer(&self, inner: S) -> Tls<S> {
        Tls {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service that [`TlsLayer`] creates.
#[derive(Clone, Debug)]
pub struct Tls<S> {
    inner: S,
    layer: TlsLayer,
}

impl<S> Tls<S> {
    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for Tls<S>
where
    S: Service<Connection<TlsStream<T>>, Error: Into<BoxError>> + Clone,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, T>;

    /// Polls the inner service. The called connection holds its reservation during the handshake
    /// and releases it if the handshake fails.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        // (design.md: Why must the service inside `TlsLayer` be `Clone`?)
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let (transport, rest) = connection.take_transport();
        let handshake = self.layer.accept(rest.handle().clone(), transport);
        ResponseFuture {
            state: State::Handshaking {
                handshake: Contained::new(handshake),
                pending: Some((rest, Contained::new(inner))),
            },
        }
    }
}

pin_project! {
    /// Future of [`Tls`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, T>
    where
        S: Service<Connection<TlsStream<T>>>,
    {
        #[pin]
        state: State<S, S::Future, T>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, T> {
        Handshaking {
            // In this order: `handshake` contains the transport, which must be dropped before the
            // rest of the connection. It is boxed because it is short-lived.
            handshake: Contained<BoxFuture<'static, Result<TlsStream<T>, TlsError>>>,
            pending: Option<(Connection<()>, Contained<S>)>,
        },
        Running {
            #[pin]
            inner: F,
        },
        Failed,
    }
}

impl<S, T> Future for ResponseFuture<S, T>
where
    S: Service<Connection<TlsStream<T>>, Error: Into<BoxError>>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Running { inner } => return inner.poll(cx).map_err(Into::into),
                StateProj::Handshaking { handshake, pending } => {
                    let result = ready!(handshake.as_mut().poll(cx));
                    let Some((rest, mut inner)) = pending.take() else {
                        unreachable!("the stream is taken only after the handshake")
                    };
                    match result {
                        Ok(stream) => {
                            let info = TlsInfo::accepted(&stream);
                            let inner = inner.call(handshake::secured(rest, stream, info));
                            state.set(State::Running { inner });
                        }
                        Err(error) => {
                            // The transport was dropped with the handshake, so `rest` can end the
                            // connection.
                            drop(rest);
                            state.set(State::Failed);
                            return Poll::Ready(Err(error.into()));
                        }
                    }
                }
                StateProj::Failed => panic!("a handshake's future was polled after it was ready"),
            }
        }
    }
}

impl<S, T> fmt::Debug for ResponseFuture<S, T>
where
    S: Service<Connection<TlsStream<T>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field(
                "handshaking",
                &matches!(self.state, State::Handshaking { .. }),
            )
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio_rustls::rustls::{crypto::ring, server::ResolvesServerCertUsingSni};

    use super::*;

    #[test]
    fn choice_and_rate_take_no_room_in_other_handshakes() {
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let same = TlsLayer::new(config);
        let limited = same.clone().with_handshake_rate(Rate::per_second(1));
        let chosen = TlsLayer::choose(|_| Err(TlsRefusal::unrecognized_name()));
        let sizes = [same, limited, chosen].map(|layer| {
            let handle = Connection::new(()).handle().clone();
            size_of_val(&*layer.accept(handle, duplex(8).0))
        });
        assert!(sizes[0] <= 1800, "{sizes:?}");
        assert!(sizes[0] < sizes[1] && sizes[1] == sizes[2], "{sizes:?}");
    }
}
