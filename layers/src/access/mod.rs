//! Refuses peers by their address.
//!
//! - *ready*: as the inner service.
//! - *call*: checks the peer against an [`AccessList`], which can be changed at any time. An
//!   allowed peer reaches the inner service. A denied peer is refused: the connection closes as
//!   [`Refused`](getty_core::CloseReason::Refused), and an [`AccessDenied`] with the peer and
//!   the rule is its source and the error of this service.
//! - *drop, close*: nothing.
//!
//! Scope: peer. All clones of the layer and of its services share the list, so one list can
//! serve the whole process. A changed rule does not affect open sessions. To close those that
//! are denied now, use a registry:
//! `registry.close_where(CloseReason::Local, |session| list.check(session.peer_addr()).is_err())`.
//!
//! For a peer without an IP address (a Unix socket or an in-memory transport) the default of
//! the list applies: `allow_all` allows it, `deny_all` refuses it.
//! [`AccessLayer::with_unaddressed`] overrides this. Allowing such peers is safe if the
//! permissions of a Unix socket already restrict access.
//!
//! Place it among the first layers, outside those that do expensive work before the session
//! (TLS, compression), but inside tower's `concurrency_limit`: a refused connection then gives
//! its permit back at once. In the opposite order the listener keeps the permit, which was
//! reserved before the peer was known, until its next connection. The layer checks
//! [`peer_addr`](getty_core::ConnectionHandle::peer_addr) when it is called. Behind a load
//! balancer it belongs inside `ProxyProtocolLayer`: outside, the address is the proxy's.
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

use getty_core::{Address, Connection};
use tower_layer::Layer;

pub use self::list::{Access, AccessDenied, AccessList};
pub use crate::admission::ResponseFuture;
/// Network of the crate `ipnet`: an address and the length of its prefix.
pub use ipnet::IpNet;

use crate::admission::{Admission, Admit};

/// Refuses peers by their address; see the [module](self).
#[doc(alias = "allowlist")]
#[doc(alias = "denylist")]
#[doc(alias = "ban")]
#[derive(Clone, Debug)]
pub struct AccessLayer {
    list: AccessList,
    unaddressed: Option<Access>,
}

impl AccessLayer {
    /// Creates a new layer that admits the peers that `list` allows. Keep a clone of the list to
    /// change it later.
    #[must_use]
    pub const fn new(list: AccessList) -> Self {
        Self {
            list,
            unaddressed: None,
        }
    }

    /// Sets the access of peers without an IP address. The default is the default of the list.
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
        Admission::new(inner, self.clone())
    }
}

/// Service of [`AccessLayer`].
pub type AccessControl<S> = Admission<S, AccessLayer>;

impl Admit for AccessLayer {
    type Refusal = AccessDenied;

    fn admit<T>(&self, connection: &Connection<T>) -> Result<(), AccessDenied> {
        self.check(connection.handle().peer_addr())
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::net::IpAddr;

    use getty_core::{CloseReason, ConnectionHandle, Endpoints, TransportKind};
    use getty_test::assert_layer_contract;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, Service};
    use tower_test::mock;

    use super::*;

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

    /// Returns a layer that denies 192.0.2.1.
    fn layer() -> AccessLayer {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        AccessLayer::new(AccessList::allow_all().with_denied([peer]))
    }

    #[test]
    fn allowed_peer_reaches_the_inner_service() {
        let (mut service, mut handle) = mock::spawn_layer::<Plain, u32, _>(layer());
        for fails in [false, true] {
            assert_ready_ok!(service.poll_ready());
            let (connection, _) = from(&ip("192.0.2.2"));
            let mut response = task::spawn(service.call(connection));
            assert_pending!(response.poll());
            let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
            assert!(!connection.handle().is_closing());
            if fails {
                inner.send_error("handler failed");
                assert!(response.is_woken());
                assert_eq!(
                    assert_ready_err!(response.poll()).to_string(),
                    "handler failed"
                );
            } else {
                inner.send_response(7);
                assert!(response.is_woken());
                assert_eq!(assert_ready_ok!(response.poll()), 7);
            }
        }
    }

    #[test]
    fn denied_peer_is_refused_in_its_own_task_and_leaves_the_reservation() {
        let (mut service, mut handle) = mock::spawn_layer::<Plain, u32, _>(layer());
        handle.allow(1);
        for _ in 0..2 {
            assert_ready_ok!(service.poll_ready());
            let (connection, refused) = from(&ip("::ffff:192.0.2.1"));
            let mut response = task::spawn(service.call(connection));
            assert!(
                !refused.is_closed(),
                "the task that accepts must not close it"
            );
            let error = assert_ready_err!(response.poll());
            let denied: &AccessDenied = error.downcast_ref().unwrap();
            assert_eq!(denied.rule().unwrap().to_string(), "192.0.2.1/32");
            assert!(refused.is_closed());
            assert_eq!(refused.reason(), Some(CloseReason::Refused));
            let source = refused.source().unwrap();
            assert_eq!(source.downcast_ref::<AccessDenied>(), Some(denied));
        }
        // The one permit is still available for the next connection.
        assert_ready_ok!(service.poll_ready());
        let _response = service.call(from(&ip("192.0.2.2")).0);
        assert!(assert_ready!(handle.poll_request()).is_some());
        assert_pending!(service.poll_ready());
    }

    #[test]
    fn refusal_is_recorded_if_its_future_is_dropped_unpolled() {
        let (mut service, _handle) = mock::spawn_layer::<Plain, u32, _>(layer());
        assert_ready_ok!(service.poll_ready());
        let (connection, refused) = from(&ip("192.0.2.1"));
        drop(service.call(connection));
        assert!(refused.is_closed());
        assert!(refused.source().unwrap().is::<AccessDenied>());
    }

    #[test]
    fn dropped_future_drops_the_inner_future() {
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

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&layer(), || from(&ip("192.0.2.2")).0).await;
    }

    #[test]
    fn peers_without_an_ip_address_follow_the_default_or_the_setting() {
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
