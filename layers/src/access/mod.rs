//! Refuses peers by their address.
//!
//! - *ready*: the inner service's.
//! - *call*: looks the peer up in an [`AccessList`], which can be changed at any time. A peer that may connect is passed
//!   on. One that may not is refused: the connection closes as [`Refused`](getty_core::CloseReason::Refused), with an
//!   [`AccessDenied`] that names it and the rule as its source and as the error of this service.
//! - *drop, close*: nothing of its own.
//!
//! Scope: peer; the list is shared by all clones of the layer and of its services, so by the whole process where that is
//! wanted. Sessions that are open when a rule changes go on; with a registry those that are denied now are closed by
//! `registry.close_where(CloseReason::Local, |session| list.check(session.peer_addr()).is_err())`.
//!
//! A peer without an IP address, of a Unix socket or in memory, falls under the default of the list: allowed by
//! `allow_all`, refused by `deny_all`. [`AccessLayer::with_unaddressed`] says otherwise; to allow them is sound where a
//! Unix socket's permissions already say who may connect.
//!
//! In a stack it is among the first, outside whatever costs something before the session (TLS, compression), but inside
//! tower's `concurrency_limit`: a connection that is refused then gives its permit back at once. The other way round the
//! permit, reserved before the peer was known, lies with the listener until its next connection. It judges the address
//! that the listener reports: behind a proxy that is the proxy's.
//!
//! ```
//! use getty_core::{Address, CloseReason, Connection, Endpoints, TransportKind};
//! use getty_layers::AccessLayer;
//! use getty_layers::access::{AccessDenied, AccessList, IpNet};
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let list = AccessList::allow_all();
//! let mut stack = ServiceBuilder::new()
//!     .layer(AccessLayer::new(list.clone()))
//!     .service_fn(|_: Connection<&str>| async { Ok::<_, BoxError>("served") });
//!
//! let peer = Address::Ip("192.0.2.7:4096".parse()?);
//! let connection = || {
//!     let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer.clone());
//!     Connection::with_endpoints("a transport", endpoints)
//! };
//! assert_eq!(stack.ready().await?.call(connection()).await?, "served");
//!
//! list.deny("192.0.2.0/24".parse::<IpNet>()?);
//! let connection = connection();
//! let handle = connection.handle().clone();
//! let error = stack.ready().await?.call(connection).await.unwrap_err();
//! assert!(error.is::<AccessDenied>());
//! assert_eq!(handle.reason(), Some(CloseReason::Refused));
//! # Ok(())
//! # }
//! ```

mod list;

use std::task::{Context, Poll};

use getty_core::{Address, Connection};
use tower_layer::Layer;
use tower_service::Service;

pub use self::list::{Access, AccessDenied, AccessList};
pub use crate::refusal::ResponseFuture;
/// A network: an address and the length of its prefix, from the crate `ipnet`.
pub use ipnet::IpNet;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Refuses peers by their address; see the [module](self).
#[derive(Clone, Debug)]
pub struct AccessLayer {
    list: AccessList,
    unaddressed: Option<Access>,
}

impl AccessLayer {
    /// Lets those connect that `list` allows. Keep a clone of the list to change it later.
    #[must_use]
    pub const fn new(list: AccessList) -> Self {
        Self {
            list,
            unaddressed: None,
        }
    }

    /// Whether peers without an IP address may connect. By default that is the default of the list.
    #[must_use]
    pub const fn with_unaddressed(mut self, access: Access) -> Self {
        self.unaddressed = Some(access);
        self
    }

    fn check(&self, peer: &Address) -> Result<(), AccessDenied> {
        match (peer.ip(), self.unaddressed) {
            (None, Some(Access::Allow)) => Ok(()),
            (None, Some(Access::Deny)) => Err(AccessDenied::new(peer, None)),
            _ => self.list.check(peer),
        }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessControl<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessControl {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`AccessLayer`] makes.
#[derive(Clone, Debug)]
pub struct AccessControl<S> {
    inner: S,
    layer: AccessLayer,
}

impl<S> AccessControl<S> {
    /// Wraps `inner`, as [`AccessLayer::new`] does.
    pub const fn new(inner: S, list: AccessList) -> Self {
        Self {
            inner,
            layer: AccessLayer::new(list),
        }
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

impl<S, T> Service<Connection<T>> for AccessControl<S>
where
    S: Service<Connection<T>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, T>;

    /// Reserves what the inner service reserves. A connection that is refused leaves that for the next one; it is given
    /// back when the service is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        match self.layer.check(connection.handle().peer_addr()) {
            Ok(()) => ResponseFuture::passed(self.inner.call(connection)),
            Err(denied) => ResponseFuture::refused(connection, denied),
        }
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::net::IpAddr;

    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::testing::assert_transparent;
    use getty_core::{CloseReason, ConnectionHandle, Endpoints, TransportKind};

    type Plain = Connection<()>;

    fn from(peer: &Address) -> (Plain, ConnectionHandle) {
        let endpoints = Endpoints::new(TransportKind::Unknown, Address::Unknown, peer.clone());
        let connection = Connection::with_endpoints((), endpoints);
        let handle = connection.handle().clone();
        (connection, handle)
    }

    fn ip(text: &str) -> Address {
        let ip: IpAddr = text.parse().unwrap();
        Address::Ip((ip, 4096).into())
    }

    /// A layer that denies 192.0.2.1.
    fn layer() -> AccessLayer {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        AccessLayer::new(AccessList::allow_all().with_denied([peer]))
    }

    #[test]
    fn a_peer_that_may_connect_passes_and_so_do_its_answer_and_its_error() {
        let (mut service, mut handle) = mock::spawn_layer::<Plain, u32, _>(layer());
        for fails in [false, true] {
            assert_ready_ok!(service.poll_ready());
            let (connection, _) = from(&ip("192.0.2.2"));
            let mut response = task::spawn(service.call(connection));
            assert_pending!(response.poll());
            let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
            assert!(!connection.handle().is_closing());
            if fails {
                inner.send_error("too bad");
                assert!(response.is_woken());
                assert_eq!(assert_ready_err!(response.poll()).to_string(), "too bad");
            } else {
                inner.send_response(7);
                assert!(response.is_woken());
                assert_eq!(assert_ready_ok!(response.poll()), 7);
            }
        }
    }

    #[test]
    fn a_peer_that_may_not_is_refused_in_its_own_task_and_leaves_the_reservation() {
        let (mut service, mut handle) = mock::spawn_layer::<Plain, u32, _>(layer());
        handle.allow(1);
        for _ in 0..2 {
            assert_ready_ok!(service.poll_ready());
            let (connection, refused) = from(&ip("::ffff:192.0.2.1"));
            let mut response = task::spawn(service.call(connection));
            assert!(!refused.is_closed(), "not in the task that accepts");
            let error = assert_ready_err!(response.poll());
            let denied: &AccessDenied = error.downcast_ref().unwrap();
            assert_eq!(denied.rule().unwrap().to_string(), "192.0.2.1/32");
            assert!(refused.is_closed());
            assert_eq!(refused.reason(), Some(CloseReason::Refused));
            let source = refused.source().unwrap();
            assert_eq!(source.downcast_ref::<AccessDenied>(), Some(denied));
        }
        // the one permit is still there for the next
        assert_ready_ok!(service.poll_ready());
        let _response = service.call(from(&ip("192.0.2.2")).0);
        assert!(assert_ready!(handle.poll_request()).is_some());
        assert_pending!(service.poll_ready());
    }

    #[test]
    fn a_refusal_that_nobody_awaits_is_recorded_all_the_same() {
        let (mut service, _handle) = mock::spawn_layer::<Plain, u32, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let (connection, refused) = from(&ip("192.0.2.1"));
        drop(service.call(connection));
        assert!(refused.is_closed());
        assert!(refused.source().unwrap().is::<AccessDenied>());
    }

    #[test]
    fn a_future_that_is_dropped_drops_the_inner_one() {
        let mut service = layer().layer(tower::service_fn(async |connection: Plain| {
            std::future::pending::<()>().await;
            drop(connection);
            Ok::<_, BoxError>(())
        }));
        let (connection, handle) = from(&ip("192.0.2.2"));
        let response = service.call(connection);
        assert!(!handle.is_closed());
        drop(response);
        assert!(handle.is_closed());
    }

    #[test]
    fn around_a_service_it_is_transparent_to_those_who_may_connect() {
        assert_transparent(&layer(), || from(&ip("192.0.2.2")).0);
    }

    #[test]
    fn peers_without_an_ip_address_fall_under_the_default_or_the_setting() {
        let allows = AccessLayer::new(AccessList::allow_all());
        let denies = AccessLayer::new(AccessList::deny_all());
        for peer in [Address::Unix(None), Address::Memory(1), Address::Unknown] {
            assert!(allows.check(&peer).is_ok());
            let denied = allows.clone().with_unaddressed(Access::Deny).check(&peer);
            assert_eq!(*denied.unwrap_err().peer(), peer);

            assert!(denies.check(&peer).is_err());
            let allowed = denies.clone().with_unaddressed(Access::Allow);
            assert!(allowed.check(&peer).is_ok());
            assert!(allowed.check(&ip("192.0.2.2")).is_err());
        }
    }
}
