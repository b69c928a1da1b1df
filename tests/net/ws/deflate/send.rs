//! Sending compressed messages.

use getty::compress::Level;

use super::*;

/// Returns the first byte and the message of the echo of a plain message.
async fn echo(peer: &mut Peer, kind: u8, message: &[u8]) -> (u8, Vec<u8>) {
    peer.send(FIN | kind, message).await;
    let (first, payload) = peer.frame().await.unwrap();
    assert_eq!(first & !RSV1, FIN | kind);
    match first & RSV1 {
        0 => (first, payload),
        _ => {
            assert!(payload.len() < message.len());
            (first, inflate(&payload))
        }
    }
}

/// Contracts 7 and 8.
#[tokio::test]
async fn a_message_that_does_not_become_shorter_is_sent_plain() {
    let server = Server::echo(layer().with_max_message(1 << 20));
    let mut peer = server.open_deflate().await;
    for (message, is_compressed) in [
        (vec![], false),
        (b"x".to_vec(), false),
        (b"abcdefgh".to_vec(), false),
        (noise(300), false),
        (noise(20_000), false),
        (vec![b'x'; 30], true),
        (json(50_000).into_bytes(), true),
        ([noise(10_000), vec![0; 10_000]].concat(), true),
    ] {
        for _ in 0..2 {
            let (first, back) = echo(&mut peer, BINARY, &message).await;
            assert_eq!(first & RSV1 != 0, is_compressed, "{}", message.len());
            assert!(back == message);
        }
    }
}

#[tokio::test]
async fn messages_after_incompressible_ones_are_intact() {
    let text = json(3000);
    for level in [1, 2, 6, 9] {
        let deflate = Deflate::new()
            .with_threshold(0)
            .with_level(Level::new(level));
        let server = Server::echo(WsLayer::new().with_deflate(deflate));
        let mut peer = server.open_deflate().await;
        for length in (1..40).flat_map(|n| [n * 27, n * 601]) {
            let message = noise(length);
            assert!(echo(&mut peer, BINARY, &message).await.1 == message);
            let (first, back) = echo(&mut peer, TEXT, text.as_bytes()).await;
            assert_eq!(first, FIN | RSV1 | TEXT);
            assert!(back == text.as_bytes());
        }
    }
}

#[tokio::test]
async fn messages_below_the_threshold_and_refused_by_the_filter_are_sent_plain() {
    let deflate = Deflate::new()
        .with_threshold(100)
        .with_filter(|message| !message.starts_with(b"secret"));
    let server = Server::echo(WsLayer::new().with_deflate(deflate));
    let mut peer = server.open_deflate().await;
    for (message, is_compressed) in [
        ("x".repeat(99), false),
        ("x".repeat(100), true),
        (format!("secret{}", "x".repeat(100)), false),
    ] {
        let (first, back) = echo(&mut peer, TEXT, message.as_bytes()).await;
        assert_eq!(first & RSV1 != 0, is_compressed, "{message}");
        assert_eq!(back, message.as_bytes());
    }
}

#[tokio::test]
async fn the_compressor_keeps_to_the_window_that_was_agreed() {
    let server = Server::echo(layer());
    for bits in [9, 15] {
        let mut peer = server.connect().await;
        let more = format!(
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={bits}\r\n"
        );
        let head = peer.ask(&request("/", &more)).await;
        assert!(
            head.contains(&format!("server_max_window_bits={bits}")),
            "{head}"
        );
        // The second copy is 10,000 bytes behind the first. A small window does not reach it.
        let message = noise(10_000).repeat(2);
        peer.send(FIN | BINARY, &message).await;
        let (first, payload) = peer.frame().await.unwrap();
        assert_eq!(first & RSV1 != 0, bits == 15);
        if bits == 15 {
            assert!(payload.len() < 11_000);
            assert!(inflate(&payload) == message);
        }
    }
}

#[tokio::test]
async fn every_level_is_inflated_by_the_peer() {
    let text = json(40_000);
    for level in [0, 1, 2, 3, 6, 9, 200] {
        let deflate = Deflate::new().with_level(Level::new(level));
        let server = Server::echo(WsLayer::new().with_deflate(deflate));
        let mut peer = server.open_deflate().await;
        let (first, back) = echo(&mut peer, TEXT, text.as_bytes()).await;
        assert_eq!(first, FIN | RSV1 | TEXT);
        assert!(back == text.as_bytes());
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_is_not_sent_compressed_either() {
    let stack = ServiceBuilder::new()
        .layer(layer().with_messages(Messages::Text))
        .layer(CodecLayer::new(getty::codec::Raw::new()))
        .layer(SessionLayer::new())
        .service_fn(|_: Request<bytes::Bytes>| async {
            Ok::<_, BoxError>(bytes::Bytes::from(vec![0xff; 2000]))
        });
    let (listener, connector) = memory(64 * 1024);
    Server::serve(listener, stack);
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut peer = Peer { io };
    peer.ask(&request("/", OFFER)).await;
    peer.send(FIN | TEXT, b"go").await;
    assert_eq!(peer.closes().await, 1011);
}
