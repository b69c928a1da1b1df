//! Serving: accepting, readiness of the stack, and errors of the listener.

mod panics;
mod shutdown;
mod staggered;

use std::{
    future::{Future, pending},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use getty::{
    Address, BoxError, BoxPipeline, Closed, CodecLayer, Connection, ConnectionHandle, Pipeline,
    Request, Service, ServiceBuilder, SessionLayer, Transport,
    net::{self, Listener},
    serve, serve_all,
};
use getty_test::{Dialer, Peer, Stream, listener, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::oneshot,
    task::JoinHandle,
    time::Instant,
};
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::support::{Answer, echo, idle, lines, soon};

/// Sleeps for the seconds in the message.
async fn sleep(request: Request<String>) -> Answer {
    let seconds = request.message().parse()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    echo(request).await
}

fn app<T, H, F>(handler: H) -> impl Pipeline<T> + Clone
where
    T: Transport + Send + 'static,
    H: FnMut(Request<String>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(handler)
}

type Records = Arc<Mutex<Vec<Closed>>>;

/// Wraps `app` in a layer that stores the record of every connection and gives its handle to
/// `see`.
fn recorded<T, S>(
    records: &Records,
    see: impl FnMut(&ConnectionHandle) + Clone + Send + 'static,
    app: S,
) -> impl Pipeline<T> + Clone
where
    T: Transport + Send + 'static,
    S: Pipeline<T> + Clone,
{
    let records = Arc::clone(records);
    let mut see = see;
    ServiceBuilder::new()
        .map_request(move |connection: Connection<T>| {
            let records = Arc::clone(&records);
            connection
                .handle()
                .add_close_callback("test", 0, move |closed| {
                    records.lock().unwrap().push(closed.clone());
                });
            see(connection.handle());
            connection
        })
        .service(app)
}

type Served = JoinHandle<Result<getty::Drained, getty::ServeError>>;

/// Serves on a separate task until the sender is used.
fn run(serve: getty::Serve) -> (Served, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = serve.with_graceful_shutdown(async {
        if stopped.await.is_err() {
            pending::<()>().await;
        }
    });
    (tokio::spawn(serve.into_future()), stop)
}

/// A service whose readiness fails after a number of connections.
#[derive(Clone, Debug)]
struct Worn<S> {
    inner: S,
    left: usize,
}

impl<S, T> Service<Connection<T>> for Worn<S>
where
    S: Service<Connection<T>, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = futures_util::future::ErrInto<S::Future, BoxError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.left == 0 {
            return Poll::Ready(Err("worn out".into()));
        }
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        self.left -= 1;
        futures_util::TryFutureExt::err_into(self.inner.call(connection))
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_error_ends_the_server_after_the_drain() {
    let (listener, dialer) = listener();
    let app = Worn {
        inner: app(sleep),
        left: 2,
    };
    let served = tokio::spawn(serve(listener, app).into_future());
    let (idles, busy) = (dialer.dial(), dialer.dial());
    busy.send("3\n");
    idle().await;
    assert!(!served.is_finished());

    let refused = dialer.dial();
    let error = soon(served).await.unwrap().unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "worn out");
    assert_eq!(error.drained().finished, 2);
    assert_eq!(error.drained().aborted, 0);
    assert_eq!(busy.output(), "3\n");
    assert!(idles.is_shut() && refused.is_gone() && dialer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn accept_errors_are_retried_after_increasing_pauses() {
    let (listener, dialer) = listener();
    let _served = tokio::spawn(serve(listener, app(echo)).into_future());
    idle().await;
    for round in 0..2 {
        let before = Instant::now();
        for _ in 0..12 {
            dialer.fail(io::ErrorKind::Other);
        }
        let polls = dialer.polls();
        let peer = dialer.dial();
        peer.send("hello\n");
        assert_eq!(soon(peer.line()).await, "hello");
        // 5 + 10 + 20 + ... + 640 ms, then four pauses of a second.
        let pause = before.elapsed().as_millis();
        assert!((5270..5300).contains(&pause), "{pause} ms in round {round}");
        assert!(
            dialer.polls() - polls <= 14,
            "the accept loop must not spin"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn accept_error_of_one_connection_causes_no_pause() {
    let (listener, dialer) = listener();
    let _served = tokio::spawn(serve(listener, app(echo)).into_future());
    let before = Instant::now();
    for _ in 0..100 {
        dialer.fail(io::ErrorKind::ConnectionAborted);
    }
    let peer = dialer.dial();
    peer.send("hello\n");
    assert_eq!(soon(peer.line()).await, "hello");
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_the_pause_after_an_accept_error() {
    let (listener, dialer) = listener();
    let (served, stop) = run(serve(listener, app(echo)));
    for _ in 0..20 {
        dialer.fail(io::ErrorKind::Other);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = Instant::now();
    stop.send(()).unwrap();
    assert!(soon(served).await.unwrap().is_ok());
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn at_most_one_accepted_connection_waits_for_the_stack() {
    let (listener, dialer) = listener();
    let limited = ServiceBuilder::new()
        .concurrency_limit(2)
        .service(app(echo));
    let (served, stop) = run(serve(listener, limited));
    let peers: Vec<_> = (0..5).map(|_| dialer.dial()).collect();
    for peer in &peers {
        peer.send("hello\n");
    }
    idle().await;
    let answered = |peers: &[Peer]| peers.iter().filter(|peer| peer.written() > 0).count();
    assert_eq!((answered(&peers), dialer.backlog()), (2, 2));

    peers[0].finish();
    idle().await;
    assert_eq!((answered(&peers), dialer.backlog()), (3, 1));

    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (2, 0));
    assert!(peers[3].is_gone(), "the waiting connection is refused");
}

#[tokio::test(start_paused = true)]
async fn idle_listener_holds_no_permit() {
    let (first, first_dialer) = listener();
    let (second, second_dialer) = listener();
    let limited = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::new(1))
        .service(app(echo));
    let _served = tokio::spawn(serve_all([first, second], limited).into_future());
    for dialer in [&first_dialer, &second_dialer, &first_dialer] {
        let peer = dialer.dial();
        peer.send("hello\n");
        assert_eq!(soon(peer.line()).await, "hello");
        peer.finish();
        idle().await;
    }
}

/// Sends `hello` over a pipe and reads the reply.
async fn greet(connector: &net::MemoryConnector) -> String {
    let mut connection = connector.connect().await.unwrap();
    let io = connection.transport_mut();
    io.write_all(b"hello\n").await.unwrap();
    let mut line = String::new();
    BufReader::new(io).read_line(&mut line).await.unwrap();
    line
}

async fn greets(dialer: &Dialer) -> bool {
    let peer = dialer.dial();
    peer.send("hello\n");
    soon(peer.line()).await == "hello"
}

#[tokio::test(start_paused = true)]
async fn one_stack_serves_listeners_of_several_kinds() {
    fn generic<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
        app(echo)
    }

    // Two listeners of one transport.
    let (first, first_dialer) = listener();
    let (second, second_dialer) = listener();
    let (served, stop) = run(serve_all(vec![first, second], generic()));
    assert!(greets(&first_dialer).await && greets(&second_dialer).await);
    stop.send(()).unwrap();
    assert_eq!(soon(served).await.unwrap().unwrap().finished, 2);

    // Two listeners of different transports.
    let boxed = BoxPipeline::new(generic());
    let (streams, dialer) = listener();
    let (pipes, connector) = net::memory(64);
    let (served, stop) = run(serve_all((streams, pipes), boxed));
    assert!(greets(&dialer).await);
    assert_eq!(soon(greet(&connector)).await, "hello\n");
    stop.send(()).unwrap();
    let _ = soon(served).await.unwrap().unwrap();

    // Two listeners with different stacks.
    let (streams, dialer) = listener();
    let (pipes, connector) = net::memory(64);
    let shout = app(|request: Request<String>| async move {
        Ok(Some(request.into_message().to_uppercase()))
    });
    let both = serve(streams, app(echo)).and(serve(pipes, shout));
    let (served, stop) = run(both);
    assert!(greets(&dialer).await);
    assert_eq!(soon(greet(&connector)).await, "HELLO\n");
    stop.send(()).unwrap();
    let _ = soon(served).await.unwrap().unwrap();
    assert!(dialer.is_gone() && connector.connect().await.is_err());
}

/// A listener that is always ready. Its connections have already been ended by the peer.
#[derive(Debug, Default)]
struct Endless {
    accepted: Arc<AtomicUsize>,
}

impl Listener for Endless {
    type Io = Stream;

    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Connection<Stream>>> {
        self.accepted.fetch_add(1, SeqCst);
        let (stream, peer) = stream();
        peer.finish();
        Poll::Ready(Ok(Connection::new(stream)))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Unknown)
    }
}

#[tokio::test]
async fn listener_that_never_waits_does_not_starve_tasks_or_the_shutdown() {
    let (listener, dialer) = listener();
    let endless = Endless::default();
    let accepted = Arc::clone(&endless.accepted);
    let both = serve(endless, app(echo)).and(serve(listener, app(echo)));
    let (served, stop) = run(both);
    for _ in 0..10 {
        let before = accepted.load(SeqCst);
        let peer = dialer.dial();
        peer.send("hello\n");
        assert_eq!(peer.line().await, "hello");
        let meanwhile = accepted.load(SeqCst) - before;
        assert!(meanwhile < 1000, "{meanwhile} were accepted meanwhile");
    }
    stop.send(()).unwrap();
    assert!(served.await.unwrap().is_ok());
}
