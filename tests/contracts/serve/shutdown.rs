//! Graceful shutdown must wait for connections and abort them after the drain deadline.

use std::{future::pending, time::Duration};

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, DrainDeadlineExceeded, Service,
    ServiceBuilder, Session, SessionLayer, serve, service_fn,
};
use getty_test::{Peer, Stream, listener};
use tokio::time::Instant;
use tower::ServiceExt;

use super::{Records, app, recorded, run, sleep};
use crate::support::{echo, idle, lines, soon};

#[tokio::test(start_paused = true)]
async fn graceful_shutdown_waits_for_handlers_and_nothing_else() {
    let (listener, dialer) = listener();
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
    assert!(dialer.is_gone(), "no connection is accepted any more");
    assert!(silent.is_shut() && silent.is_gone());
    assert!(half.is_shut() && half.is_gone());
    assert!(!busy.is_gone());

    let drained = soon(served).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (3, 0));
    assert_eq!(drained.to_string(), "3 finished, 0 aborted");
    assert_eq!(
        before.elapsed().as_secs(),
        2,
        "the handler was running before"
    );
    assert_eq!(busy.output(), "3\n");
    for record in &*records.lock().unwrap() {
        assert_eq!(record.reason, CloseReason::Shutdown);
        assert!(record.source.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_ended_before_the_shutdown_are_not_counted() {
    let (listener, dialer) = listener();
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
async fn drain_deadline_cuts_off_unfinished_connections() {
    let (listener, dialer) = listener();
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
async fn session_whose_transport_fails_in_the_drain_is_not_counted_as_finished() {
    let (listener, dialer) = listener();
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
async fn drain_deadline_of_the_maximum_duration_never_passes() {
    let (listener, dialer) = listener();
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
async fn stack_that_outlives_its_session_is_aborted_after_the_deadline() {
    let (listener, dialer) = listener();
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
    assert_eq!(
        before.elapsed().as_secs(),
        6,
        "one more second for the close handshake"
    );
    assert!(peer.is_shut(), "the session closed the transport in order");
}

#[tokio::test(start_paused = true)]
async fn drain_deadline_of_the_server_replaces_that_of_sessions() {
    let (listener, dialer) = listener();
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
async fn shutdown_ends_connections_whose_session_is_not_open() {
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
        let (listener, dialer) = listener();
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
async fn dropped_server_ends_every_connection_with_its_callbacks() {
    let (listener, dialer) = listener();
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
fn runtime_that_is_dropped_while_serving_runs_every_callback() {
    let records = Records::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let peers: Vec<Peer> = runtime.block_on(async {
        let (listener, dialer) = listener();
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
async fn server_without_connections_shuts_down_at_once() {
    let (listener, _dialer) = listener();
    let before = Instant::now();
    let drained = serve(listener, app(echo))
        .with_graceful_shutdown(std::future::ready(()))
        .with_staggered_close(Duration::from_secs(100))
        .await
        .unwrap();
    assert_eq!((drained.finished, drained.aborted), (0, 0));
    assert_eq!(before.elapsed(), Duration::ZERO);
}
