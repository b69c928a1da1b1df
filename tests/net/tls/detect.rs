//! TLS and plain byte streams on one port.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use getty::{
    Address, BoxError, CloseReason, CodecLayer, Connection, Endpoints, Request, ServiceBuilder,
    Session, SessionLayer, TransportKind,
    codec::Lines,
    layers::{
        OnOpenLayer,
        access::{AccessList, IpNet},
    },
    tls::{TlsConnectLayer, TlsError, TlsLayer, TlsOrPlainLayer, TlsOrPlainTransport},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tower::ServiceExt;

use super::{
    choose::hello,
    kit::{Authority, Client, NAME, Server, app, settings, trusting},
};

const SECOND: Duration = Duration::from_secs(1);

fn layer(authority: &Authority) -> TlsOrPlainLayer {
    TlsOrPlainLayer::new(TlsLayer::new(settings(authority).load().unwrap()))
}

fn server(layer: TlsOrPlainLayer) -> Server {
    Server::with_stack(ServiceBuilder::new().layer(layer).service(app()))
}

/// Changes how the first write of a client leaves.
enum First {
    /// Two parts: the second must follow 3 s later.
    Cut(usize),
    /// Two records in one part.
    Records(usize),
    Sent,
}

struct Shaped {
    inner: DuplexStream,
    first: First,
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Shaped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shaped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        match std::mem::replace(&mut self.first, First::Sent) {
            First::Sent => Pin::new(&mut self.inner).poll_write(cx, buf),
            First::Cut(length) => {
                self.pause = Some(Box::pin(sleep(3 * SECOND)));
                if length == 0 {
                    return self.poll_write(cx, buf);
                }
                Pin::new(&mut self.inner).poll_write(cx, &buf[..length])
            }
            First::Records(length) => {
                let (start, body) = buf.split_at(5);
                let mut records = Vec::new();
                for part in [&body[..length], &body[length..]] {
                    records.extend(&start[..3]);
                    records.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
                    records.extend(part);
                }
                let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &records))?;
                assert_eq!(written, records.len());
                Poll::Ready(Ok(buf.len()))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

async fn connect(server: &Server, authority: &Authority, first: First) -> Client<Shaped> {
    let inner = server.dial().await;
    let mut shaped = Some(Shaped {
        inner,
        first,
        pause: None,
    });
    let connector = tower::service_fn(move |()| {
        let connection = shaped.take().map(Connection::new);
        async { connection.ok_or_else(|| BoxError::from("connected twice")) }
    });
    let tls = TlsConnectLayer::new(trusting(authority));
    let connection = ServiceBuilder::new()
        .layer(tls.with_server_name(NAME.try_into().unwrap()))
        .service(connector)
        .oneshot(())
        .await
        .unwrap();
    Client::new(connection)
}

// Contract 5.
#[tokio::test(start_paused = true)]
async fn first_three_bytes_decide_fewer_wait_and_nothing_is_lost() {
    let authority = Authority::new();
    let server = server(layer(&authority));
    // Plain bytes in any parts.
    for text in [
        "hello",
        "\x16",
        "\x16\x03",
        "\x16\x04\x01",
        "\x16\x03\x05",
        "",
    ] {
        let line = format!("{text}\n");
        for cut in 0..line.len() {
            let mut peer = server.dial().await;
            peer.write_all(&line.as_bytes()[..cut]).await.unwrap();
            if cut > 0 {
                // A part that may begin a handshake waits longer than the detection timeout.
                sleep(5 * SECOND).await;
            }
            peer.write_all(&line.as_bytes()[cut..]).await.unwrap();
            peer.shutdown().await.unwrap();
            let mut reply = String::new();
            peer.read_to_string(&mut reply).await.unwrap();
            assert_eq!(reply, line, "cut after {cut} bytes");
        }
    }
    // A hello in two parts and in two records. A peer that is silent at first is plain.
    let length = hello(NAME, trusting(&authority)).len();
    for cut in 1..length {
        let mut client = connect(&server, &authority, First::Cut(cut)).await;
        let reply = client.ask("tls?").await;
        assert!(
            reply.starts_with("tls TlsInfo"),
            "cut after {cut} bytes: {reply}"
        );
    }
    for cut in (1..length - 5).step_by(7) {
        let mut client = connect(&server, &authority, First::Records(cut)).await;
        assert_eq!(client.ask("hello").await, "hello", "cut after {cut} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn hello_in_parts_or_records_is_accepted_without_the_detection() {
    let authority = Authority::new();
    let config = settings(&authority).load().unwrap();
    let chosen = config.clone();
    for tls in [
        TlsLayer::new(config),
        TlsLayer::choose(move |_| Ok(chosen.clone())),
    ] {
        let server = Server::with_layer(tls);
        let length = hello(NAME, trusting(&authority)).len();
        for cut in 0..length {
            let mut client = connect(&server, &authority, First::Cut(cut)).await;
            assert_eq!(client.ask("hello").await, "hello", "cut after {cut} bytes");
        }
        for cut in (1..length - 5).step_by(7) {
            let mut client = connect(&server, &authority, First::Records(cut)).await;
            assert_eq!(client.ask("hello").await, "hello", "cut after {cut} bytes");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_plain_after_the_timeout_and_may_be_greeted() {
    let authority = Authority::new();
    for (layer, limit) in [
        (layer(&authority), SECOND),
        (
            layer(&authority).with_detect_timeout(3 * SECOND),
            3 * SECOND,
        ),
    ] {
        let stack = ServiceBuilder::new()
            .layer(layer)
            .layer(CodecLayer::new(Lines::new()))
            .layer(OnOpenLayer::new(async |session: Session<String>| {
                session.feed(format!("220 {}", session.transport())).await
            }))
            .layer(SessionLayer::new())
            .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()));
        let server = Server::with_stack(stack);
        let started = Instant::now();
        let mut peer = server.dial().await;
        let mut greeting = [0; 11];
        peer.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 memory\n");
        assert_eq!(started.elapsed(), limit);
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_ends_before_its_first_bytes_is_plain() {
    let authority = Authority::new();
    let mut server = server(layer(&authority));
    for start in [&b""[..], &[0x16], &[0x16, 3]] {
        let mut peer = server.dial().await;
        peer.write_all(start).await.unwrap();
        peer.shutdown().await.unwrap();
        let closed = server.end().await;
        assert_eq!(closed.reason, CloseReason::PeerClosed);
        let reply = match start {
            [] => Vec::new(),
            start => [start, b"\n"].concat(),
        };
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, reply);
    }
}

#[tokio::test(start_paused = true)]
async fn start_of_a_handshake_waits_until_the_deadline() {
    let authority = Authority::new();
    let mut server = server(layer(&authority));
    for start in [&[0x16][..], &[0x16, 3], &[0x16, 3, 1], &[0x16, 3, 1, 2]] {
        let started = Instant::now();
        let mut peer = server.dial().await;
        peer.write_all(start).await.unwrap();
        let (reason, error) = server.refusal().await;
        assert_eq!(started.elapsed(), 10 * SECOND);
        assert_eq!(reason, CloseReason::HandshakeTimeout);
        assert!(matches!(error, TlsError::TimedOut(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn plain_peers_are_admitted_by_their_network_and_tls_peers_from_everywhere() {
    let authority = Authority::new();
    let network: IpNet = "192.0.2.0/24".parse().unwrap();
    let list = AccessList::deny_all().with_allowed([network]);
    let stack = ServiceBuilder::new()
        .layer(layer(&authority).with_plain_from(list))
        .service(app());
    for (ip, is_allowed) in [("192.0.2.7", true), ("198.51.100.7", false)] {
        let call = |inner: DuplexStream| {
            let peer = Address::Ip((ip.parse::<std::net::IpAddr>().unwrap(), 7).into());
            let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer);
            let connection = Connection::with_endpoints(inner, endpoints);
            let handle = connection.handle().clone();
            (handle, tokio::spawn(stack.clone().oneshot(connection)))
        };
        let (ours, mut peer) = tokio::io::duplex(64 * 1024);
        let (handle, task) = call(ours);
        peer.write_all(b"tls?\nGET / HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        peer.shutdown().await.unwrap();
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        let result = task.await.unwrap();
        assert_eq!(handle.transport(), TransportKind::Tcp);
        if is_allowed {
            // There are no parameters of TLS, so the handler fails.
            assert_eq!(result.unwrap().reason, CloseReason::Handler);
        } else {
            let error = result.unwrap_err();
            let error: &TlsError = error.downcast_ref().unwrap();
            assert!(matches!(error, TlsError::NotTls(_)), "{error:?}");
            assert_eq!(handle.reason(), Some(CloseReason::Refused));
            assert_eq!(received.first(), Some(&0x15), "the peer receives an alert");
        }

        let (ours, peer) = tokio::io::duplex(64 * 1024);
        let (handle, _task) = call(ours);
        let mut peer = Some(peer);
        let connector = tower::service_fn(move |()| {
            let connection = peer.take().map(Connection::new);
            async { connection.ok_or_else(|| BoxError::from("connected twice")) }
        });
        let tls = TlsConnectLayer::new(trusting(&authority));
        let connection = ServiceBuilder::new()
            .layer(tls.with_server_name(NAME.try_into().unwrap()))
            .service(connector)
            .oneshot(())
            .await
            .unwrap();
        let mut client = Client::new(connection);
        assert_eq!(client.ask("hello").await, "hello");
        assert_eq!(handle.transport(), TransportKind::Tls);
    }
}

#[tokio::test(start_paused = true)]
async fn both_kinds_end_as_their_protocol_requires() {
    let authority = Authority::new();
    let mut server = server(layer(&authority));
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    client.send("one\ntwo").await;
    client.stream.shutdown().await.unwrap();
    // Without a `close_notify` the read would fail.
    assert_eq!(client.rest().await.unwrap(), "one\ntwo\n");
    assert_eq!(server.end().await.reason, CloseReason::PeerClosed);

    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
    client.stream.get_mut().get_mut().shutdown().await.unwrap();
    assert_eq!(server.end().await.reason, CloseReason::Io);
}

/// Counts vectored writes.
struct Vectored(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Vectored {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Vectored {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, SeqCst);
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn vectored_writes_of_a_plain_session_stay_vectored() {
    let authority = Authority::new();
    let count = Arc::new(AtomicUsize::new(0));
    let (ours, mut peer) = tokio::io::duplex(64 * 1024);
    let written = ServiceBuilder::new().layer(layer(&authority)).service_fn(
        async |connection: Connection<TlsOrPlainTransport<Vectored>>| {
            let (mut transport, _guard) = connection.into_parts();
            assert!(transport.is_write_vectored() && !transport.is_tls());
            let bufs = [IoSlice::new(b"one "), IoSlice::new(b"two\n")];
            let written = transport.write_vectored(&bufs).await?;
            assert_eq!(transport.get_ref().1.load(SeqCst), 1);
            Ok::<_, BoxError>(written)
        },
    );
    peer.write_all(b"plain").await.unwrap();
    let connection = Connection::new(Vectored(ours, count));
    assert_eq!(written.oneshot(connection).await.unwrap(), 8);
}

#[cfg(feature = "ws")]
#[tokio::test(start_paused = true)]
async fn websocket_works_over_both_kinds() {
    use getty::ws::WsLayer;

    let authority = Authority::new();
    let stack = ServiceBuilder::new()
        .layer(layer(&authority))
        .layer(WsLayer::new())
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<String>| {
            Ok::<_, BoxError>(request.session().transport().to_string())
        });
    let server = Server::with_stack(stack);
    let request = "GET / HTTP/1.1\r\nHost: server.test\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // A binary message with "?", masked with zeros.
    let message = [0x82, 0x81, 0, 0, 0, 0, b'?'];
    async fn reply<T: AsyncRead + AsyncWrite + Unpin>(
        mut stream: T,
        request: &str,
        message: &[u8],
    ) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(message).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 0x82);
        let mut text = vec![0; stream.read_u8().await.unwrap().into()];
        stream.read_exact(&mut text).await.unwrap();
        String::from_utf8(text).unwrap()
    }
    assert_eq!(reply(server.dial().await, request, &message).await, "ws\n");
    let client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(reply(client.stream, request, &message).await, "wss\n");
}
