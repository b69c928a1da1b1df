//! Layers from functions: `connection_fn` and `message_fn`.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, Pipeline, Reply, Request,
    ServiceBuilder, SessionLayer, Transport, connect,
    layers::HandleErrorLayer,
    middleware::{ConnectionNext, MessageNext, Next, connection_fn, message_fn},
    net, serve,
};
use getty_test::settle;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::codec::LinesCodec;
use tower::{ServiceExt, limit::GlobalConcurrencyLimitLayer};

use crate::support::{Server, dial, echo};

#[derive(Clone)]
struct User(String);

async fn login<S>(
    request: Request<String>,
    next: Next<S, Request<String>>,
) -> Result<Reply<String>, BoxError>
where
    S: MessageNext<String>,
{
    if let Some(name) = request.message().strip_prefix("LOGIN ") {
        request.session().insert(User(name.to_owned()));
        return Ok(Reply::one(format!("welcome, {name}")));
    }
    if request.session().get::<User>().is_none() {
        return Ok(Reply::one("LOGIN first".to_owned()));
    }
    next.run(request).await
}

async fn named<S, T>(
    connection: Connection<T>,
    next: Next<S, Connection<T>>,
) -> Result<Closed, BoxError>
where
    S: ConnectionNext<T>,
{
    connection.handle().set_name("front door");
    next.run(connection).await
}

/// Closures and functions, for any transport, around tower's and getty's layers.
fn app<T>(log: Arc<Mutex<Vec<String>>>) -> impl Pipeline<T> + Clone
where
    T: Transport + Send + 'static,
{
    ServiceBuilder::new()
        .layer(connection_fn(async move |connection, next| {
            tokio::task::yield_now().await;
            let closed = next.run(connection).await?;
            log.lock().unwrap().push(closed.reason.to_string());
            Ok(closed)
        }))
        .layer(connection_fn(named))
        .concurrency_limit(10)
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|error: BoxError| {
            format!("ERR {error}")
        }))
        .layer(message_fn(login))
        .timeout(Duration::from_secs(5))
        .layer(message_fn(async |request: Request<String>, next| {
            tokio::task::yield_now().await;
            let name = request.session().name();
            match request.message().as_str() {
                "WHO" => Ok(Reply::one(
                    request
                        .session()
                        .get()
                        .map_or_else(String::new, |User(name)| name),
                )),
                "FAIL" => Err("as requested".into()),
                "WHERE" => Ok(Reply::one(name.to_string())),
                _ => next.run(request).await,
            }
        }))
        .service_fn(echo)
}

#[tokio::test]
async fn functions_are_layers_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let log = Arc::default();
    let stack = app(Arc::clone(&log));
    let server = tokio::spawn(async move { serve(listener, stack).await });
    let mut peer = BufReader::new(TcpStream::connect(address).await.unwrap()).lines();
    for (request, reply) in [
        ("hello", "LOGIN first"),
        ("LOGIN ada", "welcome, ada"),
        ("hello", "hello"),
        ("WHO", "ada"),
        ("WHERE", "front door"),
        ("FAIL", "ERR as requested"),
        ("hello", "hello"),
    ] {
        let line = format!("{request}\n");
        let stream = peer.get_mut().get_mut();
        stream.write_all(line.as_bytes()).await.unwrap();
        assert_eq!(peer.next_line().await.unwrap().as_deref(), Some(reply));
    }
    peer.get_mut().get_mut().shutdown().await.unwrap();
    assert_eq!(peer.next_line().await.unwrap(), None);
    while log.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*log.lock().unwrap(), ["closed by the peer"]);
    server.abort();
}

#[tokio::test]
async fn stack_with_closures_runs_in_a_spawned_block() {
    let (listener, connector) = net::memory(1024);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    tokio::spawn(async move {
        let stack = ServiceBuilder::new()
            .layer(connection_fn(async |connection, next| {
                next.run(connection).await
            }))
            .layer(CodecLayer::new(LinesCodec::new()))
            .layer(SessionLayer::new())
            .layer(message_fn(async move |request, next| {
                counted.fetch_add(1, SeqCst);
                next.run(request).await
            }))
            .service_fn(echo);
        serve(listener, stack).await
    });
    let mut peer = dial(&connector).await;
    for count in 1..=2 {
        peer.say("hello").await;
        assert_eq!(peer.receive().await.as_deref(), Some("hello"));
        assert_eq!(calls.load(SeqCst), count);
    }
}

#[tokio::test]
async fn client_stack_may_have_functions() {
    let (mut listener, connector) = net::memory(1024);
    let (seen, mut messages) = tokio::sync::mpsc::unbounded_channel();
    let (session, _task) = connect(connector, (), |link| {
        ServiceBuilder::new()
            .layer(connection_fn(async |connection, next| {
                next.run(connection).await
            }))
            .layer(CodecLayer::new(LinesCodec::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .layer(message_fn(async move |request: Request<String>, next| {
                let _ = seen.send(request.message().clone());
                next.run(request).await
            }))
            .service_fn(async |_: Request<String>| Ok::<_, BoxError>(None))
    })
    .await
    .unwrap();
    session.send("hello".to_owned()).await.unwrap();
    let connection = std::future::poll_fn(|cx| getty::Listener::poll_accept(&mut listener, cx));
    let mut peer: DuplexStream = connection.await.unwrap().into_parts().0;
    peer.write_all(b"news\n").await.unwrap();
    assert_eq!(messages.recv().await.as_deref(), Some("news"));
}

#[tokio::test]
async fn function_that_does_not_run_the_rest_refuses_the_connection() {
    let called = Arc::new(AtomicUsize::new(0));
    let inner = Arc::clone(&called);
    let stack = ServiceBuilder::new()
        .layer(connection_fn(async |_connection, _next| {
            Err("not today".into())
        }))
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            inner.fetch_add(1, SeqCst);
            echo(request)
        });
    let (transport, _peer) = tokio::io::duplex(64);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let error = stack.oneshot(connection).await.unwrap_err();
    assert_eq!(error.to_string(), "not today");
    assert_eq!(handle.closed().await.reason, CloseReason::Refused);
    assert_eq!(called.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn function_calls_the_service_that_was_polled_ready() {
    let permits = Arc::new(Semaphore::new(1));
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .layer(message_fn(async |request: Request<String>, next| {
            if request.message() == "SKIP" {
                return Ok(Reply::one("skipped".to_owned()));
            }
            next.run(request).await
        }))
        // tower's limit panics if a service is called that was not polled ready
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
        .service_fn(echo);
    let server = Server::start(stack);
    let mut peer = server.dial().await;
    for (request, reply) in [("hello", "hello"), ("SKIP", "skipped"), ("bye", "bye")] {
        peer.say(request).await;
        assert_eq!(peer.receive().await.as_deref(), Some(reply));
        settle().await;
        assert_eq!(permits.available_permits(), 1, "after {request}");
    }
}
