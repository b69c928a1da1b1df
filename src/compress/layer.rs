//! Server side: the layer that compresses connections.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use getty_core::Connection;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Compressed, CompressionStats, Contexts, Level,
    settings::{Format, Settings, settings},
};
use crate::transport::ByteStream;

/// Compresses connections: turns `Connection<T>` into `Connection<Compressed<T>>`.
///
/// Both peers must use the same format. There is no negotiation, and no byte is exchanged
/// before the first message.
///
/// - *ready*: polls the inner service.
/// - *call*: calls the inner service with the compressed connection, and sets
///   [`CompressionStats`] as an attribute of its handle.
/// - *drop*: drops the inner future.
/// - *close*: input that exceeds [`with_max_ratio`](Self::with_max_ratio) closes the session as
///   [`CloseReason::Decode`](crate::CloseReason::Decode) with an
///   [`InflateBomb`](super::InflateBomb). Input that is not in the format closes it with an
///   [`InflateError`](super::InflateError). Messages before it are handled. An input that ends
///   within a block is [`CloseReason::Io`](crate::CloseReason::Io) with an
///   [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof).
///
/// Scope: the pool of contexts is shared by all clones, and the limit applies to each
/// connection. In a stack it belongs inside `TlsLayer` and outside `CodecLayer`; see the
/// [module](super).
#[derive(Clone, Debug)]
pub struct CompressionLayer {
    settings: Arc<Settings>,
}

impl CompressionLayer {
    settings!();
}

impl<S> Layer<S> for CompressionLayer {
    type Service = Compression<S>;

    fn layer(&self, inner: S) -> Compression<S> {
        Compression {
            inner,
            settings: Arc::clone(&self.settings),
        }
    }
}

/// Service that [`CompressionLayer`] creates.
#[derive(Clone, Debug)]
pub struct Compression<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> Compression<S> {
    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for Compression<S>
where
    S: Service<Connection<Compressed<T>>>,
    T: ByteStream,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        self.inner.call(compress(connection, &self.settings))
    }
}

/// Replaces the transport of `connection`.
pub(super) fn compress<T>(
    connection: Connection<T>,
    settings: &Arc<Settings>,
) -> Connection<Compressed<T>> {
    let stats = CompressionStats::default();
    connection.handle().insert(stats.clone());
    connection.map_transport(|io| Compressed::new(io, Arc::clone(settings), stats))
}
