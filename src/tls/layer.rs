//! Server side: the layer that runs handshakes.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::{Connection, hooks::Contained};
use pin_project_lite::pin_project;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    config::TlsConfig,
    error::TlsError,
    handshake::{self, HANDSHAKE_TIMEOUT},
    hello::{self, MAX_HELLO},
    info::TlsInfo,
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
    config: TlsConfig,
    timeout: Duration,
    max_hello: usize,
}

impl TlsLayer {
    /// Creates a new layer with `config`: a [`TlsConfig`] from PEM files or a
    /// [`rustls::ServerConfig`](super::rustls::ServerConfig).
    #[must_use]
    pub fn new(config: impl Into<TlsConfig>) -> Self {
        Self {
            config: config.into(),
            timeout: HANDSHAKE_TIMEOUT,
            max_hello: MAX_HELLO,
        }
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
        let TlsLayer {
            config,
            timeout,
            max_hello,
        } = self.layer.clone();
        let (transport, rest) = connection.take_transport();
        let handle = rest.handle().clone();
        let handshake = async move {
            let deadline = handle.opened_at().checked_add(timeout);
            let accept = async {
                let config = config.current().await;
                hello::accept(config, transport, max_hello).await
            };
            handshake::run(&handle, timeout, deadline, accept).await
        };
        ResponseFuture {
            state: State::Handshaking {
                handshake: Contained::new(Box::pin(handshake)),
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
