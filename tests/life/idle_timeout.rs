//! `IdleTimeoutLayer`: sessions without traffic are closed.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::FutureExt;
use getty::{
    CloseReason, Connection, Request, ServiceBuilder, Session, SessionLayer,
    hooks::HandleExt,
    layers::{CodecLayer, IdleTimeoutLayer},
};
use getty_test::{TestSession, stream};
use tokio::time::{advance, sleep};
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{Answer, echo, idle, lines, soon},
};

fn open(layer: IdleTimeoutLayer) -> TestSession {
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()).with_max_frame(64))
        .layer(SessionLayer::new().with_write_timeout(None))
        .service_fn(handle);
    TestSession::stream(stack)
}

/// Echoes the message: `sleep N` after N seconds, `block N` after blocking the thread for N
/// seconds. `no answer` must get no reply.
async fn handle(request: Request<String>) -> Answer {
    let message = request.message();
    if let Some(seconds) = message.strip_prefix("sleep ") {
        sleep(Duration::from_secs(seconds.parse()?)).await;
    }
    if let Some(seconds) = message.strip_prefix("block ") {
        // The first poll of `advance` moves the clock. Then it yields, which is not needed here.
        let advanced = Box::pin(advance(seconds.parse::<u32>()? * SECOND)).now_or_never();
        assert!(advanced.is_none(), "the first poll yields");
    }
    if message == "no answer" {
        return Ok(None);
    }
    echo(request).await
}

async fn closes_after(session: TestSession, seconds: u64) {
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
    assert_eq!(closed.lifetime.as_secs(), seconds);
    assert!(session.is_shut(), "the close is graceful");
}

#[tokio::test(start_paused = true)]
async fn session_without_any_traffic_is_closed() {
    for layer in [
        IdleTimeoutLayer::new(60 * SECOND),
        IdleTimeoutLayer::any_traffic(60 * SECOND),
        IdleTimeoutLayer::outbound(60 * SECOND),
        IdleTimeoutLayer::activity(60 * SECOND),
    ] {
        closes_after(open(layer), 60).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_timeout_observes_its_own_activity() {
    // Second 50: a message without a reply. 80: a message with a reply. 100: an incomplete
    // message. 120: a call of `touch`.
    let expected_ends = [
        (IdleTimeoutLayer::any_traffic(60 * SECOND), 160),
        (IdleTimeoutLayer::new(60 * SECOND), 160),
        (IdleTimeoutLayer::outbound(60 * SECOND), 60),
        (IdleTimeoutLayer::outbound(90 * SECOND), 170),
        (IdleTimeoutLayer::activity(60 * SECOND), 180),
    ];
    for (layer, end) in expected_ends {
        let session = open(layer);
        let (handle, peer) = (session.handle().clone(), session.peer().clone());
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
async fn slow_peer_is_not_idle() {
    let first = open(IdleTimeoutLayer::new(60 * SECOND));
    for byte in "one long message\n".chars() {
        sleep(59 * SECOND).await;
        first.send(byte.to_string());
    }
    idle().await;
    assert_eq!(first.output(), "one long message\n");

    first.stall();
    let second = open(IdleTimeoutLayer::outbound(60 * SECOND));
    second.send("slowly read\n");
    idle().await;
    second.stall();
    second.send("slowly read\n");
    for _ in 0..10 {
        sleep(59 * SECOND).await;
        second.take(1);
        idle().await;
    }
    assert!(!second.handle().is_closing());
    assert!(
        first.handle().is_closing(),
        "the first session received nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn peer_is_not_idle_while_the_session_does_not_read() {
    for layer in [
        IdleTimeoutLayer::any_traffic(60 * SECOND),
        IdleTimeoutLayer::new(60 * SECOND),
        IdleTimeoutLayer::activity(60 * SECOND),
    ] {
        let session = open(layer);
        // More than the read-ahead limit, so the session must stop reading.
        let more = "no answer\n".repeat(20);
        session.send(format!("sleep 200\n{more}"));
        sleep(199 * SECOND).await;
        assert_eq!(session.handle().silent_since(), None);
        assert_eq!(session.handle().reading_since(), None);
        assert!(!session.handle().is_closing());
        closes_after(session, 260).await;
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_waits_for_its_reply_is_not_idle() {
    for layer in [
        IdleTimeoutLayer::any_traffic(60 * SECOND),
        IdleTimeoutLayer::new(60 * SECOND),
        IdleTimeoutLayer::activity(60 * SECOND),
    ] {
        let session = open(layer);
        session.send("sleep 90\n");
        sleep(89 * SECOND).await;
        assert!(
            session.handle().reading_since().is_some(),
            "the session reads ahead"
        );
        assert_eq!(session.handle().in_flight(), 1);
        assert!(!session.handle().is_closing());
        sleep(60 * SECOND).await;
        assert!(
            !session.handle().is_closing(),
            "the reply was sent less than the timeout ago"
        );
        closes_after(session, 150).await;
    }
}

/// The clock jumps within one poll. A handler that blocks has this effect (design.md: When is a
/// peer idle whose handler blocks the thread?).
#[tokio::test(start_paused = true)]
async fn session_whose_handler_blocks_the_thread_is_not_idle() {
    for layer in [
        IdleTimeoutLayer::any_traffic(60 * SECOND),
        IdleTimeoutLayer::new(60 * SECOND),
        IdleTimeoutLayer::outbound(60 * SECOND),
        IdleTimeoutLayer::activity(60 * SECOND),
    ] {
        let session = open(layer);
        idle().await;
        session.send("block 90\n");
        idle().await;
        assert_eq!(session.output(), "block 90\n");
        assert!(
            !session.handle().is_closing(),
            "the reply was sent just now"
        );
        closes_after(session, 150).await;
    }
}

#[tokio::test(start_paused = true)]
async fn session_that_received_nothing_is_idle_even_if_it_is_polled_late() {
    let session = open(IdleTimeoutLayer::new(60 * SECOND));
    idle().await;
    advance(90 * SECOND).await;
    assert_eq!(session.closed().await.reason, CloseReason::IdleTimeout);
    assert_eq!(session.handle().opened_at().elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn time_before_the_session_opens_does_not_count() {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(IdleTimeoutLayer::new(60 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let open_guard = connection.handle().delay_open();
    sleep(100 * SECOND).await;
    let session = TestSession::start(connection, peer, stack);
    sleep(100 * SECOND).await;
    drop(open_guard);
    closes_after(session, 260).await;
}

#[tokio::test(start_paused = true)]
async fn handler_may_continue_after_the_peer_has_finished() {
    let session = open(IdleTimeoutLayer::new(60 * SECOND));
    session.send("sleep 500\n");
    session.finish();
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(session.output(), "sleep 500\n");
}

#[tokio::test(start_paused = true)]
async fn hook_runs_once_per_period_and_does_not_close_the_session() {
    let calls: Arc<Mutex<Vec<_>>> = Arc::default();
    let log = Arc::clone(&calls);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(
            IdleTimeoutLayer::new(60 * SECOND).with_hook(move |session, idle| {
                let now = session.opened_at().elapsed().as_secs();
                let since = (idle.since - session.opened_at()).as_secs();
                log.lock().unwrap().push((now, since, idle.nth));
                let _ = session.try_send("there?".to_owned());
            }),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);
    let session = TestSession::stream(stack);
    sleep(185 * SECOND).await;
    session.send("yes\n");
    sleep(130 * SECOND).await;
    assert_eq!(
        *calls.lock().unwrap(),
        [
            (60, 0, 1),
            (120, 0, 2),
            (180, 0, 3),
            (245, 185, 1),
            (305, 185, 2)
        ]
    );
    assert_eq!(
        session.output(),
        "there?\nthere?\nthere?\nyes\nthere?\nthere?\n"
    );
    assert!(!session.handle().is_closing());
}

#[tokio::test(start_paused = true)]
async fn hook_may_close_the_session_and_is_not_called_again() {
    let (transport, _peer) = stream();
    let calls = Arc::new(Mutex::new(0));
    let count = Arc::clone(&calls);
    let hook = move |session: &Session<String>, _| {
        *count.lock().unwrap() += 1;
        session.close_with(CloseReason::IdleTimeout);
    };
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(IdleTimeoutLayer::any_traffic(60 * SECOND).with_hook(hook))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let closed = soon(stack.oneshot(Connection::new(transport)))
        .await
        .unwrap();
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
    assert_eq!(closed.lifetime, 60 * SECOND);
    assert_eq!(*calls.lock().unwrap(), 1);
    assert_eq!(Arc::strong_count(&calls), 1, "the hook is dropped");
}

#[tokio::test(start_paused = true)]
async fn zero_timeout_closes_at_once_and_the_maximum_never() {
    let session = open(IdleTimeoutLayer::any_traffic(Duration::ZERO));
    assert!(session.closed().await.lifetime <= Duration::from_millis(2));

    for maximum in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let session = open(IdleTimeoutLayer::any_traffic(maximum));
        sleep(1_000_000 * SECOND).await;
        assert!(session.handle().is_open() && !session.handle().is_closing());
    }
}
