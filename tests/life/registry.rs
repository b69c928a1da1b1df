//! A registry over live sessions.

use std::{sync::Arc, time::Duration};

use getty::{
    CloseReason, CodecLayer, Connection, Request, ServiceBuilder, Session, SessionLayer,
    layers::{Registry, RegistryLayer},
    service_fn,
};
use tokio::{sync::Semaphore, time};
use tower::ServiceExt;

use crate::support::{
    Answer, echo, idle, lines, soon,
    stream::{self, Peer},
};

type Sessions = Registry<Session<String>>;
type Task = tokio::task::JoinHandle<()>;

/// Opens `n` sessions that say hello.
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
        let (transport, end) = stream::pair();
        let connection = Connection::new(transport);
        let life = stack.clone().oneshot(connection);
        let task = tokio::spawn(async { drop(life.await) });
        open.push((task, end));
    }
    idle().await;
    open
}

#[tokio::test(start_paused = true)]
async fn everybody_listed_can_be_told_something_and_closed() {
    let registry = Sessions::new();
    let open = open(&registry, SessionLayer::new(), 3, echo).await;
    assert_eq!(registry.len(), 3);
    assert!(registry.all().iter().all(|session| session.is_open()));
    for session in registry.all() {
        session.send("news".to_owned()).await.unwrap();
    }
    for (_, end) in &open {
        assert_eq!(soon(end.line()).await, "news");
    }
    let one = registry.all().pop().unwrap();
    one.close();
    soon(one.closed()).await;
    assert_eq!(registry.len(), 2, "gone before `closed` resolves");
    assert!(registry.get(one.id()).is_none());

    assert_eq!(registry.close_where(CloseReason::Shutdown, |_| true), 2);
    soon(registry.empty()).await;
    for (task, end) in open {
        soon(task).await.unwrap();
        assert!(end.is_gone());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_leaves_however_it_ends() {
    let registry = Sessions::new();
    let handler = |request: Request<String>| {
        assert!(request.message() != "panic", "told to");
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
async fn empty_waits_until_the_last_has_drained() {
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
    assert_eq!(before.elapsed().as_secs(), 2, "the slow handler's rest");
    assert_eq!(open[0].1.output(), "hello\n");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shows_what_the_session_loop_knows() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let handler = move |request: Request<String>| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            echo(request).await
        }
    };
    let registry = Sessions::new();
    let open = open(&registry, SessionLayer::new().in_flight(3), 1, handler).await;
    let end = &open[0].1;
    let shown = || registry.snapshot().remove(0);
    assert_eq!((shown().in_flight, shown().queued), (0, Some(0)));

    end.send("a\nb\nc\nd\n");
    idle().await;
    assert_eq!(shown().in_flight, 3);
    assert_eq!(shown().stats.bytes_in, 8);
    gate.add_permits(2);
    soon(end.lines(2)).await;
    idle().await;
    assert_eq!(shown().in_flight, 2);
    assert!(shown().since_active < shown().age);

    end.stall();
    let session = registry.all().remove(0);
    for _ in 0..3 {
        session.try_send("x".repeat(40 * 1024)).unwrap();
    }
    idle().await;
    // two are above the high watermark, so that the third is not encoded
    assert_eq!(shown().queued, Some(1));
    end.take_all();
    gate.add_permits(2);
    idle().await;
    assert_eq!((shown().in_flight, shown().queued), (0, Some(0)));

    session.close();
    soon(session.closed()).await;
    assert_eq!(session.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn handlers_in_flight_are_none_once_the_session_is_gone() {
    let registry = Sessions::new();
    let handler = |_| std::future::pending::<Answer>();
    let open = open(&registry, SessionLayer::new().in_flight(3), 1, handler).await;
    open[0].1.send("a\nb\n");
    idle().await;
    let session = registry.all().remove(0);
    assert_eq!(session.in_flight(), 2);
    open[0].0.abort();
    soon(session.closed()).await;
    assert_eq!(session.in_flight(), 0);
}
