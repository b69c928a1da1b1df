//! `SpawnLayer`: each handler runs in a separate task.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{CloseReason, Request, ServiceBuilder, SessionLayer, layers::SpawnLayer};
use getty_test::stream;
use tokio::time;

use crate::support::{Answer, echo, idle, lines, open, panic_message, soon};

/// Echoes the message after the number of seconds in it.
async fn echo_after(request: Request<String>) -> Answer {
    let seconds = request.message().parse()?;
    time::sleep(Duration::from_secs(seconds)).await;
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn replies_keep_the_order_of_their_requests_while_handlers_run_concurrently() {
    let (transport, end) = stream();
    let stack = ServiceBuilder::new()
        .layer(SpawnLayer::new(16))
        .service_fn(echo_after);
    let layer = SessionLayer::new().with_in_flight(4);
    let (_session, _task) = open(transport, lines(), layer, stack).await;
    let before = time::Instant::now();
    end.send("4\n3\n2\n1\n");
    assert_eq!(soon(end.lines(4)).await, ["4", "3", "2", "1"]);
    assert_eq!(before.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn limit_is_shared_by_all_sessions_and_does_not_delay_sends() {
    let stack = ServiceBuilder::new()
        .layer(SpawnLayer::new(1))
        .service_fn(echo_after);
    let (first, first_end) = stream();
    let (second, second_end) = stream();
    let layer = || SessionLayer::new().with_in_flight(4);
    let (_first, _first_task) = open(first, lines(), layer(), stack.clone()).await;
    let (session, _second_task) = open(second, lines(), layer(), stack).await;
    let before = time::Instant::now();
    first_end.send("10\n");
    idle().await;
    second_end.send("10\n");
    idle().await;
    session.send("meanwhile".to_owned()).await.unwrap();
    assert_eq!(soon(second_end.line()).await, "meanwhile");
    assert_eq!(before.elapsed().as_secs(), 0);
    soon(second_end.line()).await;
    assert_eq!(before.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn panic_closes_the_session_as_it_does_without_the_layer() {
    for n in [1, 3] {
        let (transport, end) = stream();
        let stack = ServiceBuilder::new().layer(SpawnLayer::new(4)).service_fn(
            |request: Request<String>| async move {
                assert!(request.message() != "panic", "a bad handler");
                echo(request).await
            },
        );
        let layer = SessionLayer::new().with_in_flight(n);
        let (_session, task) = open(transport, lines(), layer, stack).await;
        end.send("one\n");
        soon(end.line()).await;
        end.send("panic\n");
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Panicked);
        assert_eq!(panic_message(closed.source.as_ref()), "a bad handler");
        assert_eq!(end.output(), "one\n");
    }
}

#[tokio::test(start_paused = true)]
async fn error_closes_the_session_as_handler() {
    let (transport, end) = stream();
    let stack = ServiceBuilder::new()
        .layer(SpawnLayer::new(4))
        .service_fn(echo_after);
    let (_session, task) = open(transport, lines(), SessionLayer::new(), stack).await;
    end.send("not a number\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Handler);
}

/// Closes a session during a handler that takes `seconds`. Returns the session's output and the
/// number of handlers that have finished two minutes later.
async fn close_during_handler(layer: SpawnLayer, seconds: u64) -> (usize, String) {
    let finished = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&finished);
    let handler = move |request| {
        let count = Arc::clone(&count);
        async move {
            let answer = echo_after(request).await;
            count.fetch_add(1, SeqCst);
            answer
        }
    };
    let stack = ServiceBuilder::new().layer(layer).service_fn(handler);
    let (transport, end) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), stack).await;
    end.send(format!("{seconds}\n"));
    idle().await;
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime.as_secs(), seconds.min(5));
    time::sleep(Duration::from_secs(120)).await;
    (finished.load(SeqCst), end.output())
}

#[tokio::test(start_paused = true)]
async fn drain_deadline_aborts_tasks_unless_they_are_detached() {
    let aborted = || SpawnLayer::new(4);
    let detached = || SpawnLayer::new(4).with_abort_on_drop(false);
    let answered = (1, "3\n".to_owned());
    assert_eq!(close_during_handler(aborted(), 3).await, answered);
    assert_eq!(close_during_handler(detached(), 3).await, answered);
    let (finished, output) = close_during_handler(aborted(), 60).await;
    assert_eq!((finished, &*output), (0, ""));
    let (finished, output) = close_during_handler(detached(), 60).await;
    assert_eq!((finished, &*output), (1, ""));
}
