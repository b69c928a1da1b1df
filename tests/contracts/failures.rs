//! Connections that fail. Received messages must be handled, replies counted, and losses
//! recorded.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, Closed, DrainDeadlineExceeded, Request, SendError, SessionLayer,
    codec::Lines, service_fn,
};
use getty_test::{Peer, stream};

use crate::support::{Answer, echo, idle, lines, open, soon};

const TWO_MS: Duration = Duration::from_millis(2);

/// Opens a session whose handler takes two milliseconds for a message, and lets `fail` act on
/// its peer. Returns the handled lines and the record.
async fn handled_after(
    layer: SessionLayer,
    replies: bool,
    fail: impl FnOnce(&Peer),
) -> (Vec<String>, Closed) {
    let (transport, peer) = stream();
    let handled = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&handled);
    let handler = service_fn(move |request: Request<String>| {
        let list = Arc::clone(&list);
        async move {
            tokio::time::sleep(TWO_MS).await;
            let line = request.into_message();
            list.lock().unwrap().push(line.clone());
            Ok::<_, BoxError>(replies.then_some(line))
        }
    });
    let (_session, task) = open(transport, Lines::new(), layer, handler).await;
    fail(&peer);
    let closed = soon(task).await.unwrap();
    assert!(peer.is_gone());
    let handled = handled.lock().unwrap().clone();
    (handled, closed)
}

#[tokio::test(start_paused = true)]
async fn messages_that_arrived_before_a_reset_are_handled() {
    for layer in [SessionLayer::new(), SessionLayer::new().with_in_flight(8)] {
        let (handled, closed) = handled_after(layer, false, |peer| {
            peer.send("insert\n".repeat(200));
            peer.reset();
        })
        .await;
        assert_eq!(handled.len(), 200);
        assert_eq!(closed.reason, CloseReason::Io);
        let source = closed.source.unwrap();
        let error: &io::Error = source.downcast_ref().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!((closed.unhandled_messages, closed.unhandled_bytes), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn incomplete_line_is_not_handled_after_a_reset() {
    let (handled, closed) = handled_after(SessionLayer::new(), false, |peer| {
        peer.send("PAY 1\nPAY 100");
        peer.reset();
    })
    .await;
    assert_eq!(handled, ["PAY 1"]);
    assert_eq!(closed.unhandled_bytes, 7);
}

#[tokio::test(start_paused = true)]
async fn received_lines_are_handled_after_a_failed_write_and_replies_are_counted() {
    let (handled, closed) = handled_after(SessionLayer::new(), true, |peer| {
        peer.fail_writes(io::ErrorKind::BrokenPipe);
        peer.send("insert\n".repeat(150));
        peer.send("insert\n".repeat(50));
        peer.finish();
    })
    .await;
    assert_eq!(handled.len(), 200);
    assert_eq!(closed.reason, CloseReason::Io);
    let source = closed.source.unwrap();
    let error: &io::Error = source.downcast_ref().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    // The first was encoded before the write failed.
    assert_eq!((closed.unsent_messages, closed.unsent_bytes), (199, 7));
    assert_eq!(closed.stats.messages_in, 200);
}

#[tokio::test(start_paused = true)]
async fn every_received_message_is_handled_or_counted_as_unhandled() {
    let slow = service_fn(|_: Request<String>| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok::<_, BoxError>(None::<String>)
    });
    let (transport, peer) = stream();
    let (_session, task) = open(transport, lines(), SessionLayer::new(), slow).await;
    peer.send("one\ntwo\nthree\nfour\nfi");
    peer.reset();
    let closed = soon(task).await.unwrap();
    // Two handlers have finished within 5 s. The third must be cut off.
    assert_eq!(closed.lifetime.as_secs(), 5);
    assert_eq!(closed.stats.messages_in, 3);
    assert_eq!(closed.unhandled_messages, 1);
    assert_eq!(closed.unhandled_bytes, "four\nfi".len() as u64);
    let text = closed.to_string();
    assert!(text.contains("1 messages unhandled"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn close_counts_messages_that_it_does_not_handle() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(sleep)).await;
    peer.send("1\n2\n3\n");
    idle().await;
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(peer.output(), "1\n");
    assert_eq!(closed.stats.messages_in, 1);
    assert_eq!((closed.unhandled_messages, closed.unhandled_bytes), (0, 4));
}

/// Sleeps for the seconds in the message.
async fn sleep(request: Request<String>) -> Answer {
    let seconds = request.message().parse()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn failed_write_fails_senders_at_once_and_handlers_continue() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(sleep)).await;
    peer.send("3\n");
    idle().await;
    peer.fail_writes(io::ErrorKind::BrokenPipe);
    let start = tokio::time::Instant::now();
    let sent = soon(session.send("lost".to_owned())).await.unwrap_err();
    assert!(matches!(sent, SendError::Io(_)), "{sent}");
    let refused = soon(session.send("late".to_owned())).await.unwrap_err();
    assert!(refused.is_closed(), "{refused}");
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(!session.is_closed(), "a handler is in flight");
    peer.finish();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime.as_secs(), 3);
    assert_eq!(closed.unhandled_messages, 0);
    assert_eq!(closed.unsent_messages, 1, "the reply was not sent");
}

#[tokio::test(start_paused = true)]
async fn handlers_finish_if_the_transport_fails_during_the_close() {
    let (transport, peer) = stream();
    let done = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&done);
    let handler = service_fn(move |request: Request<String>| {
        let count = Arc::clone(&count);
        async move {
            let answer = sleep(request).await;
            count.fetch_add(1, SeqCst);
            answer
        }
    });
    let layer = SessionLayer::new().with_in_flight(2);
    let (session, task) = open(transport, lines(), layer, handler).await;
    peer.send("1\n3\n");
    idle().await;
    session.close();
    peer.fail_writes(io::ErrorKind::BrokenPipe);
    let closed = soon(task).await.unwrap();
    assert_eq!(done.load(SeqCst), 2);
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.is_some());
    assert_eq!(peer.counts().shutdowns, 0);
}

#[tokio::test(start_paused = true)]
async fn idle_session_closes_at_once_if_its_peer_stays_open() {
    let (transport, peer) = stream();
    peer.stay_open();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send("hello\n");
    soon(peer.line()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime.as_secs(), 60);
    assert!(closed.source.is_none() && !closed.orderly);
}

#[tokio::test(start_paused = true)]
async fn active_session_reads_until_the_end_of_the_peer_or_the_deadline() {
    for ends in [true, false] {
        let (transport, peer) = stream();
        peer.stay_open();
        let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
        peer.send("hello\n");
        soon(peer.line()).await;
        session.close();
        idle().await;
        assert!(peer.is_shut() && !peer.is_gone());
        peer.send("a heartbeat\n");
        idle().await;
        assert_eq!(peer.unread(), 0);
        assert!(!peer.is_gone());
        if ends {
            peer.finish();
        }
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.lifetime.as_secs(), if ends { 0 } else { 5 });
        assert_eq!(closed.orderly, ends);
        assert!(closed.source.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn handler_that_hangs_does_not_prevent_the_close_handshake() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(sleep)).await;
    peer.send("100000\n");
    idle().await;
    session.try_send("accepted".to_owned()).unwrap();
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime.as_secs(), 5);
    assert!(closed.source.unwrap().is::<DrainDeadlineExceeded>());
    assert_eq!(closed.unhandled_messages, 1);
    assert_eq!(peer.output(), "accepted\n");
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn delayed_replies_do_not_delay_the_end_of_a_failed_session() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new()
        .with_in_flight(4)
        .with_flush_delay(Duration::from_millis(100));
    let (_session, task) = open(transport, lines(), layer, service_fn(sleep)).await;
    peer.send("0\n100\n");
    idle().await;
    peer.reset();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Io);
    assert_eq!(closed.lifetime.as_secs(), 5);
    assert_eq!(closed.unhandled_messages, 1);
}

#[tokio::test(start_paused = true)]
async fn received_messages_are_handled_if_replies_were_blocked_at_the_failure() {
    let (transport, peer) = stream();
    let handler =
        service_fn(|_: Request<String>| async { Ok::<_, BoxError>(Some("x".repeat(8000))) });
    let (session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.stall();
    peer.send("insert\n".repeat(200));
    idle().await;
    assert!(session.stats().messages_in < 100, "the replies are blocked");
    peer.reset();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.stats.messages_in, 200);
    assert_eq!((closed.unhandled_messages, closed.unhandled_bytes), (0, 0));
    assert!(closed.lifetime < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn message_whose_stack_fails_is_counted_as_unhandled() {
    let (transport, peer) = stream();
    let stack = Unready(service_fn(echo));
    let (_session, task) = open(transport, lines(), SessionLayer::new(), stack).await;
    peer.send("one\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Handler);
    assert_eq!(
        (closed.stats.messages_in, closed.unhandled_messages),
        (1, 1)
    );
}

/// A service whose readiness fails.
#[derive(Clone)]
struct Unready<S>(S);

impl<S: getty::Service<Request<String>, Error = BoxError>> getty::Service<Request<String>>
    for Unready<S>
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Err("never ready".into()))
    }

    fn call(&mut self, request: Request<String>) -> S::Future {
        self.0.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_in_flight_when_another_panics_are_counted_as_unhandled() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        assert_ne!(request.message(), "panic", "a bad handler");
        std::future::pending::<Answer>().await
    });
    let layer = SessionLayer::new().with_in_flight(4).unordered();
    let (_session, task) = open(transport, lines(), layer, handler).await;
    peer.send("hang\nhang\nhang\npanic\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert_eq!(closed.stats.messages_in, 4);
    assert!(
        closed.unhandled_messages >= 3,
        "{}",
        closed.unhandled_messages
    );
}

#[tokio::test(start_paused = true)]
async fn close_reads_on_for_a_peer_that_sends_everything_before_it_reads() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (ours, theirs) = tokio::io::duplex(16 * 1024);
    let (session, task) = open(ours, lines(), SessionLayer::new(), service_fn(echo)).await;
    let (mut read, mut write) = tokio::io::split(theirs);
    let line = format!("{}\n", "x".repeat(999));
    let peer = tokio::spawn(async move {
        // All input arrives before the session reads.
        for _ in 0..5_000 {
            write.write_all(line.as_bytes()).await?;
        }
        write.shutdown().await?;
        let mut answers = Vec::new();
        read.read_to_end(&mut answers).await?;
        Ok::<_, io::Error>(answers)
    });
    while !session.is_backpressured() {
        idle().await;
    }
    session.close();
    let answers = soon(peer).await.unwrap().unwrap();
    let closed = soon(task).await.unwrap();
    assert!(closed.source.is_none(), "{closed}");
    assert_eq!(answers.len() as u64, closed.stats.bytes_out);
    assert_eq!(closed.unsent_bytes, 0);
    assert!(closed.unhandled_bytes > 1_000_000, "{closed}");
}
