use std::{io::ErrorKind, pin::pin};

use getty::{Address, Listener, TransportKind, net::memory};
use tokio::io::AsyncReadExt;
use tokio_test::{assert_pending, assert_ready_ok};
use tower::ServiceExt;

use super::{accept, exchange, report};

/// Number of dials that a listener keeps until it accepts them.
const BACKLOG: usize = 1024;

#[tokio::test]
async fn memory_connection_carries_bytes_both_ways() {
    let (mut listener, connector) = memory(64);
    let mut dialed = connector.oneshot(()).await.unwrap();
    let mut accepted = accept(&mut listener).await;
    exchange(&mut dialed, &mut accepted).await.unwrap();

    drop(dialed);
    assert_eq!(accepted.transport_mut().read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn memory_connection_has_the_same_addresses_seen_from_both_ends() {
    let (mut listener, connector) = memory(64);
    let first = connector.connect().await.unwrap();
    let second = connector.clone().connect().await.unwrap();
    for dialed in [&first, &second] {
        let accepted = accept(&mut listener).await;
        let (dialed, accepted) = (dialed.handle(), accepted.handle());
        assert_eq!(dialed.transport(), TransportKind::Memory);
        assert_eq!(accepted.transport(), TransportKind::Memory);
        assert_eq!(dialed.peer_addr(), &listener.local_addr().unwrap());
        assert_eq!(dialed.peer_addr(), accepted.local_addr());
        assert_eq!(dialed.local_addr(), accepted.peer_addr());
        assert!(matches!(dialed.local_addr(), Address::Memory(_)));
    }
    assert_ne!(first.handle().local_addr(), second.handle().local_addr());
}

#[tokio::test]
async fn writer_waits_while_the_memory_buffer_is_full() {
    for buffer_size in [0, 1] {
        let (mut listener, connector) = memory(buffer_size);
        let mut dialed = connector.connect().await.unwrap();
        let mut accepted = accept(&mut listener).await;
        let exchange = exchange(&mut dialed, &mut accepted);
        // Four bytes go through a pipe of one byte. It is read only after the write, so the write
        // must wait.
        assert_pending!(tokio_test::task::spawn(exchange).poll());
    }
}

#[tokio::test]
async fn dial_is_refused_after_the_memory_listener_is_dropped() {
    let (listener, connector) = memory(64);
    let mut waiting = connector.connect().await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);

    let error = connector.connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        report(&error),
        format!("cannot connect to {address}\nits listener is gone\n")
    );
    // The connection that was not accepted must end.
    assert_eq!(waiting.transport_mut().read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn memory_listener_outlives_its_connectors_and_waits() {
    let (mut listener, connector) = memory(64);
    let last = connector.clone().connect().await.unwrap();
    drop(connector);
    assert_eq!(
        accept(&mut listener).await.handle().peer_addr(),
        last.handle().local_addr()
    );
    let next = pin!(accept(&mut listener));
    assert_pending!(tokio_test::task::spawn(next).poll());
}

#[tokio::test(start_paused = true)]
async fn dial_waits_for_room_in_the_memory_backlog_until_the_connect_timeout() {
    let (mut listener, connector) = memory(64);
    for _ in 0..BACKLOG {
        connector.connect().await.unwrap();
    }
    let error = connector.connect().await.unwrap_err();
    assert!(error.is_timeout(), "{}", report(&error));

    let mut dial = tokio_test::task::spawn(connector.connect());
    assert_pending!(dial.poll());
    accept(&mut listener).await;
    assert!(dial.is_woken());
    let dialed = assert_ready_ok!(dial.poll());

    // The dial that timed out must leave no connection in between.
    for _ in 1..BACKLOG {
        accept(&mut listener).await;
    }
    let last = accept(&mut listener).await;
    assert_eq!(last.handle().peer_addr(), dialed.handle().local_addr());
}
