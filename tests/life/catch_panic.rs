//! Panics on either side of the session loop: they harm nobody else, and say what they were.

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Panic, Reply, Request, ServiceBuilder,
    SessionLayer,
    layers::{CatchPanicLayer, HandleErrorLayer},
};

use crate::{
    kit::run,
    support::{echo, lines, listener, panic_message, soon, stream},
};

async fn shaky(request: Request<String>) -> Result<Option<String>, BoxError> {
    assert_ne!(request.message(), "panic", "told to");
    if request.message() == "fail" {
        return Err("out of order".into());
    }
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn a_panic_before_the_session_is_an_error_and_others_are_unharmed() {
    let (listener, dialer) = listener::memory();
    let (closes, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let app = ServiceBuilder::new()
        .map_request(move |connection: Connection<_>| {
            let closes = closes.clone();
            connection
                .handle()
                .add_close_callback("test", 0, move |closed| {
                    let _ = closes.send(closed.clone());
                });
            connection
        })
        .layer(CatchPanicLayer::new())
        .map_request(|connection: Connection<stream::Stream>| {
            assert!(connection.handle().is_closing(), "a bad handshake");
            connection
        })
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let server = tokio::spawn(getty::serve(listener, app).into_future());
    for _ in 0..2 {
        let peer = dialer.dial();
        let closed = soon(closed.recv()).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Panicked);
        assert_eq!(panic_message(closed.source.as_ref()), "a bad handshake");
        assert!(peer.is_gone());
    }
    assert!(!server.is_finished(), "it goes on accepting");
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_session_inside_ends_as_it_does_without() {
    let (transport, peer) = stream::pair();
    let (_, task) = run(
        transport,
        ServiceBuilder::new()
            .layer(CatchPanicLayer::new())
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .service_fn(shaky),
    );
    peer.send("one\npanic\n");
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert!(panic_message(closed.source.as_ref()).contains("told to"));
    assert_eq!(peer.output(), "one\n");
}

#[tokio::test(start_paused = true)]
async fn a_messages_panic_closes_the_session_as_panicked_and_not_as_an_error() {
    let (transport, peer) = stream::pair();
    let (_, task) = run(
        transport,
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .layer(CatchPanicLayer::new())
            .service_fn(shaky),
    );
    peer.send("one\npanic\n");
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert!(panic_message(closed.source.as_ref()).contains("told to"));
    assert_eq!(peer.output(), "one\n");
}

#[tokio::test(start_paused = true)]
async fn a_messages_panic_may_be_answered_and_the_session_goes_on() {
    let (transport, peer) = stream::pair();
    let (_, task) = run(
        transport,
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .layer(CatchPanicLayer::new().with_reply(|_| Reply::one("ERR internal".to_owned())))
            .service_fn(shaky),
    );
    peer.send("one\npanic\ntwo\nfail\n");
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(
        closed.reason,
        CloseReason::Handler,
        "errors are not its business"
    );
    assert_eq!(peer.output(), "one\nERR internal\ntwo\n");
}

#[tokio::test(start_paused = true)]
async fn handling_errors_outside_of_it_handles_panics_too() {
    let (transport, peer) = stream::pair();
    let (_, task) = run(
        transport,
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .layer(HandleErrorLayer::new(|error| {
                if error.is::<Panic>() {
                    "ERR internal".to_owned()
                } else {
                    format!("ERR {error}")
                }
            }))
            .layer(CatchPanicLayer::new())
            .service_fn(shaky),
    );
    peer.send("panic\nfail\ntwo\n");
    peer.finish();
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(peer.output(), "ERR internal\nERR out of order\ntwo\n");
}
