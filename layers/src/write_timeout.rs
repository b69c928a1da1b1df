//! Sets the write timeout of sessions.
//!
//! `SessionLayer` has a write timeout already, 30 s by default. This layer replaces it for the
//! connections of one stack. The code that composes a stack can choose the timeout, although
//! other code created the `SessionLayer`.
//!
//! - *ready*: as the inner service.
//! - *call*: sets the timeout on the connection and calls the inner service. It creates no
//!   timer and costs nothing per message.
//! - *drop*: drops the inner future.
//! - *close*: if bytes are pending and the transport accepts no byte within the timeout, the
//!   session ends at once as
//!   [`CloseReason::WriteTimeout`](getty_core::CloseReason::WriteTimeout). The pending bytes
//!   are discarded because they could not be flushed. Every accepted byte restarts the timeout.
//!   It does not run while no bytes are pending.
//!
//! Scope: session. It may be placed anywhere outside `SessionLayer`, whose setting it replaces.
//! The inner of two such layers takes effect.
//!
//! ```
//! use std::{task::{Context, Waker}, time::Duration};
//!
//! use getty_core::{Connection, driver};
//! use getty_layers::WriteTimeoutLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(WriteTimeoutLayer::new(Duration::from_secs(5)))
//!     // in place of `SessionLayer`
//!     .service_fn(|connection: Connection<&'static str>| async move {
//!         let (_session, mut driver) = driver::pair::<String>(connection.handle().clone());
//!         driver.register(&Context::from_waker(Waker::noop()));
//!         Ok::<_, BoxError>(driver.write_timeout())
//!     });
//! let timeout = stack.oneshot(Connection::new("any transport")).await?;
//! assert_eq!(timeout, Some(Some(Duration::from_secs(5))));
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use getty_core::{Connection, hooks::HandleExt};
use tower_layer::Layer;

use crate::configure::{Configure, Configured};

/// Sets the write timeout of sessions; see the [module](self).
#[derive(Clone, Debug)]
pub struct WriteTimeoutLayer {
    timeout: Option<Duration>,
}

impl WriteTimeoutLayer {
    /// Creates a new layer with a write timeout.
    ///
    /// Zero ends a session as soon as its peer reads more slowly than the session writes. A timeout
    /// beyond the range of the clock will never expire.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
        }
    }

    /// Creates a new layer that disables the write timeout.
    ///
    /// The application must then close sessions whose peer stops reading. Otherwise they stay open.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { timeout: None }
    }
}

impl<S> Layer<S> for WriteTimeoutLayer {
    type Service = WriteTimeout<S>;

    fn layer(&self, inner: S) -> WriteTimeout<S> {
        Configured::new(inner, self.clone())
    }
}

/// Service of [`WriteTimeoutLayer`].
pub type WriteTimeout<S> = Configured<S, WriteTimeoutLayer>;

impl<T> Configure<T> for WriteTimeoutLayer {
    fn configure(&self, connection: &Connection<T>) {
        connection.handle().set_write_timeout(self.timeout);
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_test::assert_layer_contract;
    use tokio_test::task;
    use tower::{Service, service_fn};

    use super::*;
    use crate::testing::{drive, framed};

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&WriteTimeoutLayer::disabled(), || Connection::new(())).await;
    }

    #[test]
    fn session_loop_gets_the_timeout() {
        for (layer, timeout) in [
            (WriteTimeoutLayer::disabled(), None),
            (
                WriteTimeoutLayer::new(Duration::from_secs(7)),
                Some(Duration::from_secs(7)),
            ),
        ] {
            let mut service = layer.layer(service_fn(|connection| async {
                let (driver, _guard) = drive(connection);
                Ok::<_, ()>(driver.write_timeout())
            }));
            let set = tokio_test::assert_ready_ok!(task::spawn(service.call(framed())).poll());
            assert_eq!(set, Some(timeout));
        }
    }
}
