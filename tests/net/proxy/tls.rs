//! TLS through a proxy, TLS to a proxy, and layers in the wrong order.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use getty::{
    Layer, ServiceBuilder, TransportKind,
    net::{
        TcpConnector, TcpListener,
        proxy::{ProxyConnectError, ProxyKind, ProxyTarget, Via},
    },
    service_fn,
    tls::{TlsConnectLayer, TlsError, TlsInfo, TlsLayer, rustls::ClientConfig},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::kit::{KINDS, Relay, over, relay};
use crate::tls::kit::{Authority, NAME, app, settings, trusting};

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Serves [`app`] over TLS with the name [`NAME`] and returns its address.
async fn server(authority: &Authority) -> SocketAddr {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let layer = TlsLayer::new(settings(authority).load().unwrap());
    let app = ServiceBuilder::new().layer(layer).service(app());
    tokio::spawn(async move { getty::serve(listener, app).await });
    address
}

/// Serves a proxy over TLS with the name [`NAME`]. It connects to `target` only.
async fn tls_proxy(authority: &Authority, kind: ProxyKind) -> SocketAddr {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let layer = TlsLayer::new(settings(authority).load().unwrap());
    let stack = ServiceBuilder::new().layer(layer).service_fn(
        move |connection: getty::Connection<getty::tls::TlsStream<tokio::net::TcpStream>>| async move {
            let (io, _guard) = connection.into_parts();
            relay(kind, io, &Mutex::default()).await;
            Err::<getty::Closed, getty::BoxError>("relayed".into())
        },
    );
    tokio::spawn(async move { getty::serve(listener, stack).await });
    address
}

fn tls(config: &Arc<ClientConfig>) -> TlsConnectLayer {
    TlsConnectLayer::new(Arc::clone(config))
}

/// Returns a TLS layer for a proxy at an address, whose certificate is for [`NAME`].
fn tls_for_name(config: &Arc<ClientConfig>) -> TlsConnectLayer {
    tls(config).with_server_name(NAME.try_into().unwrap())
}

#[tokio::test]
async fn tls_through_a_proxy_verifies_the_target() {
    let authority = Authority::new();
    let config = trusting(&authority);
    let port = server(&authority).await.port();
    for kind in KINDS {
        let proxy = Relay::start(kind, any_port()).await;
        let named = service_fn(move |target: ProxyTarget| {
            // The name has no address, so it is replaced behind the TLS layer.
            assert_eq!(target.host(), NAME);
            let proxy = over(kind, proxy.address, TcpConnector::new());
            proxy.oneshot(SocketAddr::from(([127, 0, 0, 1], target.port())))
        });
        let connector = tls(&config).layer(named);
        let target = ProxyTarget::new(NAME, port).unwrap();
        let mut connection = connector.oneshot(target).await.unwrap();
        assert_eq!(connection.handle().transport(), TransportKind::Tls);
        assert!(connection.handle().get::<TlsInfo>().is_some());
        assert!(connection.handle().get::<Via>().is_some());
        let io = connection.transport_mut();
        io.write_all(b"hello\n").await.unwrap();
        io.flush().await.unwrap();
        let mut line = [0; 6];
        io.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"hello\n");
    }
    for kind in KINDS {
        let proxy = Relay::start(kind, any_port()).await;
        let connector = tls(&config).layer(over(kind, proxy.address, TcpConnector::new()));
        let target = format!("127.0.0.1:{port}");
        let error = connector.oneshot(target).await.map(drop).unwrap_err();
        let error = error.downcast_ref::<TlsError>().unwrap();
        assert!(
            matches!(error, TlsError::PeerCertificate(_)),
            "another name"
        );
    }
}

#[tokio::test]
async fn tls_to_a_proxy_is_not_taken_for_tls_to_the_target() {
    let authority = Authority::new();
    let config = trusting(&authority);
    let mut server = TcpListener::bind(any_port()).await.unwrap();
    let target = server.local_addr().unwrap();
    for kind in KINDS {
        let proxy = tls_proxy(&authority, kind).await;
        let inner = tls_for_name(&config).layer(TcpConnector::new());
        let connector = over(kind, proxy, inner);
        let mut connection = connector.clone().oneshot(target).await.unwrap();
        let handle = connection.handle();
        assert_eq!(handle.transport(), TransportKind::Other("proxy"));
        assert!(handle.get::<TlsInfo>().is_none());
        let mut accepted = crate::accept(&mut server).await;
        accepted.transport_mut().write_all(b"220").await.unwrap();
        let mut read = [0; 3];
        connection
            .transport_mut()
            .read_exact(&mut read)
            .await
            .unwrap();
        assert_eq!(&read, b"220");
        #[cfg(feature = "ws")]
        {
            let connector = getty::ws::WsConnectLayer::new().layer(connector);
            let refused = connector.oneshot(format!("wss://{target}/")).await;
            let refused = refused.map(drop).unwrap_err();
            assert!(matches!(refused, getty::ws::WsConnectError::NotSecure));
            crate::accept(&mut server).await;
        }
    }
}

#[tokio::test]
async fn tls_to_a_proxy_and_through_it() {
    let authority = Authority::new();
    let config = trusting(&authority);
    let target = server(&authority).await;
    for kind in KINDS {
        let proxy = tls_proxy(&authority, kind).await;
        let connector = ServiceBuilder::new()
            .layer(tls_for_name(&config))
            .service(over(
                kind,
                proxy,
                tls_for_name(&config).layer(TcpConnector::new()),
            ));
        let mut connection = connector.oneshot(target).await.unwrap();
        assert_eq!(connection.handle().transport(), TransportKind::Tls);
        let io = connection.transport_mut();
        io.write_all(b"tls?\n").await.unwrap();
        io.flush().await.unwrap();
        let mut answer = [0; 3];
        io.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"tls");
    }
}

#[tokio::test]
async fn tls_in_the_wrong_place_fails_at_a_proxy_without_tls() {
    let authority = Authority::new();
    let config = trusting(&authority);
    for kind in KINDS {
        let proxy = TcpListener::bind(any_port()).await.unwrap();
        let address = proxy.local_addr().unwrap();
        let mut proxy = proxy;
        tokio::spawn(async move {
            let mut connection = crate::accept(&mut proxy).await;
            let io = connection.transport_mut();
            let mut hello = [0; 64];
            let _ = io.read(&mut hello).await;
            let _ = io.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
        });
        let connector = over(
            kind,
            address,
            tls_for_name(&config).layer(TcpConnector::new()),
        );
        let error = connector
            .oneshot("example.com:443")
            .await
            .map(drop)
            .unwrap_err();
        let ProxyConnectError::Connect(source) = error else {
            panic!("{error:?}");
        };
        let error = source.downcast_ref::<TlsError>().unwrap();
        assert!(matches!(error, TlsError::NotTls(_)), "{error:?}");
    }
}
