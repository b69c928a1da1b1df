//! Readiness of the message stack. It must be polled only with a message and released when not
//! needed.

use std::{sync::Arc, time::Duration};

use getty::{BoxError, CloseReason, Reply, Request, ServiceBuilder, SessionLayer, service_fn};
use getty_test::stream;
use tokio::{sync::Semaphore, time::Instant};
use tower::{ServiceExt, limit::GlobalConcurrencyLimitLayer};

use crate::support::{Answer, echo, echo_probe, idle, lines, open, soon};

#[tokio::test(start_paused = true)]
async fn readiness_is_polled_only_with_a_message() {
    let (transport, peer) = stream();
    let (service, control) = echo_probe();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service).await;

    session.send("push".to_owned()).await.unwrap();
    peer.send("half a li");
    idle().await;
    assert_eq!(control.polls(), 0);

    peer.send("ne\n");
    assert_eq!(soon(peer.lines(2)).await, ["push", "half a line"]);
    idle().await;
    assert_eq!(control.polls(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_session_holds_no_permit() {
    let permits = Arc::new(Semaphore::new(1));
    let stack = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(
            &permits,
        )))
        .service_fn(echo);
    let (first, first_peer) = stream();
    let (second, second_peer) = stream();
    let _first = open(first, lines(), SessionLayer::new(), stack.clone()).await;
    let _second = open(second, lines(), SessionLayer::new(), stack).await;

    for _ in 0..3 {
        for peer in [&first_peer, &second_peer] {
            peer.send("hello\n");
            assert_eq!(soon(peer.line()).await, "hello");
            idle().await;
            assert_eq!(permits.available_permits(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_may_be_lost_and_regained() {
    let (transport, peer) = stream();
    let (service, control) = echo_probe();
    let (_session, _task) = open(transport, lines(), SessionLayer::new(), service).await;
    for _ in 0..3 {
        control.set_pending();
        peer.send("a\nb\n");
        idle().await;
        assert_eq!(peer.written() % 4, 0, "no call may come before readiness");
        control.set_ready();
        assert_eq!(soon(peer.lines(2)).await, ["a", "b"]);
    }
    let callers = control.callers();
    let pairs: Vec<_> = callers.chunks(2).collect();
    assert!(pairs.iter().all(|pair| pair[0] == pair[1]), "{callers:?}");
    // A session that waits for its next message must have a fresh clone.
    assert!(pairs[0] != pairs[1] && pairs[1] != pairs[2], "{callers:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_are_sent_and_flushed_while_the_service_is_not_ready() {
    let (transport, peer) = stream();
    let (service, control) = echo_probe();
    control.set_pending();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service).await;
    peer.send("waits\n");
    idle().await;

    soon(session.send("pushed".to_owned())).await.unwrap();
    assert_eq!(peer.line().await, "pushed");

    // Waiting bytes are written as soon as the peer takes them.
    peer.stall();
    session.feed("slow".to_owned()).await.unwrap();
    idle().await;
    peer.take_all();
    assert_eq!(soon(peer.line()).await, "slow");

    control.set_ready();
    assert_eq!(soon(peer.line()).await, "waits");
}

#[tokio::test(start_paused = true)]
async fn close_takes_effect_at_once_while_the_service_is_not_ready() {
    let (transport, peer) = stream();
    let (service, control) = echo_probe();
    control.set_pending();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service).await;
    peer.send("waits\n");
    idle().await;

    let before = Instant::now();
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.is_none(), "nothing was cut off");
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(control.callers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn reading_continues_up_to_the_bound_while_the_service_is_not_ready() {
    let (transport, peer) = stream();
    let (service, control) = echo_probe();
    control.set_pending();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service).await;
    let line = "x".repeat(99) + "\n";
    peer.send_in_pieces(line.repeat(1000), 100);
    idle().await;
    // The first message is decoded and waits outside the buffer.
    assert_eq!(session.stats().bytes_in, 64 * 1024 + 100);
    assert_eq!(session.stats().messages_in, 1);

    control.set_ready();
    soon(peer.lines(1000)).await;
    assert_eq!(peer.unread(), 0);
}

#[tokio::test]
async fn session_above_its_bound_resumes_reading_at_half_the_bound() {
    let (transport, peer) = stream();
    peer.send("0123456789\n".repeat(20_000));
    peer.finish();
    let slow = service_fn(|request: Request<String>| async move {
        tokio::task::yield_now().await;
        Ok::<_, BoxError>(request.into_message())
    });
    let (_, task) = open(transport, lines(), SessionLayer::new(), slow).await;
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.stats.messages_in, 20_000);
    // The bound is about 6000 messages.
    let reads = peer.counts().reads;
    assert!(reads < 50, "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn readiness_error_closes_as_handler() {
    let (transport, peer) = stream();
    let (service, control) = echo_probe();
    let (_session, task) = open(transport, lines(), SessionLayer::new(), service).await;
    peer.send("answered\n");
    assert_eq!(soon(peer.line()).await, "answered");

    control.fail_ready("out of order");
    peer.send("not answered\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Handler);
    assert_eq!(closed.source.unwrap().to_string(), "out of order");
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn session_has_a_fresh_clone_after_an_error_that_it_survives() {
    let (transport, peer) = stream();
    let (service, control) = echo_probe();
    let stack = ServiceBuilder::new()
        .map_response(|answer: Option<String>| match answer.as_deref() {
            Some("fail") => Reply::one("failed".to_owned()).after_error(),
            _ => Reply::one(answer.unwrap_or_default()),
        })
        .service(service);
    let (_session, _task) = open(transport, lines(), SessionLayer::new(), stack).await;
    peer.send("a\nfail\nb\nc\n");
    assert_eq!(soon(peer.lines(4)).await, ["a", "failed", "b", "c"]);
    let callers = control.callers();
    assert_eq!(callers[0], callers[1]);
    assert_ne!(callers[1], callers[2]);
    assert_eq!(callers[2], callers[3]);
}

/// Sleeps for the seconds in the message.
async fn sleep(request: Request<String>) -> Answer {
    let seconds = request.message().parse()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn closing_session_leaves_the_queue_of_a_shared_limit() {
    let stack = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::new(2))
        .service(service_fn(sleep).boxed_clone());
    let layer = SessionLayer::new().with_in_flight(3);
    let (first, first_peer) = stream();
    let (second, second_peer) = stream();
    let (session, task) = open(first, lines(), layer.clone(), stack.clone()).await;
    let _second = open(second, lines(), layer, stack).await;

    // Two messages run. The third waits in the queue and will never be called.
    first_peer.send("4\n1\n1\n");
    idle().await;
    session.close();
    second_peer.send("0\n");
    let before = Instant::now();
    assert_eq!(soon(second_peer.line()).await, "0");
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.is_none());
    assert_eq!(first_peer.output(), "4\n1\n");
}

#[tokio::test(start_paused = true)]
async fn limit_below_the_session_layer_counts_handlers_of_all_sessions() {
    let stack = ServiceBuilder::new().concurrency_limit(1).service_fn(sleep);
    let (first, first_peer) = stream();
    let (second, second_peer) = stream();
    let _first = open(first, lines(), SessionLayer::new(), stack.clone()).await;
    let _second = open(second, lines(), SessionLayer::new(), stack).await;
    let before = Instant::now();
    first_peer.send("3\n");
    second_peer.send("3\n");
    soon(async { tokio::join!(first_peer.line(), second_peer.line()) }).await;
    assert_eq!(before.elapsed().as_secs(), 6);
}

#[tokio::test(start_paused = true)]
async fn limit_below_in_flight_is_used_completely_and_does_not_stall() {
    for layer in [
        SessionLayer::new().with_in_flight(8),
        SessionLayer::new().with_in_flight(8).unordered(),
    ] {
        let (transport, peer) = stream();
        let stack = ServiceBuilder::new().concurrency_limit(3).service_fn(sleep);
        let (_session, task) = open(transport, lines(), layer, stack).await;
        let before = Instant::now();
        peer.send("1\n".repeat(30));
        peer.finish();
        assert_eq!(soon(task).await.unwrap().stats.messages_out, 30);
        assert_eq!(before.elapsed().as_secs(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn session_that_is_never_ready_does_not_affect_others() {
    let limited =
        ServiceBuilder::new()
            .concurrency_limit(1)
            .service_fn(|_: Request<String>| async {
                std::future::pending::<()>().await;
                Ok::<Option<String>, BoxError>(None)
            });
    let (stuck, stuck_peer) = stream();
    let (waits, waits_peer) = stream();
    let _stuck = open(stuck, lines(), SessionLayer::new(), limited.clone()).await;
    let (session, _waits) = open(waits, lines(), SessionLayer::new(), limited).await;
    stuck_peer.send("stuck\n");
    waits_peer.send("waits\n");
    idle().await;
    soon(session.send("alive".to_owned())).await.unwrap();
    waits_peer.finish();
    // The peer's end is seen although the service is not ready.
    soon(session.peer_finished()).await;
    assert!(!session.is_closing(), "the message is not answered yet");
}
