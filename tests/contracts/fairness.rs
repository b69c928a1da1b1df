//! Fairness between sessions and between the two directions of one session.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, Close, CloseReason, Request, Service, SessionLayer, codec::LengthDelimited,
    service_fn,
};
use getty_test::stream;
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};

use crate::support::{echo, echo_by_turns, idle, lines, open, soon};

#[tokio::test]
async fn transport_that_never_waits_does_not_starve_another_session() {
    for layer in [
        SessionLayer::new(),
        SessionLayer::new().with_in_flight(4),
        SessionLayer::new().with_in_flight(4).unordered(),
    ] {
        check_that_another_session_is_polled(layer).await;
    }
}

async fn check_that_another_session_is_polled(layer: SessionLayer) {
    let (endless, endless_peer) = stream();
    let (modest, modest_peer) = stream();
    let silent = service_fn(|_: Request<String>| async { Ok::<Option<String>, BoxError>(None) });
    let (session, task) = open(endless, lines(), layer, silent).await;
    let _modest = open(modest, lines(), SessionLayer::new(), service_fn(echo)).await;
    endless_peer.send_endlessly("x\n".repeat(1000));

    for n in 0..10 {
        let before = session.stats().messages_in;
        modest_peer.send(format!("{n}\n"));
        assert_eq!(modest_peer.line().await, n.to_string());
        let meanwhile = session.stats().messages_in - before;
        // A poll has 128 units of 32 messages. The reply may take a few polls.
        assert!(meanwhile < 20_000, "{meanwhile} messages of the other");
    }
    assert!(session.stats().messages_in > 0);
    session.close();
    assert_eq!(task.await.unwrap().reason, CloseReason::Local);
}

/// Runs a session over a transport that never waits, and another session on the same thread.
/// Returns how many messages the first session handles until the other has its reply.
async fn most_until_anothers_answer<C, S>(codec: C, flood: &[u8], handler: S) -> u64
where
    C: Decoder<Item = Bytes, Error: Into<BoxError>> + Encoder<Bytes, Error: Into<BoxError>>,
    C: Clone + Send + 'static,
    S: Service<Request<Bytes>, Response = Option<Bytes>, Error = BoxError, Future: Send>,
    S: Clone + Send + 'static,
{
    let (endless, endless_peer) = stream();
    let (modest, modest_peer) = stream();
    let (session, task) = open(endless, codec, SessionLayer::new(), handler).await;
    let _modest = open(modest, lines(), SessionLayer::new(), service_fn(echo)).await;
    endless_peer.forget_output();
    endless_peer.send_endlessly(flood);
    let mut most = 0;
    for n in 0..3 {
        let before = session.stats().messages_in;
        modest_peer.send(format!("{n}\n"));
        assert_eq!(modest_peer.line().await, n.to_string());
        most = most.max(session.stats().messages_in - before);
    }
    assert!(session.stats().messages_in > 0);
    session.close();
    assert_eq!(task.await.unwrap().reason, CloseReason::Local);
    most
}

#[tokio::test]
async fn flood_of_large_frames_does_not_starve_another_session() {
    let echo_bytes = |request: Request<Bytes>| async { Ok(Some(request.into_message())) };
    let mut flood = BytesMut::new();
    for _ in 0..8 {
        let frame = Bytes::from(vec![b'x'; 64 * 1024]);
        LengthDelimited::new().encode(frame, &mut flood).unwrap();
    }
    let most =
        most_until_anothers_answer(LengthDelimited::new(), &flood, service_fn(echo_bytes)).await;
    // A poll has 128 units of two such frames. The reply may take a few polls.
    assert!(most < 1_000, "{most} messages of the other");
}

#[tokio::test]
async fn large_replies_to_small_frames_do_not_starve_another_session() {
    let large = Bytes::from(vec![b'x'; 64 * 1024]);
    let answers = service_fn(move |_: Request<Bytes>| {
        let large = large.clone();
        async move { Ok(Some(large)) }
    });
    let mut flood = BytesMut::new();
    for _ in 0..1000 {
        LengthDelimited::new()
            .encode(Bytes::from_static(b"request"), &mut flood)
            .unwrap();
    }
    let most = most_until_anothers_answer(LengthDelimited::new(), &flood, answers).await;
    assert!(most < 1_500, "{most} messages of the other");
}

#[tokio::test]
async fn bytes_that_make_no_message_do_not_starve_another_session() {
    /// Skips all bytes.
    #[derive(Clone, Copy, Debug)]
    struct Skip;
    impl Decoder for Skip {
        type Item = String;
        type Error = std::io::Error;
        fn decode(&mut self, buf: &mut BytesMut) -> std::io::Result<Option<String>> {
            buf.clear();
            Ok(None)
        }
    }
    impl Encoder<String> for Skip {
        type Error = std::io::Error;
        fn encode(&mut self, _: String, _: &mut BytesMut) -> std::io::Result<()> {
            Ok(())
        }
    }

    let (transport, peer) = stream();
    peer.send_endlessly("noise");
    let (session, task) = open(transport, Skip, SessionLayer::new(), service_fn(echo)).await;
    while session.stats().bytes_in < 100_000 {
        tokio::task::yield_now().await;
    }
    session.close();
    assert_eq!(task.await.unwrap().stats.messages_in, 0);
}

#[tokio::test(start_paused = true)]
async fn small_requests_with_large_replies_do_not_stall() {
    for n in [1, 4] {
        let (transport, peer) = stream();
        let handler = service_fn(|request: Request<String>| async move {
            let size = request.message().parse::<usize>()?;
            Ok::<_, BoxError>("x".repeat(size))
        });
        let layer = SessionLayer::new().with_in_flight(n);
        let (_session, _task) = open(transport, lines(), layer, handler).await;
        peer.stall();
        peer.send("50000\n".repeat(100));
        for _ in 0..100 {
            // A slow peer takes one reply at a time. It sends nothing more that could wake the
            // session.
            idle().await;
            peer.take(50_001);
            assert_eq!(soon(peer.line()).await.len(), 50_000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn handler_that_never_finishes_delays_neither_sends_nor_a_close() {
    let (transport, peer) = stream();
    let stuck = service_fn(|_: Request<String>| async {
        std::future::pending::<()>().await;
        Ok::<Option<String>, BoxError>(None)
    });
    let (session, task) = open(transport, lines(), SessionLayer::new(), stuck).await;
    peer.send_endlessly("request\n".repeat(100));
    idle().await;
    let read_ahead = session.stats().bytes_in;
    assert!((64 * 1024..66 * 1024).contains(&read_ahead), "{read_ahead}");

    soon(session.send("pushed".to_owned())).await.unwrap();
    idle().await;
    assert_eq!(session.stats().bytes_in, read_ahead, "reading is paused");
    let before = Instant::now();
    session.close_with(Close::new(CloseReason::Local).with_deadline(Duration::from_secs(1)));
    soon(session.closing()).await;
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Local);
    assert_eq!(before.elapsed().as_secs(), 1);
    assert_eq!(peer.output(), "pushed\n");
}

#[tokio::test(start_paused = true)]
async fn end_of_the_peer_is_seen_while_a_handler_never_finishes() {
    for (lines_before, is_seen) in [(60, true), (70, false)] {
        let (transport, peer) = stream();
        let (turns, handler) = echo_by_turns();
        let (session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
        peer.send("first\n");
        idle().await;
        let line = "x".repeat(1023) + "\n";
        peer.send(line.repeat(lines_before));
        peer.finish();
        idle().await;
        let seen = tokio::time::timeout(Duration::ZERO, session.peer_finished()).await;
        assert_eq!(seen.is_ok(), is_seen);

        turns.add_permits(1 + lines_before);
        assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
        assert_eq!(session.stats().messages_out, 1 + lines_before as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn write_timeout_ends_two_sides_that_both_stop_reading() {
    // Each side floods the other through a small pipe. Neither reads while it writes.
    let (ours, theirs) = tokio::io::duplex(1024);
    let flood = || {
        service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(vec![request.into_message(); 2])
        })
    };
    let layer = SessionLayer::new().with_watermarks(1024, 4096);
    let (first, first_task) = open(ours, lines(), layer.clone(), flood()).await;
    let (_second, second_task) = open(theirs, lines(), layer, flood()).await;
    first.feed("x".repeat(1000)).await.unwrap();
    let (first, second) = soon(async { tokio::join!(first_task, second_task) }).await;
    let (first, second) = (first.unwrap(), second.unwrap());
    let reasons = [&first.reason, &second.reason];
    assert!(reasons.contains(&&CloseReason::WriteTimeout), "{reasons:?}");
    assert!(
        first.stats.messages_in > 4,
        "the first session made progress before"
    );
    assert!((30..61).contains(&first.lifetime.as_secs()));
}

#[tokio::test(start_paused = true)]
async fn sender_that_waits_for_room_precedes_further_requests() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new()
        .with_watermarks(10, 30)
        .with_reply_limit(0);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    peer.send_endlessly("123456789\n");
    idle().await;
    let sent = tokio::spawn(async move {
        for n in 0..10 {
            session.feed(format!("pushed {n}")).await?;
        }
        Ok::<_, getty::SendError<String>>(())
    });
    // Whenever there is room, requests could take all of the room.
    for _ in 0..10 {
        idle().await;
        // Waiting bytes: 10 + 2 * 30 + 4 messages of at most 10, and the pushes.
        peer.take(160);
    }
    assert!(sent.is_finished(), "one push is sent each time");
    soon(sent).await.unwrap().unwrap();
}
