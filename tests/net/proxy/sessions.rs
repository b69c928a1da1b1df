//! Sessions and clients through proxies.

use std::{net::SocketAddr, time::Duration};

use getty::{
    BoxError, Client, CodecLayer, Layer, NoReply, ServiceBuilder, SessionLayer,
    client::{Backoff, ClientState},
    codec::Lines,
    handle,
    net::{
        TcpConnector, TcpListener,
        proxy::{HttpConnectLayer, ProxyKind, ProxyTarget, Socks5ConnectLayer, Via},
    },
};
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::kit::{KINDS, PROXY_ONLY, Relay, over};
use crate::accept;

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Serves an echo of lines and returns its port.
async fn echo() -> u16 {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|line: String| async { line }));
    tokio::spawn(async move { getty::serve(listener, app).await });
    port
}

#[tokio::test]
async fn client_reconnects_when_its_proxy_restarts() {
    let port = echo().await;
    for kind in KINDS {
        let proxy = Relay::start(kind, any_port()).await;
        let address = proxy.address;
        let (sender, mut lines) = mpsc::unbounded_channel();
        let client = Client::builder()
            .with_backoff(Backoff::new(
                Duration::from_millis(1),
                Duration::from_millis(20),
            ))
            .connect(
                over(kind, address, TcpConnector::new()),
                ProxyTarget::new(PROXY_ONLY, port).unwrap(),
                move |link| {
                    let sender = sender.clone();
                    ServiceBuilder::new()
                        .layer(CodecLayer::new(Lines::new()))
                        .layer(link)
                        .layer(SessionLayer::new())
                        .service(handle(move |line: String| {
                            let sent = sender.send(line);
                            async move { sent.map(|()| NoReply).map_err(BoxError::from) }
                        }))
                },
            );
        client.send("one".to_owned()).await.unwrap();
        assert_eq!(lines.recv().await.as_deref(), Some("one"));

        let mut watch = client.watch();
        let first = client.pick().unwrap();
        assert_eq!(first.peer_addr().socket_addr(), Some(address));
        proxy.stop().await;
        while !matches!(watch.changed().await, Some(ClientState::Waiting(_))) {}
        assert!(first.is_closed());

        let proxy = Relay::start(kind, address).await;
        client.send("two".to_owned()).await.unwrap();
        assert_eq!(lines.recv().await.as_deref(), Some("two"));
        assert_eq!(proxy.seen(), [format!("{PROXY_ONLY}:{port}")]);
        client.stop();
        client.stopped().await;
    }
}

#[tokio::test]
async fn proxies_form_a_chain_and_via_is_of_the_last() {
    let mut server = TcpListener::bind(any_port()).await.unwrap();
    let target = server.local_addr().unwrap();
    let inner = Relay::start(ProxyKind::Http, any_port()).await;
    let outer = Relay::start(ProxyKind::Socks5, any_port()).await;
    let connector = ServiceBuilder::new()
        .layer(Socks5ConnectLayer::new(outer.address))
        .layer(HttpConnectLayer::new(inner.address))
        .service(TcpConnector::new());
    let mut connection = connector.oneshot(target).await.unwrap();
    assert_eq!(inner.seen(), [outer.address.to_string()]);
    assert_eq!(outer.seen(), [target.to_string()]);
    let via: Via = connection.handle().get().unwrap();
    assert_eq!(
        (via.kind(), via.target()),
        (ProxyKind::Socks5, &target.into())
    );
    let peer = connection.handle().peer_addr();
    assert_eq!(peer.socket_addr(), Some(inner.address));
    let mut accepted = accept(&mut server).await;
    crate::exchange(&mut connection, &mut accepted)
        .await
        .unwrap();
}

#[tokio::test]
async fn refused_target_is_reported_by_both_kinds() {
    use getty::net::proxy::ProxyConnectError::Unreachable;
    // Bound and not listening: the port refuses, and no other test can take it.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(any_port()).unwrap();
    let target = socket.local_addr().unwrap();
    for (kind, expected) in [(ProxyKind::Socks5, 5), (ProxyKind::Http, 502)] {
        let proxy = Relay::start(kind, any_port()).await;
        let connector = over(kind, proxy.address, TcpConnector::new());
        let error = connector.oneshot(target).await.unwrap_err();
        assert!(
            matches!(error, Unreachable { code } if code == expected),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn websocket_is_spoken_through_a_proxy() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = ServiceBuilder::new()
        .layer(getty::ws::WsLayer::new())
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|line: String| async { line }));
    tokio::spawn(async move { getty::serve(listener, app).await });
    for kind in KINDS {
        let proxy = Relay::start(kind, any_port()).await;
        let connector =
            getty::ws::WsConnectLayer::new().layer(over(kind, proxy.address, TcpConnector::new()));
        let url = format!("ws://{PROXY_ONLY}:{port}/");
        let connection = connector.oneshot(url).await.unwrap();
        assert!(connection.handle().get::<Via>().is_some());
        assert_eq!(proxy.seen(), [format!("{PROXY_ONLY}:{port}")]);
    }
}
