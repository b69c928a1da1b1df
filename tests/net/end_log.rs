//! The log lines about failed handshakes and about sessions over each transport.

use getty::{
    BoxError, CodecLayer, Endpoints, Pipeline, Request, ServiceBuilder, SessionLayer,
    codec::Lines,
    layers::TraceLayer,
    net::{TcpListener, UdpListener, memory},
    tls::TlsLayer,
    ws::{self, WsLayer, WsRefusal, http},
};
use getty_test::{Log, LogEvent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpStream, UdpSocket},
};
use tower::Layer;
use tracing::Level;

use crate::{
    log::{lines_of, sole_end},
    tls::kit::{Authority, app, settings},
};

/// Serves one connection on which the peer sends `bytes`. Returns the line about its end.
async fn end_of(stack: impl Pipeline<DuplexStream>, bytes: &[u8]) -> LogEvent {
    let log = Log::capture();
    let (listener, connector) = memory(1024);
    let server = tokio::spawn(async move { getty::serve(listener, stack).await });
    let mut peer = connector.connect().await.unwrap().into_parts().0;
    peer.write_all(bytes).await.unwrap();
    let _ = peer.read_to_end(&mut Vec::new()).await;
    // The connection's task still discards what the peer sends.
    drop(peer);
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
    server.abort();
    sole_end(&log)
}

#[tokio::test(start_paused = true)]
async fn failed_handshake_is_logged_once_with_its_error() {
    let authority = Authority::new();
    let tls = || TlsLayer::new(settings(&authority).load().unwrap()).layer(app());
    let ws = || WsLayer::new().layer(app());
    for (bytes, reason) in [
        (&b"hello, this is not TLS"[..], "refused"),
        (&[0x16, 3, 1], "handshake_timeout"),
    ] {
        for line in [
            end_of(tls(), bytes).await,
            end_of(TraceLayer::new().layer(tls()), bytes).await,
        ] {
            assert_eq!(line.level, Level::DEBUG);
            assert_eq!(line.field("reason"), reason);
            assert!(line.field("error").contains("TLS"), "{line:?}");
        }
    }
    for (bytes, reason) in [
        (&b"GET / HTTP/1.0\r\n\r\n"[..], "refused"),
        (b"GET / HT", "handshake_timeout"),
    ] {
        for line in [
            end_of(ws(), bytes).await,
            end_of(TraceLayer::new().layer(ws()), bytes).await,
        ] {
            assert_eq!(line.level, Level::DEBUG);
            assert_eq!(line.field("reason"), reason);
            assert!(line.field("error").contains("WebSocket"), "{line:?}");
        }
    }
}

#[tokio::test]
async fn refused_upgrade_is_logged_once() {
    let log = Log::capture();
    let layer = WsLayer::new()
        .with_accept(async |_, _| Err(WsRefusal::new(http::StatusCode::UNAUTHORIZED, "who?")));
    let (upgrader, _upgrades) = ws::upgrades::<DuplexStream>(&layer);
    let request = http::Request::get("/ws")
        .header("host", "example.com")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap();
    let io = async { Ok::<_, std::io::Error>(tokio::io::duplex(64).0) };
    let response = upgrader.upgrade(&request, Endpoints::default(), io).await;
    assert_eq!(response.status(), http::StatusCode::UNAUTHORIZED);
    let line = sole_end(&log);
    assert_eq!(line.field("reason"), "refused");
    assert_eq!(
        line.message(),
        "a connection ended before its session opened"
    );
}

#[tokio::test]
async fn failed_handler_is_logged_once_over_sockets() {
    fn failing<T: getty::Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service_fn(async |request: Request<String>| {
                Err::<String, _>(BoxError::from(request.into_message()))
            })
    }
    fn assert_failed(log: &Log, transport: &str) {
        let line = sole_end(log);
        assert_eq!(line.level, Level::WARN);
        assert_eq!(line.field("reason"), "handler");
        assert_eq!(line.field("error"), "out of order");
        let handle = line.field("connection");
        assert!(handle.starts_with(transport), "{handle}");
    }

    let log = Log::capture();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { getty::serve(listener, failing()).await });
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(b"out of order\n").await.unwrap();
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
    drop(peer);
    wait_for_a_line(&log).await;
    assert_failed(&log, "tcp");
    server.abort();
    drop(log);

    let log = Log::capture();
    let listener = UdpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { getty::serve(listener, failing()).await });
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    peer.send_to(b"out of order\n", address).await.unwrap();
    wait_for_a_line(&log).await;
    assert_failed(&log, "udp");
    server.abort();
    drop(log);
}

async fn wait_for_a_line(log: &Log) {
    while lines_of(log).is_empty() {
        tokio::task::yield_now().await;
    }
}
