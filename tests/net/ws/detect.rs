//! Byte-stream sessions and WebSocket on one port.

use std::time::Duration;

use getty::{
    codec::Lines,
    layers::OnOpenLayer,
    ws::{WsOrRawLayer, WsOrRawTransport},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::Instant,
};

use super::*;

fn serve() -> MemoryConnector {
    serve_with(|layer| layer)
}

fn serve_with(set: impl FnOnce(WsOrRawLayer) -> WsOrRawLayer) -> MemoryConnector {
    let layer = WsOrRawLayer::new(&WsLayer::new().with_messages(Messages::Text));
    let stack = ServiceBuilder::new()
        .layer(set(layer))
        .layer(CodecLayer::new(Lines::new()))
        .layer(OnOpenLayer::new(|session: Session<String>| async move {
            session.send("welcome".to_owned()).await?;
            Ok::<_, BoxError>(())
        }))
        .layer(SessionLayer::new())
        .service_fn(
            |request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) },
        );
    fn check<S: Clone + Pipeline<DuplexStream>>(_: &S) {}
    check(&stack);
    let (listener, connector) = memory(1024);
    Server::serve(listener, stack);
    connector
}

#[tokio::test(start_paused = true)]
async fn one_stack_serves_both_and_keeps_their_first_bytes() {
    let connector = serve();
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut ws = Peer { io };
    let head = ws.ask(&request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(
        ws.frame().await.unwrap(),
        (FIN | TEXT, b"welcome\n".to_vec())
    );
    ws.send(FIN | TEXT, b"over ws").await;
    assert_eq!(
        ws.frame().await.unwrap(),
        (FIN | TEXT, b"over ws\n".to_vec())
    );

    for first in ["hello\n", "G\n", "GE", "GEX\n"] {
        let started = Instant::now();
        let io = connector.connect().await.unwrap().into_parts().0;
        let mut io = BufReader::new(io);
        io.write_all(first.as_bytes()).await.unwrap();
        let rest = if first.ends_with('\n') { "" } else { "T\n" };
        if !rest.is_empty() {
            tokio::task::yield_now().await;
            io.write_all(rest.as_bytes()).await.unwrap();
        }
        let mut lines = String::new();
        soon(io.read_line(&mut lines)).await.unwrap();
        soon(io.read_line(&mut lines)).await.unwrap();
        assert_eq!(lines, format!("welcome\n{first}{rest}"));
        assert_eq!(started.elapsed(), Duration::ZERO, "{first}");
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_waits_for_the_server_is_a_byte_stream_peer() {
    let connector = serve();
    let started = Instant::now();
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut io = BufReader::new(io);
    let mut line = String::new();
    soon(io.read_line(&mut line)).await.unwrap();
    assert_eq!(line, "welcome\n");
    assert!(started.elapsed() < Duration::from_secs(2));
    // From now on all its bytes belong to the stream.
    io.write_all(b"GET it\n").await.unwrap();
    line.clear();
    soon(io.read_line(&mut line)).await.unwrap();
    assert_eq!(line, "GET it\n");
}

#[tokio::test(start_paused = true)]
async fn detect_timeout_can_be_set() {
    for seconds in [3, 60] {
        let timeout = Duration::from_secs(seconds);
        let connector = serve_with(|layer| layer.with_detect_timeout(timeout));
        let started = Instant::now();
        let io = connector.connect().await.unwrap().into_parts().0;
        let mut line = String::new();
        soon(BufReader::new(io).read_line(&mut line)).await.unwrap();
        assert_eq!(
            (line.as_str(), started.elapsed().as_secs()),
            ("welcome\n", seconds)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn byte_stream_session_can_end_its_direction_alone() {
    let (finished, mut outcome) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(WsOrRawLayer::new(
            &WsLayer::new().with_messages(Messages::Text),
        ))
        .layer(CodecLayer::new(Lines::new()))
        .layer(OnOpenLayer::new(move |session: Session<String>| {
            let finished = finished.clone();
            async move {
                session.send("all there is".to_owned()).await?;
                drop(finished.send(session.finish().await));
                Ok::<_, BoxError>(())
            }
        }))
        .layer(SessionLayer::new())
        .service_fn(|_: Request<String>| async move { Ok::<_, BoxError>(None) });
    let (listener, connector) = memory(1024);
    Server::serve(listener, stack);
    let mut io = connector.connect().await.unwrap().into_parts().0;
    io.write_all(b"hello\n").await.unwrap();
    soon(outcome.recv()).await.unwrap().unwrap();
    let mut all = String::new();
    soon(io.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "all there is\n");
    // The other direction is still open.
    io.write_all(b"more\n").await.unwrap();
}

#[test]
fn detected_transport_is_a_transport() {
    fn check<T: getty::Transport>() {}
    check::<WsOrRawTransport<DuplexStream>>();
}
