//! Responses in the order of their requests. A peer may omit one.

use std::time::Duration;

use futures_util::future::join_all;
use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, Session, SessionLayer, SessionTask,
    hooks::HandleExt,
    layers::{
        CorrelateLayer,
        correlate::{Caller, Delivery, InOrder, NoPush, RequestError},
    },
    net, serve, service_fn,
};
use getty_test::{Peer, stream};
use tokio::time::{Instant, advance, timeout};

use super::{ask, asking};
use crate::support::{connector, echo, idle, lines, soon};

const DEADLINE: Duration = Duration::from_secs(5);

/// A session with responses in order. The test is the peer.
async fn asked(correlate: CorrelateLayer<InOrder<NoPush>>) -> (Session<String>, Peer, SessionTask) {
    let (transport, peer) = stream();
    let correlate = correlate.with_deadline(DEADLINE);
    let (session, task) = asking(transport, correlate, SessionLayer::new(), service_fn(echo)).await;
    (session, peer, task)
}

/// Settings with which a late response does not close the session.
fn lenient() -> CorrelateLayer<InOrder<NoPush>> {
    CorrelateLayer::in_order().with_close_at_deadline(false)
}

/// Sends a request and drops it once the peer has received it.
async fn give_up(session: &Session<String>, peer: &Peer, what: &str) {
    let asked = ask(session, what);
    assert_eq!(soon(peer.line()).await, what);
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn responses_in_order_need_no_ids() {
    let (transport, peer) = stream();
    let correlate = CorrelateLayer::in_order().with_push(|message: &String| message == "push");
    let (session, _task) =
        asking(transport, correlate, SessionLayer::new(), service_fn(echo)).await;
    peer.send("welcome\n");
    assert_eq!(soon(peer.line()).await, "welcome", "no request was waiting");
    let asked = ["one", "two", "three"].map(|what| ask(&session, what));
    assert_eq!(soon(peer.lines(3)).await, ["one", "two", "three"]);
    // An abandoned request must get its response nevertheless.
    asked[1].abort();
    idle().await;
    peer.send("1\npush\n2\n3\n");
    let [first, _, third] = asked;
    assert_eq!(soon(first).await.unwrap().unwrap(), "1");
    assert_eq!(soon(third).await.unwrap().unwrap(), "3");
    assert_eq!(session.stats().late, 1);
    assert_eq!(soon(peer.line()).await, "push", "a push is echoed");
}

/// A request that the codec refuses must not expect a response, even if its future was dropped.
#[tokio::test(start_paused = true)]
async fn refused_request_in_order_takes_no_response_from_others() {
    use crate::sending::{Picky, Unspeakable};

    let (transport, peer) = stream();
    let (session, _task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Picky))
            .layer(CorrelateLayer::in_order().with_in_flight(4))
            .layer(link)
            .layer(SessionLayer::new().with_watermarks(0, 0))
            .service_fn(echo)
    })
    .await
    .unwrap();
    for _ in 0..3 {
        // All requests must wait in the queue. The requester is not polled before the responses
        // come.
        peer.stall();
        let first = ask(&session, "first");
        idle().await;
        let [given_up, refused, second] = ["bad", "bad", "second"].map(|what| ask(&session, what));
        idle().await;
        given_up.abort();
        idle().await;
        peer.take_all();
        assert_eq!(soon(peer.lines(2)).await, ["first", "second"]);
        peer.send("1\n2\n");
        assert_eq!(soon(first).await.unwrap().unwrap(), "1");
        match soon(refused).await.unwrap() {
            Err(RequestError::Encode(source)) => assert!(source.is::<Unspeakable>()),
            other => panic!("{other:?}"),
        }
        let second = soon(second).await.unwrap();
        assert_eq!(second.expect("each response has one owner"), "2");
    }
    assert_eq!(session.stats().late, 0);
    assert!(!session.awaits_responses());
}

#[tokio::test(start_paused = true)]
async fn responses_in_order_find_requests_of_many_tasks() {
    let (listener, dialer) = net::memory(16);
    let server = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    tokio::spawn(serve(listener, server).into_future());
    let (session, _task) = getty::connect(dialer, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(CorrelateLayer::in_order())
            .layer(link)
            .layer(SessionLayer::new().with_queue(4))
            .service_fn(|_: Request<String>| async { Ok::<Option<String>, BoxError>(None) })
    })
    .await
    .unwrap();
    let tasks = (0..20).map(|task| {
        let session = session.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let what = format!("{task}-{n}");
                let asked = session.request::<String>(what.clone());
                if n % 7 == 3 {
                    // Drop this request while others are in flight.
                    let _ = timeout(Duration::ZERO, asked).await;
                } else {
                    assert_eq!(asked.await.unwrap(), what);
                }
            }
        })
    });
    for task in soon(join_all(tasks)).await {
        task.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn late_response_is_dropped_and_the_next_one_matches() {
    let (session, peer, _task) = asked(lenient()).await;
    let slow = ask(&session, "slow");
    assert_eq!(soon(peer.line()).await, "slow");
    assert!(soon(slow).await.unwrap().unwrap_err().is_deadline());
    let next = ask(&session, "next");
    assert_eq!(soon(peer.line()).await, "next");
    peer.send("of slow\nof next\n");
    assert_eq!(soon(next).await.unwrap().unwrap(), "of next");
    assert_eq!(session.stats().late, 1);
}

#[tokio::test(start_paused = true)]
async fn missed_deadline_closes_the_session_before_a_response_finds_another_request() {
    let (session, peer, task) = asked(CorrelateLayer::in_order()).await;
    let answered = ask(&session, "answered");
    assert_eq!(soon(peer.line()).await, "answered");
    peer.send("of answered\n");
    assert_eq!(soon(answered).await.unwrap().unwrap(), "of answered");

    let start = Instant::now();
    let left_out = ask(&session, "left out");
    assert_eq!(soon(peer.line()).await, "left out");
    advance(Duration::from_secs(3)).await;
    let next = ask(&session, "next");
    assert_eq!(soon(peer.line()).await, "next");
    assert!(soon(left_out).await.unwrap().unwrap_err().is_deadline());
    assert_eq!(start.elapsed().as_secs(), DEADLINE.as_secs());
    peer.send("of next\n");
    match soon(next).await.unwrap() {
        Err(RequestError::Closed {
            reason,
            delivery: left,
            ..
        }) => {
            assert_eq!((reason, left), (CloseReason::AnswerMissed, Delivery::Sent));
        }
        other => panic!("the response has no owner: {other:?}"),
    }
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::AnswerMissed);
}

/// A caller with a shorter timeout than the layer must not hide that the peer does not respond.
#[tokio::test(start_paused = true)]
async fn abandoned_request_keeps_its_deadline() {
    let (session, peer, task) = asked(CorrelateLayer::in_order()).await;
    let start = Instant::now();
    let given_up = ask(&session, "given up");
    assert_eq!(soon(peer.line()).await, "given up");
    given_up.abort();
    idle().await;
    assert!(!session.awaits_responses());
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::AnswerMissed);
    assert_eq!(start.elapsed().as_secs(), DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn session_with_timely_responses_outlives_the_deadlines() {
    let (session, peer, _task) = asked(CorrelateLayer::in_order()).await;
    for n in 0..10 {
        let [kept, given_up] = ["kept", "given up"].map(|what| ask(&session, what));
        assert_eq!(soon(peer.lines(2)).await, ["kept", "given up"]);
        given_up.abort();
        advance(Duration::from_secs(4)).await;
        peer.send(format!("{n}\nnobody's\n"));
        assert_eq!(soon(kept).await.unwrap().unwrap(), format!("{n}"));
        idle().await;
    }
    advance(10 * DEADLINE).await;
    idle().await;
    assert!(!session.is_closing());
    assert_eq!(session.stats().late, 10);
}

#[tokio::test(start_paused = true)]
async fn abandoned_requests_count_until_their_responses() {
    let (session, peer, _task) = asked(lenient()).await;
    let caller: Caller<String> = Caller::of(&session).unwrap();
    let kept = ask(&session, "kept");
    assert_eq!(soon(peer.line()).await, "kept");
    give_up(&session, &peer, "dropped").await;
    assert_eq!((session.abandoned_requests(), caller.in_flight()), (1, 2));
    let kept = soon(kept).await.unwrap().unwrap_err();
    assert!(kept.is_deadline());
    assert_eq!((session.abandoned_requests(), caller.in_flight()), (2, 2));
    for left in [1, 0] {
        peer.send("late\n");
        idle().await;
        assert_eq!(
            (session.abandoned_requests(), caller.in_flight()),
            (left, left)
        );
        assert_eq!(session.unanswered_requests(), left);
    }
}

/// No further request may arrive: a pool must avoid such a session.
#[tokio::test(start_paused = true)]
async fn table_full_of_abandoned_requests_ends_the_session() {
    for deadline in [Some(DEADLINE), None] {
        let (transport, peer) = stream();
        let correlate = lenient().with_in_flight(3).with_deadline(deadline);
        let (session, task) =
            asking(transport, correlate, SessionLayer::new(), service_fn(echo)).await;
        let start = Instant::now();
        for what in ["one", "two"] {
            give_up(&session, &peer, what).await;
        }
        advance(DEADLINE / 2).await;
        idle().await;
        assert!(!session.is_closing(), "one slot is still free");
        give_up(&session, &peer, "three").await;
        match soon(ask(&session, "four")).await.unwrap() {
            Err(RequestError::Full(message)) => assert_eq!(message, "four"),
            other => panic!("{other:?}"),
        }
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::AnswerMissed);
        assert!(
            start.elapsed() < DEADLINE,
            "the close must come before any deadline"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn short_deadline_ends_a_session_full_of_missed_responses_as_soon() {
    let (transport, peer) = stream();
    let deadline = Duration::from_millis(100);
    let correlate = lenient().with_in_flight(2).with_deadline(deadline);
    let (session, task) = asking(transport, correlate, SessionLayer::new(), service_fn(echo)).await;
    let start = Instant::now();
    let missed = ["one", "two"].map(|what| ask(&session, what));
    assert_eq!(soon(peer.lines(2)).await, ["one", "two"]);
    for missed in missed {
        assert!(soon(missed).await.unwrap().unwrap_err().is_deadline());
    }
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::AnswerMissed);
    assert!(start.elapsed() < 3 * deadline);
}

#[tokio::test(start_paused = true)]
async fn full_table_does_not_end_a_session_whose_peer_responds() {
    let (session, peer, _task) = asked(lenient().with_in_flight(2)).await;
    give_up(&session, &peer, "first").await;
    for n in 1..=20 {
        give_up(&session, &peer, "another").await;
        assert_eq!(session.abandoned_requests(), 2);
        advance(Duration::from_millis(900)).await;
        idle().await;
        peer.send("late\n");
        idle().await;
        assert_eq!(session.stats().late, n);
    }
    // A request that waits must not close the session either.
    let waits = ask(&session, "waits");
    assert_eq!(soon(peer.line()).await, "waits");
    advance(DEADLINE / 2).await;
    idle().await;
    peer.send("late\nin time\n");
    assert_eq!(soon(waits).await.unwrap().unwrap(), "in time");
    advance(10 * DEADLINE).await;
    idle().await;
    assert!(!session.is_closing());
}
