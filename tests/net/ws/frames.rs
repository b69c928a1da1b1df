//! Frames on the wire.

use std::{sync::Arc, time::Duration};

use getty::{
    SessionLayer,
    ws::{Message, WsError, WsLayer},
};
use proptest::prelude::*;
use tokio::{sync::Semaphore, time::advance};

use super::*;

#[tokio::test]
async fn messages_are_echoed_whole_with_their_kind() {
    let server = Server::echo(WsLayer::new().with_max_message(1 << 20));
    let mut peer = server.open().await;
    for length in [0, 1, 125, 126, 127, 65535, 65536, 200_000] {
        let bytes: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
        let text = "x".repeat(bytes.len());
        for (kind, payload) in [(BINARY, bytes), (TEXT, text.into_bytes())] {
            // The pipe is short, so both must run concurrently.
            let sent = frame(FIN | kind, &payload);
            let (mut read, mut write) = tokio::io::split(peer.io);
            let writing = tokio::spawn(async move {
                write.write_all(&sent).await.unwrap();
                write
            });
            let mut head = vec![0; frame(0, &payload).len() - 4 - payload.len()];
            soon(read.read_exact(&mut head)).await.unwrap();
            assert_eq!(head[0], FIN | kind);
            let mut back = vec![0; payload.len()];
            soon(read.read_exact(&mut back)).await.unwrap();
            assert!(back == payload, "{length}");
            peer = Peer {
                io: read.unsplit(writing.await.unwrap()),
            };
        }
    }
}

#[tokio::test]
async fn fragments_become_one_message_despite_pings_between_them() {
    let server = Server::echo(WsLayer::new());
    let mut peer = server.open().await;
    // One cut is within a character.
    peer.send(TEXT, b"h\xc3").await;
    peer.send(FIN | PING, b"are you there?").await;
    peer.send(0, b"").await;
    peer.send(FIN, b"\xa4 llo").await;
    assert_eq!(
        peer.frame().await.unwrap(),
        (FIN | PONG, b"are you there?".to_vec())
    );
    assert_eq!(peer.frame().await.unwrap(), (FIN | TEXT, "hä llo".into()));
}

#[tokio::test(start_paused = true)]
async fn ping_is_answered_while_a_handler_is_busy_and_messages_wait() {
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let server = Server::new(WsLayer::new(), SessionLayer::new(), move |request| {
        let waits = Arc::clone(&waits);
        async move {
            waits.acquire().await.unwrap().forget();
            Some(request.into_message())
        }
    });
    let mut peer = server.open().await;
    for message in [b"1", b"2", b"3"] {
        peer.send(FIN | BINARY, message).await;
    }
    for n in 0..10 {
        peer.send(FIN | PING, &[n]).await;
        assert_eq!(peer.frame().await.unwrap(), (FIN | PONG, vec![n]));
    }
    gate.add_permits(3);
    for message in [b"1", b"2", b"3"] {
        assert_eq!(
            peer.frame().await.unwrap(),
            (FIN | BINARY, message.to_vec())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn pings_and_pongs_count_as_activity_of_the_peer() {
    let mut server = Server::echo(WsLayer::new());
    let mut peer = server.open().await;
    let session = server.session().await;
    for control in [PING, PONG] {
        let before = session.last_read();
        advance(Duration::from_secs(5)).await;
        peer.send(FIN | control, b"").await;
        if control == PING {
            peer.frame().await.unwrap();
        }
        while session.last_read() == before {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(session.stats().messages_in, 0);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_sent_as_pings() {
    let stack = ServiceBuilder::new()
        .layer(WsLayer::new())
        .layer(CodecLayer::new(getty::codec::Text::new()))
        .layer(getty::layers::HeartbeatLayer::ping(Duration::from_secs(5)))
        .layer(SessionLayer::new())
        .service_fn(
            |request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) },
        );
    let (listener, connector) = memory(1024);
    Server::serve(listener, stack);
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut peer = Peer { io };
    peer.ask(&request("/", "")).await;
    for _ in 0..3 {
        assert_eq!(peer.frame().await.unwrap(), (FIN | PING, vec![]));
        peer.send(FIN | PONG, b"").await;
    }
}

#[tokio::test]
async fn protocol_violation_closes_with_its_code() {
    let long = [0; 65];
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a frame without a mask", vec![FIN | TEXT, 1, b'x'], 1002),
        ("a reserved bit", frame(FIN | 0x40 | TEXT, b"x"), 1002),
        ("an unknown data opcode", frame(FIN | 3, b"x"), 1002),
        ("an unknown control opcode", frame(FIN | 11, b""), 1002),
        ("a fragmented ping", frame(PING, b""), 1002),
        ("a long ping", frame(FIN | PING, &[0; 126]), 1002),
        ("a continuation without a message", frame(FIN, b"x"), 1002),
        (
            "a message within a message",
            [frame(TEXT, b"x"), frame(FIN | TEXT, b"y")].concat(),
            1002,
        ),
        ("half a code", frame(FIN | CLOSE, b"\x03"), 1002),
        ("an invalid code", close_frame(1005, ""), 1002),
        ("bad text", frame(FIN | TEXT, b"\xff"), 1007),
        ("half a character", frame(FIN | TEXT, b"\xc3"), 1007),
        ("bad text in a fragment", frame(TEXT, b"\xffmore"), 1007),
        (
            "a valid close frame",
            close_frame(1000, "").into_iter().chain([]).collect(),
            1000,
        ),
        ("a long message", frame(FIN | BINARY, &long), 1009),
        (
            "a long fragmented message",
            [frame(BINARY, &long[..60]), frame(FIN, &long[..5])].concat(),
            1009,
        ),
        (
            "a long length in a header",
            vec![
                FIN | BINARY,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0xff,
                0,
                0,
                0,
                0,
            ],
            1009,
        ),
    ];
    for (case, sent, code) in cases {
        let mut server = Server::echo(WsLayer::new().with_max_message(64));
        let mut peer = server.open().await;
        peer.send(FIN | TEXT, b"before").await;
        peer.write(&sent).await;
        let first = peer.frame().await.map(|(_, payload)| payload);
        assert_eq!(first.as_deref(), Some(&b"before"[..]), "{case}");
        assert_eq!(peer.closes().await, code, "{case}");
        peer.ends().await;
        drop(peer);
        let closed = server.end().await;
        if code != 1000 {
            assert_eq!(protocol(&closed), code, "{case}");
            let source = closed.source.unwrap();
            assert_eq!(source.downcast_ref::<WsError>().unwrap().close_code(), code);
        }
    }
}

#[tokio::test]
async fn invalid_text_is_detected_before_its_frame_is_complete() {
    let mut server = Server::echo(WsLayer::new());
    let mut peer = server.open().await;
    let whole = frame(
        FIN | TEXT,
        &[b"good until here: ", &[0xff; 1][..], &[b'x'; 5000]].concat(),
    );
    peer.write(&whole[..100]).await;
    assert_eq!(peer.closes().await, 1007);
    drop(peer);
    assert_eq!(protocol(&server.end().await), 1007);
}

#[tokio::test]
async fn frame_may_have_a_lower_maximum_than_a_message() {
    let server = Server::echo(WsLayer::new().with_max_message(64).with_max_frame(16));
    let mut peer = server.open().await;
    for first in [BINARY, 0, 0, FIN] {
        peer.send(first, &[1; 16]).await;
    }
    assert_eq!(peer.frame().await.unwrap().1, [1; 64]);
    peer.send(FIN | BINARY, &[1; 17]).await;
    assert_eq!(peer.closes().await, 1009);
}

#[tokio::test(start_paused = true)]
async fn last_ping_is_answered_if_the_peer_does_not_read() {
    let server = Server::echo(WsLayer::new());
    let mut peer = server.open().await;
    let (read, mut write) = tokio::io::split(peer.io);
    // Far more than the pipe and the transport can hold.
    let flood = tokio::spawn(async move {
        for n in 0..20_000_u32 {
            let mut payload = [0; 100];
            payload[..4].copy_from_slice(&n.to_be_bytes());
            write.write_all(&frame(FIN | PING, &payload)).await.unwrap();
        }
        write
    });
    let write = soon(flood).await.unwrap();
    peer = Peer {
        io: read.unsplit(write),
    };
    let mut pongs = 0;
    loop {
        let (first, payload) = peer.frame().await.unwrap();
        assert_eq!(first, FIN | PONG);
        pongs += 1;
        if payload[..4] == 19_999_u32.to_be_bytes() {
            break;
        }
    }
    assert!(pongs < 10_000, "{pongs}");
}

#[tokio::test(start_paused = true)]
async fn peer_that_pings_and_never_reads_is_closed_by_the_write_timeout() {
    for with_messages in [false, true] {
        // The handler sends no replies. So only pongs may be written.
        let sessions = SessionLayer::new().with_write_timeout(Duration::from_secs(10));
        let mut server = Server::new(WsLayer::new(), sessions, |_| async { None });
        let peer = server.open().await;
        let (_unread, mut write) = tokio::io::split(peer.io);
        let pings = tokio::spawn(async move {
            loop {
                let ping = write.write_all(&frame(FIN | PING, &[b'x'; 100])).await;
                let message = async {
                    if with_messages {
                        write.write_all(&frame(FIN | BINARY, b"x")).await?;
                    }
                    Ok::<_, std::io::Error>(())
                };
                if ping.and(message.await).is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let closed = server.end().await;
        assert_eq!(closed.reason, CloseReason::WriteTimeout);
        soon(pings).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_pings_and_reads_slowly_stays_connected() {
    let sessions = SessionLayer::new().with_write_timeout(Duration::from_secs(10));
    let mut server = Server::new(WsLayer::new(), sessions, |_| async { None });
    let peer = server.open().await;
    let (mut read, mut write) = tokio::io::split(peer.io);
    for round in 0..3000 {
        write
            .write_all(&frame(FIN | PING, &[b'x'; 100]))
            .await
            .unwrap();
        if round % 9 == 0 {
            let mut pong = [0; 102];
            soon(read.read_exact(&mut pong)).await.unwrap();
            assert_eq!(pong[..2], [FIN | PONG, 100]);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(server.ends.try_recv().is_err());
}

#[tokio::test]
async fn concurrent_sends_arrive_as_whole_frames() {
    let mut server = Server::echo(WsLayer::new());
    let mut peer = server.open().await;
    let session = server.session().await;
    let senders = (0..8_u8).map(|n| {
        let session = session.clone();
        async move {
            for _ in 0..50 {
                let bytes = vec![n; 1000 * usize::from(n)];
                session.send(Message::binary(bytes)).await.unwrap();
            }
        }
    });
    let senders: Vec<_> = senders.map(tokio::spawn).collect();
    for _ in 0..400 {
        let (_, payload) = peer.frame().await.unwrap();
        let n = payload.first().copied().unwrap_or(0);
        assert!(payload.iter().all(|byte| *byte == n));
        assert_eq!(payload.len(), 1000 * usize::from(n));
    }
    for sender in senders {
        soon(sender).await.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Messages must arrive whole, in order and with their kind for any division into frames and
    /// writes.
    #[test]
    fn messages_arrive_whole_for_any_fragmentation(
        messages in prop::collection::vec((any::<bool>(), prop::collection::vec("[a-zä-ü]{0,40}", 1..5)), 1..8),
        pieces in prop::collection::vec(1_usize..50, 1..8),
    ) {
        let mut wire = Vec::new();
        for (text, fragments) in &messages {
            let kind = if *text { TEXT } else { BINARY };
            for (at, fragment) in fragments.iter().enumerate() {
                let first = if at == 0 { kind } else { 0 };
                let last = if at + 1 == fragments.len() { FIN } else { 0 };
                wire.extend(frame(first | last, fragment.as_bytes()));
                wire.extend(frame(FIN | PONG, b"beside"));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::echo(WsLayer::new());
            let mut peer = server.open().await;
            let mut rest = &wire[..];
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*piece));
                peer.write(now).await;
                tokio::task::yield_now().await;
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            for (text, fragments) in &messages {
                let kind = if *text { TEXT } else { BINARY };
                let (first, payload) = peer.frame().await.unwrap();
                assert_eq!(first, FIN | kind);
                assert_eq!(payload, fragments.concat().into_bytes());
            }
        });
    }

    /// After any bytes from the peer the session must close in order or wait for more.
    #[test]
    fn garbage_neither_panics_nor_is_echoed_endlessly(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut server = Server::echo(WsLayer::new());
            let mut peer = server.open().await;
            peer.write(&bytes).await;
            soon(peer.io.shutdown()).await.unwrap();
            let closed = server.end().await;
            assert_ne!(closed.reason, CloseReason::Panicked);
        });
    }
}
