//! Keeps a list of live sessions, to count, find, inspect and close them.
//!
//! - *ready*: as the inner service.
//! - *call*: adds the session to the list and calls the inner service.
//! - *drop*: drops the inner future.
//! - *close*: a close callback removes the session, however it ended. It runs after the
//!   transport was dropped and before [`closed`](getty_core::ConnectionHandle::closed)
//!   resolves. Callbacks of layers outside this one were added earlier and still find the
//!   session in the list. Callbacks of layers and handlers inside it do not.
//!
//! Scope: process, or everything that shares the [`Registry`]. It must be between `CodecLayer`
//! and `SessionLayer`, outside layers that should find their session in the list such as open
//! hooks. So it lists sessions that are not open yet as well; see
//! [`is_open`](getty_core::ConnectionHandle::is_open).
//!
//! A registry from [`Registry::untyped`] lists connections with any message type, for a server
//! of several protocols. Its layer may be placed anywhere outside `SessionLayer`. As the
//! outermost layer it lists connections from accept on, including those in a handshake. Both
//! kinds can be used together.
//!
//! ```
//! use getty_core::{CloseReason, Connection, SessionIo};
//! use getty_layers::{CodecLayer, Registry, RegistryLayer};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let registry = Registry::new();
//! let mut stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(RegistryLayer::new(registry.clone()))
//!     // in place of `SessionLayer`
//!     .service_fn(|connection: Connection<SessionIo<(), LinesCodec, String>>| async {
//!         connection.handle().closing().await;
//!         drop(connection);
//!         Ok::<_, BoxError>(())
//!     });
//!
//! for name in ["ann", "bob"] {
//!     let connection = Connection::new(());
//!     connection.handle().set_name(name);
//!     tokio::spawn(stack.ready().await?.call(connection));
//! }
//! assert_eq!(registry.len(), 2);
//! for session in registry.all() {
//!     session.try_send("hello, all".to_owned())?;
//! }
//! assert_eq!(registry.snapshot()[1].queued, Some(1));
//!
//! let closed = registry.close_where(CloseReason::Local, |session| *session.name() == *"ann");
//! assert_eq!(closed, 1);
//! registry.close_where(CloseReason::Shutdown, |_| true);
//! registry.empty().await;
//! # Ok(())
//! # }
//! ```

mod list;
mod snapshot;

use std::fmt;

use getty_core::{Connection, ConnectionHandle, HasSession, Session};
use tower_layer::Layer;

pub use self::{
    list::{Member, Registry},
    snapshot::Snapshot,
};

use crate::configure::{Configure, Configured};

/// Keeps a list of live sessions; see the [module](self).
pub struct RegistryLayer<M: Member> {
    registry: Registry<M>,
}

impl<M: Member> RegistryLayer<M> {
    /// Creates a new layer that lists sessions in `registry`. Keep a clone of the registry to use
    /// it.
    #[must_use]
    pub const fn new(registry: Registry<M>) -> Self {
        Self { registry }
    }
}

impl<M: Member> Clone for RegistryLayer<M> {
    fn clone(&self) -> Self {
        Self {
            registry: self.registry.clone(),
        }
    }
}

impl<M: Member> fmt::Debug for RegistryLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryLayer")
            .field("registry", &self.registry)
            .finish()
    }
}

impl<S, M: Member> Layer<S> for RegistryLayer<M> {
    type Service = Registered<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        Configured::new(inner, self.clone())
    }
}

/// Service of [`RegistryLayer`].
pub type Registered<S, M> = Configured<S, RegistryLayer<M>>;

impl<T, Out> Configure<T> for RegistryLayer<Session<Out>>
where
    T: HasSession<Out = Out>,
    Out: Send + 'static,
{
    fn configure(&self, connection: &Connection<T>) {
        self.registry.enter(connection.transport().session());
    }
}

impl<T> Configure<T> for RegistryLayer<ConnectionHandle> {
    fn configure(&self, connection: &Connection<T>) {
        self.registry.enter(connection.handle());
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        future::pending,
        sync::{Arc, mpsc},
        time::Duration,
    };

    use getty_core::{Address, CloseReason, Endpoints, SessionIo, TransportKind, driver};
    use getty_test::assert_layer_contract;
    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, Layer, Service, service_fn};
    use tower_test::mock;

    use super::*;

    type Typed = Connection<SessionIo<(), (), u32>>;

    fn connection() -> Typed {
        let connection = Connection::new(());
        let (_, driver) = driver::pair(connection.handle().clone());
        connection.map_transport(|()| SessionIo::new((), (), driver, 1))
    }

    fn ids<M: Member>(members: &[M]) -> Vec<u64> {
        members.iter().map(|member| member.handle().id()).collect()
    }

    /// Adds `n` sessions to the registry.
    fn listed(registry: &Registry<Session<u32>>, n: usize) -> Vec<Typed> {
        let mut connections: Vec<_> = (0..n).map(|_| connection()).collect();
        for connection in &mut connections {
            registry.enter(connection.transport().session());
        }
        connections
    }

    #[test]
    fn responses_and_errors_pass_through() {
        let registry = Registry::new();
        let layer = RegistryLayer::new(registry.clone());
        let (mut service, mut handle) = mock::spawn_layer::<Typed, u32, _>(layer);
        for fails in [false, true] {
            assert_ready_ok!(service.poll_ready());
            let mut response = task::spawn(service.call(connection()));
            assert_pending!(response.poll());
            assert_eq!(registry.len(), 1);
            let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
            drop(connection);
            assert!(registry.is_empty());
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

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&RegistryLayer::new(Registry::new()), connection).await;
    }

    #[test]
    fn dropped_future_removes_its_connection() {
        let registry = Registry::untyped();
        let mut service = RegistryLayer::new(registry.clone()).layer(service_fn(
            async |connection: Connection<()>| {
                pending::<()>().await;
                drop(connection);
                Ok::<_, BoxError>(())
            },
        ));
        let response = service.call(Connection::new(()));
        assert_eq!(registry.len(), 1);
        drop(response);
        assert!(registry.is_empty());
    }

    #[test]
    fn sessions_are_found_by_id_attribute_and_peer_oldest_first() {
        let registry = Registry::new();
        let connections = listed(&registry, 5);
        let session = |n: usize| connections[n].transport().session();
        for n in [1, 3] {
            session(n).insert("guest");
        }
        let all: Vec<_> = (0..5).map(|n| session(n).id()).collect();
        assert_eq!(ids(&registry.all()), all);
        let guests = registry.find(|session| session.get() == Some("guest"));
        assert_eq!(ids(&guests), [all[1], all[3]]);
        let unknown = registry.find(|session| *session.peer_addr() != Address::Unknown);
        assert!(unknown.is_empty());
        assert_eq!(registry.get(all[2]).unwrap().id(), all[2]);
        assert!(registry.get(u64::MAX).is_none());
    }

    #[test]
    fn listed_sessions_can_be_sent_to() {
        let registry = Registry::new();
        let _connections = listed(&registry, 2);
        for session in registry.all() {
            session.try_send(7).unwrap();
            assert_eq!(session.queued(), 1);
        }
    }

    #[test]
    fn close_where_closes_matching_sessions_and_counts_each_once() {
        let registry = Registry::new();
        let connections = listed(&registry, 4);
        connections[0].handle().close();
        let first = connections[1].handle().id();
        let close = |reason| registry.close_where(reason, |session| session.id() != first);
        assert_eq!(close(CloseReason::LifetimeExpired), 2);
        assert_eq!(close(CloseReason::Shutdown), 0);
        let reasons: Vec<_> = connections
            .iter()
            .map(|connection| connection.handle().reason())
            .collect();
        let expired = Some(CloseReason::LifetimeExpired);
        assert_eq!(
            reasons,
            [Some(CloseReason::Local), None, expired.clone(), expired]
        );
        assert_eq!(registry.len(), 4, "closing sessions are still listed");
    }

    #[test]
    fn filter_may_use_the_registry() {
        let registry = Registry::new();
        let mut connections = listed(&registry, 3);
        let last = registry.find(|session| {
            connections.pop();
            registry.get(session.id()).is_none() && registry.is_empty()
        });
        assert_eq!(last.len(), 1);
    }

    #[test]
    fn empty_resolves_after_the_last_session_or_at_once() {
        let registry = Registry::new();
        assert_ready!(task::spawn(registry.empty()).poll());
        let mut connections = listed(&registry, 2);
        let mut empty = task::spawn(registry.empty());
        assert_pending!(empty.poll());
        connections.pop();
        assert_pending!(empty.poll());
        connections.pop();
        assert!(empty.is_woken());
        assert_ready!(empty.poll());
    }

    #[test]
    fn earlier_callbacks_find_the_session_and_later_ones_do_not() {
        let registry = Registry::new();
        let connection = connection();
        let handle = connection.handle();
        let (sender, seen) = mpsc::channel();
        let record = |place| {
            let (registry, sender) = (registry.clone(), sender.clone());
            move |_: &getty_core::Closed| sender.send((place, registry.len())).unwrap()
        };
        handle.add_close_callback("test", "outside", record("outside"));
        registry.enter(connection.transport().session());
        handle.add_close_callback("test", "inside", record("inside"));
        drop(connection);
        assert_eq!(
            seen.try_iter().collect::<Vec<_>>(),
            [("outside", 1), ("inside", 0)]
        );
    }

    #[test]
    fn registry_keeps_no_session_alive_and_lists_each_once() {
        let registry = Registry::new();
        let connection = connection();
        let kept = Arc::new(());
        connection.handle().insert(Arc::clone(&kept));
        let session = connection.transport().session();
        registry.enter(session);
        registry.enter(session);
        assert_eq!(registry.len(), 1);
        let (weak, handle) = (session.downgrade(), connection.handle().downgrade());
        assert!(weak.upgrade().is_some() && handle.upgrade().is_some());
        drop(connection);
        assert!(registry.is_empty());
        assert!(weak.upgrade().is_none() && handle.upgrade().is_none());
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    #[test]
    fn closed_session_is_not_listed() {
        let registry = Registry::untyped();
        let connection = Connection::new(());
        let handle = connection.handle().clone();
        drop(connection);
        registry.enter(&handle);
        assert!(registry.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn snapshot_contains_all_values_of_a_session() {
        let peer = Address::Ip("192.0.2.1:4096".parse().unwrap());
        let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer.clone());
        let connection = Connection::with_endpoints((), endpoints);
        let (session, driver) = driver::pair::<u32>(connection.handle().clone());
        session.set_name("ann");
        let (typed, untyped) = (Registry::new(), Registry::untyped());
        typed.enter(&session);
        untyped.enter(session.handle());

        let second = Duration::from_secs(1);
        let now = async || {
            advance(second).await;
            driver.timestamp(tokio::time::Instant::now())
        };
        driver.record_received(5, now().await);
        driver.record_messages_in(1, now().await);
        driver.record_sent(3, now().await);
        driver.set_in_flight(2);
        session.try_send(7).unwrap();
        session.close_with(CloseReason::LifetimeExpired);
        advance(second).await;

        let shown = &typed.snapshot()[0];
        assert_eq!((shown.id, &*shown.name), (session.id(), "ann"));
        assert_eq!(shown.transport, TransportKind::Tcp);
        assert_eq!((&shown.peer, &shown.local), (&peer, &Address::Unknown));
        assert!(!shown.is_open);
        assert_eq!(shown.closing, Some(CloseReason::LifetimeExpired));
        assert_eq!(shown.age, 4 * second);
        assert_eq!(shown.since_read, 3 * second);
        assert_eq!(shown.since_active, 2 * second);
        assert_eq!(shown.since_write, second);
        assert_eq!((shown.queued, shown.in_flight), (Some(1), 2));
        assert_eq!(shown.stats, session.stats());
        assert_eq!(untyped.snapshot()[0].queued, None);
    }

    #[derive(Clone)]
    struct User(&'static str);

    #[tokio::test(start_paused = true)]
    async fn snapshot_contains_the_attributes_that_the_registry_shows() {
        let registry = Registry::new();
        let connections = listed(&registry, 2);
        connections[0].handle().insert(User("ann"));
        registry.show_attribute("user", |_| panic!("it is replaced"));
        let clone = registry.clone();
        clone.show_attribute("user", |handle| {
            handle.get().map(|User(name)| name.to_owned())
        });
        let shown = registry.snapshot();
        assert_eq!(shown[0].attributes["user"], "ann");
        assert!(shown[1].attributes.is_empty());
    }

    #[cfg(feature = "serde")]
    #[tokio::test(start_paused = true)]
    async fn snapshots_and_close_records_are_serializable() {
        let peer = Address::Ip("192.0.2.1:4096".parse().unwrap());
        let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer);
        let connection = Connection::with_endpoints((), endpoints);
        let (session, _driver) = driver::pair::<u32>(connection.handle().clone());
        let registry = Registry::new();
        registry.enter(&session);
        registry.show_attribute("user", |_| Some("ann".to_owned()));
        advance(Duration::from_millis(1500)).await;
        let close = getty_core::Close::new(CloseReason::IdleTimeout).with_source("as a test");
        session.close_with(close);
        let shown = serde_json::to_value(registry.snapshot()).unwrap();
        let id = session.id();
        let stats = serde_json::json!({
            "bytes_in": 0, "bytes_out": 0, "messages_in": 0, "messages_out": 0,
            "skipped": 0, "dropped": 0, "late": 0,
        });
        assert_eq!(
            shown,
            serde_json::json!([{
                "id": id, "name": format!("tcp-{id}"), "transport": "tcp",
                "peer": "192.0.2.1:4096", "local": "unknown",
                "is_open": false, "closing": "idle_timeout",
                "age": 1.5, "since_read": 1.5, "since_write": 1.5, "since_active": 1.5,
                "queued": 0, "in_flight": 0, "stats": stats, "attributes": {"user": "ann"},
            }])
        );
        drop(connection);
        let closed = serde_json::to_value(session.closed().await).unwrap();
        assert_eq!(closed["reason"], "idle_timeout");
        assert_eq!(closed["source"], "as a test");
        assert_eq!(closed["lifetime"], 1.5);
        assert_eq!(closed["stats"], stats);
        assert!(closed["code"].is_null());
    }
}
