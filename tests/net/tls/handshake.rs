//! Handshakes that stall or fail, and bytes that are not a handshake. They must not delay other
//! connections.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, Connection, Service, ServiceBuilder,
    layers::{HandshakeTimeoutLayer, handshake_timeout::HandshakeTimedOut},
    net::{ConnectError, MemoryConnector, memory},
    tls::{
        TlsConnect, TlsConnectLayer, TlsError, TlsLayer, TlsStream,
        rustls::{
            AlertDescription, ServerConfig,
            crypto::ring,
            server::{ClientHello, ResolvesServerCert},
            sign::CertifiedKey,
        },
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};
use tower::{Layer, ServiceExt, limit::ConcurrencyLimitLayer};

use super::kit::{Authority, NAME, Server, app, settings, trusting};

/// First bytes of a `ClientHello`.
const HALF: &[u8] = &[0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3];

const SECOND: Duration = Duration::from_secs(1);

fn layer(authority: &Authority) -> TlsLayer {
    TlsLayer::new(settings(authority).load().unwrap())
}

#[tokio::test(start_paused = true)]
async fn stalled_handshake_ends_at_its_deadline() {
    let authority = Authority::new();
    for (layer, limit) in [
        (layer(&authority), 10 * SECOND),
        (
            layer(&authority).with_handshake_timeout(3 * SECOND),
            3 * SECOND,
        ),
    ] {
        for start in [&[][..], HALF] {
            let mut server = Server::with_layer(layer.clone());
            let started = Instant::now();
            let mut peer = server.dial().await;
            peer.write_all(start).await.unwrap();
            let (reason, error) = server.refusal().await;
            assert_eq!(started.elapsed(), limit);
            assert_eq!(reason, CloseReason::HandshakeTimeout);
            assert!(matches!(error, TlsError::TimedOut(max) if max == limit));
            assert_eq!(peer.read(&mut [0; 64]).await.unwrap(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn single_bytes_do_not_extend_the_deadline() {
    let authority = Authority::new();
    let mut server = Server::with_layer(layer(&authority));
    let started = Instant::now();
    let mut peer = server.dial().await;
    let slowly = tokio::spawn(async move {
        for byte in HALF.iter().cycle() {
            if peer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(2 * SECOND).await;
        }
    });
    assert_eq!(server.refusal().await.0, CloseReason::HandshakeTimeout);
    assert_eq!(started.elapsed(), 10 * SECOND);
    slowly.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn earlier_of_two_deadlines_applies() {
    let authority = Authority::new();
    let stack = ServiceBuilder::new()
        .layer(HandshakeTimeoutLayer::new(3 * SECOND))
        .layer(layer(&authority))
        .service(app());
    let mut server = Server::with_stack(stack);
    let started = Instant::now();
    let _peer = server.dial().await;
    let closed = server.end().await;
    assert_eq!(started.elapsed(), 3 * SECOND);
    assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
    assert!(closed.source.unwrap().is::<HandshakeTimedOut>());
}

#[tokio::test(start_paused = true)]
async fn deadline_includes_the_wait_for_a_permit() {
    let authority = Authority::new();
    let stack = ServiceBuilder::new()
        .concurrency_limit(1)
        .layer(layer(&authority))
        .service(app());
    let mut server = Server::with_stack(stack);
    let first = server.connect(trusting(&authority)).await.unwrap();
    let mut late = server.dial().await;
    tokio::time::sleep(11 * SECOND).await;
    let started = Instant::now();
    drop(first);
    assert_eq!(server.end().await.reason, CloseReason::Io);
    let (reason, _) = server.refusal().await;
    assert_eq!(reason, CloseReason::HandshakeTimeout);
    assert_eq!(started.elapsed().as_secs(), 0);
    assert_eq!(late.read(&mut [0; 64]).await.unwrap(), 0);
    // The permit was released.
    let mut next = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(next.ask("hello").await, "hello");
}

/// Returns records with the first bytes of a `ClientHello` of 60,000 bytes.
fn hello_of_60_000(bytes: usize) -> Vec<u8> {
    let mut hello = vec![1, 0, 0xea, 0x60, 3, 3];
    hello.resize(bytes, 7);
    let records = hello.chunks(4096).map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[0x16, 3, 1][..], &length, part].concat()
    });
    records.collect::<Vec<_>>().concat()
}

#[tokio::test(start_paused = true)]
async fn hello_that_is_too_long_is_refused_before_its_end() {
    let authority = Authority::new();
    for (layer, limit) in [
        (layer(&authority), 12 * 1024),
        (layer(&authority).with_max_hello(5000), 5000),
    ] {
        let mut server = Server::with_layer(layer.clone());
        let started = Instant::now();
        let mut peer = server.dial().await;
        peer.write_all(&hello_of_60_000(limit)).await.unwrap();
        let (reason, error) = server.refusal().await;
        assert_eq!(reason, CloseReason::Refused);
        assert!(
            matches!(error, TlsError::HelloTooLong(max) if max == limit),
            "{error:?}"
        );
        assert_eq!(started.elapsed(), Duration::ZERO);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.first(), Some(&0x15), "the server sends an alert");

        // With one byte less than the maximum the server must wait for more.
        let mut peer = server.dial().await;
        let start = hello_of_60_000(limit);
        peer.write_all(&start[..limit - 1]).await.unwrap();
        let (reason, _) = server.refusal().await;
        assert_eq!(reason, CloseReason::HandshakeTimeout);

        let mut client = server.connect(trusting(&authority)).await.unwrap();
        assert_eq!(client.ask("hello").await, "hello");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_after_the_hello_are_not_limited() {
    let authority = Authority::new();
    // A client's hello is shorter. The bytes after the hello are not counted.
    for bound in [1024, 64 * 1024] {
        let server = Server::with_layer(layer(&authority).with_max_hello(bound));
        let mut client = server.connect(trusting(&authority)).await.unwrap();
        let line = "x".repeat(100_000);
        assert_eq!(client.ask(&line).await, line);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_tls_are_reported() {
    let authority = Authority::new();
    let mut server = Server::with_layer(layer(&authority));
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: server.test\r\n\r\n"[..],
        b"hello\n",
        &[0xff; 10_000],
        &[0; 64],
    ] {
        let mut peer = server.dial().await;
        peer.write_all(garbage).await.unwrap();
        let (reason, error) = server.refusal().await;
        assert_eq!(reason, CloseReason::Refused);
        assert!(matches!(error, TlsError::NotTls(_)), "{error:?}");
        // The peer receives an alert.
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.first(), Some(&0x15));
    }
}

#[tokio::test(start_paused = true)]
async fn any_bytes_in_place_of_a_hello_affect_no_other_connection() {
    use proptest::{
        prelude::any,
        strategy::{Strategy, ValueTree},
        test_runner::TestRunner,
    };

    let authority = Authority::new();
    let mut server = Server::with_layer(layer(&authority));
    let mut good = server.connect(trusting(&authority)).await.unwrap();
    let bytes = proptest::collection::vec(any::<u8>(), 0..600);
    let mut runner = TestRunner::deterministic();
    for n in 0..300 {
        let mut junk = bytes.new_tree(&mut runner).unwrap().current();
        if n % 2 == 0 {
            // Looks like the first bytes of a record.
            junk.splice(0..0, [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]);
        }
        let mut peer = server.dial().await;
        peer.write_all(&junk).await.unwrap();
        peer.shutdown().await.unwrap();
        assert_eq!(server.refusal().await.0, CloseReason::Refused);
    }
    assert_eq!(good.ask("hello").await, "hello");
}

#[tokio::test(start_paused = true)]
async fn peer_that_closes_during_the_handshake_is_reported() {
    let authority = Authority::new();
    let mut server = Server::with_layer(layer(&authority));
    for start in [&[][..], HALF] {
        let mut peer = server.dial().await;
        peer.write_all(start).await.unwrap();
        drop(peer);
        let (reason, error) = server.refusal().await;
        assert_eq!(reason, CloseReason::Refused);
        assert!(matches!(error, TlsError::PeerClosed), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn tls_to_a_port_without_tls_is_reported() {
    let authority = Authority::new();
    let mut server = Server::with_stack(app());
    let error = server.connect(trusting(&authority)).await.err().unwrap();
    let error: &TlsError = error.downcast_ref().unwrap();
    // The server may have echoed all of our hello or a part.
    assert!(
        matches!(
            error,
            TlsError::Protocol(_) | TlsError::NotTls(_) | TlsError::PeerClosed
        ),
        "{error:?}"
    );
    server.end().await;
}

#[tokio::test(start_paused = true)]
async fn silent_server_is_abandoned_at_the_connect_timeout() {
    let authority = Authority::new();
    let (_listener, connector) = memory(1024);
    let started = Instant::now();
    let error = dialling(&authority, connector)
        .oneshot(())
        .await
        .unwrap_err();
    assert_eq!(started.elapsed(), 10 * SECOND);
    assert!(matches!(
        error.downcast_ref(),
        Some(TlsError::TimedOut(limit)) if *limit == 10 * SECOND
    ));
}

fn dialling(authority: &Authority, connector: MemoryConnector) -> TlsConnect<MemoryConnector> {
    let layer = TlsConnectLayer::new(trusting(authority));
    layer
        .with_server_name(NAME.try_into().unwrap())
        .layer(connector)
}

#[tokio::test(start_paused = true)]
async fn connect_timeout_includes_the_connect() {
    let authority = Authority::new();
    let layer = TlsConnectLayer::new(trusting(&authority)).with_connect_timeout(SECOND);
    let never = tower::service_fn(async |_: &'static str| {
        std::future::pending::<Result<Connection<DuplexStream>, BoxError>>().await
    });
    let error = layer
        .layer(never)
        .oneshot("server.test:1")
        .await
        .unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(TlsError::TimedOut(_))));
}

#[tokio::test]
async fn failed_connect_returns_the_connectors_error() {
    let authority = Authority::new();
    let (listener, connector) = memory(1024);
    drop(listener);
    let error = dialling(&authority, connector)
        .oneshot(())
        .await
        .unwrap_err();
    let error: &ConnectError = error.downcast_ref().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn target_without_a_name_is_not_connected() {
    let authority = Authority::new();
    let (_listener, connector) = memory(1024);
    let connector = TlsConnectLayer::new(trusting(&authority)).layer(connector);
    let error = connector.oneshot(()).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(TlsError::NoServerName)));
}

#[tokio::test(start_paused = true)]
async fn thousand_partial_handshakes_delay_no_other_connection() {
    let authority = Authority::new();
    let stack = ServiceBuilder::new()
        .concurrency_limit(10_000)
        .layer(layer(&authority))
        .service(app());
    let mut server = Server::with_stack(stack);
    let started = Instant::now();
    let mut halves = Vec::new();
    for n in 0..5000 {
        let mut half = server.dial().await;
        half.write_all(&HALF[..n % HALF.len()]).await.unwrap();
        halves.push(half);
    }
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
    // The paused clock advances only when all tasks wait. It has not advanced.
    assert_eq!(started.elapsed(), Duration::ZERO);

    for _ in 0..5000 {
        assert_eq!(server.end().await.reason, CloseReason::HandshakeTimeout);
    }
    assert_eq!(started.elapsed(), 10 * SECOND);
    assert_eq!(client.ask("hello").await, "hello");
}

/// Counts permits. Readiness takes a permit, a call uses it, and a drop must release it.
#[derive(Debug)]
struct Permits {
    out: &'static AtomicUsize,
    mine: bool,
}

impl Clone for Permits {
    fn clone(&self) -> Self {
        Self {
            out: self.out,
            mine: false,
        }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        if self.mine {
            self.out.fetch_sub(1, SeqCst);
        }
    }
}

impl Service<Connection<TlsStream<DuplexStream>>> for Permits {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if !self.mine {
            self.mine = true;
            self.out.fetch_add(1, SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection<TlsStream<DuplexStream>>) -> Self::Future {
        assert!(self.mine, "called without having been polled ready");
        Box::pin(async move {
            drop(connection);
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn reservation_of_readiness_is_used_or_released() {
    static OUT: AtomicUsize = AtomicUsize::new(0);
    let authority = Authority::new();
    let permits = Permits {
        out: &OUT,
        mine: false,
    };
    let mut service = layer(&authority).layer(permits);
    let (listener, connector) = memory(64 * 1024);
    let mut listener = listener;
    let mut accepted = async || super::super::accept(&mut listener).await;

    // A handshake that fails.
    let mut peer = connector.connect().await.unwrap().into_parts().0;
    let connection = accepted().await;
    let response = service.ready().await.unwrap().call(connection);
    assert_eq!(OUT.load(SeqCst), 1);
    peer.write_all(b"no TLS\n").await.unwrap();
    assert!(response.await.unwrap_err().is::<TlsError>());
    assert_eq!(OUT.load(SeqCst), 0);

    // A handshake that is dropped.
    let _peer = connector.connect().await.unwrap();
    let response = service.ready().await.unwrap().call(accepted().await);
    assert_eq!(OUT.load(SeqCst), 1);
    drop(response);
    assert_eq!(OUT.load(SeqCst), 0);

    // A handshake that succeeds.
    let dial = tokio::spawn(dialling(&authority, connector).oneshot(()));
    let connection = accepted().await;
    service
        .ready()
        .await
        .unwrap()
        .call(connection)
        .await
        .unwrap();
    assert_eq!(OUT.load(SeqCst), 0);
    drop(dial.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn client_that_refuses_the_certificate_releases_its_permit() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let stack = ServiceBuilder::new()
        .layer(ConcurrencyLimitLayer::new(1))
        .layer(layer(&authority))
        .service(app());
    let mut server = Server::with_stack(stack);
    for _ in 0..3 {
        server.connect(trusting(&stranger)).await.err().unwrap();
        let (reason, error) = server.refusal().await;
        assert_eq!(reason, CloseReason::Refused);
        assert!(matches!(
            error,
            TlsError::RefusedByPeer(AlertDescription::UnknownCA)
        ));
    }
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
}

#[tokio::test(start_paused = true)]
async fn connection_closed_during_the_handshake_ends_at_once() {
    let authority = Authority::new();
    let stack = ServiceBuilder::new()
        .map_request(|connection: Connection<DuplexStream>| {
            let handle = connection.handle().clone();
            tokio::spawn(async move {
                tokio::time::sleep(SECOND).await;
                handle.close_with(CloseReason::SlowConsumer);
            });
            connection
        })
        .layer(layer(&authority))
        .service(app());
    let mut server = Server::with_stack(stack);
    let started = Instant::now();
    let mut peer = server.dial().await;
    assert_eq!(server.end().await.reason, CloseReason::SlowConsumer);
    assert_eq!(started.elapsed(), SECOND);
    assert_eq!(peer.read(&mut [0; 64]).await.unwrap(), 0);
}

/// Resolver that panics.
#[derive(Debug)]
struct Panics;

impl ResolvesServerCert for Panics {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        panic!("on purpose")
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_resolver_ends_only_its_connection() {
    let authority = Authority::new();
    let config = settings(&authority).load().unwrap();
    let mut server = Server::new(config.clone());
    let mut before = server.connect(trusting(&authority)).await.unwrap();
    let panics = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Panics));
    config.replace(panics);
    assert!(server.connect(trusting(&authority)).await.is_err());
    assert_eq!(server.end().await.reason, CloseReason::Panicked);
    assert_eq!(before.ask("hello").await, "hello");
    config.reload().unwrap();
    server.connect(trusting(&authority)).await.unwrap();
}
