//! Outcomes of sent messages as reported to their senders.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
};

use bytes::BytesMut;
use getty::{BoxError, CloseReason, Reply, Request, SendError, SessionLayer, service_fn};
use getty_test::stream;
use tokio::task::JoinHandle;
use tokio_util::codec::{Decoder, Encoder};

use crate::support::{echo, idle, lines, open, soon};

/// Lines whose encoder refuses those that begin with `bad`, after half is encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picky;

#[derive(Debug, PartialEq)]
pub(crate) struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unspeakable")
    }
}

impl std::error::Error for Unspeakable {}

impl From<io::Error> for Unspeakable {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Decoder for Picky {
    type Item = String;
    type Error = BoxError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<String>, BoxError> {
        let Some(end) = buf.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = buf.split_to(end + 1);
        Ok(Some(String::from_utf8(line[..end].to_vec())?))
    }
}

impl Encoder<String> for Picky {
    type Error = Unspeakable;

    fn encode(&mut self, message: String, buf: &mut BytesMut) -> Result<(), Unspeakable> {
        buf.extend_from_slice(message.as_bytes());
        if message.starts_with("bad") {
            return Err(Unspeakable);
        }
        if !message.is_empty() {
            buf.extend_from_slice(b"\n");
        }
        Ok(())
    }
}

type Outcome = JoinHandle<Result<usize, SendError<String>>>;

/// Sends on a separate task.
fn send(session: &getty::Session<String>, message: &str) -> Outcome {
    let (session, message) = (session.clone(), message.to_owned());
    tokio::spawn(async move { Ok(session.send(message).await?.bytes) })
}

#[tokio::test(start_paused = true)]
async fn send_resolves_with_its_size_at_the_flush_after_its_last_byte() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    let sent = send(&session, "hello");
    for _ in 0..6 {
        idle().await;
        assert!(!sent.is_finished(), "not all bytes are written");
        peer.hold_flush();
        peer.take(1);
    }
    idle().await;
    assert_eq!(peer.output(), "hello\n");
    assert!(
        !sent.is_finished(),
        "the message is written but not flushed"
    );
    peer.release_flush();
    assert_eq!(soon(sent).await.unwrap().unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn newer_messages_are_not_written_while_a_send_waits_for_its_flush() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.hold_flush();
    let first = send(&session, "first");
    idle().await;
    let second = send(&session, "second");
    idle().await;
    session.feed("third".to_owned()).await.unwrap();
    peer.send("reply\n");
    idle().await;
    assert_eq!(peer.output(), "first\n");
    assert!(!first.is_finished() && !second.is_finished());

    peer.release_flush();
    assert_eq!(
        soon(peer.lines(4)).await,
        ["first", "second", "third", "reply"]
    );
    assert!(soon(first).await.unwrap().is_ok() && soon(second).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn empty_message_is_sent_with_those_before_it() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, Picky, SessionLayer::new(), service_fn(echo)).await;
    let nothing = soon(session.send(String::new())).await.unwrap();
    assert_eq!(nothing.bytes, 0);

    peer.stall();
    let some = send(&session, "some");
    let none = send(&session, "");
    idle().await;
    assert!(!none.is_finished(), "the message is queued behind another");
    peer.take_all();
    assert_eq!(soon(none).await.unwrap().unwrap(), 0);
    assert_eq!(soon(some).await.unwrap().unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn refused_send_fails_and_the_session_continues() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, Picky, SessionLayer::new(), service_fn(echo)).await;
    let good = send(&session, "good");
    let bad = send(&session, "bad one");
    let better = send(&session, "better");
    match soon(bad).await.unwrap() {
        Err(SendError::Encode(source)) => assert_eq!(source.downcast_ref(), Some(&Unspeakable)),
        other => panic!("{other:?}"),
    }
    assert_eq!(soon(good).await.unwrap().unwrap(), 5);
    assert_eq!(soon(better).await.unwrap().unwrap(), 7);
    assert_eq!(
        peer.output(),
        "good\nbetter\n",
        "no byte of the bad message is sent"
    );
    assert!(!session.is_closing());
    assert_eq!(session.stats().messages_out, 2);
}

#[tokio::test(start_paused = true)]
async fn message_that_no_task_awaits_and_the_codec_refuses_closes_a_stream() {
    for how in ["reply", "replies", "feed", "try_send"] {
        let (transport, peer) = stream();
        let handler = service_fn(|request: Request<String>| async move {
            let bad = "bad".to_owned();
            match request.message().as_str() {
                "reply" => return Ok(Reply::one(bad)),
                "replies" => {
                    let replies = ["good", "bad", "later"].map(str::to_owned);
                    return Ok(Reply::many(replies.to_vec()));
                }
                "feed" => request.session().feed(bad).await?,
                _ => request.session().try_send(bad)?,
            }
            Ok::<_, BoxError>(Reply::none())
        });
        let (_session, task) = open(transport, Picky, SessionLayer::new(), handler).await;
        peer.send(format!("{how}\n"));
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Encode, "{how}");
        assert!(closed.source.unwrap().is::<Unspeakable>());
        let before = if how == "replies" { "good\n" } else { "" };
        assert_eq!(peer.output(), before, "{how}: the output must have no gap");
        assert_eq!(closed.stats.skipped, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn closed_session_returns_messages() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_queue(1);
    let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    // This message is encoded but not taken by the transport.
    let encoded = send(&session, "encoded");
    idle().await;
    session.close();
    for refused in [
        session.try_send("a".to_owned()).unwrap_err(),
        session.feed("a".to_owned()).await.unwrap_err(),
        session.send("a".to_owned()).await.unwrap_err(),
    ] {
        match refused {
            SendError::Closed { message, reason } => {
                assert_eq!(message.as_deref(), Some("a"));
                assert_eq!(reason, CloseReason::Local);
            }
            other => panic!("{other:?}"),
        }
    }
    let _ = soon(task).await;
    let error = soon(encoded).await.unwrap().unwrap_err();
    assert!(error.is_closed());
    assert_eq!(
        error.into_message(),
        None,
        "the codec has consumed the message"
    );
}

#[tokio::test(start_paused = true)]
async fn senders_that_wait_for_room_get_their_messages_back_at_the_close() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 4);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    session.feed("fills it".to_owned()).await.unwrap();
    idle().await;
    let sends = send(&session, "sends");
    let feeds = tokio::spawn({
        let session = session.clone();
        async move { session.feed("feeds".to_owned()).await }
    });
    idle().await;
    assert!(!sends.is_finished() && !feeds.is_finished());

    session.close();
    let sends = soon(sends).await.unwrap().unwrap_err();
    let feeds = soon(feeds).await.unwrap().unwrap_err();
    assert!(!session.is_closed(), "senders need not wait for the drain");
    assert_eq!(sends.into_message().as_deref(), Some("sends"));
    assert_eq!(feeds.into_message().as_deref(), Some("feeds"));
}

#[tokio::test(start_paused = true)]
async fn queued_messages_that_were_never_encoded_are_returned() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 4);
    let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    // Queued together: the first exceeds the watermark, so the second must wait for the encoder.
    let first = send(&session, "first");
    let second = send(&session, "second");
    idle().await;
    session.close();
    let _ = soon(task).await;
    assert_eq!(soon(first).await.unwrap().unwrap_err().into_message(), None);
    let second = soon(second).await.unwrap().unwrap_err();
    assert_eq!(second.into_message().as_deref(), Some("second"));
}

#[tokio::test(start_paused = true)]
async fn transport_error_differs_from_a_close() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    let sent = send(&session, "hello");
    idle().await;
    peer.take(2);
    idle().await;
    peer.fail_writes(io::ErrorKind::BrokenPipe);
    match soon(sent).await.unwrap() {
        Err(SendError::Io(source)) => {
            let error: &io::Error = source.downcast_ref().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Io);
    // The session must be closed afterwards.
    assert!(session.try_send("a".to_owned()).unwrap_err().is_closed());
}

#[tokio::test(start_paused = true)]
async fn reply_limit_stops_decoding_and_the_low_watermark_stops_pushes() {
    let (transport, peer) = stream();
    // 200 bytes are more than 10 + 2 * 30 + 4 messages of 10.
    let layer = SessionLayer::new()
        .with_watermarks(10, 30)
        .with_reply_limit(200);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    peer.send("123456789\n".repeat(50));
    idle().await;
    assert_eq!(session.stats().messages_in, 20);
    assert!(session.try_send("x".to_owned()).unwrap_err().is_full());

    peer.take(10);
    idle().await;
    assert_eq!(session.stats().messages_in, 21);
    peer.take(290 + 189);
    idle().await;
    assert_eq!(session.stats().messages_in, 50);
    assert!(
        session.try_send("x".to_owned()).unwrap_err().is_full(),
        "11 bytes of replies are left"
    );
    peer.take(1);
    idle().await;
    assert!(session.is_writable(), "10 bytes of replies are left");
    peer.take_all();
    soon(peer.lines(50)).await;
    session.try_send("x".to_owned()).unwrap();
    assert_eq!(soon(peer.line()).await, "x");
}

#[tokio::test(start_paused = true)]
async fn one_reply_may_exceed_the_high_watermark() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(1, 1);
    let handler = service_fn(|request: Request<String>| async move {
        Ok::<_, BoxError>(vec![request.into_message(); 100])
    });
    let (_session, _task) = open(transport, lines(), layer, handler).await;
    peer.limit_writes(7);
    peer.send("12345\n".repeat(10));
    assert_eq!(soon(peer.lines(1000)).await, vec!["12345"; 1000]);
}

#[tokio::test(start_paused = true)]
async fn queue_holds_as_many_messages_as_are_set() {
    for (layer, most) in [
        (SessionLayer::new(), 64),
        (SessionLayer::new().with_queue(3), 3),
        (SessionLayer::new().with_queue(0), 1),
    ] {
        let (transport, peer) = stream();
        let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
        // The session is not polled until the test awaits.
        let queued = (0..)
            .take_while(|n: &usize| session.try_send(n.to_string()).is_ok())
            .count();
        assert_eq!(queued, most);
        assert_eq!(session.queued(), most);
        let full = session.try_send("again".to_owned()).unwrap_err();
        assert!(full.is_full());
        assert_eq!(full.into_message().as_deref(), Some("again"));
        soon(peer.lines(most)).await;
        assert_eq!(session.queued(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn senders_that_wait_for_room_proceed_in_order() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_queue(2);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    let numbers: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    let outcomes: Vec<_> = numbers.iter().map(|n| send(&session, n)).collect();
    assert_eq!(soon(peer.lines(100)).await, numbers);
    for outcome in outcomes {
        assert!(soon(outcome).await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn send_that_is_dropped_before_there_is_room_sends_nothing_and_wakes_the_next() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_queue(1);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    session.try_send("fills it".to_owned()).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut dropped = Box::pin(session.feed("dropped".to_owned()));
    assert!(dropped.as_mut().poll(&mut context).is_pending());
    let next = send(&session, "next");
    tokio::task::yield_now().await;
    drop(dropped);
    assert!(soon(next).await.unwrap().is_ok());
    assert_eq!(peer.output(), "fills it\nnext\n");
}

#[tokio::test(start_paused = true)]
async fn send_that_is_dropped_after_it_was_queued_is_still_sent() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    let first = send(&session, "first");
    let second = send(&session, "second");
    idle().await;
    first.abort();
    idle().await;
    peer.take_all();
    assert!(soon(second).await.unwrap().is_ok());
    assert_eq!(peer.output(), "first\nsecond\n");
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_read_does_not_stop_its_handlers() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_in_flight(2).with_watermarks(0, 4);
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    let handler = service_fn(move |request: Request<String>| {
        let done = Arc::clone(&counted);
        async move {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            done.fetch_add(1, SeqCst);
            echo(request).await
        }
    });
    let (session, _task) = open(transport, lines(), layer, handler).await;
    peer.stall();
    peer.send("one\ntwo\nthree\n");
    idle().await;
    session.feed("above the mark".to_owned()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(done.load(SeqCst), 3, "pushes must not stop handlers");
    peer.take_all();
    let received = soon(peer.lines(4)).await;
    assert_eq!(received, ["above the mark", "one", "two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_poll_share_a_write() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    for n in 0..10 {
        session.try_send(n.to_string()).unwrap();
    }
    peer.send("1\n2\n3\n");
    soon(peer.lines(13)).await;
    let counts = peer.counts();
    assert!(counts.writes <= 2, "{counts:?}");
    assert!(counts.flushes <= 2, "{counts:?}");
}
