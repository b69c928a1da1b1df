//! `CatchPanicLayer` outside and inside the session. A panic must affect only its session, and
//! its message must be kept.

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Panic, Reply, Request, ServiceBuilder,
    SessionLayer,
    layers::{CatchPanicLayer, HandleErrorLayer},
};
use getty_test::{Stream, TestSession, listener};

use crate::support::{echo, lines, panic_message, soon};

async fn shaky(request: Request<String>) -> Result<Option<String>, BoxError> {
    assert_ne!(request.message(), "panic", "a bad handler");
    if request.message() == "fail" {
        return Err("out of order".into());
    }
    echo(request).await
}

#[tokio::test(start_paused = true)]
async fn panic_before_the_session_opens_closes_only_its_connection() {
    let (listener, dialer) = listener();
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
        .map_request(|connection: Connection<Stream>| {
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
    assert!(!server.is_finished(), "the server still accepts");
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn panic_in_a_session_closes_it_as_panicked_under_the_layer_too() {
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CatchPanicLayer::new())
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .service_fn(shaky),
    );
    session.send("one\npanic\n");
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert!(panic_message(closed.source.as_ref()).contains("a bad handler"));
    assert_eq!(session.output(), "one\n");
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_handler_closes_the_session_as_panicked_and_not_as_handler() {
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .layer(CatchPanicLayer::new())
            .service_fn(shaky),
    );
    session.send("one\npanic\n");
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert!(panic_message(closed.source.as_ref()).contains("a bad handler"));
    assert_eq!(session.output(), "one\n");
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_handler_can_be_answered_with_a_reply_and_the_session_continues() {
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(SessionLayer::new())
            .layer(CatchPanicLayer::new().with_reply(|_| Reply::one("ERR internal".to_owned())))
            .service_fn(shaky),
    );
    session.send("one\npanic\ntwo\nfail\n");
    let closed = session.closed().await;
    assert_eq!(
        closed.reason,
        CloseReason::Handler,
        "the layer does not handle errors"
    );
    assert_eq!(session.output(), "one\nERR internal\ntwo\n");
}

#[tokio::test(start_paused = true)]
async fn handle_error_layer_outside_receives_panics_as_errors() {
    let session = TestSession::stream(
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
    session.send("panic\nfail\ntwo\n");
    session.finish();
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(session.output(), "ERR internal\nERR out of order\ntwo\n");
}
