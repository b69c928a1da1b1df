//! Client side against a server that is written byte by byte.

use std::sync::{Arc, Mutex};

use getty::ws::{WsConnectError, WsConnectLayer};
use tokio::io::DuplexStream;
use tower::{Layer, ServiceExt, service_fn};

use super::*;

/// Connects a client and answers its request with these header fields. Returns the server's end
/// of the stream, and the client's connection.
async fn open(
    layer: WsConnectLayer,
    more: &str,
) -> (
    Peer,
    Result<Connection<getty::ws::WsTransport<DuplexStream>>, WsConnectError>,
) {
    open_with(layer, " client_no_context_takeover;", more).await
}

/// As [`open`], for a client that offers other parameters.
async fn open_with(
    layer: WsConnectLayer,
    offered: &str,
    more: &str,
) -> (
    Peer,
    Result<Connection<getty::ws::WsTransport<DuplexStream>>, WsConnectError>,
) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let theirs = Arc::new(Mutex::new(Some(theirs)));
    let connector = service_fn(move |_: (String, u16)| {
        let io = theirs.lock().unwrap().take();
        async move { io.map(Connection::new).ok_or("one connection only") }
    });
    let client = layer
        .with_messages(Messages::Both)
        .layer(connector)
        .oneshot("ws://example.com/");
    let client = tokio::spawn(client);
    let mut peer = Peer { io: ours };
    let head = peer.head().await;
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("sec-websocket-key: "))
        .unwrap();
    let offer = format!(
        "sec-websocket-extensions: permessage-deflate; server_no_context_takeover;{offered} \
         client_max_window_bits\r\n"
    );
    assert!(head.contains(&offer), "{head}");
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    peer.write(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
        )
        .as_bytes(),
    )
    .await;
    let client = soon(client).await.unwrap();
    (peer, client)
}

fn layer() -> WsConnectLayer {
    WsConnectLayer::new().with_deflate(Deflate::new().with_threshold(0))
}

/// Reads a masked frame. Returns its first byte and its payload.
async fn masked_frame(peer: &mut Peer) -> (u8, Vec<u8>) {
    let first = soon(peer.io.read_u8()).await.unwrap();
    let length = match soon(peer.io.read_u8()).await.unwrap() {
        length @ 0x80..0xfe => usize::from(length - 0x80),
        0xfe => soon(peer.io.read_u16()).await.unwrap().into(),
        other => panic!("{other}"),
    };
    let mut mask = [0; 4];
    soon(peer.io.read_exact(&mut mask)).await.unwrap();
    let mut payload = vec![0; length];
    soon(peer.io.read_exact(&mut payload)).await.unwrap();
    let bytes = payload.iter().zip(mask.iter().cycle());
    (first, bytes.map(|(byte, mask)| byte ^ mask).collect())
}

/// Contract 2.
#[tokio::test]
async fn a_client_keeps_to_what_it_offered_even_if_the_answer_omits_it() {
    for (more, window) in [
        ("", 15),
        ("; client_no_context_takeover", 15),
        ("; client_max_window_bits=9", 9),
        ("; client_max_window_bits=8", 8),
    ] {
        let answer = format!(
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover{more}\r\n"
        );
        let (mut peer, client) = open(layer(), &answer).await;
        let client = client.unwrap();
        let agreed: WsDeflate = client.handle().get().unwrap();
        assert!(agreed.client_no_context_takeover());
        assert_eq!(agreed.client_max_window_bits(), window);
        let text = json(2000);
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(MessageCodec::new()))
            .layer(SessionLayer::new())
            .service_fn(|request: Request<Message>| async move {
                Ok::<_, BoxError>(request.into_message())
            });
        tokio::spawn(stack.oneshot(client));
        for _ in 0..2 {
            // A server's frame has no mask.
            let payload = deflate(text.as_bytes());
            let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
            let mut frame = vec![FIN | RSV1 | TEXT, 126, length[0], length[1]];
            frame.extend(payload);
            peer.write(&frame).await;
            let (first, payload) = masked_frame(&mut peer).await;
            if window == 8 {
                assert_eq!((first, payload), (FIN | TEXT, text.clone().into()));
            } else {
                // Each message can be inflated alone.
                assert_eq!(
                    (first, inflate(&payload)),
                    (FIN | RSV1 | TEXT, text.clone().into())
                );
            }
        }
    }
}

#[tokio::test]
async fn messages_of_a_client_with_takeover_refer_to_earlier_ones() {
    let contexts = getty::compress::Contexts::new(4);
    let deflate = Deflate::new().with_threshold(0);
    let layer = WsConnectLayer::new().with_deflate(deflate.with_sender_takeover(contexts));
    let answer = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
    let (mut peer, client) = open_with(layer, "", answer).await;
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(MessageCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Message>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    tokio::spawn(stack.oneshot(client.unwrap()));
    let mut inflater = Decompress::new(false);
    for n in 0..20 {
        let text = format!("a message, a message, a message, a message with the number {n}");
        let mut frame = vec![FIN | TEXT, u8::try_from(text.len()).unwrap()];
        frame.extend_from_slice(text.as_bytes());
        peer.write(&frame).await;
        let (first, payload) = masked_frame(&mut peer).await;
        let mut back = Vec::with_capacity(1024);
        assert_eq!(first, FIN | RSV1 | TEXT);
        assert!(n < 2 || payload.len() < 15, "{n}: {}", payload.len());
        let input = [&payload[..], &[0, 0, 0xff, 0xff]].concat();
        let sync = FlushDecompress::Sync;
        inflater.decompress_vec(&input, &mut back, sync).unwrap();
        assert_eq!(back, text.as_bytes());
    }
}

#[tokio::test]
async fn a_client_without_an_answer_sends_plain_and_refuses_compressed_messages() {
    let (mut peer, client) = open(layer(), "").await;
    let client = client.unwrap();
    assert_eq!(client.handle().get::<WsDeflate>(), None);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(MessageCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Message>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    tokio::spawn(stack.oneshot(client));
    peer.write(&[FIN | TEXT, 3, b'x', b'x', b'x']).await;
    assert_eq!(masked_frame(&mut peer).await, (FIN | TEXT, b"xxx".to_vec()));
    peer.write(&[FIN | RSV1 | TEXT, 1, 0]).await;
    let (first, payload) = masked_frame(&mut peer).await;
    assert_eq!(
        (first, &payload[..2]),
        (FIN | CLOSE, &1002_u16.to_be_bytes()[..])
    );
}

#[tokio::test]
async fn a_client_refuses_an_answer_that_does_not_fit_its_offer() {
    for (answer, error) in [
        ("permessage-deflate", "ignores server_no_context_takeover"),
        (
            "permessage-deflate; server_no_context_takeover; x",
            "parameters",
        ),
        ("permessage-bzip2", "not offered"),
    ] {
        let answer = format!("Sec-WebSocket-Extensions: {answer}\r\n");
        let (_peer, client) = open(layer(), &answer).await;
        match client {
            Err(WsConnectError::InvalidResponse(what)) => assert!(what.contains(error), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}
