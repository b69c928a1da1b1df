use std::{
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Barrier,
    thread,
};

use getty_core::{Address, CloseReason, ConnectionHandle, Endpoints, TransportKind};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::service_fn;
use tower_test::mock;

use super::*;
use crate::testing::assert_transparent;

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
fn a_connection_passes_and_so_do_its_answer_and_its_error() {
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
            inner.send_error("too bad");
            assert_eq!(assert_ready_err!(response.poll()).to_string(), "too bad");
        } else {
            inner.send_response(7);
            assert_eq!(assert_ready_ok!(response.poll()), 7);
        }
        assert_eq!(limit.peers(), 0);
    }
}

#[test]
fn one_beyond_the_limit_is_refused_and_leaves_the_reservation() {
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
    assert!(!refused.is_closed(), "not in the task that accepts");
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

    // another peer takes the permit that is left
    assert_ready_ok!(service.poll_ready());
    live.push(service.call(from("192.0.2.2").0));
    assert_pending!(service.poll_ready());
}

#[test]
fn a_place_is_given_back_once_however_a_connection_ends() {
    let limit = PeerLimitLayer::new(5);
    let mut service = limit.layer(service_fn(|connection: Plain| async move {
        if connection.handle().is_closing() {
            panic!("told to panic");
        }
        pending::<()>().await;
        drop(connection);
        Ok::<_, BoxError>(())
    }));
    let mut call = |asleep: bool| {
        let (connection, handle) = from("192.0.2.1");
        let mut response = task::spawn(service.call(connection));
        if asleep {
            assert_pending!(response.poll());
        }
        (response, handle)
    };
    let (stays, unpolled) = (call(true), call(false));
    let (polled, panics) = (call(true), call(false));
    let count = || limit.connections(ip("192.0.2.1"));
    assert_eq!(count(), 4);
    drop(unpolled);
    assert_eq!(count(), 3);
    drop(polled);
    assert_eq!(count(), 2);
    let (mut response, handle) = panics;
    handle.close();
    assert_eq!(count(), 2, "closing is not closed");
    catch_unwind(AssertUnwindSafe(|| response.poll().is_ready())).unwrap_err();
    drop(response);
    assert_eq!(count(), 1);
    // one that nobody may be bothered with any more, and yet not twice
    let (response, handle) = stays;
    handle.remove_close_callback(Key(Arc::clone(&limit.counts)), ());
    assert_eq!(count(), 0);
    drop(response);
    assert_eq!((count(), limit.peers()), (0, 0));
}

#[test]
fn a_connection_that_was_refused_gives_nothing_back() {
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
fn the_same_limit_twice_in_a_stack_counts_a_connection_once() {
    let limit = PeerLimitLayer::new(2);
    let mut service = limit.layer(limit.layer(service_fn(|connection: Plain| async {
        Ok::<_, BoxError>(connection)
    })));
    let connection = assert_ready_ok!(task::spawn(service.call(from("192.0.2.1").0)).poll());
    assert_eq!(limit.connections(ip("192.0.2.1")), 1);
    drop(connection);
    assert_eq!(limit.peers(), 0);
}

#[test]
fn around_a_service_it_is_transparent_within_the_limit() {
    assert_transparent(&PeerLimitLayer::new(9), || from("192.0.2.2").0);
}

#[test]
fn peers_are_told_apart_by_their_prefix() {
    let limit = PeerLimitLayer::new(1);
    let peer = |limit: &PeerLimitLayer, text| limit.peer(ip(text)).to_string();
    assert_eq!(peer(&limit, "192.0.2.77"), "192.0.2.77/32");
    assert_eq!(peer(&limit, "::ffff:192.0.2.77"), "192.0.2.77/32");
    assert_eq!(peer(&limit, "2001:db8::1:2:3:4"), "2001:db8::/64");
    let wide = limit.clone().with_prefixes(24, 48);
    assert_eq!(peer(&wide, "192.0.2.77"), "192.0.2.0/24");
    assert_eq!(peer(&wide, "2001:db8:1:2::3"), "2001:db8:1::/48");
    let everybody = limit.clone().with_prefixes(0, 0);
    assert_eq!(peer(&everybody, "192.0.2.77"), "0.0.0.0/0");
    assert_eq!(peer(&everybody, "2001:db8::1"), "::/0");
    let absurd = limit.with_prefixes(255, 255);
    assert_eq!(peer(&absurd, "192.0.2.77"), "192.0.2.77/32");
    assert_eq!(peer(&absurd, "2001:db8::1"), "2001:db8::1/128");
}

#[test]
fn a_limit_of_none_refuses_all_who_have_an_address_and_no_others() {
    let limit = PeerLimitLayer::new(0);
    assert!(limit.admit(&from("192.0.2.1").0).is_err());
    assert_eq!(limit.peers(), 0);
    let connection = Connection::new(());
    assert!(limit.admit(&connection).is_ok());
    assert_eq!(limit.peers(), 0);
}

#[test]
fn peers_that_have_left_leave_no_memory_behind() {
    let limit = PeerLimitLayer::new(1);
    let places: Vec<_> = (0..10_000_u32)
        .map(|n| Place::take(&limit.counts, limit.peer(IpAddr::V4(n.into())), 1).unwrap())
        .collect();
    assert_eq!(limit.peers(), 10_000);
    drop(places);
    assert_eq!(limit.peers(), 0);
    assert!(limit.counts.lock().capacity() <= 2 * SPARE);
}

#[test]
fn threads_never_pass_the_limit_together() {
    let limit = PeerLimitLayer::new(3);
    let start = Barrier::new(8);
    let places: Vec<_> = thread::scope(|scope| {
        let take = || {
            start.wait();
            Place::take(&limit.counts, limit.peer(ip("192.0.2.1")), 3)
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(places.len(), 3);
}
