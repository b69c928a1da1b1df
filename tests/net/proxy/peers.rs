//! Proxies of others, which `.ci/edge/outgoing` starts. They resolve [`PROXY_ONLY`] and the
//! name of the certificate to this machine.

use std::{env, net::SocketAddr, sync::Arc, time::Duration};

use getty::{
    CodecLayer, Layer, NoReply, Request, ServiceBuilder, SessionLayer,
    codec::Lines,
    handle,
    layers::OnOpenLayer,
    net::{
        TcpConnector, TcpListener,
        proxy::{
            HttpConnectLayer, ProxyConnect, ProxyConnectError, ProxyKind, Socks5ConnectLayer, Via,
        },
    },
    tls::{TlsConnectLayer, TlsLayer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::ServiceExt;

use super::kit::PROXY_ONLY;
use crate::tls::kit::{Authority, NAME, settings, trusting};

/// A proxy from the variable `GETTY_TEST_PROXIES`, such as
/// `socks5://user:secret@127.0.0.1:1080`.
struct Proxy {
    url: String,
    kind: ProxyKind,
    login: Option<(String, String)>,
    address: SocketAddr,
}

impl Proxy {
    fn parse(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect(url);
        let (login, address) = match rest.split_once('@') {
            Some((login, address)) => (login.split_once(':'), address),
            None => (None, rest),
        };
        Self {
            url: url.to_owned(),
            kind: match scheme {
                "socks5" => ProxyKind::Socks5,
                "http" => ProxyKind::Http,
                _ => panic!("{url}"),
            },
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
            address: address.parse().expect(url),
        }
    }

    fn connector(&self) -> ProxyConnect<TcpConnector, SocketAddr> {
        self.with_login(self.login.clone())
    }

    fn with_login(
        &self,
        login: Option<(String, String)>,
    ) -> ProxyConnect<TcpConnector, SocketAddr> {
        match (self.kind, login) {
            (ProxyKind::Socks5, None) => {
                Socks5ConnectLayer::new(self.address).layer(TcpConnector::new())
            }
            (ProxyKind::Socks5, Some((user, password))) => Socks5ConnectLayer::new(self.address)
                .with_login(user, password)
                .layer(TcpConnector::new()),
            (_, None) => HttpConnectLayer::new(self.address).layer(TcpConnector::new()),
            (_, Some((user, password))) => HttpConnectLayer::new(self.address)
                .with_login(user, password)
                .layer(TcpConnector::new()),
        }
    }
}

/// Serves an echo of lines that sends a line first, plain or over TLS. Returns its port.
async fn greeter(address: SocketAddr, tls: Option<TlsLayer>) -> u16 {
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(OnOpenLayer::new(|session| async move {
            session.send("220 ready".to_owned()).await.map(drop)
        }))
        .layer(SessionLayer::new())
        .service_fn(|line: Request<String>| async {
            Ok::<_, getty::BoxError>(line.into_message())
        });
    match tls {
        Some(tls) => {
            let app = ServiceBuilder::new().layer(tls).service(app);
            tokio::spawn(async move { getty::serve(listener, app).await });
        }
        None => {
            tokio::spawn(async move { getty::serve(listener, app).await });
        }
    }
    port
}

/// Receives the greeting and an echo.
async fn talk(io: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    let mut greeting = [0; 10];
    io.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\n");
    io.write_all(b"hello\n").await.unwrap();
    io.flush().await.unwrap();
    let mut echo = [0; 6];
    io.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello\n");
}

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

async fn check(proxy: &Proxy, authority: &Authority) {
    // A name that only the proxy resolves.
    let port = greeter(any_port(), None).await;
    let connector = proxy.connector();
    let target = (PROXY_ONLY, port);
    assert!(
        TcpConnector::new().oneshot(target).await.is_err(),
        "resolved here"
    );
    let mut connection = connector.clone().oneshot(target).await.unwrap();
    let _: &TcpStream = connection.transport();
    talk(connection.transport_mut()).await;
    let dialed = connection.handle();
    assert_eq!(dialed.peer_addr().socket_addr(), Some(proxy.address));
    let via: Via = dialed.get().unwrap();
    assert_eq!(via.target().to_string(), format!("{PROXY_ONLY}:{port}"));

    // Addresses of both families.
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    talk(
        connector
            .clone()
            .oneshot(target)
            .await
            .unwrap()
            .transport_mut(),
    )
    .await;
    if let Ok(probe) = TcpListener::bind("[::1]:0").await {
        let address = probe.local_addr().unwrap();
        drop(probe);
        greeter(address, None).await;
        talk(
            connector
                .clone()
                .oneshot(address)
                .await
                .unwrap()
                .transport_mut(),
        )
        .await;
    }

    // TLS through the proxy, with the certificate of the target's name.
    let tls = TlsLayer::new(settings(authority).load().unwrap());
    let secure = greeter(any_port(), Some(tls)).await;
    let dial = TlsConnectLayer::new(trusting(authority)).layer(connector.clone());
    talk(dial.oneshot((NAME, secure)).await.unwrap().transport_mut()).await;

    // A session, which the server's greeting opens.
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let (session, task) = getty::connect(connector.clone(), (PROXY_ONLY, port), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(move |line: String| {
                let sent = sender.send(line);
                async move { sent.map(|()| NoReply).map_err(getty::BoxError::from) }
            }))
    })
    .await
    .unwrap();
    session.send("hello".to_owned()).await.unwrap();
    assert_eq!(lines.recv().await.as_deref(), Some("220 ready"));
    assert_eq!(lines.recv().await.as_deref(), Some("hello"));
    session.close();
    task.await.unwrap();

    // Targets that the proxy does not reach. Some proxies use general codes.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(any_port()).unwrap();
    let refused = socket.local_addr().unwrap();
    for target in [refused.to_string(), "nobody.invalid:7000".to_owned()] {
        let error = connector.clone().oneshot(&*target).await.unwrap_err();
        eprintln!("{}: {target}: {error}", proxy.url);
        assert!(
            matches!(
                error,
                ProxyConnectError::Unreachable { .. } | ProxyConnectError::Refused { .. }
            ),
            "{error:?}"
        );
    }

    if let Some((user, password)) = &proxy.login {
        let error = proxy
            .with_login(None)
            .oneshot((PROXY_ONLY, port))
            .await
            .unwrap_err();
        assert!(
            matches!(error, ProxyConnectError::AuthRequired),
            "{error:?}"
        );
        let wrong = Some((user.clone(), format!("{password}?")));
        let error = proxy
            .with_login(wrong)
            .oneshot((PROXY_ONLY, port))
            .await
            .unwrap_err();
        assert!(
            matches!(error, ProxyConnectError::LoginRejected),
            "{error:?}"
        );
    }
}

#[tokio::test]
#[ignore = "requires proxies; `.ci/edge/outgoing` starts them and runs this test"]
async fn real_proxies() {
    let authority = Arc::new(Authority::new());
    let proxies = env::var("GETTY_TEST_PROXIES").expect("URLs of proxies");
    assert!(!proxies.trim().is_empty());
    for url in proxies.split_whitespace() {
        let proxy = Proxy::parse(url);
        let checked = tokio::time::timeout(Duration::from_secs(20), check(&proxy, &authority));
        assert!(checked.await.is_ok(), "{url} did not answer in time");
        println!("checked {url}");
    }
}
