//! The layers of both kinds of proxies.

use std::{sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    connect::{ProxyConnect, Settings},
    login::Login,
    via::ProxyKind,
};

/// Defines the layer of one kind of proxy.
macro_rules! proxy_layer {
    (
        $(#[$layer:meta])* $name:ident, $kind:expr,
        $(#[$with_login:meta])* with_login
    ) => {
        $(#[$layer])*
        #[derive(Clone, Debug)]
        pub struct $name<P>(Settings<P>);

        impl<P> $name<P> {
            /// Creates a new layer for the proxy with this address, which the connector accepts as
            /// its target: for a `TcpConnector` a `"host:port"` or a `SocketAddr`.
            pub const fn new(proxy: P) -> Self {
                Self(Settings::new($kind, proxy))
            }

            $(#[$with_login])*
            #[must_use]
            pub fn with_login(
                mut self,
                user: impl Into<String>,
                password: impl Into<String>,
            ) -> Self {
                self.0.login = Some(Arc::new(Login::new(user.into(), password.into())));
                self
            }

            /// Resolves the target's name on this machine and requests its address. By default the
            /// proxy receives the name, and this machine sends no query for it.
            ///
            /// The addresses are requested one after another, each over a new connection, until the
            /// proxy connects to one. If it refuses all, the error is that of the last.
            #[must_use]
            pub fn with_local_dns(mut self) -> Self {
                self.0.local_dns = true;
                self
            }

            /// Sets the time for the dial and the dialogue together. The default is 10 s. The
            /// connector's timeout, usually 3 s, applies in addition. A time that exceeds the
            /// clock's range is unlimited.
            #[must_use]
            pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
                self.0.timeout = timeout;
                self
            }
        }

        impl<C, P: Clone> Layer<C> for $name<P> {
            type Service = ProxyConnect<C, P>;

            fn layer(&self, inner: C) -> Self::Service {
                ProxyConnect::new(inner, self.0.clone())
            }
        }
    };
}

proxy_layer! {
    /// Connects through a SOCKS 5 proxy, around any connector that yields a byte stream.
    ///
    /// `P` is the proxy's address, which the connector is called with. The new connector accepts
    /// everything that converts to a [`ProxyTarget`](super::ProxyTarget).
    ///
    /// - *ready*: polls the connector.
    /// - *call*: connects to the proxy, logs in if a login is set, and requests the target. The
    ///   replies are read up to their last byte and no further. The transport is unchanged.
    /// - *drop*: abandons the attempt and closes its connection.
    /// - *close*: if the proxy does not connect to the target, the connection closes as
    ///   [`CloseReason::Refused`](crate::CloseReason::Refused) or
    ///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout). The source, which
    ///   is also the error of this service, is a [`ProxyConnectError`](super::ProxyConnectError).
    ///
    /// Scope: the deadline applies to each call. All clones share the login.
    ///
    /// ```no_run
    /// use getty::{ServiceBuilder, net::{TcpConnector, proxy::Socks5ConnectLayer}};
    /// use getty::tower::ServiceExt;
    ///
    /// # async fn dial() -> Result<(), getty::BoxError> {
    /// let connector = ServiceBuilder::new()
    ///     .layer(Socks5ConnectLayer::new("127.0.0.1:1080").with_login("user", "secret"))
    ///     .service(TcpConnector::new());
    /// let connection = connector.oneshot("example.com:7000").await?;
    /// # Ok(())
    /// # }
    /// ```
    Socks5ConnectLayer, ProxyKind::Socks5,
    /// Sets the user name and password, which are offered to the proxy and sent if it requires
    /// them. The default is none: the proxy is offered a dialogue without a login only. Neither is
    /// shown by `Debug`.
    ///
    /// SOCKS does not encrypt them. Use TLS to the proxy if others can read its traffic. Names of
    /// 0 or more than 255 bytes and passwords of more than 255 bytes fail as
    /// [`InvalidLogin`](super::ProxyConnectError::InvalidLogin) when the connector is called.
    with_login
}

proxy_layer! {
    /// Connects through an HTTP proxy with the method `CONNECT`, around any connector that yields
    /// a byte stream.
    ///
    /// `P` is the proxy's address, which the connector is called with. The new connector accepts
    /// everything that converts to a [`ProxyTarget`](super::ProxyTarget).
    ///
    /// - *ready*: polls the connector.
    /// - *call*: connects to the proxy, requests the target and reads the head of the response
    ///   up to its last byte and no further. The transport is unchanged.
    /// - *drop*: abandons the attempt and closes its connection.
    /// - *close*: if the proxy does not connect to the target, the connection closes as
    ///   [`CloseReason::Refused`](crate::CloseReason::Refused) or
    ///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout). The source, which
    ///   is also the error of this service, is a [`ProxyConnectError`](super::ProxyConnectError).
    ///
    /// Every status from 200 to 299 is a success. Its header fields are ignored, also those of a
    /// body, because such a response has none. Heads with a status below 200 are skipped, except
    /// 101, which is an error. The heads may have up to 8 KiB together.
    ///
    /// Scope: the deadline applies to each call. All clones share the login.
    ///
    /// ```no_run
    /// use getty::{ServiceBuilder, net::{TcpConnector, proxy::HttpConnectLayer}};
    /// use getty::tower::ServiceExt;
    ///
    /// # async fn dial() -> Result<(), getty::BoxError> {
    /// let connector = ServiceBuilder::new()
    ///     .layer(HttpConnectLayer::new("127.0.0.1:3128").with_login("user", "secret"))
    ///     .service(TcpConnector::new());
    /// let connection = connector.oneshot("example.com:7000").await?;
    /// # Ok(())
    /// # }
    /// ```
    HttpConnectLayer, ProxyKind::Http,
    /// Sets the user name and password, which each request contains as HTTP Basic. The default is
    /// none. Neither is shown by `Debug`.
    ///
    /// HTTP Basic does not encrypt them. Use TLS to the proxy if others can read its traffic. A
    /// user name with a colon fails, and so do control characters in either. The error is
    /// [`InvalidLogin`](super::ProxyConnectError::InvalidLogin) when the connector is called.
    with_login
}
