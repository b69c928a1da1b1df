//! Stopping a client in each of its states.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Request, ServiceBuilder, SessionLayer,
    client::{Client, ClientState, NoSession},
    codec::Lines,
    service_fn,
};
use tokio::{io::DuplexStream, sync::Notify, time::Instant};
use tower::ServiceExt;

use crate::support::{Host, echo, idle, ignoring_client, ms, soon, tasks, without_jitter};

/// Increments a counter on drop.
struct CountOnDrop(Arc<AtomicUsize>);

impl Drop for CountOnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Stops the client and asserts that it stops within a millisecond.
async fn assert_stops_at_once(client: Client<String>) {
    let start = Instant::now();
    client.stop();
    assert!(matches!(
        soon(client.session()).await,
        Err(NoSession::Stopped)
    ));
    assert!(client.pick().is_none() && !client.is_open());
    soon(client.stopped()).await;
    assert!(start.elapsed() <= ms(1), "{:?}", start.elapsed());
    assert!(matches!(client.state(), ClientState::Stopped));
    client.stop();
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn client_stops_before_its_first_dial() {
    let host = Host::default();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    assert_stops_at_once(client).await;
    assert_eq!(host.dials(), 0);
}

#[tokio::test(start_paused = true)]
async fn client_stops_during_a_dial() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dropped);
    let connector = service_fn(move |()| {
        let counted = CountOnDrop(Arc::clone(&count));
        async move {
            pending::<()>().await;
            drop(counted);
            Ok::<Connection<DuplexStream>, BoxError>(Connection::new(tokio::io::duplex(1).0))
        }
    });
    let client = without_jitter().connect(connector, (), ignoring_client);
    idle().await;
    assert!(matches!(client.state(), ClientState::Connecting));
    assert_stops_at_once(client).await;
    assert_eq!(dropped.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn client_stops_while_the_stack_opens() {
    let host = Host::default();
    let _listener = host.listen();
    let client = without_jitter().connect(host.connector(), (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::per_session())
            .service(service_fn(|_: getty::Session<String>| async {
                pending::<()>().await;
                Ok::<_, BoxError>(service_fn(|_: Request<String>| async {
                    Ok::<_, BoxError>(None::<String>)
                }))
            }))
    });
    idle().await;
    assert_eq!(host.open(), 1);
    assert_stops_at_once(client).await;
    assert_eq!(host.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn client_stops_during_a_hook() {
    let host = Host::default();
    let _listener = host.listen();
    let client = without_jitter()
        .with_hook(|_| async {
            pending::<()>().await;
            Ok::<_, BoxError>(())
        })
        .connect(host.connector(), (), ignoring_client);
    idle().await;
    assert_eq!(host.open(), 1);
    assert_stops_at_once(client).await;
    assert_eq!(host.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn client_stops_during_a_pause() {
    let host = Host::default();
    let client = without_jitter().connect(host.connector(), (), ignoring_client);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(matches!(client.state(), ClientState::Waiting(_)));
    assert_stops_at_once(client).await;
}

#[tokio::test(start_paused = true)]
async fn stop_drains_open_sessions() {
    let host = Host::default();
    let server = host.serve(echo());
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let client = without_jitter()
        .with_sessions(3)
        .connect(host.connector(), (), move |link| {
            let released = Arc::clone(&released);
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(move |_: Request<String>| {
                    let released = Arc::clone(&released);
                    async move {
                        released.notified().await;
                        Ok::<_, BoxError>(None)
                    }
                })
        });
    let session = soon(client.session()).await.unwrap();
    soon(session.send("work".to_owned())).await.unwrap();
    idle().await;
    session.feed("queued".to_owned()).await.unwrap();
    client.stop();
    assert!(
        client.pick().is_none() && !client.is_open(),
        "no session is picked after `stop`"
    );
    idle().await;
    assert!(matches!(client.state(), ClientState::Stopped));
    assert!(!session.is_closed(), "its handler is in flight");
    release.notify_one();
    soon(client.stopped()).await;
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(closed.stats.messages_out, 2, "the queued message was sent");
    assert_eq!(host.open(), 0);
    drop((server, client));
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn pending_handler_is_dropped_at_the_drain_deadline() {
    let host = Host::default();
    let server = host.serve(echo());
    let client = without_jitter()
        .with_drain_deadline(Duration::from_secs(2))
        .connect(host.connector(), (), |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(|_: Request<String>| pending::<Result<Option<String>, BoxError>>())
        });
    let session = soon(client.session()).await.unwrap();
    soon(session.send("work".to_owned())).await.unwrap();
    idle().await;
    let start = Instant::now();
    client.stop();
    soon(client.stopped()).await;
    let elapsed = start.elapsed();
    assert!(elapsed >= ms(2000) && elapsed <= ms(2002), "{elapsed:?}");
    assert!(session.is_closed());
    drop(server);
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn stack_that_does_not_end_is_aborted_after_the_drain_deadline() {
    let host = Host::default();
    let server = host.serve(echo());
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dropped);
    let client = without_jitter().connect(host.connector(), (), move |link| {
        let counted = Arc::new(CountOnDrop(Arc::clone(&count)));
        ServiceBuilder::new()
            // It continues after the session has ended.
            .then(|ended: Result<getty::Closed, BoxError>| async move {
                pending::<()>().await;
                drop(counted);
                ended
            })
            .map_err(Into::<BoxError>::into)
            .service(ignoring_client::<DuplexStream>(link))
    });
    let session = soon(client.session()).await.unwrap();
    client.stop();
    soon(client.stopped()).await;
    assert!(session.is_closed());
    assert_eq!(dropped.load(SeqCst), 1, "dropped before `stopped` resolves");
    drop(server);
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn client_stops_when_its_last_handle_is_dropped() {
    let host = Host::default();
    let server = host.serve(echo());
    let client = without_jitter()
        .with_sessions(2)
        .connect(host.connector(), (), ignoring_client);
    let other = client.clone();
    let session = soon(client.session()).await.unwrap();
    let mut watch = client.watch();
    drop(client);
    idle().await;
    assert!(other.is_open() && session.is_open());
    drop(other);
    assert!(matches!(
        soon(watch.wait_for(|_| false)).await,
        ClientState::Stopped
    ));
    assert_eq!(soon(session.closed()).await.reason, CloseReason::Local);
    drop(server);
    assert_eq!(tasks().await, 0);
    assert!(watch.changed().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn handler_may_stop_its_client() {
    let host = Host::default();
    let _server = host.serve(echo());
    let slot: Arc<std::sync::OnceLock<Client<String>>> = Arc::default();
    let own_client = Arc::clone(&slot);
    let client = without_jitter().connect(host.connector(), (), move |link| {
        let own_client = Arc::clone(&own_client);
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |_: Request<String>| {
                own_client.get().unwrap().stop();
                async { Ok::<_, BoxError>(None) }
            })
    });
    slot.set(client.clone()).unwrap();
    client.send("stop".to_owned()).await.unwrap();
    soon(client.stopped()).await;
    assert_eq!(host.open(), 0);
}

#[test]
fn shutdown_of_the_runtime_stops_the_client() {
    let host = Host::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = runtime.block_on(async {
        let _server = host.serve(echo());
        let client = without_jitter().connect(host.connector(), (), ignoring_client);
        client.session().await.unwrap();
        client
    });
    drop(runtime);
    assert!(matches!(client.state(), ClientState::Stopped));
    let other = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    other.block_on(async {
        assert!(matches!(client.session().await, Err(NoSession::Stopped)));
        client.stopped().await;
    });
    assert_eq!(host.open(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn stopped_resolves_once_the_connection_of_an_attempt_is_dropped() {
    let host = Host::default();
    let _server = host.serve(echo());
    let (sender, mut blocked) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    let client = without_jitter().connect(host.connector(), (), move |link| {
        let (sender, released) = (sender.clone(), Arc::clone(&released));
        let stack = ignoring_client(link);
        service_fn(move |connection: Connection<DuplexStream>| {
            let (sender, released) = (sender.clone(), Arc::clone(&released));
            let stack = stack.clone();
            async move {
                sender.send(()).unwrap();
                // Block the thread, so that an abort of the task must wait.
                released.lock().unwrap().recv().unwrap();
                stack.oneshot(connection).await
            }
        })
    });
    blocked.recv().await.unwrap();
    client.stop();
    let mut stopped = std::pin::pin!(client.stopped());
    for _ in 0..1000 {
        assert!(futures_util::poll!(&mut stopped).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(host.open(), 1);
    release.send(()).unwrap();
    stopped.await;
    assert_eq!(host.open(), 0);
}
