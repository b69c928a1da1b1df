//! Every close has one order: handlers finish, messages are flushed, and the record has the
//! cause.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, Close, CloseReason, ConnectionHandle, DrainDeadlineExceeded, Request, SessionLayer,
    service_fn,
};
use getty_test::stream;
use tokio::time::Instant;

use crate::support::{Answer, echo, idle, lines, open, soon};

/// Sleeps for the seconds in the message.
async fn sleep(request: Request<String>) -> Answer {
    let seconds = request.message().parse()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn close_lets_handlers_finish_and_flushes_accepted_messages() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_in_flight(2);
    let (session, task) = open(transport, lines(), layer, service_fn(sleep)).await;
    peer.send("3\n4\n1\n");
    idle().await;
    peer.stall();
    session.feed("accepted".to_owned()).await.unwrap();
    session.close();
    assert!(session.is_closing() && !session.is_closed());

    idle().await;
    peer.take_all();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.is_none());
    assert_eq!(closed.lifetime.as_secs(), 4);
    assert_eq!(
        peer.output(),
        "accepted\n3\n4\n",
        "the third message was not started"
    );
    assert!(peer.is_shut());
    assert_eq!(closed.stats.bytes_out, 13);
}

#[tokio::test(start_paused = true)]
async fn second_close_changes_nothing_and_the_first_reason_is_kept() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    session.close_with(CloseReason::LifetimeExpired);
    session.close();
    session.close_with(CloseReason::Shutdown);
    session.close_with(Close::new(CloseReason::Handler).with_source("too late"));
    peer.reset();
    let closed = soon(task).await.unwrap();
    session.close();
    assert_eq!(closed.reason, CloseReason::LifetimeExpired);
    assert_eq!(session.reason(), Some(CloseReason::LifetimeExpired));
    assert_eq!(session.closed().await.reason, CloseReason::LifetimeExpired);
    assert_eq!(peer.counts().shutdowns, 1);
}

async fn cut_after(layer: SessionLayer, close: impl FnOnce(&ConnectionHandle)) -> Duration {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), layer, service_fn(sleep)).await;
    peer.send("100000\n");
    idle().await;
    let before = Instant::now();
    close(&session);
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.unwrap().is::<DrainDeadlineExceeded>());
    assert_eq!(peer.output(), "");
    before.elapsed()
}

#[tokio::test(start_paused = true)]
async fn drain_deadline_cuts_off_a_handler() {
    let five = cut_after(SessionLayer::new(), ConnectionHandle::close);
    assert_eq!(five.await.as_secs(), 5);

    let layer = SessionLayer::new().with_drain_deadline(Duration::from_secs(70));
    let seventy = cut_after(layer.clone(), ConnectionHandle::close);
    assert_eq!(seventy.await.as_secs(), 70);

    let two = cut_after(layer.clone(), |session| {
        session.close_with(Close::new(CloseReason::Local).with_deadline(Duration::from_secs(2)));
    });
    assert_eq!(two.await.as_secs(), 2);

    let at_once = cut_after(layer, |session| {
        session.close_with(Close::new(CloseReason::Local).with_deadline(Duration::ZERO));
    });
    assert_eq!(at_once.await.as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn drain_deadline_cuts_off_output_of_a_stalled_peer() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    session.feed("lost".to_owned()).await.unwrap();
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime.as_secs(), 5);
    assert!(closed.source.unwrap().is::<DrainDeadlineExceeded>());
    assert!(peer.is_gone() && !peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn transport_that_does_not_close_is_dropped_at_the_drain_deadline() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.hold_close();
    session.close();
    assert_eq!(soon(task).await.unwrap().lifetime.as_secs(), 5);
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn input_during_the_close_is_read_so_that_the_connection_is_not_reset() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    session.close();
    peer.send("not answered\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.stats.messages_in, 0);
    assert_eq!((peer.unread(), peer.output()), (0, String::new()));
}

#[tokio::test(start_paused = true)]
async fn sending_peer_is_read_until_its_end_or_the_deadline() {
    let much = "x".repeat(100_000);
    for finishes in [true, false] {
        let (transport, peer) = stream();
        peer.stay_open();
        let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
        session.close();
        peer.send(&much);
        idle().await;
        assert!(peer.is_shut() && !session.is_closed());
        // This input was in flight when the session closed. It must be discarded.
        tokio::time::sleep(Duration::from_secs(2)).await;
        peer.send("and this");
        idle().await;
        assert_eq!(peer.unread(), 0);
        assert!(!peer.is_gone() && !session.is_closed());
        if finishes {
            peer.finish();
        }
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.lifetime.as_secs(), if finishes { 2 } else { 5 });
        // All output was sent, so nothing may count as cut off.
        assert!(closed.source.is_none(), "{closed}");
        assert_eq!((peer.unread(), peer.output()), (0, String::new()));
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_never_stops_sending_is_dropped_after_a_bound() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    session.close();
    peer.send("x".repeat(100_000_000));
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime.as_secs(), 0);
    assert!(peer.is_gone() && peer.unread() > 0);
}

#[tokio::test(start_paused = true)]
async fn replies_are_sent_after_the_peer_has_finished() {
    for n in [1, 4] {
        let (transport, peer) = stream();
        let layer = SessionLayer::new().with_in_flight(n);
        let (session, task) = open(transport, lines(), layer, service_fn(sleep)).await;
        peer.send("20\n10\n");
        peer.finish();
        soon(session.peer_finished()).await;
        idle().await;
        assert!(!session.is_closing(), "the message is answered first");
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::PeerClosed);
        assert!(closed.source.is_none(), "nothing was cut off");
        assert_eq!(peer.output(), "20\n10\n", "{n} at once");
        assert!(peer.is_shut());
    }
}

#[tokio::test(start_paused = true)]
async fn handler_sees_that_its_peer_has_finished() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        request.session().peer_finished().await;
        Ok::<_, BoxError>(Some(format!("closing: {}", request.session().is_closing())))
    });
    let (_session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.send("wait\n");
    idle().await;
    assert_eq!(peer.output(), "");
    peer.finish();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert_eq!(peer.output(), "closing: false\n");
}

#[tokio::test(start_paused = true)]
async fn handler_sees_that_its_session_is_closing() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        request.session().closing().await;
        Ok::<_, BoxError>(Some("done".to_owned()))
    });
    let (session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.send("wait\n");
    idle().await;
    session.close();
    let closed = soon(task).await.unwrap();
    assert!(
        closed.lifetime < Duration::from_secs(1),
        "the close must not wait"
    );
    assert_eq!(peer.output(), "done\n");
}

#[derive(Debug, PartialEq)]
struct Refused(u8);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused {}", self.0)
    }
}

impl std::error::Error for Refused {}

#[tokio::test(start_paused = true)]
async fn error_of_a_handler_closes_its_session_and_is_the_source() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        match request.message().as_str() {
            "bad" => Err(Refused(7)),
            _ => Ok(request.into_message()),
        }
    });
    let (_session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.send("good\nbad\ngood\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Handler);
    assert_eq!(closed.source.unwrap().downcast_ref(), Some(&Refused(7)));
    assert_eq!(peer.output(), "good\n");
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn error_of_a_handler_lets_others_in_flight_finish() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_in_flight(3).unordered();
    let (_session, task) = open(transport, lines(), layer, service_fn(sleep)).await;
    peer.send("2\n3\nnot a number\n4\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Handler);
    assert_eq!(peer.output(), "2\n3\n");
}

#[tokio::test(start_paused = true)]
async fn handlers_have_the_drain_deadline_after_the_transport_fails() {
    let (transport, peer) = stream();
    let (_session, task) = open(transport, lines(), SessionLayer::new(), service_fn(sleep)).await;
    peer.send("100\n");
    idle().await;
    peer.reset();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Io);
    let source = closed.source.unwrap();
    let error: &io::Error = source.downcast_ref().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(closed.lifetime.as_secs(), 5);
    assert_eq!(closed.unhandled_messages, 1);
    assert_eq!(peer.counts().shutdowns, 0);
}

#[tokio::test(start_paused = true)]
async fn transport_error_during_the_close_is_the_source() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    session.feed("lost".to_owned()).await.unwrap();
    session.close();
    idle().await;
    peer.reset();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.unwrap().is::<io::Error>());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_called_after_a_close() {
    let (transport, peer) = stream();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = service_fn(move |request: Request<String>| {
        counted.fetch_add(1, SeqCst);
        request.session().close();
        echo(request)
    });
    let (_session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.send("1\n2\n3\n");
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Local);
    assert_eq!(calls.load(SeqCst), 1);
    assert_eq!(peer.output(), "1\n", "the message in flight is answered");
}

#[tokio::test(start_paused = true)]
async fn write_timeout_ends_a_peer_that_takes_nothing() {
    for (layer, seconds) in [
        (SessionLayer::new(), 30),
        (
            SessionLayer::new().with_write_timeout(Duration::from_secs(7)),
            7,
        ),
    ] {
        let (transport, peer) = stream();
        let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
        peer.stall();
        let sent = tokio::spawn({
            let session = session.clone();
            async move { session.send("unread".to_owned()).await }
        });
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::WriteTimeout);
        assert_eq!(closed.lifetime.as_secs(), seconds);
        assert!(sent.await.unwrap().unwrap_err().is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn every_byte_that_a_slow_peer_takes_restarts_the_write_timeout() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    session.feed("123456789".to_owned()).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(29)).await;
        peer.take(1);
    }
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::WriteTimeout);
    assert_eq!(closed.lifetime.as_secs(), 5 * 29 + 30);
    assert_eq!(peer.output(), "12345");
}

#[tokio::test(start_paused = true)]
async fn write_timeout_runs_only_while_bytes_wait() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    for _ in 0..3 {
        peer.stall();
        session.feed("slow".to_owned()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(29)).await;
        peer.take_all();
        tokio::time::sleep(Duration::from_secs(29)).await;
    }
    assert!(!session.is_closing());
    assert_eq!(peer.output(), "slow\n".repeat(3));
}

#[tokio::test(start_paused = true)]
async fn session_without_a_write_timeout_waits_for_a_stalled_peer() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_write_timeout(None);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    session.feed("slow".to_owned()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    peer.take_all();
    assert_eq!(soon(peer.line()).await, "slow");
}

#[tokio::test(start_paused = true)]
async fn pending_flush_counts_as_stalled() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.hold_flush();
    session.feed("held back".to_owned()).await.unwrap();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::WriteTimeout);
}

#[tokio::test(start_paused = true)]
async fn timestamps_and_statistics_follow_the_traffic() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let marks = || {
        [
            session.last_read(),
            session.last_write(),
            session.last_active(),
        ]
        .map(|mark| (mark - session.opened_at()).as_secs())
    };
    let second = Duration::from_secs(1);
    assert_eq!(marks(), [0, 0, 0]);

    tokio::time::sleep(second).await;
    session.send("pushed".to_owned()).await.unwrap();
    assert_eq!(
        marks(),
        [0, 1, 0],
        "sent bytes are not activity of the peer"
    );

    tokio::time::sleep(second).await;
    peer.send("hal");
    idle().await;
    assert_eq!(marks(), [2, 1, 0], "bytes are not yet a message");

    tokio::time::sleep(second).await;
    peer.send("f\nwhole\n");
    soon(peer.lines(3)).await;
    assert_eq!(marks(), [3, 3, 3]);

    tokio::time::sleep(second).await;
    session.touch();
    assert_eq!(marks(), [3, 3, 4]);

    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.stats, session.stats());
    let stats = closed.stats;
    assert_eq!((stats.messages_in, stats.messages_out), (2, 3));
    assert_eq!((stats.bytes_in, stats.bytes_out), (11, 18));
    assert_eq!(stats.skipped, 0);
}

#[tokio::test(start_paused = true)]
async fn handlers_in_flight_are_dropped_before_the_session_is_closed() {
    struct Guard(Arc<Mutex<Vec<&'static str>>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("handler dropped");
        }
    }

    let (transport, peer) = stream();
    let log: Arc<Mutex<Vec<_>>> = Arc::default();
    let logged = Arc::clone(&log);
    let handler = service_fn(move |_: Request<String>| {
        let guard = Guard(Arc::clone(&logged));
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok::<Option<String>, BoxError>(None)
        }
    });
    let (session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    let logged = Arc::clone(&log);
    session.add_close_callback("log", 0, move |_| logged.lock().unwrap().push("callback"));
    peer.send("stuck\n");
    idle().await;
    session.close();
    let _ = soon(task).await;
    assert_eq!(*log.lock().unwrap(), ["handler dropped", "callback"]);
}
