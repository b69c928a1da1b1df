//! `Registry`: the open sessions of a stack.

use std::{sync::Arc, time::Duration};

use getty::{
    CloseReason, CodecLayer, Connection, Request, ServiceBuilder, Session, SessionLayer,
    layers::{Registry, RegistryLayer},
    service_fn,
};
use getty_test::{Peer, stream};
use tokio::{sync::Semaphore, time};
use tower::ServiceExt;

use crate::support::{Answer, echo, idle, lines, soon};

type Sessions = Registry<Session<String>>;
type Task = tokio::task::JoinHandle<()>;

/// Opens `n` sessions with `handler`.
async fn open<H, F>(
    registry: &Sessions,
    layer: SessionLayer,
    n: usize,
    handler: H,
) -> Vec<(Task, Peer)>
where
    H: Fn(Request<String>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(RegistryLayer::new(registry.clone()))
        .layer(layer)
        .service(service_fn(handler));
    let mut open = Vec::new();
    for _ in 0..n {
        let (transport, end) = stream();
        let connection = Connection::new(transport);
        let life = stack.clone().oneshot(connection);
        let task = tokio::spawn(async { drop(life.await) });
        open.push((task, end));
    }
    idle().await;
    open
}

#[tokio::test(start_paused = true)]
async fn every_registered_session_can_be_sent_to_and_closed() {
    let registry = Sessions::new();
    let open = open(&registry, SessionLayer::new(), 3, echo).await;
    assert_eq!(registry.len(), 3);
    assert!(registry.all().iter().all(|session| session.is_open()));
    for session in registry.all() {
        session.send("push".to_owned()).await.unwrap();
    }
    for (_, end) in &open {
        assert_eq!(soon(end.line()).await, "push");
    }
    let one = registry.all().pop().unwrap();
    one.close();
    soon(one.closed()).await;
    assert_eq!(registry.len(), 2, "removed before `closed` resolves");
    assert!(registry.get(one.id()).is_none());

    assert_eq!(registry.close_where(CloseReason::Shutdown, |_| true), 2);
    soon(registry.empty()).await;
    for (task, end) in open {
        soon(task).await.unwrap();
        assert!(end.is_gone());
    }
}

#[tokio::test(start_paused = true)]
async fn session_is_removed_after_every_kind_of_close() {
    let registry = Sessions::new();
    let handler = |request: Request<String>| {
        assert!(request.message() != "panic", "a bad handler");
        echo(request)
    };
    let open = open(&registry, SessionLayer::new(), 4, handler).await;
    open[0].1.finish();
    open[1].1.reset();
    open[2].1.send("panic\n");
    open[3].0.abort();
    soon(registry.empty()).await;
    assert_eq!(registry.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn empty_resolves_once_the_last_session_has_drained() {
    let registry = Sessions::new();
    let slow = |request: Request<String>| async {
        time::sleep(Duration::from_secs(3)).await;
        echo(request).await
    };
    let open = open(&registry, SessionLayer::new(), 2, slow).await;
    open[0].1.send("hello\n");
    idle().await;
    let before = time::Instant::now();
    registry.close_where(CloseReason::Shutdown, |_| true);
    soon(registry.empty()).await;
    assert_eq!(
        before.elapsed().as_secs(),
        2,
        "the remaining time of the slow handler"
    );
    assert_eq!(open[0].1.output(), "hello\n");
}

#[tokio::test(start_paused = true)]
async fn snapshot_shows_the_state_of_the_session_loop() {
    let permits = Arc::new(Semaphore::new(0));
    let semaphore = Arc::clone(&permits);
    let handler = move |request: Request<String>| {
        let semaphore = Arc::clone(&semaphore);
        async move {
            semaphore.acquire().await.unwrap().forget();
            echo(request).await
        }
    };
    let registry = Sessions::new();
    let open = open(&registry, SessionLayer::new().with_in_flight(3), 1, handler).await;
    let end = &open[0].1;
    let snapshot = || registry.snapshot().remove(0);
    assert_eq!((snapshot().in_flight, snapshot().queued), (0, Some(0)));

    end.send("a\nb\nc\nd\n");
    idle().await;
    assert_eq!(snapshot().in_flight, 3);
    assert_eq!(snapshot().stats.bytes_in, 8);
    permits.add_permits(2);
    soon(end.lines(2)).await;
    idle().await;
    assert_eq!(snapshot().in_flight, 2);
    assert!(snapshot().since_active < snapshot().age);

    end.stall();
    let session = registry.all().remove(0);
    for _ in 0..3 {
        session.try_send("x".repeat(40 * 1024)).unwrap();
    }
    idle().await;
    // Two messages exceed the high watermark. So the third must not be encoded.
    assert_eq!(snapshot().queued, Some(1));
    end.take_all();
    permits.add_permits(2);
    idle().await;
    assert_eq!((snapshot().in_flight, snapshot().queued), (0, Some(0)));

    session.close();
    soon(session.closed()).await;
    assert_eq!(session.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn in_flight_is_zero_once_the_session_is_aborted() {
    let registry = Sessions::new();
    let handler = |_| std::future::pending::<Answer>();
    let open = open(&registry, SessionLayer::new().with_in_flight(3), 1, handler).await;
    open[0].1.send("a\nb\n");
    idle().await;
    let session = registry.all().remove(0);
    assert_eq!(session.in_flight(), 2);
    open[0].0.abort();
    soon(session.closed()).await;
    assert_eq!(session.in_flight(), 0);
}
