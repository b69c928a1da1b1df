//! Keeps a list of live sessions: to see them, count them, find them, close them.
//!
//! - *ready*: the inner service's.
//! - *call*: puts the session on the list, and passes the connection on.
//! - *drop*: nothing of its own.
//! - *close*: a close callback takes the session off the list, when its transport is gone and before
//!   [`closed`](getty_core::ConnectionHandle::closed) resolves, however it ended. Callbacks that were added before, by layers
//!   outside of this one, run before that; those of layers and handlers inside of it run after it and find a list without
//!   their session.
//!
//! Scope: process, or whatever shares the [`Registry`]. In a stack it stands between `CodecLayer` and `SessionLayer`,
//! outside of all that is to find its session on the list, such as open hooks. So it lists sessions that are not open yet
//! as well: [`is_open`](getty_core::ConnectionHandle::is_open) tells.
//!
//! A registry made with [`Registry::untyped`] lists connections, whatever they carry, for a server that speaks several
//! protocols. Its layer stands anywhere outside of `SessionLayer`: as the first it lists connections from accept on, with
//! those that still shake hands. Both kinds may be used at once.
//!
//! ```
//! use getty_core::{CloseReason, Connection, Framed};
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
//!     // in the place of `SessionLayer`
//!     .service_fn(|connection: Connection<Framed<(), LinesCodec, String>>| async {
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
//!     session.try_send("hello everybody".to_owned())?;
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

use std::{
    fmt,
    task::{Context, Poll},
};

use getty_core::{Connection, ConnectionHandle, HasSession, Session};
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    list::{Member, Registry},
    snapshot::Snapshot,
};

/// Keeps a list of live sessions; see the [module](self).
pub struct RegistryLayer<M: Member> {
    registry: Registry<M>,
}

impl<M: Member> RegistryLayer<M> {
    /// Lists sessions in `registry`, of which the caller keeps a clone.
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
        Registered::new(inner, self.registry.clone())
    }
}

/// The service that [`RegistryLayer`] makes.
pub struct Registered<S, M: Member> {
    inner: S,
    registry: Registry<M>,
}

impl<S, M: Member> Registered<S, M> {
    /// Wraps `inner`, as [`RegistryLayer::new`] does.
    pub const fn new(inner: S, registry: Registry<M>) -> Self {
        Self { inner, registry }
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

impl<S: Clone, M: Member> Clone for Registered<S, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            registry: self.registry.clone(),
        }
    }
}

impl<S: fmt::Debug, M: Member> fmt::Debug for Registered<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("inner", &self.inner)
            .field("registry", &self.registry)
            .finish()
    }
}

impl<S, T, Out> Service<Connection<T>> for Registered<S, Session<Out>>
where
    S: Service<Connection<T>>,
    T: HasSession<Out = Out>,
    Out: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        self.registry.enter(connection.transport().session());
        self.inner.call(connection)
    }
}

impl<S, T> Service<Connection<T>> for Registered<S, ConnectionHandle>
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
        self.registry.enter(connection.handle());
        self.inner.call(connection)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        future::pending,
        sync::{Arc, mpsc},
        time::Duration,
    };

    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::{BoxError, Layer, Service, service_fn};
    use tower_test::mock;

    use super::*;
    use crate::testing::assert_transparent;
    use getty_core::{Address, CloseReason, Endpoints, Framed, TransportKind, driver};

    type Typed = Connection<Framed<(), (), u32>>;

    fn connection() -> Typed {
        let connection = Connection::new(());
        let (_, driver) = driver::pair(connection.handle().clone());
        connection.map_transport(|()| Framed::new((), (), driver, 1))
    }

    fn ids<M: Member>(members: &[M]) -> Vec<u64> {
        members.iter().map(|member| member.handle().id()).collect()
    }

    /// Lists `n` sessions.
    fn listed(registry: &Registry<Session<u32>>, n: usize) -> Vec<Typed> {
        let mut connections: Vec<_> = (0..n).map(|_| connection()).collect();
        for connection in &mut connections {
            registry.enter(connection.transport().session());
        }
        connections
    }

    #[test]
    fn an_answer_and_an_error_pass_through() {
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
    fn around_a_service_it_is_transparent() {
        assert_transparent(&RegistryLayer::new(Registry::new()), connection);
    }

    #[test]
    fn a_connection_whose_future_is_dropped_leaves() {
        let registry = Registry::untyped();
        let mut service =
            RegistryLayer::new(registry.clone()).layer(service_fn(async |it: Connection<()>| {
                pending::<()>().await;
                drop(it);
                Ok::<_, BoxError>(())
            }));
        let response = service.call(Connection::new(()));
        assert_eq!(registry.len(), 1);
        drop(response);
        assert!(registry.is_empty());
    }

    #[test]
    fn sessions_are_found_by_id_attribute_and_peer_the_oldest_first() {
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
    fn what_it_gives_out_can_be_sent_to() {
        let registry = Registry::new();
        let _connections = listed(&registry, 2);
        for session in registry.all() {
            session.try_send(7).unwrap();
            assert_eq!(session.queued(), 1);
        }
    }

    #[test]
    fn it_closes_those_that_fit_and_counts_each_once() {
        let registry = Registry::new();
        let connections = listed(&registry, 4);
        connections[0].handle().close();
        let first = connections[1].handle().id();
        let close = |reason| registry.close_where(reason, |session| session.id() != first);
        assert_eq!(close(CloseReason::LifetimeExpired), 2);
        assert_eq!(close(CloseReason::Shutdown), 0);
        let reasons: Vec<_> = connections.iter().map(|it| it.handle().reason()).collect();
        let expired = Some(CloseReason::LifetimeExpired);
        assert_eq!(
            reasons,
            [Some(CloseReason::Local), None, expired.clone(), expired]
        );
        assert_eq!(registry.len(), 4, "closing is not closed");
    }

    #[test]
    fn a_filter_may_use_the_registry() {
        let registry = Registry::new();
        let mut connections = listed(&registry, 3);
        let last = registry.find(|session| {
            connections.pop();
            registry.get(session.id()).is_none() && registry.is_empty()
        });
        assert_eq!(last.len(), 1);
    }

    #[test]
    fn empty_resolves_once_the_last_has_left_and_at_once_where_there_is_none() {
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
    fn callbacks_added_before_run_while_it_is_listed_and_later_ones_after() {
        let registry = Registry::new();
        let connection = connection();
        let handle = connection.handle();
        let (tell, told) = mpsc::channel();
        let look = |place| {
            let (registry, tell) = (registry.clone(), tell.clone());
            move |_: &getty_core::Closed| tell.send((place, registry.len())).unwrap()
        };
        handle.add_close_callback("test", "outside", look("outside"));
        registry.enter(connection.transport().session());
        handle.add_close_callback("test", "inside", look("inside"));
        drop(connection);
        assert_eq!(
            told.try_iter().collect::<Vec<_>>(),
            [("outside", 1), ("inside", 0)]
        );
    }

    #[test]
    fn nothing_is_kept_alive_and_the_same_registry_twice_lists_once() {
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
    fn one_that_has_closed_already_is_not_listed() {
        let registry = Registry::untyped();
        let connection = Connection::new(());
        let handle = connection.handle().clone();
        drop(connection);
        registry.enter(&handle);
        assert!(registry.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_tells_what_a_dashboard_shows() {
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
            driver.moment(tokio::time::Instant::now())
        };
        driver.received(5, now().await);
        driver.messages_in(1, now().await);
        driver.sent(3, now().await);
        driver.in_flight(2);
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
}
