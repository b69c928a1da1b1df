//! The contracts of section F of the design, each in one test.

use std::{
    error::Error,
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    Client, CodecLayer, Connection, Layer, OpenError, ServiceBuilder, SessionLayer,
    client::{Backoff, Decision, Ended, Failure, NoSession},
    codec::Lines,
    handle,
    net::{
        self, ConnectError, TcpConnector, TcpListener,
        proxy::{
            HttpConnectLayer, ProxyConnectError, ProxyKind, ProxyTarget, Socks5ConnectLayer, Via,
        },
    },
    service_fn,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};
use tower::ServiceExt;

use super::kit::{
    Dialogue, HTTP_REQUEST, KINDS, PROXY_ONLY, Relay, SOCKS_REQUEST, SOCKS_SUCCESS, TARGET, dial,
    failure, over, play, success,
};
use crate::{accept, log::lines_of, report};
use getty_test::Log;

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

#[tokio::test]
async fn the_name_goes_to_the_proxy_unresolved_unless_dns_is_local() {
    let mut server = TcpListener::bind(any_port()).await.unwrap();
    let port = server.local_addr().unwrap().port();
    for kind in KINDS {
        let proxy = Relay::start(kind, any_port()).await;
        let connector = over(kind, proxy.address, TcpConnector::new());
        let connection = connector.oneshot((PROXY_ONLY, port)).await.unwrap();
        let accepted = accept(&mut server).await;
        drop((connection, accepted));
        assert_eq!(proxy.seen(), [format!("{PROXY_ONLY}:{port}")]);
    }
    for kind in KINDS {
        let proxy = Relay::start(kind, any_port()).await;
        let tcp = TcpConnector::new();
        let connector = match kind {
            ProxyKind::Socks5 => {
                let layer = Socks5ConnectLayer::new(proxy.address);
                layer.with_local_dns().layer(tcp)
            }
            _ => HttpConnectLayer::new(proxy.address)
                .with_local_dns()
                .layer(tcp),
        };
        let unknown = connector.clone().oneshot((PROXY_ONLY, port)).await;
        assert!(matches!(unknown, Err(ProxyConnectError::Resolve(_))));
        assert!(proxy.seen().is_empty(), "nothing is dialed");

        // It may have an address of each family. The server listens on one only.
        let connection = connector.oneshot(("localhost", port)).await.unwrap();
        let via: Via = connection.handle().get().unwrap();
        assert_eq!(via.target(), &ProxyTarget::new("localhost", port).unwrap());
        let last: SocketAddr = proxy.seen().last().unwrap().parse().unwrap();
        assert_eq!(last.port(), port);
        accept(&mut server).await;
    }
}

#[tokio::test]
async fn reads_are_exact_and_a_server_that_speaks_first_loses_nothing() {
    let heads: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200\n\n",
        b"HTTP/1.1 200\nA: b\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \r\r\r\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 204 OK\r\n\r\n",
    ];
    let name: Vec<u8> = [b"\x05\x00\x00\x03\xff", &[b'a'; 257][..]].concat();
    let replies: &[&[u8]] = &[
        SOCKS_SUCCESS,
        b"\x05\x00\x00\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x05\x00\x00\x03\x0bexample.com\0\0",
        b"\x05\x00\x00\x03\x00\0\0",
        &name,
    ];
    let socks = replies.iter().map(|&reply| (ProxyKind::Socks5, reply));
    let http = heads.iter().map(|&head| (ProxyKind::Http, head));
    for (kind, reply) in socks.chain(http) {
        for greeting in [
            &b"\r\n"[..],
            b"\n",
            b"\0",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"220 ready\r\n",
        ] {
            let reply = [reply, greeting].concat();
            let dialogue: Dialogue<'_> = match kind {
                ProxyKind::Socks5 => &[(b"\x05\x01\x00", b"\x05\x00"), (SOCKS_REQUEST, &reply)],
                _ => &[(HTTP_REQUEST, &reply)],
            };
            let (dialed, peer) = dial(|inner| over(kind, (), inner), TARGET, dialogue).await;
            // The type is that of the connector.
            let mut connection: Connection<DuplexStream> = dialed.unwrap();
            let mut peer = peer.unwrap();
            let mut read = vec![0; greeting.len()];
            connection
                .transport_mut()
                .read_exact(&mut read)
                .await
                .unwrap();
            assert_eq!(read, greeting, "{}", reply.escape_ascii());
            crate::exchange(&mut connection, &mut peer).await.unwrap();
        }
    }
}

#[tokio::test]
async fn every_2xx_is_a_success_its_body_headers_are_ignored_and_a_head_has_at_most_8_kib() {
    let connect = |inner| over(ProxyKind::Http, (), inner);
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 201 Created\r\nContent-Length: 4000000000\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 299 ?\r\n\r\n",
    ] {
        let dialogue: Dialogue<'_> = &[(HTTP_REQUEST, head.as_bytes())];
        let (dialed, peer) = dial(connect, TARGET, dialogue).await;
        crate::exchange(&mut dialed.unwrap(), &mut peer.unwrap())
            .await
            .unwrap();
    }
    let head_of = |bytes: usize| {
        let start = "HTTP/1.1 200 OK\r\nA: ";
        let end = "\r\n\r\n";
        format!(
            "{start}{}{end}",
            "a".repeat(bytes - start.len() - end.len())
        )
    };
    let longest = head_of(8192);
    let (dialed, peer) = dial(connect, TARGET, &[(HTTP_REQUEST, longest.as_bytes())]).await;
    crate::exchange(&mut dialed.unwrap(), &mut peer.unwrap())
        .await
        .unwrap();

    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(400);
    let endless = "HTTP/1.1 200 OK\r\n".to_owned() + &"A: b\r\n".repeat(4000);
    for head in [head_of(8193), interim, endless] {
        let error = failure(ProxyKind::Http, &[(HTTP_REQUEST, head.as_bytes())]).await;
        assert!(
            matches!(error, ProxyConnectError::HeadTooLong(8192)),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn hosts_with_control_characters_or_spaces_or_over_255_bytes_fail_before_a_byte_is_sent() {
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dials);
    let inner = service_fn(move |()| {
        counted.fetch_add(1, SeqCst);
        pending::<Result<Connection<DuplexStream>, std::io::Error>>()
    });
    let long = "a".repeat(256);
    for kind in KINDS {
        let connector = over(kind, (), inner.clone());
        for host in [
            "a\rb",
            "a\r\nHost: b",
            "a\0",
            "a\tb",
            "a b",
            " a",
            "\u{85}",
            "\u{a0}",
            &long,
        ] {
            for target in [format!("{host}:1"), format!("[{host}]:1")] {
                let dialed = connector.clone().oneshot(target).await;
                assert!(
                    matches!(dialed, Err(ProxyConnectError::Target(_))),
                    "{host:?}"
                );
            }
            let dialed = connector.clone().oneshot((host.to_owned(), 1)).await;
            assert!(
                matches!(dialed, Err(ProxyConnectError::Target(_))),
                "{host:?}"
            );
        }
    }
    assert_eq!(dials.load(SeqCst), 0);

    let host = &long[1..];
    let request = [b"\x05\x01\x00\x03\xff", host.as_bytes(), b"\0\x01"].concat();
    let dialogue: Dialogue<'_> = &[(b"\x05\x01\x00", b"\x05\x00"), (&request, SOCKS_SUCCESS)];
    let connect = |inner| over(ProxyKind::Socks5, (), inner);
    let (dialed, _) = dial(connect, (host.to_owned(), 1), dialogue).await;
    assert!(dialed.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_deadline_covers_dial_and_dialogue() {
    const SECOND: Duration = Duration::from_secs(1);
    for kind in KINDS {
        // The proxy is silent from the dial on, and from each byte of its replies on.
        let start = Instant::now();
        let silent = service_fn(|()| pending::<Result<Connection<DuplexStream>, std::io::Error>>());
        let error = over(kind, (), silent).oneshot(TARGET).await.unwrap_err();
        assert!(matches!(error, ProxyConnectError::TimedOut(limit) if limit == 10 * SECOND));
        assert_eq!(start.elapsed(), 10 * SECOND, "the default");

        let (mut listener, connector) = net::memory(1024);
        let slow = service_fn(move |()| {
            let connector = connector.clone();
            async move {
                tokio::time::sleep(3 * SECOND).await;
                connector.connect().await
            }
        });
        let start = Instant::now();
        let connector = match kind {
            ProxyKind::Socks5 => {
                let layer = Socks5ConnectLayer::new(());
                layer.with_connect_timeout(5 * SECOND).layer(slow)
            }
            _ => {
                let layer = HttpConnectLayer::new(());
                layer.with_connect_timeout(5 * SECOND).layer(slow)
            }
        };
        let dial = tokio::spawn(connector.oneshot(TARGET));
        let mut peer = accept(&mut listener).await;
        // Bytes do not extend the deadline.
        let reply: &[u8] = match kind {
            ProxyKind::Socks5 => b"\x05\x00\x05\x00\x00",
            _ => b"HTTP/1.1 200 OK\r\n",
        };
        for byte in reply {
            tokio::time::sleep(SECOND / 2).await;
            if peer.transport_mut().write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        let error = dial.await.unwrap().unwrap_err();
        assert!(matches!(error, ProxyConnectError::TimedOut(limit) if limit == 5 * SECOND));
        let mut rest = Vec::new();
        peer.transport_mut().read_to_end(&mut rest).await.unwrap();
        assert!(start.elapsed() >= 5 * SECOND && start.elapsed() < 6 * SECOND);
    }
}

#[tokio::test]
async fn errors_name_unreachable_refused_and_a_required_login_and_a_client_decides() {
    let socks = async |code: u8| {
        let reply = [5, code];
        let dialogue: Dialogue<'_> = &[(b"\x05\x01\x00", b"\x05\x00"), (SOCKS_REQUEST, &reply)];
        failure(ProxyKind::Socks5, dialogue).await
    };
    let http = async |status: u16| {
        let head = format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno");
        failure(ProxyKind::Http, &[(HTTP_REQUEST, head.as_bytes())]).await
    };
    for code in 1..=255 {
        let error = socks(code).await;
        let expected = u16::from(code);
        match code {
            3..=6 => assert!(
                matches!(error, ProxyConnectError::Unreachable { code } if code == expected)
            ),
            _ => assert!(matches!(error, ProxyConnectError::Refused { code } if code == expected)),
        }
    }
    for status in 300..=999 {
        let error = http(status).await;
        match status {
            401 | 407 => assert!(matches!(error, ProxyConnectError::AuthRequired)),
            502..=504 => {
                assert!(matches!(error, ProxyConnectError::Unreachable { code } if code == status));
            }
            _ => assert!(matches!(error, ProxyConnectError::Refused { code } if code == status)),
        }
    }
    let none_acceptable: Dialogue<'_> = &[(b"\x05\x01\x00", b"\x05\xff")];
    let error = failure(ProxyKind::Socks5, none_acceptable).await;
    assert!(matches!(error, ProxyConnectError::AuthRequired));

    // The proxy itself is not reached: the source is the connector's error.
    for kind in KINDS {
        let (listener, connector) = net::memory(1024);
        drop(listener);
        let error = over(kind, (), connector).oneshot(TARGET).await.unwrap_err();
        assert!(matches!(error, ProxyConnectError::Connect(_)));
        let source = error.source().unwrap().downcast_ref::<ConnectError>();
        assert_eq!(
            source.unwrap().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
        assert!(report(&error).starts_with("cannot connect to the proxy\ncannot connect to mem"));
    }

    // A client stops when a retry cannot help.
    let (mut listener, connector) = net::memory(1024);
    let proxy = tokio::spawn(async move {
        let refusal = |code| [5, code];
        for code in [4, 1] {
            let reply = refusal(code);
            let dialogue: Dialogue<'_> = &[(b"\x05\x01\x00", b"\x05\x00"), (SOCKS_REQUEST, &reply)];
            play(&mut listener, dialogue).await;
        }
        play(&mut listener, none_acceptable).await;
    });
    let client = Client::<String>::builder()
        .with_backoff(Backoff::new(
            Duration::from_millis(1),
            Duration::from_millis(1),
        ))
        .with_retry_policy(|ended| match ended {
            Ended::Open(OpenError::Connect(error)) => match error.downcast_ref() {
                Some(ProxyConnectError::AuthRequired) => Decision::Stop,
                _ => Decision::Retry,
            },
            _ => Decision::Retry,
        })
        .connect(over(ProxyKind::Socks5, (), connector), TARGET, |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service(handle(|_: String| async { getty::NoReply }))
        });
    let ended = client.session().await.unwrap_err();
    assert!(
        matches!(ended, NoSession::Failed(Failure::Stopped(_))),
        "{ended:?}"
    );
    proxy.await.unwrap();
}

#[tokio::test]
async fn credentials_are_never_in_debug_logs_or_errors() {
    let log = Log::capture();
    let mut texts = Vec::new();
    let mut check = |text: String| texts.push(text);

    let socks = Socks5ConnectLayer::new(()).with_login("Aladdin", "open sesame");
    let http = HttpConnectLayer::new(()).with_login("Aladdin", "open sesame");
    check(format!("{socks:#?} {http:#?}"));
    let (_listener, connector) = net::memory(1024);
    let (one, other) = (socks.layer(connector.clone()), http.layer(connector));
    check(format!(
        "{one:#?} {other:#?} {:?}",
        one.clone().oneshot(TARGET)
    ));

    let login = b"\x01\x07Aladdin\x0bopen sesame";
    let dialogue: Dialogue<'_> = &[(b"\x05\x02\x00\x02", b"\x05\x02"), (login, b"\x01\x01")];
    let (dialed, _) = dial(|inner| socks.layer(inner), TARGET, dialogue).await;
    let error = dialed.unwrap_err();
    assert!(matches!(error, ProxyConnectError::LoginRejected));
    check(format!("{error:?} {}", report(&error)));
    let request = b"CONNECT example.com:7000 HTTP/1.1\r\nHost: example.com:7000\r\n\
        Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n";
    let dialogue: Dialogue<'_> = &[(request, b"HTTP/1.1 407 No\r\n\r\n")];
    let (dialed, _) = dial(|inner| http.layer(inner), TARGET, dialogue).await;
    let error = dialed.unwrap_err();
    assert!(matches!(error, ProxyConnectError::LoginRejected));
    check(format!("{error:?} {}", report(&error)));

    for (user, password) in [("Aladdin", "open\nsesame"), ("Alad:din", "open sesame")] {
        let layer = HttpConnectLayer::new(()).with_login(user, password);
        let (dialed, peer) = dial(|inner| layer.layer(inner), TARGET, &[]).await;
        let error = dialed.unwrap_err();
        assert!(matches!(error, ProxyConnectError::InvalidLogin(_)) && peer.is_none());
        check(format!("{error:?} {}", report(&error)));
    }
    check(format!("{:#?}", lines_of(&log)));
    for text in texts {
        for secret in ["Alad", "sesame", "QWxh"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn peer_addr_is_the_proxys_and_via_names_the_target() {
    let mut server = TcpListener::bind(any_port()).await.unwrap();
    let target = server.local_addr().unwrap();
    for kind in KINDS {
        let proxy = Relay::start(kind, any_port()).await;
        let connector = over(kind, proxy.address, TcpConnector::new());
        let mut connection = connector.oneshot(target).await.unwrap();
        let handle = connection.handle();
        assert_eq!(handle.peer_addr().socket_addr(), Some(proxy.address));
        assert_eq!(handle.transport(), getty::TransportKind::Tcp);
        let via: Via = handle.get().unwrap();
        assert_eq!(
            (via.kind(), via.target()),
            (kind, &ProxyTarget::from(target))
        );
        let mut accepted = accept(&mut server).await;
        crate::exchange(&mut connection, &mut accepted)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_login_is_offered_only_if_configured() {
    let without = |inner| over(ProxyKind::Socks5, (), inner);
    let (dialed, _) = dial(without, TARGET, success(ProxyKind::Socks5)).await;
    assert!(dialed.is_ok());
    // A proxy that selects what was not offered receives no login.
    for method in [1, 2, 3, 0x80] {
        let reply = [5, method];
        let error = failure(ProxyKind::Socks5, &[(b"\x05\x01\x00", &reply)]).await;
        assert!(
            matches!(error, ProxyConnectError::InvalidReply(_)),
            "{error:?}"
        );
    }
    let (dialed, _) = dial(
        |inner| over(ProxyKind::Http, (), inner),
        TARGET,
        &[(HTTP_REQUEST, b"HTTP/1.1 200 OK\r\n\r\n")],
    )
    .await;
    assert!(dialed.is_ok());

    let with = |inner| {
        Socks5ConnectLayer::new(())
            .with_login("user", "")
            .layer(inner)
    };
    let offer = b"\x05\x02\x00\x02";
    // The proxy that needs none receives none.
    let dialogue: Dialogue<'_> = &[(offer, b"\x05\x00"), (SOCKS_REQUEST, SOCKS_SUCCESS)];
    assert!(dial(with, TARGET, dialogue).await.0.is_ok());
    for version in [1, 5] {
        let accepted = [version, 0];
        let dialogue: Dialogue<'_> = &[
            (offer, b"\x05\x02"),
            (b"\x01\x04user\x00", &accepted),
            (SOCKS_REQUEST, SOCKS_SUCCESS),
        ];
        assert!(dial(with, TARGET, dialogue).await.0.is_ok());
    }
    for reply in [b"\x05\xff", b"\x05\x01"] {
        let (dialed, _) = dial(with, TARGET, &[(offer, reply)]).await;
        let error = dialed.unwrap_err();
        match reply[1] {
            0xff => assert!(matches!(error, ProxyConnectError::LoginRejected)),
            _ => assert!(matches!(error, ProxyConnectError::InvalidReply(_))),
        }
    }
}
