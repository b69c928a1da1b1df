//! Sets how long a session's peer may take none of the bytes that wait for it.
//!
//! `SessionLayer` has such a timeout already, 30 s by default. This layer sets another for the connections of one stack,
//! from wherever it stands, so that it can be chosen by whoever composes the stack rather than by who wrote its core.
//!
//! - *ready*: the inner service's.
//! - *call*: tells the session loop, calls the inner service; no timer, nothing a message.
//! - *drop*: drops the inner future.
//! - *close*: when bytes wait and the transport takes none of them for so long, the session ends at once, as
//!   [`CloseReason::WriteTimeout`](getty_core::CloseReason::WriteTimeout): what waits could not be flushed anyway. Every byte
//!   that moves starts the time anew, and it does not run while nothing waits.
//!
//! Scope: session. It may stand anywhere outside `SessionLayer`, whose own setting it replaces; of two such layers the
//! inner one counts.
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_core::{Connection, driver};
//! use getty_layers::WriteTimeoutLayer;
//! use std::task::{Context, Waker};
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(WriteTimeoutLayer::new(Duration::from_secs(5)))
//!     // what the session loop does with it
//!     .service_fn(|connection: Connection<&'static str>| async move {
//!         let (_session, mut driver) = driver::pair::<String>(connection.handle().clone());
//!         driver.turn(&Context::from_waker(Waker::noop()));
//!         Ok::<_, BoxError>(driver.write_timeout())
//!     });
//! let timeout = stack.oneshot(Connection::new("any transport")).await?;
//! assert_eq!(timeout, Some(Some(Duration::from_secs(5))));
//! # Ok(())
//! # }
//! ```

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tower_layer::Layer;
use tower_service::Service;

use getty_core::Connection;

/// Sets a session's write timeout; see the [module](self).
#[derive(Clone, Debug)]
pub struct WriteTimeoutLayer {
    timeout: Option<Duration>,
}

impl WriteTimeoutLayer {
    /// Bytes that wait must move within `timeout`. Zero ends a session whenever the peer reads more slowly than is
    /// written to it; a time too long to be told never does.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
        }
    }

    /// A peer may take as long as it likes. Something else must then end sessions whose peer has gone, or they stay.
    #[must_use]
    pub const fn never() -> Self {
        Self { timeout: None }
    }
}

impl<S> Layer<S> for WriteTimeoutLayer {
    type Service = WriteTimeout<S>;

    fn layer(&self, inner: S) -> WriteTimeout<S> {
        WriteTimeout::new(inner, self.timeout)
    }
}

/// The service that [`WriteTimeoutLayer`] makes.
#[derive(Clone, Debug)]
pub struct WriteTimeout<S> {
    inner: S,
    timeout: Option<Duration>,
}

impl<S> WriteTimeout<S> {
    /// Wraps `inner`, as [`WriteTimeoutLayer::new`] does, or [`never`](WriteTimeoutLayer::never) with `None`.
    pub const fn new(inner: S, timeout: Option<Duration>) -> Self {
        Self { inner, timeout }
    }

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

impl<S, T> Service<Connection<T>> for WriteTimeout<S>
where
    S: Service<Connection<T>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        connection.handle().set_write_timeout(self.timeout);
        self.inner.call(connection)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use tokio_test::task;
    use tower::service_fn;

    use super::*;
    use crate::testing::{assert_transparent, drive, framed};

    #[test]
    fn around_a_service_it_is_transparent() {
        assert_transparent(&WriteTimeoutLayer::never(), || Connection::new(()));
    }

    #[test]
    fn the_session_loop_is_told() {
        for (layer, timeout) in [
            (WriteTimeoutLayer::never(), None),
            (
                WriteTimeoutLayer::new(Duration::from_secs(7)),
                Some(Duration::from_secs(7)),
            ),
        ] {
            let mut service = layer.layer(service_fn(|connection| async {
                let (driver, _lease) = drive(connection);
                Ok::<_, ()>(driver.write_timeout())
            }));
            let told = tokio_test::assert_ready_ok!(task::spawn(service.call(framed())).poll());
            assert_eq!(told, Some(timeout));
        }
    }
}
