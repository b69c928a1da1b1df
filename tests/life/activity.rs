//! `ActivityLayer`: only selected messages count as activity.

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{ActivityLayer, HandleErrorLayer, IdleTimeoutLayer},
    service_fn,
};
use getty_test::stream;
use tokio::time;
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{echo, echo_probe, idle, lines, open, soon},
};

#[tokio::test(start_paused = true)]
async fn only_selected_messages_update_last_active() {
    for n in [1, 4] {
        let (transport, end) = stream();
        let stack = ServiceBuilder::new()
            .layer(ActivityLayer::new(|message| message != "PING"))
            .service_fn(echo);
        let layer = SessionLayer::new().with_in_flight(n);
        let (session, _task) = open(transport, lines(), layer, stack).await;
        let send = async |text: &str| {
            time::sleep(SECOND).await;
            let now = time::Instant::now();
            end.send(text);
            soon(end.lines(text.lines().count())).await;
            idle().await;
            now
        };

        let ping = send("PING\n").await;
        assert_eq!(session.last_active(), session.opened_at());
        assert_eq!(session.last_read(), ping);
        let work = send("work\n").await;
        assert_eq!(session.last_active(), work);
        send("PING\nPING\n").await;
        assert_eq!(session.last_active(), work);
        let mixed = send("PING\nwork\nPING\n").await;
        assert_eq!(session.last_active(), mixed);
        time::sleep(SECOND).await;
        session.touch();
        assert_eq!(session.last_active(), time::Instant::now());
        assert_eq!(session.stats().messages_in, 7);
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_layer_every_message_updates_last_active() {
    let (transport, end) = stream();
    let stack = ServiceBuilder::new().service_fn(echo);
    let (session, _task) = open(transport, lines(), SessionLayer::new(), stack).await;
    time::sleep(SECOND).await;
    let now = time::Instant::now();
    end.send("PING\n");
    soon(end.line()).await;
    assert_eq!(session.last_active(), now);
}

#[tokio::test(start_paused = true)]
async fn message_counts_when_the_handler_is_called_and_not_when_it_is_decoded() {
    let (transport, end) = stream();
    let (service, control) = echo_probe();
    let stack = ServiceBuilder::new()
        .layer(ActivityLayer::new(|message| message != "PING"))
        .service(service);
    let (session, _task) = open(transport, lines(), SessionLayer::new(), stack).await;
    end.send("PING\n");
    soon(end.line()).await;
    let before = session.last_active();

    control.set_pending();
    end.send("work\n");
    time::sleep(SECOND).await;
    assert_eq!(session.last_active(), before);
    control.set_ready();
    soon(end.line()).await;
    idle().await;
    assert!(session.last_active() >= before + SECOND);
}

#[tokio::test(start_paused = true)]
async fn message_counts_if_any_layer_selects_it_even_if_its_handler_fails() {
    let (transport, end) = stream();
    let stack = ServiceBuilder::new()
        .layer(ActivityLayer::new(|message| message == "a"))
        .layer(ActivityLayer::new(|message| message == "b"))
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
async fn peer_that_sends_only_keepalives_is_closed_as_idle() {
    let (transport, end) = stream();
    let connection = Connection::new(transport);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(IdleTimeoutLayer::activity(10 * SECOND))
        .layer(SessionLayer::new())
        .layer(ActivityLayer::new(|message| message != "PING"))
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
    // Ten seconds after `work`, which was sent in second 6.
    assert_eq!(start.elapsed().as_secs(), 16);
}
