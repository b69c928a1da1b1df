//! Answers that come in the order of their requests, and a peer that leaves one out.

use std::time::Duration;

use getty::{
    CloseReason, Session, SessionLayer, SessionTask,
    layers::{
        CorrelateLayer,
        correlate::{InOrder, Left, NoPush, RequestError},
    },
    service_fn,
};
use tokio::time::{Instant, advance};

use crate::{
    requests::{ask, asking},
    support::{echo, idle, soon, stream, stream::Peer},
};

const DEADLINE: Duration = Duration::from_secs(5);

/// A session that asks in order, whose peer the test plays.
async fn asked(correlate: CorrelateLayer<InOrder<NoPush>>) -> (Session<String>, Peer, SessionTask) {
    let (transport, peer) = stream::pair();
    let correlate = correlate.with_deadline(DEADLINE);
    let (session, task) = asking(transport, correlate, SessionLayer::new(), service_fn(echo)).await;
    (session, peer, task)
}

fn closing() -> CorrelateLayer<InOrder<NoPush>> {
    CorrelateLayer::in_order().with_close_at_deadline(true)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_late_is_dropped_and_the_next_is_right() {
    let (session, peer, _task) = asked(CorrelateLayer::in_order()).await;
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
async fn a_missed_deadline_closes_the_session_before_an_answer_finds_another_request() {
    let (session, peer, task) = asked(closing()).await;
    let answered = ask(&session, "answered");
    assert_eq!(soon(peer.line()).await, "answered");
    peer.send("of answered\n");
    assert_eq!(soon(answered).await.unwrap().unwrap(), "of answered");

    let begun = Instant::now();
    let left_out = ask(&session, "left out");
    assert_eq!(soon(peer.line()).await, "left out");
    advance(Duration::from_secs(3)).await;
    let next = ask(&session, "next");
    assert_eq!(soon(peer.line()).await, "next");
    assert!(soon(left_out).await.unwrap().unwrap_err().is_deadline());
    assert_eq!(begun.elapsed().as_secs(), DEADLINE.as_secs());
    peer.send("of next\n");
    match soon(next).await.unwrap() {
        Err(RequestError::Closed { reason, left, .. }) => {
            assert_eq!((reason, left), (CloseReason::AnswerMissed, Left::Yes));
        }
        other => panic!("whose answer is it? {other:?}"),
    }
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::AnswerMissed);
}

/// Else a caller that is less patient than the layer would hide that the peer does not answer.
#[tokio::test(start_paused = true)]
async fn a_request_that_was_given_up_has_its_deadline_still() {
    let (session, peer, task) = asked(closing()).await;
    let begun = Instant::now();
    let given_up = ask(&session, "given up");
    assert_eq!(soon(peer.line()).await, "given up");
    given_up.abort();
    idle().await;
    assert!(!session.awaits_answers());
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::AnswerMissed);
    assert_eq!(begun.elapsed().as_secs(), DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_requests_are_answered_outlives_their_deadlines() {
    let (session, peer, _task) = asked(closing()).await;
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
