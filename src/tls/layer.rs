//! The server's side: the layer that takes handshakes.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::{Connection, driver::Contained};
use pin_project_lite::pin_project;
use tower::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    TlsConfig, TlsError, TlsInfo, TlsStream,
    handshake::{self, HANDSHAKE_TIMEOUT},
    hello::{self, MAX_HELLO},
};
use crate::transport::ByteStream;

/// Takes the server's side of a TLS handshake and turns `Connection<T>` into `Connection<TlsStream<T>>`.
///
/// - *ready*: the inner service's.
/// - *call*: takes the handshake in the connection's own task, so that nobody who accepts waits for it, and then calls
///   the inner service. The instance that was polled ready is kept for that meanwhile, with what it reserved.
/// - *drop*: drops the connection, or the inner future.
/// - *close*: a handshake that fails closes the connection as [`CloseReason::Refused`](crate::CloseReason::Refused), one
///   that is late as [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout), each with a [`TlsError`] as
///   its source and as the error of this service. The [module](super) tells of later ends.
///
/// Scope: the configuration is shared by all clones, the deadline is a connection's. In a stack it stands outside
/// `CodecLayer`, and inside of what limits connections, refuses peers, or watches: their permits are held, and their
/// refusals happen, before any arithmetic is done. The inner service must be `Clone`, which
/// [`rate_limit`](tower::limit::RateLimit) is not: that goes outside.
///
/// [`HandshakeTimeoutLayer`](crate::layers::HandshakeTimeoutLayer), outermost, bounds the whole way to an open session,
/// this layer's deadline the handshake alone; the earlier of them counts.
#[derive(Clone, Debug)]
pub struct TlsLayer {
    config: TlsConfig,
    timeout: Duration,
    max_hello: usize,
}

impl TlsLayer {
    /// Takes handshakes as `config` says: a [`TlsConfig`] from PEM files, or a ready
    /// [`rustls::ServerConfig`](super::rustls::ServerConfig).
    #[must_use]
    pub fn new(config: impl Into<TlsConfig>) -> Self {
        Self {
            config: config.into(),
            timeout: HANDSHAKE_TIMEOUT,
            max_hello: MAX_HELLO,
        }
    }

    /// How long after its accept a connection's handshake must be complete. 10 s by default; a wait for a permit on the
    /// way counts, zero admits none, and a time too long to be told is no bound.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the maximum size of a client's first message, the `ClientHello`, with its record
    /// headers, in bytes. The default is 12 KiB, and rustls takes no more than 64 KiB. A longer one
    /// fails with [`TlsError::HelloTooLong`].
    ///
    /// A handshake that stalls in this message holds what has arrived, which rustls rounds up, and
    /// 9 KB more: 21 KB with the default. The later messages come from a peer that has agreed on
    /// keys, and may have up to 64 KiB each.
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

/// The service that [`TlsLayer`] makes.
#[derive(Clone, Debug)]
pub struct Tls<S> {
    inner: S,
    layer: TlsLayer,
}

impl<S> Tls<S> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, T> Service<Connection<T>> for Tls<S>
where
    S: Service<Connection<TlsStream<T>>, Error: Into<BoxError>> + Clone,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, T>;

    /// Reserves what the inner service reserves; the connection that is called with holds it during the handshake, and
    /// gives it back if that fails.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
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
                waiting: Some((rest, Contained::new(inner))),
            },
        }
    }
}

pin_project! {
    /// The future of [`Tls`].
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
            // in this order: the transport, which is in here, goes before the rest of the connection; boxed, because it
            // is needed for a short time of a long life
            handshake: Contained<BoxFuture<'static, Result<TlsStream<T>, TlsError>>>,
            waiting: Option<(Connection<()>, Contained<S>)>,
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
                StateProj::Handshaking { handshake, waiting } => {
                    let result = ready!(handshake.as_mut().poll(cx));
                    let Some((rest, mut inner)) = waiting.take() else {
                        unreachable!("taken only when the handshake is over")
                    };
                    match result {
                        Ok(stream) => {
                            let info = TlsInfo::accepted(&stream);
                            let inner = inner.call(handshake::secured(rest, stream, info));
                            state.set(State::Running { inner });
                        }
                        Err(error) => {
                            // the transport went with the handshake, so that the rest may end the connection
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
