//! Serving: accepting, limits, errors, and an orderly end of every connection.

use std::{
    future::{Future, Ready, pending},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use getty::{
    BoxError, BoxPipeline, CloseReason, Closed, CodecLayer, Connection, ConnectionHandle, Pipeline,
    Request, Service, ServiceBuilder, Session, SessionLayer, Transport,
    layers::{Address, DrainDeadlineExceeded, Panic},
    net::{self, Listener},
    serve, serve_all, service_fn,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::oneshot,
    task::JoinHandle,
    time::Instant,
};
use tower::{ServiceExt, limit::GlobalConcurrencyLimitLayer};

use crate::support::{
    Answer, echo, idle, lines,
    listener::{Dialer, memory},
    soon,
    stream::{self, Peer, Stream},
};

/// Sleeps as many seconds as the message says.
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

/// `app` with a layer outside that keeps the record of every connection, and gives its handle to `see`.
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

/// Serves on a task of its own until the sender is used.
fn run(serve: getty::Serve) -> (Served, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = serve.with_graceful_shutdown(async {
        if stopped.await.is_err() {
            pending::<()>().await;
        }
    });
    (tokio::spawn(serve.into_future()), stop)
}

#[tokio::test(start_paused = true)]
async fn a_graceful_shutdown_waits_for_handlers_and_for_nothing_else() {
    let (listener, dialer) = memory();
    let records = Records::default();
    let app = recorded(&records, |_| {}, app(sleep));
    let (served, stop) = run(serve(listener, app));
    let (silent, half, busy) = (dialer.dial(), dialer.dial(), dialer.dial());
    half.send("half a li");
    busy.send("3\n");
    idle().await;

    stop.send(()).unwrap();
    let before = Instant::now();
    idle().await;
    assert!(dialer.is_gone(), "nothing is accepted any more");
    assert!(silent.is_shut() && silent.is_gone());
    assert!(half.is_shut() && half.is_gone());
    assert!(!busy.is_gone());

    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (3, 0));
    assert_eq!(drained.to_string(), "3 finished, 0 aborted");
    assert_eq!(before.elapsed().as_secs(), 2, "it had begun before");
    assert_eq!(busy.output(), "3\n");
    for record in &*records.lock().unwrap() {
        assert_eq!(record.reason, CloseReason::Shutdown);
        assert!(record.source.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_have_ended_before_the_shutdown_are_not_counted() {
    let (listener, dialer) = memory();
    let (served, stop) = run(serve(listener, app(echo)));
    for _ in 0..5 {
        let peer = dialer.dial();
        peer.send("hello\n");
        assert_eq!(soon(peer.line()).await, "hello");
        peer.finish();
        idle().await;
        assert!(peer.is_gone());
    }
    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_drain_deadline_cuts_off_what_has_not_finished() {
    let (listener, dialer) = memory();
    let records = Records::default();
    let app = recorded(&records, |_| {}, app(sleep));
    let serve = serve(listener, app).with_drain_deadline(Duration::from_secs(2));
    let (served, stop) = run(serve);
    let (stuck, quick) = (dialer.dial(), dialer.dial());
    stuck.send("100\n");
    quick.send("1\n");
    idle().await;

    let before = Instant::now();
    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (1, 1));
    assert_eq!(before.elapsed().as_secs(), 2);
    assert_eq!((quick.output(), stuck.output()), ("1\n".into(), "".into()));
    let records = records.lock().unwrap();
    assert_eq!(records[1].reason, CloseReason::Shutdown);
    let source = records[1].source.as_ref().unwrap();
    assert!(source.is::<DrainDeadlineExceeded>());
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_transport_fails_in_the_drain_has_not_finished() {
    let (listener, dialer) = memory();
    let (served, stop) = run(serve(listener, app(echo)));
    let peer = dialer.dial();
    peer.stall();
    peer.send("lost\n");
    idle().await;
    stop.send(()).unwrap();
    idle().await;
    peer.reset();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn deadlines_beyond_all_time_are_waited_for() {
    let (listener, dialer) = memory();
    let serve = serve(listener, app(sleep))
        .with_drain_deadline(Duration::MAX)
        .with_staggered_close(Duration::MAX);
    let (served, stop) = run(serve);
    let peers = [dialer.dial(), dialer.dial(), dialer.dial()];
    peers[0].send("50000\n");
    idle().await;
    stop.send(()).unwrap();
    idle().await;
    peers.iter().for_each(Peer::finish);
    assert_eq!(soon(served).await.unwrap().unwrap().finished, 3);
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_does_not_end_with_its_session_is_aborted_after_the_deadline() {
    let (listener, dialer) = memory();
    let mut inner = app(echo);
    let lingers = service_fn(move |connection: Connection<Stream>| {
        let session = inner.call(connection);
        async move {
            let _ = session.await;
            pending::<Result<Closed, BoxError>>().await
        }
    });
    let (served, stop) = run(serve(listener, lingers));
    let peer = dialer.dial();
    idle().await;
    let before = Instant::now();
    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (0, 1));
    assert_eq!(before.elapsed().as_secs(), 5);
    assert!(peer.is_shut(), "the session itself has closed properly");
}

#[tokio::test(start_paused = true)]
async fn the_drain_deadline_of_the_server_takes_the_place_of_the_sessions() {
    let (listener, dialer) = memory();
    let serve = serve(listener, app(sleep)).with_drain_deadline(Duration::from_secs(60));
    let (served, stop) = run(serve);
    let peer = dialer.dial();
    peer.send("50\n");
    idle().await;
    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (1, 0));
    assert_eq!(peer.output(), "50\n");
}

#[tokio::test(start_paused = true)]
async fn connections_whose_session_is_not_open_are_ended_by_the_shutdown() {
    let records = Records::default();
    let opening = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::per_session())
        .service(service_fn(|_: Session<String>| async {
            pending::<()>().await;
            Ok::<_, BoxError>(service_fn(echo))
        }));
    let shaking = service_fn(|connection: Connection<Stream>| async move {
        pending::<()>().await;
        drop(connection);
        Err::<Closed, _>("never")
    });
    for stack in [
        opening.boxed_clone(),
        shaking.map_err(Into::into).boxed_clone(),
    ] {
        let (listener, dialer) = memory();
        let app = recorded(&records, |_| {}, stack);
        let (served, stop) = run(serve(listener, app));
        let peer = dialer.dial();
        idle().await;
        let before = Instant::now();
        stop.send(()).unwrap();
        let drained = soon(served).await.unwrap().unwrap();
        assert_eq!((drained.finished, drained.aborted), (0, 1));
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(peer.is_gone());
    }
    for record in &*records.lock().unwrap() {
        assert_eq!(record.reason, CloseReason::Shutdown);
    }
    assert_eq!(records.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_staggered_close_spreads_the_closes_evenly() {
    let (listener, dialer) = memory();
    let closings: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let begin = Instant::now();
    let seen = Arc::clone(&closings);
    let app = recorded(
        &Records::default(),
        move |handle| {
            let seen = Arc::clone(&seen);
            handle.add_close_callback("time", 0, move |_| {
                seen.lock().unwrap().push(begin.elapsed());
            });
        },
        app(echo),
    );
    let serve = serve(listener, app).with_staggered_close(Duration::from_secs(10));
    let (served, stop) = run(serve);
    let _peers: Vec<_> = (0..10).map(|_| dialer.dial()).collect();
    idle().await;
    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (10, 0));
    let seconds: Vec<_> = closings
        .lock()
        .unwrap()
        .iter()
        .map(Duration::as_secs)
        .collect();
    assert_eq!(seconds, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn with_a_staggered_close_each_session_has_the_whole_drain_deadline() {
    let (listener, dialer) = memory();
    let serve = serve(listener, app(sleep))
        .with_staggered_close(Duration::from_secs(10))
        .with_drain_deadline(Duration::from_secs(20));
    let (served, stop) = run(serve);
    // one of the two is closed after 5 s, and its handler ends 19 s later
    for peer in [dialer.dial(), dialer.dial()] {
        peer.send("19\n");
    }
    idle().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send(()).unwrap();
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_staggered_close_does_not_wait_for_sessions_that_have_ended() {
    let (listener, dialer) = memory();
    let serve = serve(listener, app(echo)).with_staggered_close(Duration::from_secs(1000));
    let (served, stop) = run(serve);
    let peers: Vec<_> = (0..10).map(|_| dialer.dial()).collect();
    idle().await;
    stop.send(()).unwrap();
    idle().await;
    let before = Instant::now();
    peers.iter().for_each(Peer::finish);
    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (10, 0));
    assert!(before.elapsed() < Duration::from_secs(1));
}

/// Fails to be ready after so many connections.
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
async fn a_readiness_error_ends_serving_after_the_drain() {
    let (listener, dialer) = memory();
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
async fn a_panic_in_the_stacks_readiness_ends_serving_as_an_error_does() {
    #[derive(Clone, Debug)]
    struct Shaky<S> {
        inner: S,
        ready: usize,
    }
    impl<S: Service<Connection<Stream>>> Service<Connection<Stream>> for Shaky<S> {
        type Response = S::Response;
        type Error = S::Error;
        type Future = S::Future;
        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            self.ready += 1;
            assert!(self.ready < 2, "a bad limit");
            self.inner.poll_ready(cx)
        }
        fn call(&mut self, connection: Connection<Stream>) -> S::Future {
            self.inner.call(connection)
        }
    }

    let (listener, dialer) = memory();
    let app = Shaky {
        inner: app(sleep),
        ready: 0,
    };
    let served = tokio::spawn(serve(listener, app).into_future());
    let busy = dialer.dial();
    busy.send("3\n");
    idle().await;
    let refused = dialer.dial();
    let error = soon(served).await.unwrap().unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<Panic>());
    assert_eq!(source.to_string(), "a bad limit");
    assert_eq!(
        (busy.output().as_str(), error.drained().finished),
        ("3\n", 1)
    );
    assert!(refused.is_gone());
}

#[tokio::test(start_paused = true)]
async fn accept_errors_are_retried_after_a_growing_pause() {
    let (listener, dialer) = memory();
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
        // 5 + 10 + 20 + ... + 640 ms, then four of a second
        let pause = before.elapsed().as_millis();
        assert!((5270..5300).contains(&pause), "{pause} ms in round {round}");
        assert!(dialer.polls() - polls <= 14, "it does not spin");
    }
}

#[tokio::test(start_paused = true)]
async fn an_accept_error_of_one_connection_costs_no_pause() {
    let (listener, dialer) = memory();
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
async fn a_shutdown_does_not_wait_for_the_pause_after_an_accept_error() {
    let (listener, dialer) = memory();
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
async fn a_layer_that_panics_harms_its_own_connection_only() {
    for panics_late in [false, true] {
        let (listener, dialer) = memory();
        let records = Records::default();
        let count = Arc::new(AtomicUsize::new(0));
        let mut inner = app(echo);
        let shaky =
            tower::util::BoxCloneService::new(service_fn(move |connection: Connection<Stream>| {
                let panics = count.fetch_add(1, SeqCst) == 1;
                assert!(!panics || panics_late, "a bad layer");
                let session = inner.call(connection);
                async move {
                    assert!(!panics, "a bad layer");
                    session.await.map_err(Into::into)
                }
            }));
        let app = recorded(&records, |_| {}, shaky);
        let (served, stop) = run(serve(listener, app));
        let peers = [dialer.dial(), dialer.dial(), dialer.dial()];
        idle().await;
        assert!(peers[1].is_gone());
        for peer in [&peers[0], &peers[2]] {
            peer.send("alive\n");
            assert_eq!(soon(peer.line()).await, "alive");
        }
        assert_eq!(records.lock().unwrap().len(), 1);
        let reason = records.lock().unwrap()[0].reason.clone();
        assert_eq!(reason, CloseReason::Panicked);
        stop.send(()).unwrap();
        let drained = soon(served).await.unwrap().unwrap();
        assert_eq!((drained.finished, drained.aborted), (2, 0));
    }
}

/// What one may panic with, if one must: dropping it panics again.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a bad payload");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_whose_payload_panics_as_it_is_dropped_ends_no_server() {
    let (listener, dialer) = memory();
    let count = Arc::new(AtomicUsize::new(0));
    let mut inner = app(echo);
    let shaky =
        tower::util::BoxCloneService::new(service_fn(move |connection: Connection<Stream>| {
            if count.fetch_add(1, SeqCst) == 0 {
                std::panic::panic_any(Payload);
            }
            let session = inner.call(connection);
            async move { session.await.map_err(Into::<BoxError>::into) }
        }));
    let (served, stop) = run(serve(listener, shaky));
    let peers = [dialer.dial(), dialer.dial()];
    idle().await;
    assert!(peers[0].is_gone());
    peers[1].send("alive\n");
    assert_eq!(soon(peers[1].line()).await, "alive");
    stop.send(()).unwrap();
    assert_eq!(soon(served).await.unwrap().unwrap().finished, 1);
}

#[tokio::test(start_paused = true)]
async fn serving_dropped_ends_every_connection_with_its_callbacks() {
    let (listener, dialer) = memory();
    let records = Records::default();
    let app = recorded(&records, |_| {}, app(sleep));
    let served = tokio::spawn(serve(listener, app).into_future());
    let peers = [dialer.dial(), dialer.dial()];
    peers[0].send("1000\n");
    idle().await;
    served.abort();
    idle().await;
    assert!(peers.iter().all(Peer::is_gone) && dialer.is_gone());
    let records = records.lock().unwrap();
    assert_eq!(records.len(), 2);
    for record in &*records {
        assert_eq!(record.reason, CloseReason::Dropped);
    }
}

#[test]
fn a_runtime_dropped_while_serving_runs_every_callback() {
    let records = Records::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let peers: Vec<Peer> = runtime.block_on(async {
        let (listener, dialer) = memory();
        let app = recorded(&records, |_| {}, app(echo));
        tokio::spawn(serve(listener, app).into_future());
        let peers: Vec<_> = (0..20).map(|_| dialer.dial()).collect();
        for peer in &peers {
            peer.send("hello\n");
            assert_eq!(peer.line().await, "hello");
        }
        peers
    });
    drop(runtime);
    assert_eq!(records.lock().unwrap().len(), 20);
    assert!(peers.iter().all(Peer::is_gone));
}

#[tokio::test(start_paused = true)]
async fn at_most_one_accepted_connection_waits_for_the_stack() {
    let (listener, dialer) = memory();
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
    assert!(peers[3].is_gone(), "the one that waited is refused");
}

#[tokio::test(start_paused = true)]
async fn an_idle_listener_holds_no_permit() {
    let (first, first_dialer) = memory();
    let (second, second_dialer) = memory();
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

/// Says `hello` over a pipe and reads the answer.
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

    // one transport
    let (first, first_dialer) = memory();
    let (second, second_dialer) = memory();
    let (served, stop) = run(serve_all(vec![first, second], generic()));
    assert!(greets(&first_dialer).await && greets(&second_dialer).await);
    stop.send(()).unwrap();
    assert_eq!(soon(served).await.unwrap().unwrap().finished, 2);

    // several transports
    let boxed = BoxPipeline::new(generic());
    let (streams, dialer) = memory();
    let (pipes, connector) = net::memory(64);
    let (served, stop) = run(serve_all((streams, pipes), boxed));
    assert!(greets(&dialer).await);
    assert_eq!(soon(greet(&connector)).await, "hello\n");
    stop.send(()).unwrap();
    let _ = soon(served).await.unwrap().unwrap();

    // several stacks
    let (streams, dialer) = memory();
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

/// Has a connection ready whenever it is asked, whose peer has ended it already.
#[derive(Debug, Default)]
struct Endless {
    accepted: Arc<AtomicUsize>,
}

impl Listener for Endless {
    type Io = Stream;

    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<Connection<Stream>>> {
        self.accepted.fetch_add(1, SeqCst);
        let (stream, peer) = stream::pair();
        peer.finish();
        Poll::Ready(Ok(Connection::new(stream)))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Unknown)
    }
}

#[tokio::test]
async fn a_listener_that_never_waits_leaves_turns_to_others_and_to_the_shutdown() {
    let (listener, dialer) = memory();
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

#[tokio::test(start_paused = true)]
async fn a_server_without_connections_shuts_down_at_once() {
    let (listener, _dialer) = memory();
    let before = Instant::now();
    let drained = serve(listener, app(echo))
        .with_graceful_shutdown(std::future::ready(()))
        .with_staggered_close(Duration::from_secs(100))
        .await
        .unwrap();
    assert_eq!((drained.finished, drained.aborted), (0, 0));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_panic_in_the_stack_carries_its_message() {
    let (listener, dialer) = memory();
    let records = Records::default();
    let panics = app(|_: Request<String>| -> Ready<Answer> { panic!("a bad handler") });
    let app = recorded(&records, |_| {}, panics);
    let (served, stop) = run(serve(listener, app));
    let peer = dialer.dial();
    peer.send("hello\n");
    idle().await;
    let record = records.lock().unwrap().pop().unwrap();
    assert_eq!(record.reason, CloseReason::Panicked);
    assert!(record.source.unwrap().is::<Panic>());
    stop.send(()).unwrap();
    assert_eq!(soon(served).await.unwrap().unwrap().finished, 0);
}
