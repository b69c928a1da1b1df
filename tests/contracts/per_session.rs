//! A message stack made for each session: its state, its refusal, and a close that comes first.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, ConnectionHandle, Request,
    ServiceBuilder, Session, SessionLayer,
    hooks::HandleExt,
    layers::OnOpenLayer,
    service_fn,
    session::{NotOpened, PerSession},
};
use getty_test::{Peer, Stream, stream};
use tokio::{task::JoinHandle, time::Instant};
use tower::{Service, ServiceExt, util::BoxCloneService};

use crate::support::{connector, echo, idle, lines, panic_message, soon};

type Stack = BoxCloneService<Connection<Stream>, Closed, BoxError>;

/// Returns a stack whose message services `make` creates.
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
async fn each_session_has_separate_state() {
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
        let (transport, peer) = stream();
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
async fn limit_in_a_stack_per_session_applies_to_one_session() {
    let make = service_fn(|_: Session<String>| async {
        Ok::<_, BoxError>(
            ServiceBuilder::new()
                .rate_limit(1, Duration::from_secs(10))
                .service_fn(echo),
        )
    });
    let stack = stack(make);
    let (first, first_peer) = stream();
    let (second, second_peer) = stream();
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

/// The connection's record as its callback receives it.
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
async fn error_of_the_make_service_refuses_the_connection() {
    let make = service_fn(|_: Session<String>| async {
        Err::<tower::util::BoxService<Request<String>, Option<String>, BoxError>, _>(
            BoxError::from("not today"),
        )
    });
    let (transport, peer) = stream();
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
async fn close_while_the_stack_is_made_takes_effect_at_once() {
    let make = service_fn(|_: Session<String>| async {
        std::future::pending::<()>().await;
        Ok::<_, BoxError>(service_fn(echo))
    });
    let (transport, peer) = stream();
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
async fn messages_sent_before_the_open_are_written_at_the_open() {
    let make = service_fn(|session: Session<String>| async move {
        session.try_send("welcome".to_owned())?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, BoxError>(service_fn(echo))
    });
    let (transport, peer) = stream();
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
async fn callbacks_run_after_a_panic_of_the_make_service() {
    let make = service_fn(|session: Session<String>| async move {
        assert!(session.is_closing(), "a bad make-service");
        Ok::<_, BoxError>(service_fn(echo))
    });
    let (transport, peer) = stream();
    let connection = Connection::new(transport);
    let seen = watch(&connection);
    let error = soon(stack(make).oneshot(connection)).await.unwrap_err();
    let error: &NotOpened = error.downcast_ref().unwrap();
    assert_eq!(*error.reason(), CloseReason::Panicked);
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].reason, CloseReason::Panicked);
    assert_eq!(panic_message(seen[0].source.as_ref()), "a bad make-service");
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn refused_connect_returns_the_error() {
    let (transport, _peer) = stream();
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

/// Returns the reason of a session that never opened.
async fn not_opened(task: Task) -> CloseReason {
    let error = soon(task).await.unwrap().unwrap_err();
    let error: &NotOpened = error.downcast_ref().expect("the session never opened");
    error.reason().clone()
}

type Task = JoinHandle<Result<Closed, BoxError>>;

/// Runs a session with the settings of `layer` and a stack that `make` creates.
fn run<M, F>(layer: SessionLayer<PerSession>, make: M) -> (ConnectionHandle, Peer, Task)
where
    M: Fn(Session<String>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let (transport, peer) = stream();
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(layer)
        .service_fn(move |session| {
            let made = make(session);
            async move { made.await.map(|()| service_fn(echo)) }
        });
    (handle, peer, tokio::spawn(stack.oneshot(connection)))
}

#[tokio::test(start_paused = true)]
async fn make_service_may_await_its_greeting_before_anything_is_read() {
    let (handle, peer, task) = run(SessionLayer::per_session(), |session| async move {
        session.send("220 welcome".to_owned()).await?;
        Ok(session.flush().await?)
    });
    peer.hold_flush();
    peer.send("early\n");
    idle().await;
    assert_eq!(
        (peer.output().as_str(), peer.unread()),
        ("220 welcome\n", 6)
    );
    assert!(!handle.is_open());
    peer.release_flush();
    assert_eq!(soon(peer.lines(2)).await, ["220 welcome", "early"]);
    assert!(handle.is_open());
    handle.close();
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn fed_messages_are_flushed_before_the_connection_is_refused() {
    for panics in [false, true] {
        let (_handle, peer, task) = run(SessionLayer::per_session(), move |session| async move {
            session.feed("554 go away".to_owned()).await?;
            assert!(!panics, "a bad make-service");
            Err("on the list".into())
        });
        let reason = not_opened(task).await;
        let refused = [CloseReason::Refused, CloseReason::Panicked];
        assert_eq!(reason, refused[usize::from(panics)]);
        assert_eq!(peer.output(), "554 go away\n");
        assert!(peer.is_shut(), "the transport was closed in order");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_an_open_hook_are_flushed_before_it_refuses_the_connection() {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(OnOpenLayer::new(|session: Session<String>| async move {
            session.feed("554 go away".to_owned()).await?;
            Err::<(), BoxError>("on the list".into())
        }))
        .layer(SessionLayer::per_session())
        .service_fn(|_: Session<String>| async {
            std::future::pending::<()>().await;
            Ok::<_, BoxError>(service_fn(echo))
        });
    let task = tokio::spawn(stack.oneshot(Connection::new(transport)));
    assert_eq!(not_opened(task).await, CloseReason::Refused);
    assert_eq!(peer.output(), "554 go away\n");
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn refusal_that_the_peer_does_not_read_ends_at_the_drain_deadline() {
    let deadline = Duration::from_secs(3);
    let layer = SessionLayer::per_session().with_drain_deadline(deadline);
    let (_handle, peer, task) = run(layer, |session| async move {
        session.feed("554 go away".to_owned()).await?;
        Err("on the list".into())
    });
    peer.stall();
    let start = Instant::now();
    assert_eq!(not_opened(task).await, CloseReason::Refused);
    assert_eq!(start.elapsed().as_secs(), deadline.as_secs());
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn close_while_the_stack_is_made_drops_the_make_service_and_flushes() {
    let made = Arc::new(());
    let captured = Arc::clone(&made);
    let (handle, peer, task) = run(SessionLayer::per_session(), move |session| {
        let captured = Arc::clone(&captured);
        async move {
            session.feed("one".to_owned()).await?;
            std::future::pending::<()>().await;
            drop(captured);
            Ok(())
        }
    });
    peer.hold_close();
    idle().await;
    handle.close();
    idle().await;
    // The layers must have a clone, and the future none.
    assert_eq!(Arc::strong_count(&made), 1);
    assert_eq!(peer.output(), "one\n");
    assert_eq!(peer.counts().shutdowns, 1, "the transport is closed");
    assert_eq!(not_opened(task).await, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn timeouts_and_deadlines_run_while_the_stack_is_made() {
    let layer = SessionLayer::per_session().with_write_timeout(Duration::from_secs(30));
    let greet = |session: Session<String>| async move {
        session.send("220 welcome".to_owned()).await?;
        Ok(())
    };
    let (_handle, peer, task) = run(layer.clone(), greet);
    peer.stall();
    assert_eq!(not_opened(task).await, CloseReason::WriteTimeout);

    let (_handle, peer, task) = run(layer.clone(), greet);
    peer.reset();
    assert_eq!(not_opened(task).await, CloseReason::Io);

    let (handle, _peer, task) = run(layer, |_| std::future::pending());
    handle.schedule(Instant::now() + Duration::from_secs(1), |handle, _| {
        handle.close_with(CloseReason::IdleTimeout);
        None
    });
    assert_eq!(not_opened(task).await, CloseReason::IdleTimeout);
}

#[tokio::test(start_paused = true)]
async fn make_service_that_is_not_ready_delays_nothing_else() {
    let limit = tower::limit::GlobalConcurrencyLimitLayer::new(0);
    let (transport, peer) = stream();
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(OnOpenLayer::new(|session: Session<String>| async move {
            session.send("220 welcome".to_owned()).await.map(drop)
        }))
        .layer(SessionLayer::per_session())
        .layer(limit)
        .service_fn(|_: Session<String>| async { Ok::<_, BoxError>(service_fn(echo)) });
    let task = tokio::spawn(stack.oneshot(connection));
    assert_eq!(soon(peer.line()).await, "220 welcome");
    assert!(!handle.is_open());
    handle.close();
    assert_eq!(not_opened(task).await, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn make_service_that_closes_its_session_does_not_open_it() {
    let (handle, peer, task) = run(SessionLayer::per_session(), |session| async move {
        session.feed("221 bye".to_owned()).await?;
        session.close();
        Ok(())
    });
    peer.send("never read\n");
    assert_eq!(not_opened(task).await, CloseReason::Local);
    assert_eq!(peer.output(), "221 bye\n");
    assert!(peer.is_shut() && !handle.is_open());
}
