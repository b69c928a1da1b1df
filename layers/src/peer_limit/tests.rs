use std::{
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Barrier,
    thread,
};

use getty_core::{Address, CloseReason, ConnectionHandle, Endpoints, TransportKind};
use getty_test::assert_layer_contract;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{BoxError, Service, service_fn};
use tower_test::mock;

use super::*;

type Plain = Connection<()>;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn from(peer: &str) -> (Plain, ConnectionHandle) {
    let peer = Address::Ip((ip(peer), 4096).into());
    let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer);
    let connection = Connection::with_endpoints((), endpoints);
    let handle = connection.handle().clone();
    (connection, handle)
}

#[test]
fn connection_within_the_limit_reaches_the_inner_service() {
    let limit = PeerLimitLayer::new(1);
    let (mut service, mut handle) = mock::spawn_layer::<Plain, u32, _>(limit.clone());
    for fails in [false, true] {
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(from("192.0.2.1").0));
        assert_pending!(response.poll());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(limit.connections(ip("192.0.2.1")), 1);
        drop(connection);
        if fails {
            inner.send_error("handler failed");
            assert_eq!(
                assert_ready_err!(response.poll()).to_string(),
                "handler failed"
            );
        } else {
            inner.send_response(7);
            assert_eq!(assert_ready_ok!(response.poll()), 7);
        }
        assert_eq!(limit.peers(), 0);
    }
}

#[test]
fn connection_beyond_the_limit_is_refused_and_leaves_the_reservation() {
    let (mut service, mut handle) = mock::spawn_layer::<Plain, u32, _>(PeerLimitLayer::new(2));
    handle.allow(3);
    let mut live = Vec::new();
    for _ in 0..2 {
        assert_ready_ok!(service.poll_ready());
        live.push(service.call(from("192.0.2.1").0));
    }
    assert_ready_ok!(service.poll_ready());
    let (connection, refused) = from("::ffff:192.0.2.1");
    let mut response = task::spawn(service.call(connection));
    assert!(
        !refused.is_closed(),
        "the task that accepts must not close it"
    );
    let error = assert_ready_err!(response.poll());
    let expected = TooManyConnections {
        peer: ip("192.0.2.1"),
        network: ip("192.0.2.1").into(),
        limit: 2,
    };
    assert_eq!(error.downcast_ref(), Some(&expected));
    assert_eq!(refused.reason(), Some(CloseReason::Refused));
    assert_eq!(refused.source().unwrap().downcast_ref(), Some(&expected));
    assert!(refused.is_closed());

    // Another peer uses the remaining permit.
    assert_ready_ok!(service.poll_ready());
    live.push(service.call(from("192.0.2.2").0));
    assert_pending!(service.poll_ready());
}

#[test]
fn permit_is_released_once_however_a_connection_ends() {
    let limit = PeerLimitLayer::new(5);
    let mut service = limit.layer(service_fn(|connection: Plain| async move {
        if connection.handle().is_closing() {
            panic!("panic on request");
        }
        pending::<()>().await;
        drop(connection);
        Ok::<_, BoxError>(())
    }));
    let mut call = |poll: bool| {
        let (connection, handle) = from("192.0.2.1");
        let mut response = task::spawn(service.call(connection));
        if poll {
            assert_pending!(response.poll());
        }
        (response, handle)
    };
    let (remains, unpolled) = (call(true), call(false));
    let (polled, panics) = (call(true), call(false));
    let count = || limit.connections(ip("192.0.2.1"));
    assert_eq!(count(), 4);
    drop(unpolled);
    assert_eq!(count(), 3);
    drop(polled);
    assert_eq!(count(), 2);
    let (mut response, handle) = panics;
    handle.close();
    assert_eq!(count(), 2, "a closing session still counts");
    catch_unwind(AssertUnwindSafe(|| response.poll().is_ready())).unwrap_err();
    drop(response);
    assert_eq!(count(), 1);
    // A removed callback releases the permit. The close does not release it again.
    let (response, handle) = remains;
    handle.remove_close_callback(Key(Arc::clone(&limit.counts)), ());
    assert_eq!(count(), 0);
    drop(response);
    assert_eq!((count(), limit.peers()), (0, 0));
}

#[test]
fn refused_connection_releases_no_permit() {
    let limit = PeerLimitLayer::new(1);
    let (mut service, _handle) = mock::spawn_layer::<Plain, u32, _>(limit.clone());
    assert_ready_ok!(service.poll_ready());
    let live = service.call(from("192.0.2.1").0);
    for _ in 0..3 {
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(from("192.0.2.1").0));
        assert_ready_err!(response.poll());
    }
    assert_eq!(limit.connections(ip("192.0.2.1")), 1);
    drop(live);
}

#[test]
fn same_limit_twice_in_a_stack_counts_a_connection_once() {
    let limit = PeerLimitLayer::new(2);
    let mut service = limit.layer(limit.layer(service_fn(|connection: Plain| async {
        Ok::<_, BoxError>(connection)
    })));
    let connection = assert_ready_ok!(task::spawn(service.call(from("192.0.2.1").0)).poll());
    assert_eq!(limit.connections(ip("192.0.2.1")), 1);
    drop(connection);
    assert_eq!(limit.peers(), 0);
}

#[tokio::test(start_paused = true)]
async fn layer_follows_the_contract() {
    assert_layer_contract(&PeerLimitLayer::new(9), || from("192.0.2.2").0).await;
}

#[test]
fn prefix_identifies_a_peer() {
    let limit = PeerLimitLayer::new(1);
    let peer = |limit: &PeerLimitLayer, text| limit.peer(ip(text)).to_string();
    assert_eq!(peer(&limit, "192.0.2.77"), "192.0.2.77/32");
    assert_eq!(peer(&limit, "::ffff:192.0.2.77"), "192.0.2.77/32");
    assert_eq!(peer(&limit, "2001:db8::1:2:3:4"), "2001:db8::/64");
    let wide = limit.clone().with_prefixes(24, 48);
    assert_eq!(peer(&wide, "192.0.2.77"), "192.0.2.0/24");
    assert_eq!(peer(&wide, "2001:db8:1:2::3"), "2001:db8:1::/48");
    let all_peers = limit.clone().with_prefixes(0, 0);
    assert_eq!(peer(&all_peers, "192.0.2.77"), "0.0.0.0/0");
    assert_eq!(peer(&all_peers, "2001:db8::1"), "::/0");
    let excessive = limit.with_prefixes(255, 255);
    assert_eq!(peer(&excessive, "192.0.2.77"), "192.0.2.77/32");
    assert_eq!(peer(&excessive, "2001:db8::1"), "2001:db8::1/128");
}

#[test]
fn limit_of_zero_refuses_only_peers_with_an_ip_address() {
    let limit = PeerLimitLayer::new(0);
    assert!(limit.admit(&from("192.0.2.1").0).is_err());
    assert_eq!(limit.peers(), 0);
    let connection = Connection::new(());
    assert!(limit.admit(&connection).is_ok());
    assert_eq!(limit.peers(), 0);
}

#[test]
fn peers_without_connections_use_no_memory() {
    let limit = PeerLimitLayer::new(1);
    let permits: Vec<_> = (0..10_000_u32)
        .map(|n| {
            ConnectionPermit::acquire(&limit.counts, limit.peer(IpAddr::V4(n.into())), 1).unwrap()
        })
        .collect();
    assert_eq!(limit.peers(), 10_000);
    drop(permits);
    assert_eq!(limit.peers(), 0);
    assert!(limit.counts.lock().capacity() <= 2 * MIN_CAPACITY);
}

#[test]
fn concurrent_threads_do_not_exceed_the_limit() {
    let limit = PeerLimitLayer::new(3);
    let start = Barrier::new(8);
    let permits: Vec<_> = thread::scope(|scope| {
        let acquire = || {
            start.wait();
            ConnectionPermit::acquire(&limit.counts, limit.peer(ip("192.0.2.1")), 3)
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(acquire)).collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(permits.len(), 3);
}
