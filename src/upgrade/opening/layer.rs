//! Server side: the layer around a stack.

use std::{
    fmt,
    future::Future,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::Connection;
use tower::{BoxError, Layer, Service};

use super::{dialogue::Opening, settings::Settings};
use crate::{
    codec::Decoder,
    transport::{ByteStream, HandshakeFuture},
};

/// Runs a dialogue with each peer before its session, and passes the connection that the
/// dialogue returns to the inner service.
///
/// - *ready*: polls the inner service.
/// - *call*: runs the function in the connection's task, so the accept loop never waits. Then
///   calls the inner service. The instance that was polled ready is kept until then, with its
///   reservation.
/// - *drop*: drops the dialogue and the connection, or the inner future.
/// - *close*: ends the dialogue at once. If the function fails, the connection closes as
///   [`CloseReason::Refused`](crate::CloseReason::Refused) with the function's error as its
///   source. After the deadline it closes as
///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout), and after a panic
///   as [`CloseReason::Panicked`](crate::CloseReason::Panicked). The error of this service is
///   the source. Errors of the dialogue itself are [`OpeningError`](super::OpeningError)s.
///
/// Scope: connection. The codec and the function are cloned for each. In a stack it belongs
/// outside `CodecLayer` and inside layers that limit, refuse or observe connections, and inside
/// `TlsLayer` if the dialogue is encrypted from its start. The inner service must be `Clone`.
///
/// `T` is the transport that the function receives. A stack with this layer therefore serves
/// one type of transport. To serve several, map each into a `Box<dyn ByteStream>` outside this
/// layer. It can be any [`ByteStream`]: a socket, a [`TlsStream`](crate::tls::TlsStream), a
/// [`Prefixed`](crate::transport::Prefixed). A [`BoxTransport`](crate::BoxTransport) is none,
/// but the function may return a connection over one.
///
/// The handle's statistics do not count the bytes of the dialogue.
///
/// ```
/// use getty::{Attribute, CodecLayer, Pipeline, ServiceBuilder, SessionLayer, handle};
/// use getty::codec::{Bytes, LengthDelimited, Lines};
/// use getty::upgrade::{Opening, OpeningLayer};
///
/// #[derive(Clone)]
/// struct User(String);
///
/// // A login in lines of text, then binary frames.
/// fn app() -> impl Pipeline<tokio::net::TcpStream> + Clone {
///     ServiceBuilder::new()
///         .layer(OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
///             let login = dialogue.receive().await?.ok_or("no login")?;
///             let Some(name) = login.strip_prefix("LOGIN ") else {
///                 return Err(dialogue.refuse("ERR login first", "no login").await);
///             };
///             dialogue.handle().insert(User(name.to_owned()));
///             dialogue.send("OK").await?;
///             Ok(dialogue.carry()?)
///         }))
///         .layer(CodecLayer::new(LengthDelimited::new()))
///         .layer(SessionLayer::new())
///         .service(handle(|frame: Bytes, Attribute(User(name)): Attribute<User>| {
///             Bytes::from([name.as_bytes(), b": ", &frame].concat())
///         }))
/// }
/// # let _ = app();
/// ```
pub struct OpeningLayer<T, C, F>(Settings<T, C, F>);

impl<T, C, F> OpeningLayer<T, C, F> {
    /// Creates a new layer that calls `open` with a dialogue over each connection. The dialogue's
    /// messages are those of `codec`.
    // The bound on the function makes its argument type inferable, and its error type too.
    pub const fn new<Fut, U>(codec: C, open: F) -> Self
    where
        C: Decoder + Clone,
        F: Fn(Opening<T, C>) -> Fut + Clone,
        Fut: Future<Output = Result<Connection<U>, BoxError>> + Send + 'static,
    {
        Self(Settings::new(codec, open))
    }

    /// Sets the time from the call until the dialogue must be complete. The default is 10 s. A time
    /// that exceeds the clock's range is unlimited.
    ///
    /// [`HandshakeTimeoutLayer`](crate::layers::HandshakeTimeoutLayer) limits the time until the
    /// session is open, if it is outermost. The earlier of the two applies.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout = timeout;
        self
    }

    /// Sets the maximum of undecoded bytes during the dialogue, at least 1. The default is 64 KiB.
    /// It is also the maximum of a message with its header, and of the bytes read ahead.
    #[must_use]
    pub const fn with_max_frame(mut self, bytes: usize) -> Self {
        self.0.max_frame = if bytes == 0 { 1 } else { bytes };
        self
    }
}

// by hand, because `T` need not be `Clone`
impl<T, C: Clone, F: Clone> Clone for OpeningLayer<T, C, F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, C: fmt::Debug, F> fmt::Debug for OpeningLayer<T, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpeningLayer").field(&self.0).finish()
    }
}

impl<S, T, C: Clone, F: Clone> Layer<S> for OpeningLayer<T, C, F> {
    type Service = OpeningService<S, T, C, F>;

    fn layer(&self, inner: S) -> Self::Service {
        OpeningService {
            inner,
            settings: self.0.clone(),
        }
    }
}

/// Service that [`OpeningLayer`] creates.
pub struct OpeningService<S, T, C, F> {
    inner: S,
    settings: Settings<T, C, F>,
}

impl<S, T, C, F> OpeningService<S, T, C, F> {
    getty_core::inner_service_accessors!();
}

impl<S: Clone, T, C: Clone, F: Clone> Clone for OpeningService<S, T, C, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<S: fmt::Debug, T, C: fmt::Debug, F> fmt::Debug for OpeningService<S, T, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningService")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish()
    }
}

impl<S, T, C, F, Fut, U> Service<Connection<T>> for OpeningService<S, T, C, F>
where
    S: Service<Connection<U>, Error: Into<BoxError>> + Clone,
    T: ByteStream,
    C: Decoder + Clone + Send + 'static,
    F: Fn(Opening<T, C>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Connection<U>, BoxError>> + Send + 'static,
    U: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = HandshakeFuture<S, U>;

    /// Polls the inner service. The dialogue keeps its reservation and releases it if it fails.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        HandshakeFuture::new(&mut self.inner, self.settings.start(connection))
    }
}
