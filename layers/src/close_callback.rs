//! Registers a close callback on every connection of a stack.
//!
//! - *ready*: the inner service's.
//! - *call*: adds the callback to the connection under the pair of keys, and passes the connection on.
//! - *drop*: nothing of its own; the callback runs wherever and however the connection ends.
//! - *close*: the callback runs once, with how the connection ended; what
//!   [`add_close_callback`](getty_core::ConnectionHandle::add_close_callback) says of order, panics and blocking holds.
//!
//! Scope: connection. It may stand anywhere in the connection stack. Connections that end before they reach it, refused
//! or lost in a handshake further out, are not told of; so what is to see every connection goes to the outside. The keys
//! serve to replace or [remove](getty_core::ConnectionHandle::remove_close_callback) the callback of a connection later, and
//! the same pair twice in a stack leaves the inner callback, in the outer one's place.
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
//!         drop(connection); // before its session is open: it is refused
//!         Ok::<_, BoxError>(())
//!     });
//! stack.oneshot(Connection::new(())).await?;
//! assert_eq!(refused.load(Ordering::Relaxed), 1);
//! # Ok(())
//! # }
//! ```

use std::{
    any::type_name,
    fmt,
    hash::Hash,
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_service::Service;

use getty_core::{Closed, Connection, internal::Contained};

/// Registers a close callback on every connection of a stack; see the [module](self).
#[derive(Clone)]
pub struct CloseCallbackLayer<H, K, F> {
    handler: Contained<H>,
    key: Contained<K>,
    callback: Contained<F>,
}

impl<H, K, F> CloseCallbackLayer<H, K, F> {
    /// `callback` is told how each connection ended. It is cloned for each, as the keys are.
    // the bound on the closure is what lets its argument's type go unwritten
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
        CloseCallback {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`CloseCallbackLayer`] makes.
#[derive(Clone)]
pub struct CloseCallback<S, H, K, F> {
    inner: S,
    layer: CloseCallbackLayer<H, K, F>,
}

impl<S, H, K, F> CloseCallback<S, H, K, F> {
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

impl<S: fmt::Debug, H: fmt::Debug, K: fmt::Debug, F> fmt::Debug for CloseCallback<S, H, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloseCallback")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, T, H, K, F> Service<Connection<T>> for CloseCallback<S, H, K, F>
where
    S: Service<Connection<T>>,
    H: Clone + Eq + Hash + Send + 'static,
    K: Clone + Eq + Hash + Send + 'static,
    F: Fn(&Closed) + Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        let CloseCallbackLayer {
            handler,
            key,
            callback,
        } = self.layer.clone();
        connection.handle().add_close_callback(
            handler.into_inner(),
            key.into_inner(),
            callback.into_inner(),
        );
        self.inner.call(connection)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::testing::assert_transparent;
    use getty_core::CloseReason;

    type Told = Arc<Mutex<Vec<(&'static str, CloseReason)>>>;

    fn layer(
        told: &Told,
        name: &'static str,
        key: u8,
    ) -> CloseCallbackLayer<&'static str, u8, impl Fn(&Closed) + Clone + Send + 'static> {
        let told = told.clone();
        CloseCallbackLayer::new("test", key, move |closed| {
            told.lock().unwrap().push((name, closed.reason.clone()));
        })
    }

    #[test]
    fn every_connection_has_the_callback_and_the_answer_passes_through() {
        let told = Told::default();
        let (mut service, mut handle) =
            mock::spawn_layer::<Connection<u8>, u8, _>(layer(&told, "one", 1));
        for transport in 1..3 {
            assert_ready_ok!(service.poll_ready());
            let mut response = task::spawn(service.call(Connection::new(transport)));
            assert_pending!(response.poll());
            let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
            assert!(told.lock().unwrap().is_empty());
            connection.handle().close();
            drop(connection);
            assert_eq!(
                told.lock().unwrap().pop(),
                Some(("one", CloseReason::Local))
            );
            inner.send_response(transport);
            assert!(response.is_woken());
            assert_eq!(assert_ready_ok!(response.poll()), transport);
        }
    }

    #[test]
    fn layers_run_in_their_order_and_the_same_keys_replace_in_place() {
        let told = Told::default();
        let mut stack = layer(&told, "outer", 1).layer(layer(&told, "middle", 2).layer(
            layer(&told, "inner", 1).layer(tower::service_fn(|_: Connection<u8>| async {
                Ok::<_, std::convert::Infallible>(())
            })),
        ));
        assert_ready_ok!(task::spawn(stack.call(Connection::new(1))).poll());
        let names: Vec<_> = told.lock().unwrap().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["inner", "middle"]);
    }

    #[test]
    fn the_callback_can_be_removed_from_one_connection() {
        let told = Told::default();
        let (mut service, mut handle) =
            mock::spawn_layer::<Connection<u8>, u8, _>(layer(&told, "one", 1));
        assert_ready_ok!(service.poll_ready());
        let _response = service.call(Connection::new(1));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        assert!(connection.handle().remove_close_callback("test", 1_u8));
        drop(connection);
        assert!(told.lock().unwrap().is_empty());
    }

    #[test]
    fn around_a_service_it_is_transparent() {
        let told = Told::default();
        assert_transparent(&layer(&told, "one", 1), || Connection::new(1));
    }
}
