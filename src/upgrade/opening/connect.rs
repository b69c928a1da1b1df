//! Client side: the layer around a connector.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::{
    Connection, SharedError,
    hooks::{Contained, defer_refusal, end_refusal},
};
use tower::{BoxError, Layer, Service};

use super::{dialogue::Opening, error::OpeningError, settings::Settings};
use crate::{codec::Decoder, transport::ByteStream};

/// Runs a dialogue with the server before the session, around any connector: any service from a
/// target to a `Connection<T>`. The new connector returns the connection that the dialogue
/// returns.
///
/// - *ready*: polls the connector.
/// - *call*: connects and then runs the function. Its deadline counts from the end of the dial.
/// - *drop*: abandons the attempt and closes its connection.
/// - *close*: as with [`OpeningLayer`](super::OpeningLayer). The error of this service is that
///   of the connector or of the function. The connection's record has it as its source; an
///   error that is no [`OpeningError`] is recorded as its text.
///
/// Scope: connection. A connector with this layer returns connections over one type of
/// transport.
///
/// ```
/// use getty::{Service, codec::Lines, net::TcpConnector};
/// use getty::upgrade::{Opening, OpeningConnectLayer};
/// use getty::Layer;
///
/// # fn connector() -> impl Service<&'static str> {
/// // The connector of `getty::connect` or of a `Client`.
/// OpeningConnectLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
///     dialogue.send("LOGIN ada").await?;
///     match dialogue.receive().await?.as_deref() {
///         Some("OK") => Ok(dialogue.carry()?),
///         _ => Err("the login was refused".into()),
///     }
/// })
/// .layer(TcpConnector::new())
/// # }
/// # let _ = connector();
/// ```
pub struct OpeningConnectLayer<T, C, F>(Settings<T, C, F>);

impl<T, C, F> OpeningConnectLayer<T, C, F> {
    /// Creates a new layer that calls `open` with a dialogue over each new connection. The
    /// dialogue's messages are those of `codec`.
    pub const fn new<Fut, U>(codec: C, open: F) -> Self
    where
        C: Decoder + Clone,
        F: Fn(Opening<T, C>) -> Fut + Clone,
        Fut: Future<Output = Result<Connection<U>, BoxError>> + Send + 'static,
    {
        Self(Settings::new(codec, open))
    }

    /// Sets the time from the end of the dial until the dialogue must be complete. The default is
    /// 10 s. A time that exceeds the clock's range is unlimited.
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

impl<T, C: Clone, F: Clone> Clone for OpeningConnectLayer<T, C, F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, C: fmt::Debug, F> fmt::Debug for OpeningConnectLayer<T, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpeningConnectLayer").field(&self.0).finish()
    }
}

impl<S, T, C: Clone, F: Clone> Layer<S> for OpeningConnectLayer<T, C, F> {
    type Service = OpeningConnect<S, T, C, F>;

    fn layer(&self, inner: S) -> Self::Service {
        OpeningConnect {
            inner,
            settings: self.0.clone(),
        }
    }
}

/// Connector that [`OpeningConnectLayer`] creates.
pub struct OpeningConnect<S, T, C, F> {
    inner: S,
    settings: Settings<T, C, F>,
}

impl<S, T, C, F> OpeningConnect<S, T, C, F> {
    getty_core::inner_service_accessors!();
}

impl<S: Clone, T, C: Clone, F: Clone> Clone for OpeningConnect<S, T, C, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<S: fmt::Debug, T, C: fmt::Debug, F> fmt::Debug for OpeningConnect<S, T, C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningConnect")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish()
    }
}

impl<S, A, T, C, F, Fut, U> Service<A> for OpeningConnect<S, T, C, F>
where
    S: Service<A, Response = Connection<T>, Error: Into<BoxError>, Future: Send + 'static>,
    T: ByteStream,
    C: Decoder + Clone + Send + 'static,
    F: Fn(Opening<T, C>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Connection<U>, BoxError>> + Send + 'static,
    U: Send + 'static,
{
    type Response = Connection<U>;
    type Error = BoxError;
    type Future = OpeningConnecting<U>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: A) -> Self::Future {
        let dial = Contained::new(self.inner.call(target));
        let settings = self.settings.clone();
        OpeningConnecting(Box::pin(async move {
            let connection = dial.await.map_err(Into::into)?;
            let handle = connection.handle().clone();
            let mut opening = pin!(settings.start(connection));
            poll_fn(|cx| {
                // A dialogue that fails drops its connection before its error is known.
                defer_refusal(&handle);
                let polled = opening.as_mut().poll(cx);
                let error = match &polled {
                    Poll::Ready(Err(error)) => Some(recorded(error)),
                    _ => None,
                };
                end_refusal(&handle, error);
                polled
            })
            .await
        }))
    }
}

/// Returns the error for the record. The caller receives the error. So the record can only have
/// a clone or its text.
fn recorded(error: &BoxError) -> SharedError {
    match error.downcast_ref::<OpeningError>() {
        Some(error) => Arc::new(error.clone()),
        None => BoxError::from(error.to_string()).into(),
    }
}

/// Future of [`OpeningConnect`].
///
/// # Cancel safety
///
/// Dropping it abandons the attempt and closes its connection.
#[must_use = "futures do nothing unless polled"]
pub struct OpeningConnecting<U>(BoxFuture<'static, Result<Connection<U>, BoxError>>);

impl<U> Future for OpeningConnecting<U> {
    type Output = Result<Connection<U>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<U> fmt::Debug for OpeningConnecting<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningConnecting").finish_non_exhaustive()
    }
}
