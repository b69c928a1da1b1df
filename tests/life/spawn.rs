//! Handlers on tasks of their own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{CloseReason, Request, ServiceBuilder, SessionLayer, layers::SpawnLayer};
use tokio::time;

use crate::support::{Answer, echo, idle, lines, open, panic_message, soon, stream};

/// Takes as many seconds as the message says.
async fn sleepy(request: Request<String>) -> Answer {
    let seconds = request.message().parse()?;
    time::sleep(Duration::from_secs(seconds)).await;
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn replies_keep_the_order_of_their_requests_while_handlers_run_together() {
    let (transport, end) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(SpawnLayer::new(16))
        .service_fn(sleepy);
    let layer = SessionLayer::new().in_flight(4);
    let (_session, _task) = open(transport, lines(), layer, stack).await;
    let before = time::Instant::now();
    end.send("4\n3\n2\n1\n");
    assert_eq!(soon(end.lines(4)).await, ["4", "3", "2", "1"]);
    assert_eq!(before.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_bound_holds_for_all_sessions_together_and_does_not_hold_up_sends() {
    let stack = ServiceBuilder::new()
        .layer(SpawnLayer::new(1))
        .service_fn(sleepy);
    let (first, first_end) = stream::pair();
    let (second, second_end) = stream::pair();
    let layer = || SessionLayer::new().in_flight(4);
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
async fn a_panic_ends_the_session_as_if_the_handler_had_run_in_place() {
    for n in [1, 3] {
        let (transport, end) = stream::pair();
        let stack = ServiceBuilder::new().layer(SpawnLayer::new(4)).service_fn(
            |request: Request<String>| async move {
                assert!(request.message() != "panic", "a bad handler");
                echo(request).await
            },
        );
        let layer = SessionLayer::new().in_flight(n);
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
async fn an_error_ends_the_session_as_the_handlers() {
    let (transport, end) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(SpawnLayer::new(4))
        .service_fn(sleepy);
    let (_session, task) = open(transport, lines(), SessionLayer::new(), stack).await;
    end.send("not a number\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Handler);
}

/// How many handlers had finished two minutes after a session closed over one that takes so many seconds.
async fn finished_in_spite_of_a_close(layer: SpawnLayer, seconds: u64) -> (usize, String) {
    let finished = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&finished);
    let handler = move |request| {
        let count = Arc::clone(&count);
        async move {
            let answer = sleepy(request).await;
            count.fetch_add(1, SeqCst);
            answer
        }
    };
    let stack = ServiceBuilder::new().layer(layer).service_fn(handler);
    let (transport, end) = stream::pair();
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
async fn the_drain_deadline_cuts_tasks_off_unless_they_are_detached() {
    let aborted = || SpawnLayer::new(4);
    let detached = || SpawnLayer::new(4).detached();
    let answered = (1, "3\n".to_owned());
    assert_eq!(finished_in_spite_of_a_close(aborted(), 3).await, answered);
    assert_eq!(finished_in_spite_of_a_close(detached(), 3).await, answered);
    let (finished, output) = finished_in_spite_of_a_close(aborted(), 60).await;
    assert_eq!((finished, &*output), (0, ""));
    let (finished, output) = finished_in_spite_of_a_close(detached(), 60).await;
    assert_eq!((finished, &*output), (1, ""));
}
