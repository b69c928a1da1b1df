//! A message stack made for each session: its state, its refusal, and a close that comes first.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, Request, ServiceBuilder, Session,
    SessionLayer, service_fn, session::NotOpened,
};
use tokio::time::Instant;
use tower::{Service, ServiceExt, util::BoxCloneService};

use crate::support::{
    connector, echo, idle, lines, soon,
    stream::{self, Stream},
};

type Stack = BoxCloneService<Connection<Stream>, Closed, BoxError>;

/// A stack whose message services `make` makes.
fn stack<M, S>(make: M) -> Stack
where
    M: Service<Session<String>, Response = S, Error = BoxError> + Clone + Send + Sync + 'static,
    M::Future: Send,
    S: Service<Request<String>, Response = Option<String>, Error = BoxError> + Send + 'static,
    S::Future: Send,
{
    ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::per_session())
        .service(make)
        .boxed_clone()
}

#[tokio::test(start_paused = true)]
async fn each_session_has_state_of_its_own() {
    let make = service_fn(|session: Session<String>| async move {
        let name = session.get::<&str>().unwrap_or("nobody");
        let mut count = 0;
        Ok::<_, BoxError>(service_fn(move |_: Request<String>| {
            count += 1;
            let answer = format!("{name} {count}");
            async move { Ok::<_, BoxError>(Some(answer)) }
        }))
    });
    let stack = stack(make);
    let mut peers = Vec::new();
    for name in ["ann", "bob"] {
        let (transport, peer) = stream::pair();
        let connection = Connection::new(transport);
        connection.handle().insert(name);
        tokio::spawn(stack.clone().oneshot(connection));
        peers.push((name, peer));
    }
    for n in 1..4 {
        for (name, peer) in &peers {
            peer.send("next\n");
            assert_eq!(soon(peer.line()).await, format!("{name} {n}"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_in_a_stack_of_its_own_is_a_sessions_own() {
    let make = service_fn(|_: Session<String>| async {
        Ok::<_, BoxError>(
            ServiceBuilder::new()
                .rate_limit(1, Duration::from_secs(10))
                .service_fn(echo),
        )
    });
    let stack = stack(make);
    let (first, first_peer) = stream::pair();
    let (second, second_peer) = stream::pair();
    tokio::spawn(stack.clone().oneshot(Connection::new(first)));
    tokio::spawn(stack.oneshot(Connection::new(second)));
    let before = Instant::now();
    first_peer.send("a\nb\nc\n");
    second_peer.send("a\n");
    soon(second_peer.line()).await;
    assert!(before.elapsed() < Duration::from_secs(1));
    soon(first_peer.lines(3)).await;
    assert_eq!(before.elapsed().as_secs(), 20);
}

/// The connection's record as its callback saw it.
fn watch(connection: &Connection<Stream>) -> Arc<Mutex<Vec<Closed>>> {
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let record = Arc::clone(&seen);
    connection
        .handle()
        .add_close_callback("test", 0, move |closed| {
            record.lock().unwrap().push(closed.clone());
        });
    seen
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_make_service_refuses_the_connection() {
    let make = service_fn(|_: Session<String>| async {
        Err::<tower::util::BoxService<Request<String>, Option<String>, BoxError>, _>(
            BoxError::from("not today"),
        )
    });
    let (transport, peer) = stream::pair();
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let seen = watch(&connection);
    let error = soon(stack(make).oneshot(connection)).await.unwrap_err();
    let error: &NotOpened = error.downcast_ref().unwrap();
    assert_eq!(*error.reason(), CloseReason::Refused);
    let source = std::error::Error::source(error).unwrap();
    assert_eq!(source.to_string(), "not today");

    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].reason, CloseReason::Refused);
    let source = seen[0].source.as_ref().unwrap();
    assert_eq!(source.to_string(), "not today");
    assert!(!handle.is_open() && handle.is_closed() && peer.is_gone());
    assert!(!handle.opened().await);
}

#[tokio::test(start_paused = true)]
async fn a_close_while_the_stack_is_made_comes_at_once() {
    let make = service_fn(|_: Session<String>| async {
        std::future::pending::<()>().await;
        Ok::<_, BoxError>(service_fn(echo))
    });
    let (transport, peer) = stream::pair();
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let seen = watch(&connection);
    let task = tokio::spawn(stack(make).oneshot(connection));
    idle().await;
    assert!(!handle.is_open());
    handle.close_with(CloseReason::Shutdown);
    let error = soon(task).await.unwrap().unwrap_err();
    let error: &NotOpened = error.downcast_ref().unwrap();
    assert_eq!(*error.reason(), CloseReason::Shutdown);
    assert_eq!(seen.lock().unwrap()[0].reason, CloseReason::Shutdown);
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_the_session_opened_leaves_when_it_opens() {
    let make = service_fn(|session: Session<String>| async move {
        session.try_send("welcome".to_owned())?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, BoxError>(service_fn(echo))
    });
    let (transport, peer) = stream::pair();
    peer.send("hello\n");
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let task = tokio::spawn(stack(make).oneshot(connection));
    assert!(soon(handle.opened()).await);
    assert_eq!(soon(peer.lines(2)).await, ["welcome", "hello"]);
    peer.finish();
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
}

#[tokio::test(start_paused = true)]
async fn a_make_service_that_panics_still_runs_the_callbacks() {
    let make = service_fn(|session: Session<String>| async move {
        assert!(session.is_closing(), "a bad make-service");
        Ok::<_, BoxError>(service_fn(echo))
    });
    let (transport, peer) = stream::pair();
    let connection = Connection::new(transport);
    let seen = watch(&connection);
    let task = tokio::spawn(stack(make).oneshot(connection));
    assert!(soon(task).await.unwrap_err().is_panic());
    assert_eq!(seen.lock().unwrap()[0].reason, CloseReason::Panicked);
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_is_refused_gives_the_error() {
    let (transport, _peer) = stream::pair();
    let refused = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(link)
            .layer(SessionLayer::per_session())
            .service(service_fn(|_: Session<String>| async {
                Err::<tower::util::BoxService<Request<String>, Option<String>, BoxError>, _>(
                    "full up",
                )
            }))
    })
    .await;
    match refused {
        Err(getty::OpenError::Open(error)) => {
            let refused: &NotOpened = error.downcast_ref().unwrap();
            assert_eq!(*refused.reason(), CloseReason::Refused);
        }
        other => panic!("{other:?}"),
    }
}
