//! Opening handshake of a server.

use getty::{
    SessionLayer, TransportKind,
    ws::{
        WsHandshakeError, WsRefusal, WsRequest,
        http::{HeaderValue, StatusCode, header},
    },
};
use tokio::time::{Instant, advance};

use super::*;

fn refusal(closed: &Closed) -> StatusCode {
    assert_eq!(closed.reason, CloseReason::Refused);
    let source = closed.source.as_ref().unwrap();
    match source.downcast_ref::<WsHandshakeError>() {
        Some(WsHandshakeError::Refused(refusal)) => refusal.status(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn request_is_accepted_and_becomes_an_attribute_of_the_handle() {
    let layer = WsLayer::new()
        .with_path("/chat")
        .with_protocols(["v2", "v1"])
        .with_kept_headers([header::USER_AGENT, header::COOKIE, header::USER_AGENT]);
    let mut server = Server::echo(layer);
    let mut peer = server.connect().await;
    let more = "Sec-WebSocket-Protocol: v0, v1\r\nSec-WebSocket-Protocol: v2\r\nUser-Agent: test\r\n\
                Cookie: a\r\nX-Trace: 7\r\nCookie: b\r\n\
                Sec-WebSocket-Extensions: permessage-deflate\r\n";
    // A frame may follow the request immediately.
    let mut bytes = request("/chat?room=7", more).into_bytes();
    bytes.extend(frame(FIN | TEXT, b"at once"));
    peer.write(&bytes).await;
    let head = peer.head().await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains(&format!("sec-websocket-accept: {}", ACCEPT.to_lowercase())));
    assert!(head.contains("sec-websocket-protocol: v2\r\n"), "{head}");
    assert!(!head.contains("extensions"), "{head}");
    assert_eq!(peer.frame().await.unwrap().1, b"at once");

    let session = server.session().await;
    assert_eq!(session.transport(), TransportKind::WebSocket);
    let facts: WsRequest = session.get().unwrap();
    assert_eq!(facts.path(), "/chat");
    assert_eq!(facts.uri().query(), Some("room=7"));
    assert_eq!(facts.protocol(), Some("v2"));
    // Only the named fields are kept.
    assert_eq!(facts.headers()[header::USER_AGENT], "test");
    let cookies: Vec<_> = facts.headers().get_all(header::COOKIE).iter().collect();
    assert_eq!(cookies, ["a", "b"]);
    assert_eq!(facts.headers().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn refused_request_receives_its_status_and_is_closed() {
    let ask = |line: &str, headers: &[(&str, &str)]| {
        let mut all = vec![
            ("Host", "example.com"),
            ("Upgrade", "WebSocket"),
            ("Connection", "upgrade"),
            ("Sec-WebSocket-Key", KEY),
            ("Sec-WebSocket-Version", "13"),
        ];
        for (name, value) in headers {
            all.retain(|(other, _)| other != name);
            all.push((name, value));
        }
        let all = all.iter().filter(|(_, value)| !value.is_empty());
        let all: String = all
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!("{line}\r\n{all}\r\n")
    };
    let get = "GET /chat HTTP/1.1";
    let long = "x".repeat(9000);
    let many: String = (0..65).map(|n| format!("X-{n}: 1\r\n")).collect();
    let many = request("/chat", &many);
    let two_lengths = request("/chat", "Content-Length: 0\r\nContent-Length: 5\r\n");
    let two_heads = request("/chat", "\nGET /admin HTTP/1.1\r\nHost: example.com\r\n");
    for (case, sent, status, expected) in [
        ("another path", ask("GET / HTTP/1.1", &[]), 404, ""),
        (
            "another method",
            ask("POST /chat HTTP/1.1", &[]),
            405,
            "allow: get\r\n",
        ),
        (
            "no upgrade",
            ask(get, &[("Upgrade", "")]),
            426,
            "upgrade: websocket\r\n",
        ),
        (
            "no connection",
            ask(get, &[("Connection", "close")]),
            426,
            "connection: close, upgrade",
        ),
        (
            "an old version",
            ask(get, &[("Sec-WebSocket-Version", "8")]),
            426,
            "sec-websocket-version: 13\r\n",
        ),
        ("no key", ask(get, &[("Sec-WebSocket-Key", "")]), 400, ""),
        (
            "half a key",
            ask(get, &[("Sec-WebSocket-Key", "dGhl")]),
            400,
            "",
        ),
        ("no host", ask(get, &[("Host", "")]), 400, ""),
        ("a body", ask(get, &[("Content-Length", "5")]), 400, ""),
        ("a second, different length", two_lengths, 400, ""),
        // An intermediary parses bytes after an empty line as another request.
        ("an empty line in the head", two_heads, 400, ""),
        ("HTTP/1.0", ask("GET /chat HTTP/1.0", &[]), 400, ""),
        ("not HTTP", "hello\r\n\r\n".to_owned(), 400, ""),
        (
            "another origin",
            ask(get, &[("Origin", "http://evil.com")]),
            403,
            "",
        ),
        ("the null origin", ask(get, &[("Origin", "null")]), 403, ""),
        ("a long head", ask(get, &[("Cookie", &long)]), 431, ""),
        ("many headers", many, 431, ""),
    ] {
        let mut server = Server::echo(WsLayer::new().with_path("/chat"));
        let mut peer = server.connect().await;
        let head = peer.ask(&sent).await.to_lowercase();
        assert!(
            head.starts_with(&format!("http/1.1 {status} ")),
            "{case}: {head}"
        );
        assert!(head.contains(expected), "{case}: {head}");
        let mut body = String::new();
        soon(peer.io.read_to_string(&mut body)).await.unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{case}"
        );
        drop(peer);
        assert_eq!(refusal(&server.end().await), status, "{case}");
    }
}

#[tokio::test]
async fn pages_of_the_same_or_a_listed_origin_may_connect() {
    let same = "Origin: http://example.com\r\n";
    let listed = "Origin: https://other.example\r\n";
    let evil = "Origin: https://evil.example\r\n";
    let of = WsLayer::new().with_origins(["https://other.example"]);
    for (layer, origin, accepted) in [
        (WsLayer::new(), same, true),
        (WsLayer::new(), listed, false),
        (WsLayer::new(), "", true),
        (of.clone(), listed, true),
        (of.clone(), same, false),
        (of, "", true),
        (WsLayer::new().with_any_origin(), evil, true),
    ] {
        let server = Server::echo(layer);
        let head = server.connect().await.ask(&request("/", origin)).await;
        assert_eq!(
            head.starts_with("HTTP/1.1 101 "),
            accepted,
            "{origin}: {head}"
        );
    }
}

#[tokio::test]
async fn paths_origins_and_head_size_can_be_restricted() {
    let rooms = WsLayer::new().with_path_matcher(|path| path.starts_with("/room/"));
    let partners = WsLayer::new().with_origin_check(|origin| origin.ends_with(".example.com"));
    let small = WsLayer::new().with_max_head(8192, 6);
    let (friend, stranger) = (
        "Origin: https://a.example.com\r\n",
        "Origin: https://b.test\r\n",
    );
    for (layer, path, headers, status) in [
        (&rooms, "/room/7?x", "", 101),
        (&rooms, "/rooms", "", 404),
        (&partners, "/", friend, 101),
        (&partners, "/", stranger, 403),
        (&partners, "/", "", 101),
        (&small, "/", "X-One: 1\r\n", 101),
        (&small, "/", "X-One: 1\r\nX-Two: 2\r\n", 431),
    ] {
        let server = Server::echo(layer.clone());
        let head = server.connect().await.ask(&request(path, headers)).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(head.starts_with(&expected), "{path} {headers}: {head}");
    }
}

#[tokio::test]
async fn subprotocol_may_be_required() {
    let layer = WsLayer::new().with_protocols(["v2"]);
    let server = Server::echo(layer.clone());
    let head = server.connect().await.ask(&request("/", "")).await;
    assert!(
        head.starts_with("HTTP/1.1 101 ") && !head.contains("protocol"),
        "{head}"
    );
    let server = Server::echo(layer.with_protocol_required());
    let head = server.connect().await.ask(&request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}

#[tokio::test]
async fn accept_hook_sees_the_request_and_may_refuse_it() {
    #[derive(Clone, Debug, PartialEq)]
    struct User(String);
    let layer = WsLayer::new().with_accept(|request, handle| async move {
        tokio::task::yield_now().await;
        let Some(user) = request.headers().get(header::AUTHORIZATION) else {
            let refusal = WsRefusal::new(StatusCode::UNAUTHORIZED, "{}");
            let (how, kind) = (
                HeaderValue::from_static("Bearer"),
                HeaderValue::from_static("application/json"),
            );
            return Err(refusal
                .with_header(header::WWW_AUTHENTICATE, how)
                .with_header(header::CONTENT_TYPE, kind));
        };
        handle.insert(User(user.to_str().unwrap_or_default().to_owned()));
        Ok(())
    });
    let mut server = Server::echo(layer);
    let head = server.connect().await.ask(&request("/", "")).await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    assert!(head.contains("www-authenticate: Bearer\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/json\r\n"),
        "{head}"
    );
    assert!(!head.contains("text/plain"), "{head}");
    assert_eq!(refusal(&server.end().await), 401);

    let mut peer = server.connect().await;
    let head = peer.ask(&request("/", "Authorization: ada\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let session = server.session().await;
    assert_eq!(session.get(), Some(User("ada".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn stalled_handshakes_time_out_and_delay_no_other_connection() {
    let mut server = Server::echo(WsLayer::new());
    let whole = request("/", "");
    let mut stalled = Vec::new();
    for n in 0..500 {
        let mut peer = server.connect().await;
        peer.write(&whole.as_bytes()[..n % whole.len()]).await;
        stalled.push(peer);
    }
    advance(Duration::from_secs(9)).await;
    // Single bytes do not extend the timeout.
    stalled[0].write(b"G").await;
    server.open().await;
    let _closed = server.end().await; // the open one
    for _ in 0..500 {
        let closed = server.end().await;
        assert_eq!(closed.reason, CloseReason::HandshakeTimeout, "{closed}");
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_closes_during_the_handshake_is_refused() {
    let mut server = Server::echo(WsLayer::new());
    drop(server.connect().await);
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    let source = closed.source.unwrap();
    let error = source.downcast_ref::<WsHandshakeError>().unwrap();
    assert!(matches!(error, WsHandshakeError::PeerClosed), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn connection_closed_during_the_handshake_ends_at_once() {
    let second = Duration::from_secs(1);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .map_request(move |connection: Connection<DuplexStream>| {
            let handle = connection.handle().clone();
            let ended = ended.clone();
            let tell = move |closed: &Closed| drop(ended.send(closed.clone()));
            handle.add_close_callback("test", "end", tell);
            tokio::spawn(async move {
                tokio::time::sleep(second).await;
                handle.close_with(CloseReason::SlowConsumer);
            });
            connection
        })
        .layer(WsLayer::new().with_messages(Messages::Both))
        .layer(CodecLayer::new(MessageCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Message>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let (listener, connector) = memory(1024);
    Server::serve(listener, stack);
    let started = Instant::now();
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut peer = Peer { io };
    peer.write(b"GET / HT").await;
    let closed = soon(ends.recv()).await.unwrap();
    assert_eq!(closed.reason, CloseReason::SlowConsumer);
    assert_eq!(started.elapsed(), second);
    assert_eq!(soon(peer.io.read(&mut [0; 64])).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn panicking_hook_ends_only_its_connection() {
    let layer = WsLayer::new().with_accept(|request, _| async move {
        assert_ne!(request.uri().path(), "/panic", "on purpose");
        Ok(())
    });
    let mut server = Server::echo(layer);
    let _open = server.open().await;
    let mut peer = server.connect().await;
    peer.write(request("/panic", "").as_bytes()).await;
    assert_eq!(server.end().await.reason, CloseReason::Panicked);
    assert_eq!(soon(peer.io.read(&mut [0; 64])).await.unwrap(), 0);
    let _another = server.open().await;
}

#[test]
fn dropped_runtime_ends_handshakes_with_their_callbacks() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (mut server, _peer) = runtime.block_on(async {
        let server = Server::echo(WsLayer::new());
        let mut peer = server.connect().await;
        peer.write(b"GET / HT").await;
        tokio::task::yield_now().await;
        (server, peer)
    });
    drop(runtime);
    let closed = server.ends.try_recv().unwrap();
    assert_eq!(
        closed.reason,
        CloseReason::Refused,
        "the session never opened"
    );
}

#[tokio::test]
async fn head_may_arrive_in_single_bytes() {
    let server = Server::new(WsLayer::new(), SessionLayer::new(), |request| async move {
        Some(request.into_message())
    });
    let mut peer = server.connect().await;
    for byte in request("/", "").as_bytes() {
        peer.write(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert!(peer.head().await.starts_with("HTTP/1.1 101 "));
}

#[tokio::test(start_paused = true)]
async fn accept_hook_sees_headers_that_the_session_does_not_keep() {
    let layer = WsLayer::new().with_accept(async |request, handle: getty::ConnectionHandle| {
        handle.insert(request.headers()[header::USER_AGENT].clone());
        Ok(())
    });
    let mut server = Server::echo(layer);
    let mut peer = server.connect().await;
    peer.ask(&request("/", "User-Agent: test\r\n")).await;
    let session = server.session().await;
    assert_eq!(
        session.get::<HeaderValue>().unwrap(),
        HeaderValue::from_static("test")
    );
    let opened: WsRequest = session.get().unwrap();
    assert!(opened.headers().is_empty(), "{opened:?}");
}

#[tokio::test(start_paused = true)]
async fn debug_output_contains_no_credentials() {
    let mut server =
        Server::echo(WsLayer::new().with_kept_headers([header::AUTHORIZATION, header::COOKIE]));
    let mut peer = server.connect().await;
    peer.ask(&request(
        "/",
        "Authorization: Bearer hush\r\nCookie: id=hush\r\nX-Trace: 7\r\n",
    ))
    .await;
    let opened: WsRequest = server.session().await.get().unwrap();
    assert_eq!(opened.headers()[header::AUTHORIZATION], "Bearer hush");
    let client = getty::ws::WsConnectLayer::new()
        .with_header(header::COOKIE, HeaderValue::from_static("id=hush"));
    for shown in [format!("{opened:?}"), format!("{client:?}")] {
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("Sensitive"), "{shown}");
    }
}
