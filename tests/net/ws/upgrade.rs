//! Clients, and sessions on connections that an axum application has upgraded.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request as HttpRequest, State},
    response::Response,
    routing::any,
};
use getty::{
    Endpoints, Layer, OpenError, TransportKind,
    codec::Text,
    net::TcpConnector,
    serve,
    ws::{
        self, WsClose, WsConnectError, WsConnectLayer, WsRefusal, WsUpgrader,
        http::{self, StatusCode, header},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::oneshot};

use super::*;

type Io = TokioIo<hyper::upgrade::Upgraded>;

async fn open(
    State(upgrader): State<WsUpgrader<Io>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: HttpRequest,
) -> Response {
    let upgraded = hyper::upgrade::on(&mut request);
    let io = async { upgraded.await.map(TokioIo::new) };
    let endpoints = Endpoints::new(TransportKind::Tcp, Default::default(), peer.into());
    upgrader
        .upgrade(&request, endpoints, io)
        .await
        .map(Body::from)
}

/// Returns a session with an application and the messages that it receives.
async fn dial(
    layer: WsConnectLayer,
    url: &str,
) -> Result<
    (
        Session<String>,
        getty::SessionTask,
        mpsc::UnboundedReceiver<String>,
    ),
    OpenError,
> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let connector = layer
        .with_messages(Messages::Text)
        .layer(TcpConnector::new());
    let (session, task) = getty::connect(connector, url, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Text::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                let sender = sender.clone();
                async move {
                    sender.send(request.into_message())?;
                    Ok::<_, BoxError>(None)
                }
            })
    })
    .await?;
    Ok((session, task, receiver))
}

#[tokio::test]
async fn axum_application_opens_sessions_and_drains_them_at_its_shutdown() {
    let layer = WsLayer::new()
        .with_messages(Messages::Text)
        .with_protocols(["shout"]);
    let (upgrader, upgrades) = ws::upgrades(&layer);
    let shout = ServiceBuilder::new()
        .layer(CodecLayer::new(Text::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            let peer = request.session().peer_addr().to_string();
            let message = request.into_message().to_uppercase();
            Ok::<_, BoxError>(format!("{message} {}", peer.starts_with("127.0.0.1:")))
        });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let signal = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        stopped.wait_for(|stop| *stop).await.unwrap();
    };
    let sessions = serve(upgrades, shout).with_graceful_shutdown(signal(stopped.clone()));
    let sessions = tokio::spawn(sessions.into_future());

    let app = Router::new()
        .route("/", any(|| async { "a page" }))
        .route("/ws", any(open))
        .with_state(upgrader)
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pages = axum::serve(listener, app).with_graceful_shutdown(signal(stopped));
    let pages = tokio::spawn(pages.into_future());

    let url = format!("ws://{address}/ws");
    let layer = WsConnectLayer::new().with_protocols(["whisper", "shout"]);
    let (session, task, mut receiver) = soon(dial(layer, &url)).await.unwrap();
    let agreed: ws::WsRequest = session.get().unwrap();
    assert_eq!(agreed.protocol(), Some("shout"));
    session.send("hello".to_owned()).await.unwrap();
    assert_eq!(soon(receiver.recv()).await.unwrap(), "HELLO true");

    // The layer's rules apply to pages. The application's server sends the refusal.
    let page =
        WsConnectLayer::new().with_header(header::ORIGIN, "http://evil.com".parse().unwrap());
    for (layer, url, expected) in [
        (page, url.clone(), StatusCode::FORBIDDEN),
        (
            WsConnectLayer::new(),
            format!("ws://{address}/"),
            StatusCode::OK,
        ),
        (
            WsConnectLayer::new(),
            format!("ws://{address}/none"),
            StatusCode::NOT_FOUND,
        ),
    ] {
        let Err(OpenError::Connect(error)) = soon(dial(layer, &url)).await else {
            panic!("the upgrade must be refused");
        };
        match error.downcast_ref::<WsConnectError>() {
            Some(WsConnectError::Refused { status, .. }) => assert_eq!(*status, expected),
            other => panic!("{other:?}"),
        }
    }

    stop.send(true).unwrap();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(WsClose::of(&closed).code(), WsClose::GOING_AWAY);
    let drained = soon(sessions).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (1, 0));
    soon(pages).await.unwrap().unwrap();
}

#[tokio::test]
async fn upgrade_is_refused_while_the_server_closes_or_is_full() {
    let (upgrader, upgrades) = ws::upgrades::<DuplexStream>(&WsLayer::new());
    let ask = || {
        let mut request = asking(KEY);
        request
            .headers_mut()
            .insert("host", "example.com".parse().unwrap());
        request
    };
    let (ours, _theirs) = tokio::io::duplex(64);
    let io = async { Ok::<_, std::io::Error>(ours) };
    let response = upgrader.upgrade(&ask(), Endpoints::default(), io).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()[header::SEC_WEBSOCKET_ACCEPT], ACCEPT);
    drop(upgrades);
    let (gone, never) = oneshot::channel::<()>();
    let io = async move {
        let _gone = gone;
        Err::<DuplexStream, _>("never")
    };
    let response = upgrader.upgrade(&ask(), Endpoints::default(), io).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        soon(never).await.is_err(),
        "no task waits for the connection"
    );
}

#[tokio::test]
async fn results_of_the_servers_middleware_reach_the_session() {
    #[derive(Clone, Debug, PartialEq)]
    struct User(&'static str);

    let layer = WsLayer::new().with_accept(|request, handle| async move {
        let user = request.extensions().get::<User>().cloned();
        handle.insert(user.ok_or_else(|| WsRefusal::new(StatusCode::UNAUTHORIZED, "who?"))?);
        Ok(())
    });
    let (upgrader, mut upgrades) = ws::upgrades(&layer);
    let mut request = asking(KEY);
    let host = "example.com".parse().unwrap();
    request.headers_mut().insert(header::HOST, host);
    for (user, expected) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some(User("ada")), StatusCode::SWITCHING_PROTOCOLS),
    ] {
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        let io = async { Ok::<_, std::io::Error>(tokio::io::duplex(64).0) };
        let response = upgrader.upgrade(&request, Endpoints::default(), io).await;
        assert_eq!(response.status(), expected);
    }
    let accepted = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut upgrades, cx));
    let connection = soon(accepted).await.unwrap();
    assert_eq!(connection.handle().get(), Some(User("ada")));
}

/// An attacker on the network can inject a page over `http`. That page would send the user's
/// cookies.
#[tokio::test]
async fn page_without_tls_has_another_origin_than_a_server_with_tls() {
    let (upgrader, _upgrades) = ws::upgrades::<DuplexStream>(&WsLayer::new());
    for (kind, origin, accepted) in [
        (TransportKind::Tls, "https://example.com", true),
        (TransportKind::Tls, "https://example.com:443", true),
        (TransportKind::Tls, "http://example.com", false),
        (TransportKind::SecureWebSocket, "http://example.com", false),
        // A proxy may have ended TLS.
        (TransportKind::Tcp, "https://example.com", true),
        (TransportKind::Tcp, "http://example.com", true),
        (TransportKind::Unknown, "https://example.com", true),
        (TransportKind::Unknown, "ftp://example.com", false),
    ] {
        let mut request = asking(KEY);
        let headers = request.headers_mut();
        headers.insert(header::HOST, "example.com".parse().unwrap());
        headers.insert(header::ORIGIN, origin.parse().unwrap());
        let endpoints = Endpoints {
            kind,
            ..Endpoints::default()
        };
        let io = async { Ok::<_, std::io::Error>(tokio::io::duplex(64).0) };
        let response = upgrader.upgrade(&request, endpoints, io).await;
        let is_accepted = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        assert_eq!(is_accepted, accepted, "{origin} over {kind}");
    }
}

fn asking(key: &str) -> http::Request<()> {
    let request = http::Request::get("/ws")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", key);
    request.body(()).unwrap()
}

#[tokio::test]
async fn client_reports_an_invalid_url_or_response() {
    for url in [
        "http://127.0.0.1/",
        "127.0.0.1:7000",
        "ws://",
        // An invalid port is not replaced by 80.
        "ws://127.0.0.1:70000/",
        "ws://127.0.0.1:ws/",
    ] {
        let Err(OpenError::Connect(error)) = soon(dial(WsConnectLayer::new(), url)).await else {
            panic!("{url} was connected");
        };
        let error = error.downcast_ref::<WsConnectError>();
        assert!(
            matches!(error, Some(WsConnectError::Url(_))),
            "{url}: {error:?}"
        );
    }

    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
    for (answer, secure) in [
        (
            format!("HTTP/1.1 101 OK\r\n{upgrade}Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"),
            false,
        ),
        ("HTTP/1.1 101 OK\r\n\r\n".to_owned(), false),
        ("no HTTP at all\r\n\r\n".to_owned(), false),
        (String::new(), false),
        (String::new(), true),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if secure { "wss" } else { "ws" };
        let url = format!("{scheme}://{}/", listener.local_addr().unwrap());
        let response = answer.clone();
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let received = io.read(&mut [0; 4096]).await.unwrap();
            io.write_all(response.as_bytes()).await.unwrap();
            received
        });
        let Err(OpenError::Connect(error)) = soon(dial(WsConnectLayer::new(), &url)).await else {
            panic!("{answer} was accepted");
        };
        let error = error.downcast_ref::<WsConnectError>().unwrap();
        let received = soon(server).await.unwrap();
        if secure {
            assert!(matches!(error, WsConnectError::NotSecure), "{error}");
            assert_eq!(received, 0, "nothing may be sent without TLS");
        } else {
            let expected = match answer.get(..8) {
                Some("HTTP/1.1") => matches!(error, WsConnectError::InvalidResponse(_)),
                _ => matches!(error, WsConnectError::Handshake(_)),
            };
            assert!(expected, "{answer}: {error}");
        }
    }
}

/// The header fields that a response must have once, and a protocol on top of WebSocket.
#[tokio::test]
async fn client_refuses_a_response_that_selects_several() {
    let upgrade = "Upgrade: websocket\r\n";
    for (more, is_valid) in [
        (upgrade, true),
        ("Upgrade: WebSocket\r\nUpgrade:\r\n", true),
        ("Upgrade: websocket, h2c\r\n", false),
        ("Upgrade: websocket\r\nUpgrade: h2c\r\n", false),
        ("Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n", false),
        (
            "Upgrade: websocket\r\nSec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a\r\n",
            false,
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(io.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap();
            let key = |line: &str| line.strip_prefix("sec-websocket-key: ").map(str::to_owned);
            let key = request.lines().find_map(key).unwrap();
            let accept =
                tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n"
            );
            io.write_all(answer.as_bytes()).await.unwrap();
            io
        });
        let layer = WsConnectLayer::new().with_protocols(["a"]);
        let dialed = soon(dial(layer, &url)).await;
        match dialed {
            Ok(_) => assert!(is_valid, "{more}"),
            Err(OpenError::Connect(error)) => {
                let error = error.downcast_ref::<WsConnectError>().unwrap();
                let is_invalid = matches!(error, WsConnectError::InvalidResponse(_));
                assert!(is_invalid && !is_valid, "{more}: {error}");
            }
            Err(other) => panic!("{other}"),
        }
        drop(soon(server).await.unwrap());
    }
}

#[tokio::test]
async fn client_limits_the_head_of_the_response() {
    let answer = format!(
        "HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\nX-Long: {}\r\n\r\n",
        "x".repeat(500)
    );
    for (bytes, headers) in [(400, 64), (8192, 3)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let answer = answer.clone();
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            assert_ne!(io.read(&mut [0; 4096]).await.unwrap(), 0);
            // The client may close before it has read everything.
            let _ = io.write_all(answer.as_bytes()).await;
        });
        let layer = WsConnectLayer::new().with_max_head(bytes, headers);
        let Err(OpenError::Connect(error)) = soon(dial(layer, &url)).await else {
            panic!("{bytes} bytes, {headers} headers");
        };
        let error = error.downcast_ref::<WsConnectError>().unwrap();
        assert!(
            matches!(error, WsConnectError::InvalidResponse(_)),
            "{error:?}"
        );
        soon(server).await.unwrap();
    }
}

#[tokio::test]
async fn schemes_are_case_insensitive() {
    for scheme in ["WS", "Ws", "wS", "WSS", "Wss"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            io.read(&mut [0; 4096]).await.unwrap()
        });
        let Err(OpenError::Connect(error)) = soon(dial(WsConnectLayer::new(), &url)).await else {
            panic!("the server does not respond");
        };
        let error = error.downcast_ref::<WsConnectError>().unwrap();
        let received = soon(server).await.unwrap();
        if scheme.len() == 3 {
            assert!(
                matches!(error, WsConnectError::NotSecure),
                "{url}: {error:?}"
            );
            assert_eq!(received, 0, "nothing may be sent without TLS");
        } else {
            assert!(
                matches!(error, WsConnectError::Handshake(_)),
                "{url}: {error:?}"
            );
            assert!(received > 0);
        }
    }
}

#[tokio::test]
async fn url_without_a_path_requests_the_root() {
    for (rest, first) in [
        ("", "GET / HTTP/1.1\r\n"),
        ("?room=7", "GET /?room=7 HTTP/1.1\r\n"),
        ("/a?b#c", "GET /a?b HTTP/1.1\r\n"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}{rest}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut received = vec![0; first.len()];
            io.read_exact(&mut received).await.unwrap();
            String::from_utf8(received).unwrap()
        });
        let refused = soon(dial(WsConnectLayer::new(), &url)).await.is_err();
        assert!(refused, "the server does not respond");
        assert_eq!(soon(server).await.unwrap(), first);
    }
}

#[tokio::test]
async fn client_and_server_interoperate_with_another_implementation() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::{accept_async, client_async, tungstenite};

    // Another server with our client.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut ws = accept_async(io).await.unwrap();
        while let Some(Ok(message)) = ws.next().await {
            if message.is_text() {
                ws.send(message).await.unwrap();
            }
        }
    });
    let (session, task, mut receiver) = soon(dial(WsConnectLayer::new(), &url)).await.unwrap();
    for text in ["", "hello", &"ä".repeat(20_000)] {
        session.send(text.to_owned()).await.unwrap();
        assert_eq!(soon(receiver.recv()).await.unwrap(), text);
    }
    session.close_with(WsClose::new(4003, "enough"));
    let closed = soon(task).await.unwrap();
    assert!(closed.source.is_none(), "{closed}");
    soon(server).await.unwrap();

    // Our server with another client.
    let mut ours = Server::echo(WsLayer::new());
    let io = ours.connector.connect().await.unwrap().into_parts().0;
    let (mut ws, _) = client_async("ws://example.com/", io).await.unwrap();
    for message in [
        tungstenite::Message::text("hello"),
        tungstenite::Message::binary(vec![7; 50_000]),
    ] {
        soon(ws.send(message.clone())).await.unwrap();
        assert_eq!(soon(ws.next()).await.unwrap().unwrap(), message);
    }
    ws.close(None).await.unwrap();
    while soon(ws.next()).await.is_some() {}
    assert_eq!(ours.end().await.reason, CloseReason::PeerClosed);
}
