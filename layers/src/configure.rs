//! Service that configures each connection before the inner call.
//!
//! Several layers do nothing but register a deadline, a timeout or a callback when a connection
//! arrives. Each such layer implements [`Configure`], and [`Configured`] is the service.
//!
//! - *ready*: as the inner service.
//! - *call*: configures the connection and calls the inner service. The future is the inner
//!   service's.
//! - *drop*: drops the inner future.
//! - *close*: nothing by itself; see the layer.
//!
//! ```
//! use getty_core::Connection;
//! use getty_layers::configure::{Configure, Configured};
//! use tower::{BoxError, Layer, ServiceBuilder, ServiceExt};
//!
//! /// Names each connection after its listener.
//! #[derive(Clone)]
//! struct NameLayer(&'static str);
//!
//! impl<T> Configure<T> for NameLayer {
//!     fn configure(&self, connection: &Connection<T>) {
//!         let handle = connection.handle();
//!         handle.set_name(format!("{}-{}", self.0, handle.id()));
//!     }
//! }
//!
//! impl<S> Layer<S> for NameLayer {
//!     type Service = Configured<S, Self>;
//!
//!     fn layer(&self, inner: S) -> Self::Service {
//!         Configured::new(inner, self.clone())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(NameLayer("public"))
//!     .service_fn(|connection: Connection<()>| async move {
//!         Ok::<_, BoxError>(connection.handle().name())
//!     });
//! assert!(stack.oneshot(Connection::new(())).await?.starts_with("public-"));
//! # Ok(())
//! # }
//! ```

use std::task::{Context, Poll};

use getty_core::Connection;
use tower_service::Service;

/// Configuration of a connection that a layer applies before the inner call.
pub trait Configure<T> {
    /// Configures `connection`. Called once for each connection, in the task that accepts it, so it
    /// must not block.
    fn configure(&self, connection: &Connection<T>);
}

/// Service of a layer that only configures connections; see the [module](self).
#[derive(Clone, Debug)]
pub struct Configured<S, L> {
    inner: S,
    layer: L,
}

impl<S, L> Configured<S, L> {
    /// Creates a new service that configures each connection by `layer` and passes it to `inner`.
    pub const fn new(inner: S, layer: L) -> Self {
        Self { inner, layer }
    }

    getty_core::inner_service_accessors!();
}

impl<S, L, T> Service<Connection<T>> for Configured<S, L>
where
    S: Service<Connection<T>>,
    L: Configure<T>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        self.layer.configure(&connection);
        self.inner.call(connection)
    }
}
