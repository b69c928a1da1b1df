//! Senders that choose not to wait for a slow peer.

use getty::{CloseReason, Offered, SendError, Session, SessionLayer, SlowConsumer, service_fn};
use getty_test::{Peer, stream};

use crate::support::{echo, idle, lines, open, soon};

/// A session whose peer reads nothing. Its write buffer is above the high watermark, and its
/// queue of four messages is empty.
async fn slow() -> (Session<String>, getty::SessionTask, Peer) {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 4).with_queue(4);
    let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    session.feed("above the mark".to_owned()).await.unwrap();
    idle().await;
    (session, task, peer)
}

async fn offer(session: &Session<String>, message: &str, policy: SlowConsumer) -> Offered {
    soon(session.offer(message.to_owned(), policy))
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn drop_newest_keeps_queued_messages() {
    let (session, _task, peer) = slow().await;
    for n in 0..10 {
        let offered = offer(&session, &n.to_string(), SlowConsumer::DropNewest).await;
        let expected = if n < 4 {
            Offered::Queued
        } else {
            Offered::Dropped
        };
        assert_eq!(offered, expected);
    }
    assert_eq!(session.stats().dropped, 6);
    peer.take_all();
    assert_eq!(
        soon(peer.lines(5)).await,
        ["above the mark", "0", "1", "2", "3"]
    );
    assert_eq!(
        offer(&session, "again", SlowConsumer::DropNewest).await,
        Offered::Queued
    );
    assert_eq!(soon(peer.line()).await, "again");
}

#[tokio::test(start_paused = true)]
async fn try_offer_never_waits_and_returns_the_message() {
    let (session, task, peer) = slow().await;
    let offer = |message: &str, policy| session.try_offer(message.to_owned(), policy);
    for n in 0..4 {
        let offered = offer(&n.to_string(), SlowConsumer::DropOldest).unwrap();
        assert_eq!(offered, Offered::Queued);
    }
    match offer("full", SlowConsumer::Wait) {
        Err(SendError::Full(message)) => assert_eq!(message, "full"),
        other => panic!("{other:?}"),
    }
    let offered = offer("dropped", SlowConsumer::DropNewest).unwrap();
    assert_eq!(offered, Offered::Dropped);
    let offered = offer("4", SlowConsumer::DropOldest).unwrap();
    assert_eq!(offered, Offered::Replaced);
    assert_eq!(session.stats().dropped, 2);
    assert!(offer("closes", SlowConsumer::Close).is_err());
    peer.take_all();
    assert_eq!(
        soon(peer.lines(5)).await,
        ["above the mark", "1", "2", "3", "4"]
    );
    peer.finish();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::SlowConsumer);
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_keeps_new_messages_and_those_that_were_not_offered() {
    let (session, _task, peer) = slow().await;
    assert_eq!(
        offer(&session, "kept", SlowConsumer::DropNewest).await,
        Offered::Queued
    );
    for n in 0..10 {
        let offered = offer(&session, &n.to_string(), SlowConsumer::DropOldest).await;
        let expected = if n < 3 {
            Offered::Queued
        } else {
            Offered::Replaced
        };
        assert_eq!(offered, expected);
    }
    assert_eq!(session.stats().dropped, 7);
    peer.take_all();
    assert_eq!(
        soon(peer.lines(5)).await,
        ["above the mark", "kept", "7", "8", "9"]
    );
}

#[tokio::test(start_paused = true)]
async fn awaited_send_is_never_dropped_for_a_newer_message() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 4).with_queue(3);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    // All are queued before the session is polled. Then the first must exceed the watermark.
    let sends: Vec<_> = ["a", "b", "c"]
        .map(|message| {
            let session = session.clone();
            tokio::spawn(async move { session.send(format!("send {message}")).await })
        })
        .into();
    idle().await;
    assert_eq!(session.queued(), 2);
    assert_eq!(
        offer(&session, "1", SlowConsumer::DropOldest).await,
        Offered::Queued
    );
    assert_eq!(
        offer(&session, "2", SlowConsumer::DropOldest).await,
        Offered::Replaced
    );
    // A sender waits for room. Offers must not overtake it.
    let waits = {
        let session = session.clone();
        tokio::spawn(async move { session.send("send d".to_owned()).await })
    };
    idle().await;
    assert_eq!(
        offer(&session, "3", SlowConsumer::DropOldest).await,
        Offered::Replaced
    );
    assert_eq!(
        offer(&session, "4", SlowConsumer::DropNewest).await,
        Offered::Dropped
    );
    peer.take_all();
    for send in sends.into_iter().chain([waits]) {
        soon(send).await.unwrap().unwrap();
    }
    assert_eq!(peer.output(), "send a\nsend b\nsend c\n3\nsend d\n");
    assert_eq!(session.stats().dropped, 3);
}

#[tokio::test(start_paused = true)]
async fn newest_message_is_dropped_if_no_other_may_be() {
    let (session, _task, peer) = slow().await;
    for n in 0..4 {
        offer(&session, &n.to_string(), SlowConsumer::DropNewest).await;
    }
    assert_eq!(
        offer(&session, "late", SlowConsumer::DropOldest).await,
        Offered::Dropped
    );
    peer.take_all();
    assert_eq!(soon(peer.lines(5)).await.pop().unwrap(), "3");
}

#[tokio::test(start_paused = true)]
async fn close_policy_ends_the_session_when_its_queue_is_full() {
    let (session, task, _peer) = slow().await;
    for n in 0..4 {
        assert_eq!(
            offer(&session, &n.to_string(), SlowConsumer::Close).await,
            Offered::Queued
        );
    }
    match session.offer("late".to_owned(), SlowConsumer::Close).await {
        Err(SendError::Closed { message, reason }) => {
            assert_eq!(message.as_deref(), Some("late"));
            assert_eq!(reason, CloseReason::SlowConsumer);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::SlowConsumer);
    let refused = session
        .offer("later".to_owned(), SlowConsumer::DropOldest)
        .await;
    assert_eq!(
        refused.unwrap_err().into_message().as_deref(),
        Some("later")
    );
}

#[tokio::test(start_paused = true)]
async fn wait_policy_waits_and_a_dropped_offer_queues_nothing() {
    let (session, _task, peer) = slow().await;
    for n in 0..4 {
        offer(&session, &n.to_string(), SlowConsumer::DropNewest).await;
    }
    let given_up = tokio::time::timeout(
        std::time::Duration::from_secs(1),
        session.offer("given up".to_owned(), SlowConsumer::Wait),
    );
    assert!(given_up.await.is_err());
    let waits = {
        let session = session.clone();
        tokio::spawn(async move { offer(&session, "patient", SlowConsumer::Wait).await })
    };
    idle().await;
    assert!(!waits.is_finished());
    peer.take_all();
    assert_eq!(soon(waits).await.unwrap(), Offered::Queued);
    assert_eq!(soon(peer.lines(6)).await.pop().unwrap(), "patient");
    assert_eq!(session.stats().dropped, 0);
}
