//! Close codes and the close handshake.

use std::{sync::Arc, time::Duration};

use getty::{
    ApplicationClose, DrainDeadlineExceeded, SendError, SessionLayer,
    ws::{Message, WsClose, WsError, WsLayer},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, advance},
};

use super::*;

const KICKED: ApplicationClose = ApplicationClose::new(17, "kicked");

#[tokio::test(start_paused = true)]
async fn application_close_travels_as_a_code_and_a_text() {
    let mut server = Server::new(WsLayer::new(), SessionLayer::new(), |request| async move {
        request.session().close_with(KICKED);
        None
    });
    let mut peer = server.open().await;
    peer.send(FIN | TEXT, b"spam").await;
    let (first, payload) = peer.frame().await.unwrap();
    assert_eq!(first, FIN | CLOSE);
    assert_eq!(payload, b"\x0f\xb1kicked");
    peer.write(&close_frame(4017, "kicked")).await;
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Application(KICKED));
    assert_eq!(WsClose::of(&closed).application_code(), Some(17));

    // from the peer
    let mut peer = server.open().await;
    peer.write(&close_frame(4017, "kicked")).await;
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    let close = WsClose::of(&closed);
    assert_eq!(close.application_code(), Some(KICKED.code()));
    assert_eq!(close.reason(), KICKED.name());
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_the_peers_close_frame_and_ends_the_stream() {
    let reasons = [
        (CloseReason::Local, 1000),
        (CloseReason::Shutdown, 1001),
        (CloseReason::IdleTimeout, 1001),
        (CloseReason::LifetimeExpired, 1001),
        (CloseReason::Decode, 1007),
        (CloseReason::SlowConsumer, 1008),
        (CloseReason::TakenOver, 1008),
        (CloseReason::Handler, 1011),
        (WsClose::new(4001, "no such room").into(), 4001),
        (KICKED.into(), 4017),
        // An invalid code is not sent.
        (WsClose::new(1006, "lost").into(), 1011),
        (WsClose::new(77, "").into(), 1011),
    ];
    for (reason, code) in reasons {
        let mut server = Server::echo(WsLayer::new());
        let mut peer = server.open().await;
        let session = server.session().await;
        session.try_send(Message::text("last words")).unwrap();
        session.close_with(reason.clone());
        assert_eq!(peer.frame().await.unwrap().1, b"last words");
        assert_eq!(peer.closes().await, code);
        // The session waits for the peer's close frame only.
        peer.send(FIN | TEXT, b"too late").await;
        assert!(!session.is_closed());
        peer.write(&close_frame(1000, "")).await;
        peer.ends().await;
        let closed = server.end().await;
        assert_eq!(closed.reason, reason);
        assert_eq!(closed.stats.messages_in, 0);
        assert!(closed.source.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_handled_if_pongs_between_them_cannot_be_written() {
    let handled = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let mut server = Server::new(WsLayer::new(), SessionLayer::new(), move |_| {
        let count = Arc::clone(&count);
        async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            None
        }
    });
    let mut peer = server.open().await;
    let _session = server.session().await;
    for n in 0..50 {
        peer.send(FIN | TEXT, b"a message").await;
        if n % 10 == 0 {
            peer.send(FIN | PING, b"").await;
        }
    }
    drop(peer);
    let closed = server.end().await;
    assert_eq!(closed.stats.messages_in, 50);
    assert_eq!(handled.load(std::sync::atomic::Ordering::SeqCst), 50);
}

#[tokio::test(start_paused = true)]
async fn hanging_handler_does_not_prevent_the_close_frame() {
    let mut server = Server::new(WsLayer::new(), SessionLayer::new(), |_| {
        std::future::pending()
    });
    let mut peer = server.open().await;
    let session = server.session().await;
    peer.send(FIN | TEXT, b"hangs").await;
    let start = Instant::now();
    while session.in_flight() == 0 {
        advance(Duration::from_millis(1)).await;
    }
    session.close_with(CloseReason::Shutdown);
    assert_eq!(peer.closes().await, 1001);
    assert_eq!(start.elapsed().as_secs(), 5);
    peer.write(&close_frame(1001, "")).await;
    peer.ends().await;
    let closed = server.end().await;
    assert!(closed.source.unwrap().is::<DrainDeadlineExceeded>());
    assert_eq!(closed.unhandled_messages, 1);
}

#[tokio::test(start_paused = true)]
async fn message_that_is_not_utf8_is_not_sent_as_text_and_closes_with_1011() {
    let (mut peer, handle) = raw_text_server(64 * 1024).await;
    peer.send(FIN | TEXT, b"said first").await;
    assert_eq!(
        peer.frame().await.unwrap(),
        (FIN | TEXT, b"said first".to_vec())
    );
    peer.send(FIN | BINARY, b"\xff").await;
    assert_eq!(peer.closes().await, 1011);
    peer.write(&close_frame(1011, "")).await;
    drop(peer);
    let closed = soon(handle.closed()).await;
    assert_eq!(closed.reason, CloseReason::Encode);
    let source = closed.source.expect("the reason is recorded").to_string();
    assert!(source.contains("not UTF-8"), "{source}");
}

/// Serves an echo that sends any bytes as text, over a pipe of this size.
async fn raw_text_server(pipe: usize) -> (Peer, getty::ConnectionHandle) {
    let (opening, mut opened) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .map_request(move |connection: Connection<DuplexStream>| {
            drop(opening.send(connection.handle().clone()));
            connection
        })
        .layer(WsLayer::new().with_messages(Messages::Text))
        .layer(CodecLayer::new(getty::codec::Raw::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<bytes::Bytes>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let (listener, connector) = memory(pipe);
    Server::serve(listener, stack);
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut peer = Peer { io };
    peer.ask(&request("/", "")).await;
    (peer, soon(opened.recv()).await.unwrap())
}

/// More than a poll reads is in flight when the close begins.
#[tokio::test(start_paused = true)]
async fn close_reads_all_that_was_in_flight_without_a_pause() {
    let (mut peer, handle) = raw_text_server(8 << 20).await;
    soon(handle.opened()).await;
    let start = Instant::now();
    handle.close();
    // The pipe has room for it, so that all of it is there before the session is polled.
    let message = frame(FIN | TEXT, &[b'x'; 16 << 10]);
    peer.write(&message.repeat(256)).await;
    peer.write(&close_frame(1000, "")).await;
    assert_eq!(peer.closes().await, 1000);
    peer.ends().await;
    assert_eq!(soon(handle.closed()).await.reason, CloseReason::Local);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn peer_that_sends_no_close_frame_is_dropped_at_the_drain_deadline() {
    let mut server = Server::echo(WsLayer::new());
    let mut peer = server.open().await;
    let session = server.session().await;
    let start = Instant::now();
    session.close();
    assert_eq!(peer.closes().await, 1000);
    peer.ends().await;
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Local);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_secs(5) && took < Duration::from_secs(6),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn peers_close_frame_is_answered_with_its_code_and_recorded() {
    for (sent, code, reason) in [
        (close_frame(4002, "bored"), 4002, "bored"),
        (close_frame(1000, ""), 1000, ""),
        (frame(FIN | CLOSE, b""), WsClose::NO_CODE, ""),
    ] {
        let mut server = Server::echo(WsLayer::new());
        let mut peer = server.open().await;
        peer.send(FIN | TEXT, b"first").await;
        peer.write(&sent).await;
        // Frames after a close frame are ignored.
        peer.send(FIN | PING, b"").await;
        peer.send(FIN | TEXT, b"second").await;
        assert_eq!(peer.frame().await.unwrap().1, b"first");
        let (first, payload) = peer.frame().await.unwrap();
        assert_eq!(first, FIN | CLOSE);
        let expected = if code == WsClose::NO_CODE {
            Vec::new()
        } else {
            [&code.to_be_bytes()[..], reason.as_bytes()].concat()
        };
        assert_eq!(payload, expected);
        peer.ends().await;
        let closed = server.end().await;
        assert_eq!(closed.reason, CloseReason::PeerClosed);
        assert_eq!(WsClose::of(&closed), WsClose::new(code, reason));
        assert_eq!(closed.stats.messages_in, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_finish_after_the_peers_close_and_nothing_is_sent() {
    let gate = Arc::new(Semaphore::new(0));
    let done = Arc::new(Semaphore::new(0));
    let (entry, exit) = (Arc::clone(&gate), Arc::clone(&done));
    let sessions = SessionLayer::new().with_in_flight(3);
    let mut server = Server::new(WsLayer::new(), sessions, move |request| {
        let (entry, exit) = (Arc::clone(&entry), Arc::clone(&exit));
        async move {
            entry.acquire().await.unwrap().forget();
            tokio::task::yield_now().await;
            exit.add_permits(1);
            Some(request.into_message())
        }
    });
    let mut peer = server.open().await;
    let session = server.session().await;
    for n in 0..3 {
        peer.send(FIN | BINARY, &[n]).await;
    }
    peer.write(&close_frame(1000, "")).await;
    assert_eq!(peer.closes().await, 1000);
    let late = session.send(Message::text("too late")).await;
    assert!(matches!(late, Err(SendError::Closed { .. })), "{late:?}");
    for _ in 0..3 {
        advance(Duration::from_secs(1)).await;
        gate.add_permits(1);
        soon(done.acquire()).await.unwrap().forget();
    }
    peer.ends().await;
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(closed.stats.messages_in, 3);
}

#[tokio::test(start_paused = true)]
async fn lost_connection_closes_with_code_1006() {
    let mut server = Server::echo(WsLayer::new());
    for part in [&b""[..], &frame(FIN | TEXT, b"cut off")[..5]] {
        let mut peer = server.open().await;
        peer.send(FIN | TEXT, b"whole").await;
        peer.write(part).await;
        peer.io.shutdown().await.unwrap();
        // Earlier messages are answered.
        assert_eq!(peer.frame().await.unwrap().1, b"whole");
        peer.ends().await;
        let closed = server.end().await;
        assert_eq!(protocol(&closed), WsClose::ABNORMAL);
        assert_eq!(WsClose::of(&closed).code(), WsClose::ABNORMAL);
        let source = closed.source.unwrap();
        assert_eq!(source.downcast_ref::<WsError>(), Some(&WsError::Truncated));
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_may_close_at_the_same_time() {
    let mut server = Server::echo(WsLayer::new());
    let mut peer = server.open().await;
    let session = server.session().await;
    session.close();
    peer.write(&close_frame(4000, "me too")).await;
    assert_eq!(peer.closes().await, 1000);
    peer.ends().await;
    assert_eq!(server.end().await.reason, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn incomplete_message_is_closed_by_the_read_timeout() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(getty::layers::CloseCallbackLayer::new(
            "test",
            "end",
            move |closed: &Closed| {
                drop(ended.send(closed.clone()));
            },
        ))
        .layer(getty::layers::ReadTimeoutLayer::new(Duration::from_secs(
            10,
        )))
        .layer(WsLayer::new())
        .layer(CodecLayer::new(getty::codec::Raw::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<bytes::Bytes>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let (listener, connector) = memory(1024);
    Server::serve(listener, stack);
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut peer = Peer { io };
    peer.ask(&request("/", "")).await;
    // Sends a fragment every few seconds without an end.
    let drip = tokio::spawn(async move {
        let mut first = BINARY;
        while peer.io.write_all(&frame(first, b"x")).await.is_ok() {
            first = 0;
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    });
    let closed: Closed = soon(ends.recv()).await.unwrap();
    assert_eq!(closed.reason, CloseReason::ReadTimeout, "{closed}");
    drip.abort();
}

#[tokio::test(start_paused = true)]
async fn large_message_may_exceed_the_write_timeout_while_it_progresses() {
    let mut server = Server::echo(WsLayer::new());
    let mut peer = server.open().await;
    let session = server.session().await;
    let sending = tokio::spawn({
        let session = session.clone();
        async move { session.send(Message::binary(vec![7; 1 << 20])).await }
    });
    // Sixteen pieces, one every ten seconds. The timeout is 30 s.
    let mut rest = (1 << 20) + 10;
    while rest > 0 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let mut piece = vec![0; rest.min(64 * 1024)];
        soon(peer.io.read_exact(&mut piece)).await.unwrap();
        rest -= piece.len();
    }
    soon(sending).await.unwrap().unwrap();
    session.send(Message::text("and another")).await.unwrap();
    assert_eq!(peer.frame().await.unwrap().1, b"and another");
    // Without progress the timeout applies.
    let sending = session.send(Message::binary(vec![7; 1 << 20]));
    assert!(soon(sending).await.is_err());
    assert_eq!(server.end().await.reason, CloseReason::WriteTimeout);
}

#[tokio::test(start_paused = true)]
async fn pings_and_close_frames_are_sent_while_a_message_stack_is_created() {
    for refuses in [false, true] {
        let (opening, mut opened) = mpsc::unbounded_channel();
        let made = Arc::new(Semaphore::new(0));
        let making = Arc::clone(&made);
        let stack = ServiceBuilder::new()
            .layer(WsLayer::new().with_messages(Messages::Both))
            .layer(CodecLayer::new(MessageCodec::new()))
            .layer(SessionLayer::per_session())
            .service_fn(move |session: Session<Message>| {
                drop(opening.send(session.clone()));
                let making = Arc::clone(&making);
                async move {
                    session.send(Message::text("welcome")).await?;
                    making.acquire().await?.forget();
                    session.feed(Message::text("go away")).await?;
                    Err::<tower::util::BoxService<Request<Message>, Option<Message>, BoxError>, _>(
                        BoxError::from("on the list"),
                    )
                }
            });
        let (listener, connector) = memory(64 * 1024);
        Server::serve(listener, stack);
        let io = connector.connect().await.unwrap().into_parts().0;
        let mut peer = Peer { io };
        peer.ask(&request("/", "")).await;
        assert_eq!(peer.frame().await.unwrap().1, b"welcome");
        let session = soon(opened.recv()).await.unwrap();
        session.ping();
        assert_eq!(peer.frame().await.unwrap().0, FIN | PING);
        let code = if refuses {
            made.add_permits(1);
            assert_eq!(peer.frame().await.unwrap().1, b"go away");
            1008
        } else {
            session.close_with(CloseReason::Shutdown);
            1001
        };
        assert_eq!(peer.closes().await, code);
        peer.write(&close_frame(code, "")).await;
        peer.ends().await;
        let closed = soon(session.closed()).await;
        assert!(!session.is_open() && closed.stats.messages_in == 0);
    }
}
