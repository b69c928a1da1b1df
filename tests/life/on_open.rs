//! `OnOpenLayer`: hooks must run in the connection's task before anything is read. They may
//! refuse the connection.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Panic, Request, ServiceBuilder, SessionLayer,
    layers::OnOpenLayer,
};
use getty_test::{TestSession, listener, stream};
use tokio::{sync::Notify, time::Instant};

use crate::support::{Answer, echo, idle, lines, soon};

#[tokio::test(start_paused = true)]
async fn hook_may_await_its_greeting_and_nothing_is_read_before() {
    let (transport, peer) = stream();
    let order = Arc::new(Mutex::new(Vec::new()));
    let (hooks, handlers) = (order.clone(), order.clone());
    peer.hold_flush();
    peer.send("early\n");
    let session = TestSession::start(
        Connection::new(transport),
        peer.clone(),
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(OnOpenLayer::new(move |session| {
                let order = hooks.clone();
                async move {
                    session.send("220 welcome".to_owned()).await?;
                    session.insert(7_u8);
                    order.lock().unwrap().push("greeted".to_owned());
                    Ok::<_, BoxError>(())
                }
            }))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                assert_eq!(request.session().get(), Some(7_u8));
                handlers.lock().unwrap().push(request.message().clone());
                echo(request)
            }),
    );
    idle().await;
    assert_eq!(peer.output(), "220 welcome\n");
    assert_eq!(
        peer.unread(),
        6,
        "nothing is read before the greeting is flushed"
    );
    assert!(!session.handle().is_open());
    peer.release_flush();
    assert_eq!(soon(peer.lines(2)).await, ["220 welcome", "early"]);
    assert!(session.handle().is_open());
    assert_eq!(*order.lock().unwrap(), ["greeted", "early"]);
    session.close();
    assert_eq!(session.closed().await.reason, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn error_refuses_the_connection_after_a_flush() {
    let (transport, peer) = stream();
    peer.send("never read\n");
    let session = TestSession::start(
        Connection::new(transport),
        peer.clone(),
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(OnOpenLayer::new(|session| async move {
                session.try_send("554 go away".to_owned())?;
                tokio::task::yield_now().await;
                Err::<(), BoxError>("on the deny list".into())
            }))
            .layer(SessionLayer::new())
            .service_fn(|_: Request<String>| async {
                Answer::Err("the handler was called".into())
            }),
    );
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    assert_eq!(closed.source.unwrap().to_string(), "on the deny list");
    assert_eq!(peer.output(), "554 go away\n");
    assert!(peer.is_shut());
    assert!(session.handle().is_closed() && !session.handle().is_open());
    assert_eq!(closed.stats.messages_in, 0);
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_hook_closes_the_connection_with_its_message() {
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(OnOpenLayer::new(|_| async {
                tokio::task::yield_now().await;
                if true {
                    panic!("a bad hook");
                }
                Ok::<_, BoxError>(())
            }))
            .layer(SessionLayer::new())
            .service_fn(echo),
    );
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::Panicked);
    let source = closed.source.unwrap();
    let panic: &Panic = source.downcast_ref().unwrap();
    assert_eq!(panic.to_string(), "a bad hook");
    assert!(session.is_gone());
}

#[tokio::test(start_paused = true)]
async fn pending_hook_is_dropped_when_the_connection_closes() {
    let resource = Arc::new(());
    let captured = resource.clone();
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(OnOpenLayer::new(move |session| {
                let captured = captured.clone();
                async move {
                    session.send("wait".to_owned()).await?;
                    std::future::pending::<()>().await;
                    drop(captured);
                    Ok::<_, BoxError>(())
                }
            }))
            .layer(SessionLayer::new())
            .service_fn(echo),
    );
    assert_eq!(soon(session.line()).await, "wait");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!session.handle().is_closing());
    let start = Instant::now();
    session.handle().close_with(CloseReason::HandshakeTimeout);
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
    assert!(
        start.elapsed() < Duration::from_millis(10),
        "the close does not wait for the hook"
    );
    assert_eq!(Arc::strong_count(&resource), 1);
}

#[tokio::test(start_paused = true)]
async fn hooks_run_concurrently_and_the_session_waits_for_all() {
    let (first, second) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let wait = |notify: &Arc<Notify>, name: &'static str| {
        let notify = notify.clone();
        OnOpenLayer::new(move |session| {
            let notify = notify.clone();
            async move {
                session.feed(format!("{name} starts")).await?;
                notify.notified().await;
                session.feed(format!("{name} ends")).await
            }
        })
    };
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(wait(&first, "outer"))
            .layer(wait(&second, "inner"))
            .layer(SessionLayer::new())
            .service_fn(echo),
    );
    assert_eq!(
        soon(session.lines(2)).await,
        ["outer starts", "inner starts"]
    );
    second.notify_one();
    assert_eq!(soon(session.line()).await, "inner ends");
    idle().await;
    assert!(!session.handle().is_open());
    first.notify_one();
    assert_eq!(soon(session.line()).await, "outer ends");
    idle().await;
    assert!(session.handle().is_open());
}

#[tokio::test(start_paused = true)]
async fn slow_hook_delays_neither_accept_nor_other_sessions() {
    let (listener, dialer) = listener();
    let (gate, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (waits, opens) = (gate.clone(), open.clone());
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(OnOpenLayer::new(move |session| {
            let (gate, open) = (waits.clone(), opens.clone());
            async move {
                if session.id() % 2 == 0 {
                    gate.notified().await;
                } else {
                    open.notify_one();
                }
                Ok::<_, BoxError>(())
            }
        }))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let server = tokio::spawn(getty::serve(listener, app).into_future());
    // All tests of this process share the session ids. So half of these sessions must be slow, but
    // it is not known which.
    let peers: Vec<_> = (0..8).map(|_| dialer.dial()).collect();
    idle().await;
    assert_eq!(dialer.backlog(), 0);
    for peer in &peers {
        peer.send("hello\n");
    }
    idle().await;
    for _ in 0..8 {
        gate.notify_one();
        idle().await;
    }
    for peer in &peers {
        assert_eq!(soon(peer.line()).await, "hello");
    }
    server.abort();
}
