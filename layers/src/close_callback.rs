//! Adds a close callback to every connection of a stack.
//!
//! - *ready*: as the inner service.
//! - *call*: adds the callback to the connection under a pair of keys and calls the inner
//!   service.
//! - *drop*: drops the inner future. The callback runs wherever and however the connection
//!   ends.
//! - *close*: the callback runs once, with a description of the end. The contract of
//!   [`add_close_callback`](getty_core::ConnectionHandle::add_close_callback) about order,
//!   panics and blocking applies.
//!
//! Scope: connection. It may be placed anywhere in the connection stack. It does not see
//! connections that end before they reach it, because they were refused or their handshake
//! failed further out. To see every connection, place it outermost. The keys identify the
//! callback: use them to replace or
//! [remove](getty_core::ConnectionHandle::remove_close_callback) it for one connection. If the
//! same pair occurs twice in a stack, the inner callback replaces the outer one and takes its
//! position.
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
//!
//! use getty_core::Connection;
//! use getty_layers::CloseCallbackLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let refused = Arc::new(AtomicU64::new(0));
//! let counter = Arc::clone(&refused);
//! let stack = ServiceBuilder::new()
//!     .layer(CloseCallbackLayer::new("statistics", "refused", move |closed| {
//!         if closed.reason.as_str() == "refused" {
//!             counter.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }))
//!     .service_fn(|connection: Connection<()>| async move {
//!         drop(connection); // before the session opens, which refuses the connection
//!         Ok::<_, BoxError>(())
//!     });
//! stack.oneshot(Connection::new(())).await?;
//! assert_eq!(refused.load(Ordering::Relaxed), 1);
//! # Ok(())
//! # }
//! ```

use std::{any::type_name, fmt, hash::Hash};

use getty_core::{Closed, Connection, hooks::Contained};
use tower_layer::Layer;

use crate::configure::{Configure, Configured};

/// Adds a close callback to every connection of a stack; see the [module](self).
#[doc(alias = "on_close")]
#[derive(Clone)]
pub struct CloseCallbackLayer<H, K, F> {
    handler: Contained<H>,
    key: Contained<K>,
    callback: Contained<F>,
}

impl<H, K, F> CloseCallbackLayer<H, K, F> {
    /// Creates a new layer that calls `callback` at the end of each connection.
    ///
    /// The callback and both keys are cloned for each connection.
    // This bound on the closure makes its argument type inferable.
    pub const fn new(handler: H, key: K, callback: F) -> Self
    where
        H: Clone + Eq + Hash + Send + 'static,
        K: Clone + Eq + Hash + Send + 'static,
        F: Fn(&Closed) + Clone + Send + 'static,
    {
        Self {
            handler: Contained::new(handler),
            key: Contained::new(key),
            callback: Contained::new(callback),
        }
    }
}

impl<H: fmt::Debug, K: fmt::Debug, F> fmt::Debug for CloseCallbackLayer<H, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseCallbackLayer")
            .field("handler", &self.handler)
            .field("key", &self.key)
            .field("callback", &format_args!("{}", type_name::<F>()))
            .finish()
    }
}

impl<S, H: Clone, K: Clone, F: Clone> Layer<S> for CloseCallbackLayer<H, K, F> {
    type Service = CloseCallback<S, H, K, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Configured::new(inner, self.clone())
    }
}

/// Service of [`CloseCallbackLayer`].
pub type CloseCallback<S, H, K, F> = Configured<S, CloseCallbackLayer<H, K, F>>;

impl<T, H, K, F> Configure<T> for CloseCallbackLayer<H, K, F>
where
    H: Clone + Eq + Hash + Send + 'static,
    K: Clone + Eq + Hash + Send + 'static,
    F: Fn(&Closed) + Clone + Send + 'static,
{
    fn configure(&self, connection: &Connection<T>) {
        let Self {
            handler,
            key,
            callback,
        } = self.clone();
        // The connection runs it even if its task is aborted (design.md: Why do close callbacks
        // always run?).
        connection.handle().add_close_callback(
            handler.into_inner(),
            key.into_inner(),
            callback.into_inner(),
        );
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::sync::{Arc, Mutex};

    use getty_core::CloseReason;
    use getty_test::assert_layer_contract;
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower::Service;
    use tower_test::mock;

    use super::*;

    type Calls = Arc<Mutex<Vec<(&'static str, CloseReason)>>>;

    fn layer(
        calls: &Calls,
        name: &'static str,
        key: u8,
    ) -> CloseCallbackLayer<&'static str, u8, impl Fn(&Closed) + Clone + Send + 'static> {
        let calls = calls.clone();
        CloseCallbackLayer::new("test", key, move |closed| {
            calls.lock().unwrap().push((name, closed.reason.clone()));
        })
    }

    #[test]
    fn every_connection_has_the_callback_and_responses_pass_through() {
        let calls = Calls::default();
        let (mut service, mut handle) =
            mock::spawn_layer::<Connection<u8>, u8, _>(layer(&calls, "one", 1));
        for transport in 1..3 {
            assert_ready_ok!(service.poll_ready());
            let mut response = task::spawn(service.call(Connection::new(transport)));
            assert_pending!(response.poll());
            let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
            assert!(calls.lock().unwrap().is_empty());
            connection.handle().close();
            drop(connection);
            assert_eq!(
                calls.lock().unwrap().pop(),
                Some(("one", CloseReason::Local))
            );
            inner.send_response(transport);
            assert!(response.is_woken());
            assert_eq!(assert_ready_ok!(response.poll()), transport);
        }
    }

    #[test]
    fn callbacks_run_in_layer_order_and_same_keys_replace_in_position() {
        let calls = Calls::default();
        let mut stack = layer(&calls, "outer", 1).layer(layer(&calls, "middle", 2).layer(
            layer(&calls, "inner", 1).layer(tower::service_fn(|_: Connection<u8>| async {
                Ok::<_, std::convert::Infallible>(())
            })),
        ));
        assert_ready_ok!(task::spawn(stack.call(Connection::new(1))).poll());
        let names: Vec<_> = calls
            .lock()
            .unwrap()
            .iter()
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(names, ["inner", "middle"]);
    }

    #[test]
    fn callback_can_be_removed_from_one_connection() {
        let calls = Calls::default();
        let (mut service, mut handle) =
            mock::spawn_layer::<Connection<u8>, u8, _>(layer(&calls, "one", 1));
        assert_ready_ok!(service.poll_ready());
        let _response = service.call(Connection::new(1));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        assert!(connection.handle().remove_close_callback("test", 1_u8));
        drop(connection);
        assert!(calls.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        let calls = Calls::default();
        assert_layer_contract(&layer(&calls, "one", 1), || Connection::new(1)).await;
    }
}
