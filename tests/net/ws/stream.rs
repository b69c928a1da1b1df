//! WebSocket messages as a byte stream, over TCP with tokio-tungstenite as the peer.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use getty::{
    Layer, codec,
    layers::HeartbeatLayer,
    net,
    ws::{WsConnectLayer, WsError, WsStream},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message as Sent,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};
use tower::ServiceExt;

use super::*;

/// Serves echoed lines behind `layer`. Returns the address and the close records.
async fn echo_lines(layer: WsLayer) -> (SocketAddr, mpsc::UnboundedReceiver<Closed>) {
    let (ended, ends) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .map_request(move |connection: Connection<TcpStream>| {
            let ended = ended.clone();
            let report = move |closed: &Closed| drop(ended.send(closed.clone()));
            connection
                .handle()
                .add_close_callback("test", "end", report);
            connection
        })
        .layer(layer.as_stream())
        .layer(CodecLayer::new(
            codec::Lines::new().with_max_length(1 << 20),
        ))
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()));
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = getty::Listener::local_addr(&listener).unwrap();
    tokio::spawn(async move { getty::serve(listener, stack).await });
    (address.socket_addr().unwrap(), ends)
}

async fn dial(address: SocketAddr) -> WebSocketStream<TcpStream> {
    let io = TcpStream::connect(address).await.unwrap();
    soon(client_async(format!("ws://{address}/"), io))
        .await
        .unwrap()
        .0
}

/// Receives until `bytes` bytes have arrived, and returns them with the length of each message.
async fn receive(ws: &mut WebSocketStream<TcpStream>, bytes: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut received, mut lengths) = (Vec::new(), Vec::new());
    while received.len() < bytes {
        match soon(ws.next()).await.unwrap().unwrap() {
            Sent::Pong(_) => {}
            message => {
                lengths.push(message.len());
                received.extend_from_slice(&message.into_data());
            }
        }
    }
    (received, lengths)
}

/// Returns the code of the next close frame.
async fn close_code(ws: &mut WebSocketStream<TcpStream>) -> u16 {
    loop {
        if let Sent::Close(close) = soon(ws.next()).await.unwrap().unwrap() {
            return close.unwrap().code.into();
        }
    }
}

#[tokio::test]
async fn frames_of_the_codec_are_independent_of_messages() {
    let (address, mut ends) = echo_lines(WsLayer::new()).await;
    let mut ws = dial(address).await;
    // One line in three messages, with a ping and an empty message between them.
    for part in ["hel", "", "lo"] {
        ws.send(Sent::binary(part)).await.unwrap();
        ws.send(Sent::Ping(Bytes::from_static(b"?"))).await.unwrap();
    }
    // The end of that line, two more lines and the beginning of the next.
    ws.send(Sent::binary("\none\ntwo\nthr")).await.unwrap();
    // A message in several frames.
    for (opcode, part, is_final) in [
        (Data::Binary, "ee\nfo", false),
        (Data::Continue, "ur", false),
        (Data::Continue, "\n", true),
    ] {
        let frame = Frame::message(part, OpCode::Data(opcode), is_final);
        ws.send(Sent::Frame(frame)).await.unwrap();
    }
    let lines = b"hello\none\ntwo\nthree\nfour\n";
    let (received, _) = receive(&mut ws, lines.len()).await;
    assert_eq!(received, lines);
    ws.close(None).await.unwrap();
    let closed = soon(ends.recv()).await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(closed.stats.messages_in, 5);
}

#[tokio::test]
async fn text_is_refused_with_code_1003() {
    let (address, mut ends) = echo_lines(WsLayer::new()).await;
    let mut ws = dial(address).await;
    ws.send(Sent::binary("first\n")).await.unwrap();
    ws.send(Sent::text("second\n")).await.unwrap();
    let (received, _) = receive(&mut ws, 6).await;
    assert_eq!(received, b"first\n");
    assert_eq!(close_code(&mut ws).await, 1003);
    // The next poll sends the peer's close frame.
    assert!(soon(ws.next()).await.is_none());
    let closed = soon(ends.recv()).await.unwrap();
    assert_eq!(protocol(&closed), 1003);
    let source = closed.source.unwrap();
    assert_eq!(source.downcast_ref(), Some(&WsError::TextRefused));
}

#[tokio::test]
async fn long_frames_are_sent_in_several_messages() {
    const MAX: usize = 64 * 1024;

    let (address, _ends) = echo_lines(WsLayer::new()).await;
    let mut ws = dial(address).await;
    let line = [vec![b'x'; 300_000], b"\n".to_vec()].concat();
    for part in line.chunks(MAX) {
        ws.send(Sent::binary(part.to_vec())).await.unwrap();
    }
    let (received, lengths) = receive(&mut ws, line.len()).await;
    assert!(received == line);
    assert!(lengths.iter().all(|length| *length <= MAX), "{lengths:?}");
}

#[tokio::test]
async fn text_is_cut_between_characters() {
    let (address, _ends) = echo_lines(WsLayer::new().with_messages(Messages::Text)).await;
    let mut ws = dial(address).await;
    // An odd number of bytes before characters of two bytes.
    let line = format!("x{}\n", "ä".repeat(100_000));
    // Bytes need not be cut between characters when they are sent as binary.
    for part in line.as_bytes().chunks(50_000) {
        ws.send(Sent::binary(part.to_vec())).await.unwrap();
    }
    let mut received = String::new();
    while received.len() < line.len() {
        match soon(ws.next()).await.unwrap().unwrap() {
            Sent::Text(text) => received.push_str(&text),
            other => panic!("{other:?}"),
        }
    }
    assert!(received == line);
    ws.send(Sent::text("text is accepted\n")).await.unwrap();
    let (received, _) = receive(&mut ws, 17).await;
    assert_eq!(received, b"text is accepted\n");
}

#[tokio::test]
async fn message_beyond_the_read_ahead_waits_for_the_handlers() {
    const LINES: usize = 6_000;

    let (called, mut calls) = mpsc::channel(1);
    let stack = ServiceBuilder::new()
        .layer(WsLayer::new().as_stream())
        .layer(CodecLayer::new(codec::Lines::new()).with_max_frame(1024))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            let called = called.clone();
            async move {
                called.send(request.into_message()).await?;
                Ok::<_, BoxError>(None)
            }
        });
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = getty::Listener::local_addr(&listener).unwrap();
    tokio::spawn(async move { getty::serve(listener, stack).await });
    let mut ws = dial(address.socket_addr().unwrap()).await;
    let lines: Vec<_> = (0..LINES).map(|n| format!("{n:05}\n")).collect();
    ws.send(Sent::binary(lines.concat())).await.unwrap();
    ws.send(Sent::Ping(Bytes::new())).await.unwrap();
    for line in lines {
        tokio::task::yield_now().await;
        assert_eq!(soon(calls.recv()).await.unwrap(), line.trim_end());
    }
    assert!(matches!(
        soon(ws.next()).await.unwrap().unwrap(),
        Sent::Pong(_)
    ));
}

#[tokio::test]
async fn client_is_a_stream_too_and_sends_pings_and_its_close_code() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/mqtt", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let io = listener.accept().await.unwrap().0;
        let mut ws = accept_async(io).await.unwrap();
        let (mut pings, mut input) = (0, Vec::new());
        while pings == 0 || !input.ends_with(b"\n") {
            match soon(ws.next()).await.unwrap().unwrap() {
                Sent::Binary(bytes) => input.extend_from_slice(&bytes),
                Sent::Ping(_) => pings += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(input, b"hello\n");
        for part in ["wor", "ld\nbye", "\n"] {
            ws.send(Sent::binary(part)).await.unwrap();
        }
        close_code(&mut ws).await
    });
    let connector = WsConnectLayer::new()
        .as_stream()
        .layer(net::TcpConnector::new());
    let (seen, mut lines) = mpsc::unbounded_channel();
    let (session, _task) = getty::connect(connector, url, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(codec::Lines::new()))
            .layer(link)
            .layer(HeartbeatLayer::ping(Duration::from_millis(20)))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                let _ = seen.send(request.into_message());
                async { Ok::<_, BoxError>(None) }
            })
    })
    .await
    .unwrap();
    session.send("hello".to_owned()).await.unwrap();
    assert_eq!(soon(lines.recv()).await.as_deref(), Some("world"));
    assert_eq!(soon(lines.recv()).await.as_deref(), Some("bye"));
    session.close_with(getty::ApplicationClose::new(7, "done"));
    assert_eq!(soon(server).await.unwrap(), 4007);
}

#[tokio::test]
async fn any_connector_of_websockets_can_be_mapped() {
    let (address, _ends) = echo_lines(WsLayer::new()).await;
    let connector = ServiceBuilder::new()
        .map_response(WsStream::connection)
        .layer(WsConnectLayer::new())
        .service(net::TcpConnector::new());
    let connection = connector.oneshot(format!("ws://{address}/")).await.unwrap();
    let stream: &WsStream<TcpStream> = connection.transport();
    assert_eq!(stream.get_ref().peer_addr().unwrap(), address);
}
