//! Waits for room, for a flush, and for a close that cuts nothing off.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use getty::{BoxError, Close, CloseReason, Request, SendError, SessionLayer, service_fn};
use getty_test::stream;

use crate::support::{echo, idle, lines, open, soon};

#[tokio::test(start_paused = true)]
async fn writable_resolves_at_the_low_watermark() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(4, 10);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    soon(session.writable()).await.unwrap();
    assert!(session.is_writable() && !session.is_backpressured());
    peer.stall();
    session.try_send("0123456789".to_owned()).unwrap();
    idle().await;
    assert!(!session.is_writable() && session.is_backpressured());
    assert_eq!(session.pending_bytes(), 11);
    let writable = tokio::spawn({
        let session = session.clone();
        async move { session.writable().await }
    });
    peer.take(6);
    idle().await;
    assert!(!writable.is_finished(), "5 bytes still wait");
    assert!(session.is_backpressured());
    assert_eq!(session.pending_bytes(), 5);
    peer.take(1);
    soon(writable).await.unwrap().unwrap();
    assert!(session.is_writable() && !session.is_backpressured());
    session.try_send("more".to_owned()).unwrap();
    peer.take_all();
    idle().await;
    assert_eq!(session.pending_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn writable_waits_for_room_in_the_queue_and_reserves_none() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_queue(1);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    session.try_send("fills it".to_owned()).unwrap();
    assert!(!session.is_writable());
    {
        // A waiter that gives up must not delay others.
        let mut dropped = pin!(session.writable());
        let mut context = Context::from_waker(Waker::noop());
        assert!(dropped.as_mut().poll(&mut context).is_pending());
    }
    let (first, sent, second) = tokio::join!(
        session.writable(),
        session.send("next".to_owned()),
        session.writable(),
    );
    first.unwrap();
    sent.unwrap();
    second.unwrap();
    assert_eq!(peer.output(), "fills it\nnext\n");
}

#[tokio::test(start_paused = true)]
async fn writable_fails_when_the_session_ends() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 4);
    let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    session.try_send("above the mark".to_owned()).unwrap();
    idle().await;
    let waits = tokio::spawn({
        let session = session.clone();
        async move { session.writable().await }
    });
    idle().await;
    session.close();
    assert!(soon(waits).await.unwrap().unwrap_err().is_closed());
    assert!(!session.is_writable());
    soon(task).await.unwrap();
    assert!(session.writable().await.unwrap_err().is_closed());
    assert!(!session.is_backpressured() && session.pending_bytes() == 0);
}

#[tokio::test(start_paused = true)]
async fn flush_resolves_when_all_earlier_messages_are_flushed() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    soon(session.flush()).await.unwrap();
    peer.stall();
    peer.hold_flush();
    for n in 0..3 {
        session.try_send(n.to_string()).unwrap();
    }
    peer.send("reply\n");
    idle().await;
    let flush = tokio::spawn({
        let session = session.clone();
        async move { session.flush().await }
    });
    idle().await;
    session.try_send("later".to_owned()).unwrap();
    peer.take(11);
    idle().await;
    assert!(!flush.is_finished());
    peer.take(1);
    idle().await;
    peer.take_all();
    idle().await;
    assert!(
        !flush.is_finished(),
        "the message is written but not flushed"
    );
    assert_eq!(
        peer.output(),
        "0\n1\n2\nreply\n",
        "no newer message is written"
    );
    peer.release_flush();
    soon(flush).await.unwrap().unwrap();
    assert_eq!(soon(peer.lines(5)).await[4], "later");
    assert_eq!(
        session.stats().messages_out,
        5,
        "a flush does not count as a message"
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_flush_changes_nothing() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    session.try_send("before".to_owned()).unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(1), session.flush())
            .await
            .is_err()
    );
    session.try_send("after".to_owned()).unwrap();
    peer.take_all();
    assert_eq!(soon(peer.lines(2)).await, ["before", "after"]);
}

#[tokio::test(start_paused = true)]
async fn flush_fails_when_the_session_ends_first() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    session.try_send("before".to_owned()).unwrap();
    let flush = tokio::spawn({
        let session = session.clone();
        async move { session.flush().await }
    });
    idle().await;
    session.close_with(Close::new(CloseReason::Local).with_deadline(Duration::ZERO));
    assert!(soon(flush).await.unwrap().unwrap_err().is_closed());
    assert!(soon(session.flush()).await.unwrap_err().is_closed());
}

#[tokio::test(start_paused = true)]
async fn close_after_flush_waits_for_a_slow_peer() {
    for after_flush in [true, false] {
        let (transport, peer) = stream();
        let layer = SessionLayer::new().with_watermarks(0, 4);
        let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
        peer.stall();
        // One message is encoded. The other must be queued.
        session.try_send("0000".to_owned()).unwrap();
        session.try_send("0001".to_owned()).unwrap();
        idle().await;
        assert_eq!(session.queued(), 1);
        peer.take(1);
        idle().await;
        if after_flush {
            session.close_with(Close::new(CloseReason::Local).after_flush());
        } else {
            session.close();
        }
        assert!(session.try_send("late".to_owned()).unwrap_err().is_closed());
        // A byte each second takes ten seconds. The drain deadline is five seconds.
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            peer.take(1);
        }
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Local);
        assert_eq!(closed.source.is_none(), after_flush);
        assert_eq!(peer.output() == "0000\n0001\n", after_flush);
        assert_eq!(peer.is_shut(), after_flush);
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_have_the_drain_deadline_after_the_flush() {
    let (transport, peer) = stream();
    let handler = service_fn(|_: Request<String>| async {
        std::future::pending::<()>().await;
        Ok::<_, BoxError>(None::<String>)
    });
    let (session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.stall();
    peer.send("never answered\n");
    session.feed("0123456789".to_owned()).await.unwrap();
    idle().await;
    session.close_with(Close::new(CloseReason::Local).after_flush());
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!session.is_closed(), "the message is not written yet");
    peer.take_all();
    let began = tokio::time::Instant::now();
    let closed = soon(task).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 5);
    assert!(closed.source.is_some(), "the handler was cut off");
    assert_eq!(peer.output(), "0123456789\n");
}

#[tokio::test(start_paused = true)]
async fn close_after_flush_accepts_a_deadline_later() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_write_timeout(None);
    let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    session.try_send("stuck".to_owned()).unwrap();
    idle().await;
    session.close_with(Close::new(CloseReason::Local).after_flush());
    // The first reason must be kept.
    session.close_with(Close::new(CloseReason::Local).after_flush());
    session.close();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!session.is_closed());
    let began = tokio::time::Instant::now();
    session.close_with(Close::new(CloseReason::Shutdown).with_deadline(Duration::from_secs(2)));
    let closed = soon(task).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 2);
    assert_eq!(
        closed.reason,
        CloseReason::Local,
        "the first reason is kept"
    );
    assert!(closed.source.is_some(), "the output was cut off");
}

#[tokio::test(start_paused = true)]
async fn close_after_flush_does_not_wait_for_a_peer_that_takes_nothing() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    let sent = tokio::spawn({
        let session = session.clone();
        async move { session.send("stuck".to_owned()).await }
    });
    idle().await;
    session.close_with(Close::new(CloseReason::Local).after_flush());
    let began = tokio::time::Instant::now();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(
        began.elapsed().as_secs(),
        29,
        "the write timeout had begun before"
    );
    assert!(matches!(
        soon(sent).await.unwrap(),
        Err(SendError::Closed { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn slow_peer_gets_all_bytes_with_bounded_memory() {
    const MESSAGES: usize = 40;

    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(20, 40).with_queue(4);
    let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    let expected: Vec<_> = (0..MESSAGES).map(|n| format!("{n:09}")).collect();
    let sender = tokio::spawn({
        let (session, messages) = (session.clone(), expected.clone());
        async move {
            let began = tokio::time::Instant::now();
            for message in messages {
                session.feed(message).await.unwrap();
            }
            session.flush().await.unwrap();
            session.close();
            began.elapsed()
        }
    });
    let mut most = 0;
    while !sender.is_finished() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        peer.take(1);
        idle().await;
        most = most.max(session.pending_bytes());
        assert!(session.queued() <= 4);
    }
    // Ten bytes per message. The write timeout of 30 s may only end peers that take nothing.
    let took = soon(sender).await.unwrap();
    assert_eq!(took.as_secs(), 10 * MESSAGES as u64);
    assert!(most <= 50, "{most} bytes waited");
    peer.take_all();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Local);
    assert_eq!(peer.output().lines().collect::<Vec<_>>(), expected);
}
