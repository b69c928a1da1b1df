//! `TlsLayer` among the layers of a production server.

use std::time::Duration;

use getty::{
    BoxError, BoxPipeline, CloseReason, CodecLayer, Pipeline, Request, ServiceBuilder, Session,
    SessionLayer,
    codec::Lines,
    layers::{
        AccessLayer, CatchPanicLayer, HandleErrorLayer, HandshakeTimeoutLayer, HeartbeatLayer,
        IdleTimeoutLayer, PeerLimitLayer, ReadTimeoutLayer, Registry, RegistryLayer, TraceLayer,
        WriteTimeoutLayer, access::AccessList,
    },
    net::{TcpConnector, TcpListener},
    tls::{TlsConnectLayer, TlsLayer, TlsStream},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tower::{Layer, ServiceExt};

use super::kit::{Authority, Client, NAME, Server, app, settings, trusting};

const MINUTE: Duration = Duration::from_secs(60);

/// Returns the stack of a production server over TCP, with or without TLS.
fn full(
    tls: Option<TlsLayer>,
    registry: Registry<Session<String>>,
    limit: usize,
) -> impl Pipeline<TcpStream> + Clone {
    ServiceBuilder::new()
        .layer(TraceLayer::new())
        .layer(HandshakeTimeoutLayer::default())
        .concurrency_limit(limit)
        .layer(AccessLayer::new(AccessList::allow_all()))
        .layer(PeerLimitLayer::new(100))
        .layer(CatchPanicLayer::new())
        .option_layer(tls)
        .layer(WriteTimeoutLayer::new(MINUTE))
        .layer(ReadTimeoutLayer::new(MINUTE))
        .layer(IdleTimeoutLayer::new(5 * MINUTE))
        .layer(CodecLayer::new(Lines::new()))
        .layer(RegistryLayer::new(registry))
        .layer(HeartbeatLayer::new(MINUTE, |_session| String::new()))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|_error| None))
        .service_fn(async |request: Request<String>| {
            if request.message() == "panic" {
                panic!("on purpose");
            }
            Ok::<_, BoxError>(request.into_message())
        })
}

#[tokio::test]
async fn one_stack_serves_with_and_without_tls() {
    let authority = Authority::new();
    for tls in [
        Some(TlsLayer::new(settings(&authority).load().unwrap())),
        None,
    ] {
        let secured = tls.is_some();
        let registry = Registry::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stack = full(tls, registry.clone(), 1);
        let (shut_down, shutdown) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(
            getty::serve(listener, stack)
                .with_graceful_shutdown(async { drop(shutdown.await) })
                .into_future(),
        );

        // These connections share one permit in turn. A failed handshake releases it.
        if secured {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            stranger.write_all(b"hello\n").await.unwrap();
            let _ = stranger.read_to_end(&mut Vec::new()).await;
            let connector = TlsConnectLayer::new(trusting(&authority))
                .with_server_name(NAME.try_into().unwrap())
                .layer(TcpConnector::new());
            let mut first = Client::new(connector.clone().oneshot(address).await.unwrap());
            assert_eq!(first.ask("panic").await, "");
            let mut second = Client::new(connector.oneshot(address).await.unwrap());
            assert_eq!(second.ask("hello").await, "hello");
            let [session] = &registry.all()[..] else {
                panic!("one is live")
            };
            assert!(session.name().starts_with("tls-"), "{}", session.name());
            shut_down.send(()).unwrap();
            assert_eq!(second.rest().await.unwrap(), "");
        } else {
            let mut client = BufReader::new(TcpStream::connect(address).await.unwrap());
            client.write_all(b"hello\n").await.unwrap();
            let mut answer = String::new();
            client.read_line(&mut answer).await.unwrap();
            assert_eq!(answer, "hello\n");
            shut_down.send(()).unwrap();
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        }
        let drained = serving.await.unwrap().unwrap();
        assert_eq!((drained.finished, drained.aborted), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn boxed_stack_is_served_over_tls() {
    let authority = Authority::new();
    let tls = TlsLayer::new(settings(&authority).load().unwrap());
    let mut server = Server::with_stack(tls.layer(BoxPipeline::new(app())));
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
    client.stream.shutdown().await.unwrap();
    assert_eq!(server.end().await.reason, CloseReason::PeerClosed);
}

#[tokio::test(start_paused = true)]
async fn tls_may_run_inside_tls() {
    let authority = Authority::new();
    let tls = || TlsLayer::new(settings(&authority).load().unwrap());
    let stack = ServiceBuilder::new()
        .layer(tls())
        .layer(tls())
        .service(app());
    let server = Server::with_stack(stack);
    let connect =
        || TlsConnectLayer::new(trusting(&authority)).with_server_name(NAME.try_into().unwrap());
    let connector = ServiceBuilder::new()
        .layer(connect())
        .layer(connect())
        .service(server.connector.clone());
    let mut client: Client<TlsStream<_>> = Client::new(connector.oneshot(()).await.unwrap());
    assert_eq!(client.ask("hello").await, "hello");
}

#[tokio::test(start_paused = true)]
async fn concurrency_limit_applies_to_handshakes_on_either_side_of_tls() {
    let authority = Authority::new();
    let tls = || TlsLayer::new(settings(&authority).load().unwrap());
    for server in [
        Server::with_stack(
            ServiceBuilder::new()
                .layer(tls())
                .concurrency_limit(1)
                .service(app()),
        ),
        Server::with_stack(
            ServiceBuilder::new()
                .concurrency_limit(1)
                .layer(tls())
                .service(app()),
        ),
    ] {
        let stalled = server.dial().await;
        let waiting = server.connect(trusting(&authority));
        tokio::pin!(waiting);
        let early = tokio::time::timeout(Duration::from_secs(5), waiting.as_mut()).await;
        assert!(
            early.is_err(),
            "the stalled handshake holds the only permit"
        );
        drop(stalled);
        let mut client = waiting.await.unwrap();
        assert_eq!(client.ask("hello").await, "hello");
    }
}
