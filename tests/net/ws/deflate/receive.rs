//! Receiving compressed messages.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use getty::ws::WsError;

use super::*;

/// Sends `bytes`. Returns the code with which the server closes and its record.
async fn refused(layer: WsLayer, bytes: &[u8]) -> (u16, Closed) {
    let mut server = Server::echo(layer);
    let peer = server.open_deflate().await;
    let (mut read, mut write) = tokio::io::split(peer.io);
    let bytes = bytes.to_vec();
    // The write may fail because the server may stop reading.
    let writing = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut head = [0; 2];
    soon(read.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[0], FIN | CLOSE, "{head:?}");
    let mut payload = vec![0; head[1].into()];
    soon(read.read_exact(&mut payload)).await.unwrap();
    tokio::spawn(async move {
        let mut rest = Vec::new();
        let _ = read.read_to_end(&mut rest).await;
    });
    drop(writing.await.unwrap());
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    (code, server.end().await)
}

/// Contract 3.
#[tokio::test]
async fn rsv1_is_accepted_only_on_the_first_data_frame_of_a_message() {
    let text = json(600);
    let payload = deflate(text.as_bytes());
    let (one, other) = payload.split_at(20);
    let mut server = Server::echo(layer());
    let mut peer = server.open_deflate().await;
    peer.send(RSV1 | TEXT, one).await;
    peer.send(0, b"").await;
    peer.send(FIN, other).await;
    let (first, payload) = peer.frame().await.unwrap();
    assert_eq!((first, inflate(&payload)), (FIN | RSV1 | TEXT, text.into()));
    drop(peer);
    server.end().await;

    for bytes in [
        [frame(RSV1 | TEXT, one), frame(FIN | RSV1, other)].concat(),
        [frame(TEXT, b"plain"), frame(FIN | RSV1, b"")].concat(),
        frame(FIN | RSV1 | PING, b""),
        frame(FIN | RSV1 | CLOSE, b""),
        frame(FIN | RSV1 | 3, b""),
        frame(FIN | 0x20 | TEXT, b""),
        frame(FIN | RSV1 | 0x10 | TEXT, b""),
    ] {
        let (code, closed) = refused(layer(), &bytes).await;
        assert_eq!(code, 1002, "{bytes:?}");
        assert_eq!(protocol(&closed), 1002);
    }
}

/// Contract 4.
#[tokio::test]
async fn the_maximum_of_a_message_bounds_inflated_and_compressed_bytes() {
    let limited = || layer().with_max_message(1000);
    // The exact maximum must be accepted. Noise becomes longer than it.
    let mut server = Server::echo(limited());
    let mut peer = server.open_deflate().await;
    for message in [vec![b'x'; 1000], noise(1000)] {
        peer.send(FIN | RSV1 | BINARY, &deflate(&message)).await;
        let (first, payload) = peer.frame().await.unwrap();
        let back = match first & RSV1 {
            0 => payload,
            _ => inflate(&payload),
        };
        assert!(back == message);
    }
    drop(peer);
    server.end().await;

    let long = deflate(&[b'x'; 1001]);
    let (one, other) = long.split_at(long.len() / 2);
    // 400 empty blocks have no output and more input than a message of 1,000 bytes can need.
    let empty = [0, 0, 0, 0xff, 0xff].repeat(400);
    let fragments: Vec<u8> = empty
        .chunks(100)
        .enumerate()
        .flat_map(|(n, chunk)| frame(if n == 0 { RSV1 | BINARY } else { 0 }, chunk))
        .collect();
    for bytes in [
        frame(FIN | RSV1 | BINARY, &long),
        [frame(RSV1 | BINARY, one), frame(FIN, other)].concat(),
        frame(FIN | RSV1 | BINARY, &empty),
        fragments,
    ] {
        let (code, closed) = refused(limited(), &bytes).await;
        assert_eq!(code, 1009);
        let source = closed.source.as_ref().unwrap().downcast_ref();
        assert_eq!(source, Some(&WsError::TooLong { limit: 1000 }));
    }
    // The maximum of a frame is that of its bytes on the wire.
    let framed = || layer().with_max_frame(64);
    let (code, _) = refused(framed(), &frame(FIN | RSV1 | BINARY, &deflate(&noise(100)))).await;
    assert_eq!(code, 1009);
    let server = Server::echo(framed());
    let mut peer = server.open_deflate().await;
    peer.send(FIN | RSV1 | BINARY, &deflate(&[b'x'; 5000]))
        .await;
    assert_eq!(inflate(&peer.frame().await.unwrap().1), [b'x'; 5000]);
}

/// Contract 4 with real bombs.
#[tokio::test]
async fn a_bomb_ends_its_session_with_1009_before_it_is_inflated() {
    let bomb = deflate(&vec![0; 64 * 1024 * 1024]);
    assert!(bomb.len() * 1000 < 64 * 1024 * 1024 + 1024 * 1024);
    let fragments: Vec<u8> = bomb
        .chunks(64)
        .enumerate()
        .flat_map(|(n, chunk)| frame(if n == 0 { RSV1 | TEXT } else { 0 }, chunk))
        .collect();
    for bytes in [frame(FIN | RSV1 | TEXT, &bomb), fragments] {
        let (code, closed) = refused(layer(), &bytes).await;
        assert_eq!(code, 1009);
        let source = closed.source.as_ref().unwrap().downcast_ref();
        assert_eq!(source, Some(&WsError::TooLong { limit: 64 * 1024 }));
    }
}

/// Contract 5.
#[tokio::test]
async fn text_is_checked_as_it_is_inflated_and_bad_deflate_closes_with_1007() {
    // The invalid byte is inflated before the message ends.
    let bad = [json(300).into_bytes(), vec![0xff], json(300).into_bytes()].concat();
    let payload = flushed(&bad, FlushCompress::Sync);
    let (code, _) = refused(layer(), &frame(RSV1 | TEXT, &payload)).await;
    assert_eq!(code, 1007);
    // A character that is incomplete at the end of the message.
    let (code, _) = refused(layer(), &frame(FIN | RSV1 | TEXT, &deflate(b"abc\xc3"))).await;
    assert_eq!(code, 1007);

    let good = deflate(json(300).as_bytes());
    for (what, payload) in [
        ("a reserved kind of block", &[0x07][..]),
        ("a truncated message", &good[..good.len() - 20]),
        ("a plain message", b"hello, hello, hello"),
        ("a stored block with a wrong length", &[0, 5, 0, 5, 0]),
    ] {
        for bytes in [
            frame(FIN | RSV1 | BINARY, payload),
            [
                frame(RSV1 | BINARY, &payload[..1]),
                frame(FIN, &payload[1..]),
            ]
            .concat(),
        ] {
            let (code, closed) = refused(layer(), &bytes).await;
            assert_eq!(code, 1007, "{what}");
            let source = closed.source.as_ref().unwrap().downcast_ref();
            assert_eq!(source, Some(&WsError::InvalidDeflate), "{what}");
        }
    }
}

/// Contract 5: the final block.
#[tokio::test]
async fn a_message_goes_on_after_a_final_block() {
    let server = Server::echo(layer());
    let mut peer = server.open_deflate().await;
    let (one, other) = (json(700), json(900));
    let finished = flushed(one.as_bytes(), FlushCompress::Finish);
    for (payload, expected) in [
        // as in RFC 7692 (section 7.2.3.4) and without the empty block
        ([&finished[..], &[0]].concat(), one.clone()),
        (finished.clone(), one.clone()),
        (
            [&finished[..], &deflate(other.as_bytes())].concat(),
            one.clone() + &other,
        ),
        ([&finished[..], &finished].concat(), one.repeat(2)),
        // The last block is final, empty and stored. Its length is left out with the marker.
        (
            [&deflate(one.as_bytes())[..], &[0, 0, 0xff, 0xff, 1]].concat(),
            one.clone(),
        ),
    ] {
        for cut in [1, finished.len() - 1, finished.len(), payload.len()] {
            let (start, end) = payload.split_at(cut);
            peer.send(RSV1 | TEXT, start).await;
            peer.send(FIN, end).await;
            let (_, payload) = peer.frame().await.unwrap();
            assert!(inflate(&payload) == expected.as_bytes(), "{cut}");
        }
    }
}

/// Contract 6.
#[tokio::test]
async fn inflating_takes_cooperative_budget() {
    // A client sends 64 MiB of zeros. Another task must run meanwhile.
    let server = Server::new(
        layer().with_max_message(1 << 20),
        SessionLayer::new(),
        |_| async { None },
    );
    let mut peer = server.open_deflate().await;
    let bytes = frame(FIN | RSV1 | BINARY, &deflate(&vec![0; 1 << 20])).repeat(64);
    assert!(bytes.len() > 64 * 1024);
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let other = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
        }
    });
    peer.write(&bytes).await;
    peer.send(FIN | PING, b"last").await;
    assert_eq!(peer.frame().await.unwrap(), (FIN | PONG, b"last".to_vec()));
    other.abort();
    // 64 MiB are 2,048 units of 32 KiB. A poll may use 128.
    assert!(runs.load(Relaxed) >= 16, "{runs:?}");
}

/// Contract 7: receiving.
#[tokio::test]
async fn an_empty_message_is_a_byte_of_zero() {
    let server = Server::echo(layer());
    let mut peer = server.open_deflate().await;
    for payload in [&[0][..], &[0, 0, 0, 0xff, 0xff, 0], &[3, 0], &[1], &[]] {
        peer.send(FIN | RSV1 | TEXT, payload).await;
        // One byte is not shorter than none. So the answer must be plain.
        assert_eq!(peer.frame().await.unwrap(), (FIN | TEXT, vec![]));
        peer.send(RSV1 | TEXT, payload).await;
        peer.send(FIN, b"").await;
        assert_eq!(peer.frame().await.unwrap(), (FIN | TEXT, vec![]));
    }
}

#[tokio::test]
async fn pings_between_fragments_of_a_compressed_message_are_answered() {
    let server = Server::echo(layer());
    let mut peer = server.open_deflate().await;
    let text = json(5000);
    let payload = deflate(text.as_bytes());
    let chunks: Vec<&[u8]> = payload.chunks(7).collect();
    for (n, chunk) in chunks.iter().enumerate() {
        let ping = n.to_be_bytes();
        let first = if n == 0 { RSV1 | TEXT } else { 0 };
        let last = if n + 1 == chunks.len() { FIN } else { 0 };
        peer.send(FIN | PING, &ping).await;
        assert_eq!(peer.frame().await.unwrap(), (FIN | PONG, ping.to_vec()));
        peer.send(first | last, chunk).await;
    }
    let (first, payload) = peer.frame().await.unwrap();
    assert_eq!((first, inflate(&payload)), (FIN | RSV1 | TEXT, text.into()));
}

#[tokio::test]
async fn statistics_count_plain_bytes() {
    let mut server = Server::echo(layer());
    let mut peer = server.open_deflate().await;
    let text = json(50_000);
    peer.send(FIN | RSV1 | TEXT, &deflate(text.as_bytes()))
        .await;
    peer.frame().await.unwrap();
    let stats = server.session().await.stats();
    assert_eq!(stats.bytes_in, 50_000);
    // with the tag byte between codec and transport
    assert_eq!(stats.bytes_out, 50_001);
}

#[tokio::test]
async fn nothing_is_inflated_after_the_close() {
    let mut server = Server::echo(layer());
    let mut peer = server.open_deflate().await;
    let text = json(5000);
    let payload = deflate(text.as_bytes());
    peer.send(RSV1 | TEXT, &payload[..30]).await;
    peer.send(FIN | PING, b"").await;
    peer.frame().await.unwrap();
    server.session().await.close();
    assert_eq!(peer.closes().await, 1000);
    // The rest of the message and another message are ignored. Neither is valid.
    peer.send(FIN, &[7, 7, 7]).await;
    peer.send(FIN | RSV1 | TEXT, &[7, 7, 7]).await;
    peer.write(&close_frame(1000, "")).await;
    peer.ends().await;
    assert_eq!(server.end().await.reason, CloseReason::Local);
}
