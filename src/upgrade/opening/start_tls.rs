//! TLS handshakes in a dialogue, in either role.

use std::{
    convert::Infallible,
    future::{Future, ready},
    io,
    sync::Arc,
};

use getty_core::Connection;
use tower::{BoxError, Layer, ServiceExt, service_fn};

use crate::{
    tls::{TlsConnectLayer, TlsError, TlsLayer, TlsStream},
    transport::ByteStream,
};

mod sealed {
    pub trait Sealed {}
}

impl sealed::Sealed for TlsLayer {}
impl sealed::Sealed for TlsConnectLayer {}

/// Role and configuration of a TLS handshake: a [`TlsLayer`] for servers, a [`TlsConnectLayer`]
/// for clients.
///
/// It is the argument of [`Opening::start_tls`](super::Opening::start_tls) and cannot be
/// implemented for other types.
pub trait StartTls: sealed::Sealed + Sync {
    /// Runs the handshake over `connection`.
    #[doc(hidden)]
    fn start_tls<T: ByteStream>(
        &self,
        connection: Connection<T>,
    ) -> impl Future<Output = Result<Connection<TlsStream<T>>, TlsError>> + Send;
}

impl StartTls for TlsLayer {
    async fn start_tls<T: ByteStream>(
        &self,
        connection: Connection<T>,
    ) -> Result<Connection<TlsStream<T>>, TlsError> {
        let secured = |connection| ready(Ok::<_, Infallible>(connection));
        let handshake = self.layer(service_fn(secured)).oneshot(connection);
        handshake.await.map_err(into_tls_error)
    }
}

impl StartTls for TlsConnectLayer {
    async fn start_tls<T: ByteStream>(
        &self,
        connection: Connection<T>,
    ) -> Result<Connection<TlsStream<T>>, TlsError> {
        let mut connection = Some(connection);
        // The connection exists already, so its target needs no name.
        let dial = move |()| match connection.take() {
            Some(connection) => ready(Ok::<_, Infallible>(connection)),
            None => unreachable!("the connector is called once"),
        };
        let handshake = self.layer(service_fn(dial)).oneshot(());
        handshake.await.map_err(into_tls_error)
    }
}

fn into_tls_error(error: BoxError) -> TlsError {
    match error.downcast() {
        Ok(error) => *error,
        Err(error) => TlsError::Io(Arc::new(io::Error::other(error))),
    }
}
