//! Whole stacks behind a proxy.

use getty::{
    BoxError, CloseReason, CodecLayer, Layer, ServiceBuilder, Session, SessionLayer,
    codec::Lines,
    handle,
    layers::{
        AccessLayer, PeerLimitLayer, Registry, RegistryLayer, TraceLayer,
        access::{AccessDenied, AccessList},
        peer_limit::TooManyConnections,
    },
    net::memory,
    proxy::{HeaderError, ProxyError, ProxyProtocolLayer},
};
use getty_test::Log;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tower::ServiceExt;
use tracing::Level;

use crate::log::lines_of;

use super::{CLIENT, LINE, PROXY, SERVER, SERVICE, connection, ip, layer};

/// Returns the fields `peer` and `local` of the spans of connections.
fn addresses(log: &Log) -> Vec<String> {
    let spans = log.spans();
    let fields = spans
        .iter()
        .flat_map(|span| ["peer", "local"].map(|name| format!("{name}={}", span.field(name))));
    fields.collect()
}

#[tokio::test]
async fn access_peer_limit_trace_registry_and_display_show_the_real_address() {
    let log = Log::capture();
    let clients = AccessList::deny_all().with_allowed([ip(CLIENT).ip().unwrap()]);
    let limit = PeerLimitLayer::new(1);
    let registry = Registry::<Session<String>>::new();
    let app = ServiceBuilder::new()
        .layer(layer())
        .layer(TraceLayer::new())
        .layer(AccessLayer::new(clients.clone()))
        .layer(limit.clone())
        .layer(CodecLayer::new(Lines::new()))
        .layer(RegistryLayer::new(registry.clone()))
        .layer(SessionLayer::new())
        .service(handle(|_: String, session: Session<String>| {
            session.to_string()
        }));

    let (io, mut client) = tokio::io::duplex(1024);
    let first = connection(io);
    let first_handle = first.handle().clone();
    let served = tokio::spawn(app.clone().oneshot(first));
    client.write_all(LINE).await.unwrap();
    client.write_all(b"who\n").await.unwrap();
    let mut client = BufReader::new(client);
    let mut shown = String::new();
    client.read_line(&mut shown).await.unwrap();
    let id = first_handle.id();
    assert_eq!(
        shown,
        format!("tcp-{id}[tcp #{id} {SERVICE} <-> {CLIENT}]\n")
    );

    assert_eq!(limit.connections(ip(CLIENT).ip().unwrap()), 1);
    assert_eq!(limit.connections(ip(PROXY).ip().unwrap()), 0);
    let snapshot = registry.snapshot().pop().unwrap();
    assert_eq!((snapshot.peer, snapshot.local), (ip(CLIENT), ip(SERVICE)));
    assert_eq!(
        addresses(&log),
        [format!("peer={CLIENT}"), format!("local={SERVICE}")]
    );
    assert_eq!(first_handle.socket_peer_addr(), &ip(PROXY));
    assert_eq!(first_handle.socket_local_addr(), &ip(SERVER));

    // a second connection of the same client through the same proxy
    let refused = |line: &'static [u8]| {
        let app = app.clone();
        async move {
            let (io, mut client) = tokio::io::duplex(1024);
            client.write_all(line).await.unwrap();
            let connection = connection(io);
            let handle = connection.handle().clone();
            let error = app.oneshot(connection).await.unwrap_err();
            assert_eq!(handle.reason(), Some(CloseReason::Refused));
            error
        }
    };
    let error = refused(LINE).await;
    assert!(error.is::<TooManyConnections>(), "{error}");
    let error = refused(b"PROXY TCP4 192.0.2.8 198.51.100.1 1 443\r\n").await;
    assert_eq!(
        error.downcast::<AccessDenied>().unwrap().peer().ip(),
        ip("192.0.2.8:1").ip()
    );

    drop(client);
    served.await.unwrap().unwrap();
    assert_eq!(limit.peers(), 0);
}

#[tokio::test]
async fn trace_layer_outside_shows_the_proxy_for_the_whole_connection() {
    let log = Log::capture();
    let app = ServiceBuilder::new()
        .layer(TraceLayer::new())
        .layer(layer())
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|line: String| line));
    let (io, mut client) = tokio::io::duplex(1024);
    client.write_all(LINE).await.unwrap();
    client.shutdown().await.unwrap();
    app.oneshot(connection(io)).await.unwrap();
    assert_eq!(
        addresses(&log),
        [format!("peer={PROXY}"), format!("local={SERVER}")]
    );
}

#[tokio::test]
async fn one_bad_header_leaves_other_connections_and_the_server_alone() {
    let (listener, connector) = memory(1024);
    let app = ServiceBuilder::new()
        .concurrency_limit(2)
        .layer(ProxyProtocolLayer::from_sources(AccessList::allow_all()))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|line: String| line));
    let server = tokio::spawn(async move { getty::serve(listener, app).await });
    let mut good = connector.connect().await.unwrap().into_parts().0;
    good.write_all(LINE).await.unwrap();
    let mut answer = [0; 3];
    good.write_all(b"hi\n").await.unwrap();
    good.read_exact(&mut answer).await.unwrap();
    for _ in 0..10 {
        let mut bad: DuplexStream = connector.connect().await.unwrap().into_parts().0;
        bad.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(bad.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }
    good.write_all(b"yo\n").await.unwrap();
    good.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"yo\n");
    server.abort();
}

#[tokio::test]
async fn first_missing_header_of_a_trusted_proxy_is_a_warning_that_names_the_remedy() {
    let log = Log::capture();
    let app = ServiceBuilder::new()
        .layer(layer())
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|line: String| line));
    for _ in 0..3 {
        let (io, mut client) = tokio::io::duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let error = app.clone().oneshot(connection(io)).await.unwrap_err();
        let error = error.downcast::<ProxyError>().unwrap();
        assert!(matches!(*error, ProxyError::Header(HeaderError::Missing)));
    }
    let lines = lines_of(&log);
    let levels: Vec<_> = lines.iter().map(|line| line.level).collect();
    assert_eq!(
        levels,
        [Level::WARN, Level::DEBUG, Level::DEBUG, Level::DEBUG]
    );
    for line in lines {
        let error = line.field("error");
        assert!(error.contains("health checks must send one"), "{error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn proxy_behind_a_unix_listener_needs_unaddressed_allowed() {
    use getty::{
        layers::access::Access,
        net::{UnixConnector, UnixListener},
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let app = ServiceBuilder::new()
        .layer(
            ProxyProtocolLayer::from_sources(AccessList::deny_all())
                .with_unaddressed(Access::Allow),
        )
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|_: String, session: Session<String>| {
            format!("{} {}", session.peer_addr(), session.socket_peer_addr())
        }));
    let server = tokio::spawn(async move { getty::serve(listener, app).await });
    let mut client = UnixConnector::new()
        .connect(&path)
        .await
        .unwrap()
        .into_parts()
        .0;
    client.write_all(LINE).await.unwrap();
    client.write_all(b"who\n").await.unwrap();
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).await.unwrap();
    assert_eq!(answer, format!("{CLIENT} unnamed\n"));
    server.abort();
}

#[cfg(feature = "ws")]
#[tokio::test]
async fn accept_hook_of_websocket_sets_the_address_of_x_forwarded_for() {
    use getty::{
        Address, ConnectionHandle,
        ws::{WsLayer, WsRefusal, http::StatusCode},
    };
    use std::net::{IpAddr, SocketAddr};

    let ws = WsLayer::new().with_accept(|request, handle: ConnectionHandle| async move {
        let forwarded = request.headers().get("x-forwarded-for");
        let last = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next());
        let client: Option<IpAddr> = last.and_then(|ip| ip.trim().parse().ok());
        let Some(client) = client else {
            return Err(WsRefusal::new(StatusCode::BAD_REQUEST, "no client address"));
        };
        let local = handle.local_addr().clone();
        let peer = Address::Ip(SocketAddr::new(client, 0));
        let fixed = |error: getty::AddressesFixed| {
            WsRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        };
        handle.set_real_addrs(local, peer).map_err(fixed)
    });
    let limit = PeerLimitLayer::new(1);
    let app = ws.layer(limit.layer(getty::service_fn(
        |connection: getty::Connection<getty::ws::WsTransport<DuplexStream>>| async move {
            Ok::<_, BoxError>(connection)
        },
    )));
    let (io, mut client) = tokio::io::duplex(4096);
    client
        .write_all(
            b"GET / HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
              Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
              Sec-WebSocket-Version: 13\r\nX-Forwarded-For: 203.0.113.9, 192.0.2.7\r\n\r\n",
        )
        .await
        .unwrap();
    let opened = app.oneshot(connection(io)).await.unwrap();
    assert_eq!(opened.handle().peer_addr(), &ip("192.0.2.7:0"));
    assert_eq!(limit.connections("192.0.2.7".parse().unwrap()), 1);
}
