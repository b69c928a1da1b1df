//! Sessions in which nothing moves.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use getty::{
    CloseReason, Closed, Connection, ConnectionHandle, Request, ServiceBuilder, Session,
    SessionLayer,
    layers::{CodecLayer, IdleTimeoutLayer},
};
use tokio::{
    task::JoinHandle,
    time::{advance, sleep},
};
use tower::ServiceExt;

use crate::support::{Answer, echo, idle, lines, soon, stream};

const SECOND: Duration = Duration::from_secs(1);

type Open = (ConnectionHandle, stream::Peer, JoinHandle<Closed>);

fn open(layer: IdleTimeoutLayer) -> Open {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()).with_max_frame(64))
        .layer(SessionLayer::new().with_write_timeout(None))
        .service_fn(handle);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let task = tokio::spawn(async { stack.oneshot(connection).await.unwrap() });
    (handle, peer, task)
}

/// Answers at once, after a number of seconds, after blocking the thread for as long, or not at
/// all.
async fn handle(request: Request<String>) -> Answer {
    let message = request.message();
    if let Some(seconds) = message.strip_prefix("sleep ") {
        sleep(Duration::from_secs(seconds.parse()?)).await;
    }
    if let Some(seconds) = message.strip_prefix("block ") {
        let moved = Box::pin(advance(seconds.parse::<u32>()? * SECOND)).now_or_never();
        assert!(
            moved.is_none(),
            "the clock has moved, and the rest is a yield"
        );
    }
    if message == "no answer" {
        return Ok(None);
    }
    echo(request).await
}

async fn closes_after((_handle, peer, task): Open, seconds: u64) {
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
    assert_eq!(closed.lifetime.as_secs(), seconds);
    assert!(peer.is_shut(), "the close is graceful");
}

#[tokio::test(start_paused = true)]
async fn a_session_in_which_nothing_ever_moves_is_closed() {
    for layer in [
        IdleTimeoutLayer::new(60 * SECOND),
        IdleTimeoutLayer::all(60 * SECOND),
        IdleTimeoutLayer::read(60 * SECOND),
        IdleTimeoutLayer::write(60 * SECOND),
        IdleTimeoutLayer::active(60 * SECOND),
    ] {
        closes_after(open(layer), 60).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_looks_at_what_it_is_named_after() {
    // received without an answer at 50, answered at 80, a piece of a message at 100, touched at 120
    let last = [
        (IdleTimeoutLayer::all(60 * SECOND), 160),
        (IdleTimeoutLayer::read(60 * SECOND), 160),
        (IdleTimeoutLayer::write(60 * SECOND), 60),
        (IdleTimeoutLayer::write(90 * SECOND), 170),
        (IdleTimeoutLayer::active(60 * SECOND), 180),
    ];
    for (layer, end) in last {
        let session = open(layer);
        let (handle, peer) = (session.0.clone(), session.1.clone());
        tokio::spawn(async move {
            sleep(50 * SECOND).await;
            peer.send("no answer\n");
            sleep(30 * SECOND).await;
            peer.send("hello\n");
            sleep(20 * SECOND).await;
            peer.send("hal");
            sleep(20 * SECOND).await;
            handle.touch();
        });
        closes_after(session, end).await;
    }
}

#[tokio::test(start_paused = true)]
async fn slow_is_not_idle() {
    let (handle, peer, _task) = open(IdleTimeoutLayer::read(60 * SECOND));
    for byte in "one long message\n".chars() {
        sleep(59 * SECOND).await;
        peer.send(byte.to_string());
    }
    idle().await;
    assert_eq!(peer.output(), "one long message\n");

    peer.stall();
    let (handle_2, peer_2, _task_2) = open(IdleTimeoutLayer::write(60 * SECOND));
    peer_2.send("slowly read\n");
    idle().await;
    peer_2.stall();
    peer_2.send("slowly read\n");
    for _ in 0..10 {
        sleep(59 * SECOND).await;
        peer_2.take(1);
        idle().await;
    }
    assert!(!handle_2.is_closing());
    assert!(handle.is_closing(), "that one was idle meanwhile");
}

#[tokio::test(start_paused = true)]
async fn while_we_do_not_read_the_peer_is_not_idle() {
    for layer in [
        IdleTimeoutLayer::all(60 * SECOND),
        IdleTimeoutLayer::read(60 * SECOND),
        IdleTimeoutLayer::active(60 * SECOND),
    ] {
        let session = open(layer);
        // more behind it than is read ahead
        let behind = "no answer\n".repeat(20);
        session.1.send(format!("sleep 200\n{behind}"));
        sleep(199 * SECOND).await;
        assert_eq!(session.0.silent_since(), None);
        assert_eq!(session.0.reading_since(), None);
        assert!(!session.0.is_closing());
        closes_after(session, 260).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_for_its_answer_is_not_idle() {
    for layer in [
        IdleTimeoutLayer::all(60 * SECOND),
        IdleTimeoutLayer::read(60 * SECOND),
        IdleTimeoutLayer::active(60 * SECOND),
    ] {
        let session = open(layer);
        session.1.send("sleep 90\n");
        sleep(89 * SECOND).await;
        assert!(session.0.reading_since().is_some(), "it is read ahead");
        assert_eq!(session.0.in_flight(), 1);
        assert!(!session.0.is_closing());
        sleep(60 * SECOND).await;
        assert!(
            !session.0.is_closing(),
            "it has had its answer for less than the time"
        );
        closes_after(session, 150).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_handler_blocks_its_thread_is_not_idle() {
    for layer in [
        IdleTimeoutLayer::all(60 * SECOND),
        IdleTimeoutLayer::read(60 * SECOND),
        IdleTimeoutLayer::write(60 * SECOND),
        IdleTimeoutLayer::active(60 * SECOND),
    ] {
        let session = open(layer);
        idle().await;
        session.1.send("block 90\n");
        idle().await;
        assert_eq!(session.1.output(), "block 90\n");
        assert!(!session.0.is_closing(), "its peer has the answer only now");
        closes_after(session, 150).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_received_nothing_is_idle_however_late_that_is_seen() {
    let (handle, _peer, task) = open(IdleTimeoutLayer::read(60 * SECOND));
    idle().await;
    advance(90 * SECOND).await;
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::IdleTimeout);
    assert_eq!(handle.opened_at().elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_to_open_is_not_silent_yet() {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(IdleTimeoutLayer::read(60 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let hold = handle.hold();
    sleep(100 * SECOND).await;
    let task = tokio::spawn(async { stack.oneshot(connection).await.unwrap() });
    sleep(100 * SECOND).await;
    drop(hold);
    closes_after((handle, peer, task), 260).await;
}

#[tokio::test(start_paused = true)]
async fn after_the_peers_end_a_handler_may_take_its_time() {
    let (_handle, peer, task) = open(IdleTimeoutLayer::read(60 * SECOND));
    peer.send("sleep 500\n");
    peer.finish();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(peer.output(), "sleep 500\n");
}

#[tokio::test(start_paused = true)]
async fn a_hook_is_told_once_a_time_and_closes_nothing() {
    let (transport, peer) = stream::pair();
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let log = Arc::clone(&told);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(
            IdleTimeoutLayer::read(60 * SECOND).with_hook(move |session, idle| {
                let now = session.opened_at().elapsed().as_secs();
                let since = (idle.since - session.opened_at()).as_secs();
                log.lock().unwrap().push((now, since, idle.nth));
                let _ = session.try_send("there?".to_owned());
            }),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let _task = tokio::spawn(stack.oneshot(connection));
    sleep(185 * SECOND).await;
    peer.send("yes\n");
    sleep(130 * SECOND).await;
    assert_eq!(
        *told.lock().unwrap(),
        [
            (60, 0, 1),
            (120, 0, 2),
            (180, 0, 3),
            (245, 185, 1),
            (305, 185, 2)
        ]
    );
    assert_eq!(
        peer.output(),
        "there?\nthere?\nthere?\nyes\nthere?\nthere?\n"
    );
    assert!(!handle.is_closing());
}

#[tokio::test(start_paused = true)]
async fn a_hook_may_close_the_session_and_is_not_called_again() {
    let (transport, _peer) = stream::pair();
    let told = Arc::new(Mutex::new(0));
    let count = Arc::clone(&told);
    let hook = move |session: &Session<String>, _| {
        *count.lock().unwrap() += 1;
        session.close_with(CloseReason::IdleTimeout);
    };
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(IdleTimeoutLayer::all(60 * SECOND).with_hook(hook))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let closed = soon(stack.oneshot(Connection::new(transport)))
        .await
        .unwrap();
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
    assert_eq!(closed.lifetime, 60 * SECOND);
    assert_eq!(*told.lock().unwrap(), 1);
    assert_eq!(Arc::strong_count(&told), 1, "nothing is left of the hook");
}

#[tokio::test(start_paused = true)]
async fn no_time_closes_at_once_and_endless_time_never() {
    let (_handle, _peer, task) = open(IdleTimeoutLayer::all(Duration::ZERO));
    assert!(soon(task).await.unwrap().lifetime <= Duration::from_millis(2));

    for endless in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let (handle, _peer, _task) = open(IdleTimeoutLayer::all(endless));
        sleep(1_000_000 * SECOND).await;
        assert!(handle.is_open() && !handle.is_closing());
    }
}
