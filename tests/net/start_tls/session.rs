//! Upgrades that succeed, and handshakes that fail.

use std::time::Duration;

use getty::{
    BoxError, CloseReason, Connection, ServiceBuilder, TransportKind,
    net::{TcpConnector, TcpListener},
    tls::{TlsError, TlsInfo},
    upgrade::StartTlsConnectLayer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};
use tower::ServiceExt;

use super::{
    super::tls::kit::{Authority, NAME, settings, trusting},
    Client, Server, accept, failure, line, secure, send,
};

#[tokio::test(start_paused = true)]
async fn transport_is_tls_and_tls_info_is_there_after_the_upgrade() {
    let authority = Authority::new();
    let mut server = Server::new(&authority);
    let (mut io, session) = server.dial().await;
    send(&mut io, "tls?\nSTARTTLS\n").await;
    assert_eq!(line(&mut io).await, "memory None");
    assert_eq!(line(&mut io).await, "220 ready");
    assert_eq!(session.transport(), TransportKind::Memory);
    let mut io = secure(io, trusting(&authority)).await.unwrap();
    assert!(session.upgraded().await);
    send(&mut io, "tls?\n").await;
    assert_eq!(line(&mut io).await, format!("tls Some({NAME:?})"));
    session.close();
    // Without a `close_notify` the read would fail.
    assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(server.end().await.reason, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn client_continues_over_tls_after_the_go_ahead() {
    let authority = Authority::new();
    let mut client = Client::new(trusting(&authority), None).await;
    client.session.send("STARTTLS".to_owned()).await.unwrap();
    assert_eq!(line(&mut client.peer).await, "STARTTLS");
    send(&mut client.peer, "220 ready\n").await;
    let mut io = accept(client.peer, settings(&authority).load().unwrap())
        .await
        .unwrap();
    assert!(client.session.upgraded().await);
    client.session.send("hello".to_owned()).await.unwrap();
    assert_eq!(line(&mut io).await, "hello");
    send(&mut io, "world\n").await;
    assert_eq!(client.heard.recv().await.as_deref(), Some("world"));
    let info: TlsInfo = client.session.get().unwrap();
    assert_eq!(info.server_name(), Some(NAME));
    assert_eq!(client.session.transport(), TransportKind::Tls);
}

#[tokio::test]
async fn getty_upgrades_with_getty_over_tcp() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = super::echo_app(&authority);
    let serve = tokio::spawn(async move { getty::serve(listener, app).await });
    let name = NAME.try_into().unwrap();
    let connector = ServiceBuilder::new()
        .layer(StartTlsConnectLayer::new(trusting(&authority)).with_server_name(name))
        .service(TcpConnector::new());
    let (session, mut heard) = super::connect(connector, address, None).await;
    session.send("STARTTLS".to_owned()).await.unwrap();
    assert!(session.upgraded().await);
    for n in 0..100 {
        session.send(n.to_string()).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(heard.recv().await, Some(n.to_string()));
    }
    session.close();
    assert_eq!(session.closed().await.reason, CloseReason::Local);
    serve.abort();
}

#[tokio::test(start_paused = true)]
async fn silent_peer_has_ten_seconds() {
    let authority = Authority::new();
    let mut server = Server::new(&authority);
    let (mut io, _session) = server.started().await;
    let start = Instant::now();
    let closed = server.end().await;
    let error = failure(&closed, &CloseReason::HandshakeTimeout);
    assert!(matches!(error, TlsError::TimedOut(limit) if limit == Duration::from_secs(10)));
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_plain_byte_follows_a_failed_handshake() {
    let authority = Authority::new();
    let mut server = Server::new(&authority);
    let (mut io, session) = server.started().await;
    session.try_send("secret".to_owned()).unwrap();
    send(&mut io, "AUTH PLAIN\n").await;
    let closed = server.end().await;
    let error = failure(&closed, &CloseReason::UpgradeFailed);
    assert!(matches!(error, TlsError::NotTls(_)), "{error}");
    assert_eq!(closed.unsent_messages, 1);
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    // one record with an alert
    assert_eq!((rest.len(), rest.first()), (7, Some(&21)), "{rest:?}");
}

#[tokio::test(start_paused = true)]
async fn peer_that_closes_in_the_handshake_fails_it() {
    let authority = Authority::new();
    let mut server = Server::new(&authority);
    let (mut io, _session) = server.started().await;
    io.shutdown().await.unwrap();
    let error = failure(&server.end().await, &CloseReason::UpgradeFailed);
    assert!(matches!(error, TlsError::PeerClosed), "{error}");
}

#[tokio::test(start_paused = true)]
async fn server_with_an_unknown_certificate_fails_the_upgrade_on_both_sides() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut server = Server::new(&authority);
    let (io, session) = server.started().await;
    secure(io, trusting(&other)).await.unwrap_err();
    let error = failure(&server.end().await, &CloseReason::UpgradeFailed);
    assert!(matches!(error, TlsError::RefusedByPeer(_)), "{error}");
    assert!(!session.upgraded().await);

    let mut client = Client::new(trusting(&other), None).await;
    send(&mut client.peer, "220 ready\n").await;
    let server = accept(client.peer, settings(&authority).load().unwrap()).await;
    server.unwrap_err();
    let closed = client.session.closed().await;
    let error = failure(&closed, &CloseReason::UpgradeFailed);
    assert!(matches!(error, TlsError::PeerCertificate(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn close_during_the_handshake_ends_it_at_once() {
    let authority = Authority::new();
    let mut server = Server::new(&authority);
    let (mut io, session) = server.started().await;
    let start = Instant::now();
    session.close();
    assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(server.end().await.reason, CloseReason::Local);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn target_without_a_name_is_not_dialed() {
    let authority = Authority::new();
    let dial = |()| async { panic!("dialed") as Result<Connection<DuplexStream>, BoxError> };
    let error = ServiceBuilder::new()
        .layer(StartTlsConnectLayer::new(trusting(&authority)))
        .service_fn(dial)
        .oneshot(())
        .await
        .unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(TlsError::NoServerName)));
}
