//! Which messages count as activity.

use std::time::Duration;

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{ActiveLayer, HandleErrorLayer, IdleTimeoutLayer},
    service_fn,
};
use tokio::time;
use tower::ServiceExt;

use crate::support::{echo, idle, lines, open, probe::probe, soon, stream};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn only_messages_that_count_move_the_time_of_activity() {
    for n in [1, 4] {
        let (transport, end) = stream::pair();
        let stack = ServiceBuilder::new()
            .layer(ActiveLayer::new(|message| message != "PING"))
            .service_fn(echo);
        let layer = SessionLayer::new().in_flight(n);
        let (session, _task) = open(transport, lines(), layer, stack).await;
        let tell = async |text: &str| {
            time::sleep(SECOND).await;
            let now = time::Instant::now();
            end.send(text);
            soon(end.lines(text.lines().count())).await;
            idle().await;
            now
        };

        let ping = tell("PING\n").await;
        assert_eq!(session.last_active(), session.opened_at());
        assert_eq!(session.last_read(), ping);
        let work = tell("work\n").await;
        assert_eq!(session.last_active(), work);
        tell("PING\nPING\n").await;
        assert_eq!(session.last_active(), work);
        let mixed = tell("PING\nwork\nPING\n").await;
        assert_eq!(session.last_active(), mixed);
        time::sleep(SECOND).await;
        session.touch();
        assert_eq!(session.last_active(), time::Instant::now());
        assert_eq!(session.stats().messages_in, 7);
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_layer_every_message_counts() {
    let (transport, end) = stream::pair();
    let stack = ServiceBuilder::new().service_fn(echo);
    let (session, _task) = open(transport, lines(), SessionLayer::new(), stack).await;
    time::sleep(SECOND).await;
    let now = time::Instant::now();
    end.send("PING\n");
    soon(end.line()).await;
    assert_eq!(session.last_active(), now);
}

#[tokio::test(start_paused = true)]
async fn a_message_counts_when_it_is_called_not_when_it_is_decoded() {
    let (transport, end) = stream::pair();
    let (service, control) = probe();
    let stack = ServiceBuilder::new()
        .layer(ActiveLayer::new(|message| message != "PING"))
        .service(service);
    let (session, _task) = open(transport, lines(), SessionLayer::new(), stack).await;
    end.send("PING\n");
    soon(end.line()).await;
    let before = session.last_active();

    control.wait();
    end.send("work\n");
    time::sleep(SECOND).await;
    assert_eq!(session.last_active(), before);
    control.ready();
    soon(end.line()).await;
    idle().await;
    assert!(session.last_active() >= before + SECOND);
}

#[tokio::test(start_paused = true)]
async fn any_of_several_layers_may_count_a_message_and_its_handler_may_fail() {
    let (transport, end) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(ActiveLayer::new(|message| message == "a"))
        .layer(ActiveLayer::new(|message| message == "b"))
        .layer(HandleErrorLayer::new(|_| None))
        .service_fn(|_: Request<String>| async { Err::<String, _>(BoxError::from("too bad")) });
    let (session, _task) = open(transport, lines(), SessionLayer::new(), stack).await;
    for (message, counts) in [("c\n", false), ("a\n", true), ("b\n", true), ("c\n", false)] {
        let before = session.last_active();
        time::sleep(SECOND).await;
        end.send(message);
        idle().await;
        assert_eq!(session.last_active() > before, counts, "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_keeps_its_connection_alive_is_idle_to_the_application() {
    let (transport, end) = stream::pair();
    let connection = Connection::new(transport);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(IdleTimeoutLayer::active(10 * SECOND))
        .layer(SessionLayer::new())
        .layer(ActiveLayer::new(|message| message != "PING"))
        .service(service_fn(echo));
    let start = time::Instant::now();
    let session = tokio::spawn(stack.oneshot(connection));
    for n in 0..4 {
        time::sleep(3 * SECOND).await;
        end.send(if n == 1 { "work\n" } else { "PING\n" });
        soon(end.line()).await;
    }
    let closed = soon(session).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
    // ten seconds after the work, which came with the sixth
    assert_eq!(start.elapsed().as_secs(), 16);
}
