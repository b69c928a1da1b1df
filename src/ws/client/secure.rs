//! One connector for `ws://` and `wss://` URLs.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use getty_core::Connection;
use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::{BoxError, Layer, Service, ServiceExt};

use super::{
    connect::{WsConnectLayer, WsConnecting, open},
    error::WsConnectError,
    target::Target,
};
use crate::{
    tls::{TlsConnectLayer, TlsStream},
    ws::transport::WsTransport,
};

/// Turns a connector into a WebSocket client for both kinds of URL: over TLS for `wss://`, and
/// without TLS for `ws://`.
///
/// - *ready*: always ready. The connector's readiness is polled in the call.
/// - *call*: connects to the host and port of the URL. For `wss://` it then runs the TLS
///   handshake for the URL's host. It then runs the opening handshake of WebSocket. URLs,
///   errors and timeouts are those of [`WsConnectLayer`].
/// - *drop*: abandons the attempt and closes its connection.
///
/// Scope: that of the two layers that it contains.
///
/// ```no_run
/// use getty::{net::TcpConnector, tls::{ClientTls, TlsConnectLayer}};
/// use getty::ws::{WsConnectLayer, WsUrlConnectLayer};
/// use getty::tower::{Layer, ServiceExt};
///
/// # async fn dial() -> Result<(), getty::BoxError> {
/// let tls = TlsConnectLayer::new(ClientTls::new().load()?);
/// let connector = WsUrlConnectLayer::new(WsConnectLayer::new(), tls).layer(TcpConnector::new());
/// let secure = connector.clone().oneshot("wss://example.com/feed").await?;
/// let plain = connector.oneshot("ws://127.0.0.1:7080/feed").await?;
/// # Ok(())
/// # }
/// ```
// (design.md: Why is there one connector for `ws` and `wss` URLs?)
#[derive(Clone, Debug)]
pub struct WsUrlConnectLayer {
    ws: WsConnectLayer,
    tls: TlsConnectLayer,
}

impl WsUrlConnectLayer {
    /// Creates a new layer with the settings of `ws`. The settings of `tls` apply to `wss://`.
    #[must_use]
    pub const fn new(ws: WsConnectLayer, tls: TlsConnectLayer) -> Self {
        Self { ws, tls }
    }
}

impl<C> Layer<C> for WsUrlConnectLayer {
    type Service = WsUrlConnect<C>;

    fn layer(&self, connector: C) -> WsUrlConnect<C> {
        WsUrlConnect {
            connector,
            layer: self.clone(),
        }
    }
}

/// Connector that [`WsUrlConnectLayer`] creates.
#[derive(Clone, Debug)]
pub struct WsUrlConnect<C> {
    connector: C,
    layer: WsUrlConnectLayer,
}

impl<C> WsUrlConnect<C> {
    /// Returns a reference to the inner connector.
    pub const fn get_ref(&self) -> &C {
        &self.connector
    }

    /// Returns a mutable reference to the inner connector.
    pub const fn get_mut(&mut self) -> &mut C {
        &mut self.connector
    }

    /// Returns the inner connector.
    pub fn into_inner(self) -> C {
        self.connector
    }
}

impl<C, A, T> Service<A> for WsUrlConnect<C>
where
    Uri: TryFrom<A>,
    <Uri as TryFrom<A>>::Error: Into<http::Error>,
    C: Service<(String, u16), Response = Connection<T>> + Clone + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Response = Connection<WsTransport<MaybeTls<T>>>;
    type Error = WsConnectError;
    type Future = WsConnecting<MaybeTls<T>>;

    /// Always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), WsConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: A) -> Self::Future {
        let target = Target::parse(url);
        let (connector, layer) = (self.connector.clone(), self.layer.clone());
        WsConnecting(Box::pin(async move {
            let target = target?;
            let address = target.address();
            let dialed = if target.secure {
                let dialed = layer.tls.layer(connector).oneshot(address).await;
                dialed.map(|connection| connection.map_transport(MaybeTls::Tls))
            } else {
                let dialed = connector.oneshot(address).await.map_err(Into::into);
                dialed.map(|connection| connection.map_transport(MaybeTls::Plain))
            };
            let connection = dialed.map_err(WsConnectError::Connect)?;
            open(connection, &target, &layer.ws).await
        }))
    }
}

/// Byte stream with or without TLS, depending on the URL.
#[derive(Debug)]
pub enum MaybeTls<T> {
    /// Stream of a `ws://` URL.
    Plain(T),
    /// Stream of a `wss://` URL.
    Tls(TlsStream<T>),
}

/// Calls the same method of either stream.
macro_rules! either {
    ($self:ident, $io:ident => $do:expr) => {
        match $self.get_mut() {
            MaybeTls::Plain($io) => {
                let $io = Pin::new($io);
                $do
            }
            MaybeTls::Tls($io) => {
                let $io = Pin::new($io);
                $do
            }
        }
    };
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for MaybeTls<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_read(cx, buf))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MaybeTls<T> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, io => io.poll_write_vectored(cx, bufs))
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_flush(cx))
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, io => io.poll_shutdown(cx))
    }
}
