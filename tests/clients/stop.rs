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
    client::{Client, NoSession, State},
    codec::Lines,
    service_fn,
};
use tokio::{io::DuplexStream, sync::Notify, time::Instant};
use tower::ServiceExt;

use crate::support::{Place, deaf, echo, even, idle, ms, soon, tasks};

/// Says when it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

async fn stops_at_once(client: Client<String>) {
    let begin = Instant::now();
    client.stop();
    assert!(matches!(
        soon(client.session()).await,
        Err(NoSession::Stopped)
    ));
    assert!(client.pick().is_none() && !client.is_open());
    soon(client.stopped()).await;
    assert!(begin.elapsed() <= ms(1), "{:?}", begin.elapsed());
    assert!(matches!(client.state(), State::Stopped));
    client.stop();
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn stopped_before_it_has_begun() {
    let place = Place::default();
    let client = even().connect(place.connector(), (), deaf);
    stops_at_once(client).await;
    assert_eq!(place.dials(), 0);
}

#[tokio::test(start_paused = true)]
async fn stopped_in_the_middle_of_a_dial() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dropped);
    let connector = service_fn(move |()| {
        let counted = Counted(Arc::clone(&count));
        async move {
            pending::<()>().await;
            drop(counted);
            Ok::<Connection<DuplexStream>, BoxError>(Connection::new(tokio::io::duplex(1).0))
        }
    });
    let client = even().connect(connector, (), deaf);
    idle().await;
    assert!(matches!(client.state(), State::Connecting));
    stops_at_once(client).await;
    assert_eq!(dropped.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn stopped_while_the_stack_opens() {
    let place = Place::default();
    let _listener = place.listen();
    let client = even().connect(place.connector(), (), |link| {
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
    assert_eq!(place.open(), 1);
    stops_at_once(client).await;
    assert_eq!(place.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn stopped_in_the_middle_of_a_hook() {
    let place = Place::default();
    let _listener = place.listen();
    let client = even()
        .with_hook(|_| async {
            pending::<()>().await;
            Ok::<_, BoxError>(())
        })
        .connect(place.connector(), (), deaf);
    idle().await;
    assert_eq!(place.open(), 1);
    stops_at_once(client).await;
    assert_eq!(place.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn stopped_in_the_middle_of_a_pause() {
    let place = Place::default();
    let client = even().connect(place.connector(), (), deaf);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(matches!(client.state(), State::Waiting(_)));
    stops_at_once(client).await;
}

#[tokio::test(start_paused = true)]
async fn stopped_while_sessions_are_open_it_drains_them() {
    let place = Place::default();
    let server = place.serve(echo());
    let finish = Arc::new(Notify::new());
    let working = Arc::clone(&finish);
    let client = even()
        .with_sessions(3)
        .connect(place.connector(), (), move |link| {
            let working = Arc::clone(&working);
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(move |_: Request<String>| {
                    let working = Arc::clone(&working);
                    async move {
                        working.notified().await;
                        Ok::<_, BoxError>(None)
                    }
                })
        });
    let session = soon(client.session()).await.unwrap();
    soon(session.send("work".to_owned())).await.unwrap();
    idle().await;
    session.feed("last words".to_owned()).await.unwrap();
    client.stop();
    assert!(client.pick().is_none() && !client.is_open(), "at once");
    idle().await;
    assert!(matches!(client.state(), State::Stopped));
    assert!(!session.is_closed(), "its handler is at work");
    finish.notify_one();
    soon(client.stopped()).await;
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(closed.stats.messages_out, 2, "what was queued has left");
    assert_eq!(place.open(), 0);
    drop((server, client));
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn handler_that_never_ends_is_cut_off_at_the_drain_deadline() {
    let place = Place::default();
    let server = place.serve(echo());
    let client =
        even()
            .with_drain_deadline(Duration::from_secs(2))
            .connect(place.connector(), (), |link| {
                ServiceBuilder::new()
                    .layer(CodecLayer::new(Lines::new()))
                    .layer(link)
                    .layer(SessionLayer::new())
                    .service_fn(|_: Request<String>| pending::<Result<Option<String>, BoxError>>())
            });
    let session = soon(client.session()).await.unwrap();
    soon(session.send("work".to_owned())).await.unwrap();
    idle().await;
    let begin = Instant::now();
    client.stop();
    soon(client.stopped()).await;
    let took = begin.elapsed();
    assert!(took >= ms(2000) && took <= ms(2002), "{took:?}");
    assert!(session.is_closed());
    drop(server);
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn stack_that_does_not_listen_is_aborted_after_the_drain_deadline() {
    let place = Place::default();
    let server = place.serve(echo());
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dropped);
    let client = even().connect(place.connector(), (), move |link| {
        let counted = Arc::new(Counted(Arc::clone(&count)));
        ServiceBuilder::new()
            // goes on after the session has ended
            .then(|ended: Result<getty::Closed, BoxError>| async move {
                pending::<()>().await;
                drop(counted);
                ended
            })
            .map_err(Into::<BoxError>::into)
            .service(deaf::<DuplexStream>(link))
    });
    let session = soon(client.session()).await.unwrap();
    client.stop();
    soon(client.stopped()).await;
    assert!(session.is_closed());
    assert_eq!(dropped.load(SeqCst), 1, "by then");
    drop(server);
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn client_stops_when_its_last_handle_is_dropped() {
    let place = Place::default();
    let server = place.serve(echo());
    let client = even().with_sessions(2).connect(place.connector(), (), deaf);
    let other = client.clone();
    let session = soon(client.session()).await.unwrap();
    let mut watch = client.watch();
    drop(client);
    idle().await;
    assert!(other.is_open() && session.is_open());
    drop(other);
    assert!(matches!(
        soon(watch.wait_for(|_| false)).await,
        State::Stopped
    ));
    assert_eq!(soon(session.closed()).await.reason, CloseReason::Local);
    drop(server);
    assert_eq!(tasks().await, 0);
    assert!(watch.changed().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_stop_the_client_that_it_works_for() {
    let place = Place::default();
    let _server = place.serve(echo());
    let slot: Arc<std::sync::OnceLock<Client<String>>> = Arc::default();
    let own = Arc::clone(&slot);
    let client = even().connect(place.connector(), (), move |link| {
        let own = Arc::clone(&own);
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |_: Request<String>| {
                own.get().unwrap().stop();
                async { Ok::<_, BoxError>(None) }
            })
    });
    slot.set(client.clone()).unwrap();
    client.send("stop".to_owned()).await.unwrap();
    soon(client.stopped()).await;
    assert_eq!(place.open(), 0);
}

#[test]
fn runtime_that_ends_leaves_nobody_waiting_for_ever() {
    let place = Place::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = runtime.block_on(async {
        let _server = place.serve(echo());
        let client = even().connect(place.connector(), (), deaf);
        client.session().await.unwrap();
        client
    });
    drop(runtime);
    assert!(matches!(client.state(), State::Stopped));
    let other = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    other.block_on(async {
        assert!(matches!(client.session().await, Err(NoSession::Stopped)));
        client.stopped().await;
    });
    assert_eq!(place.open(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn stopped_only_when_the_connection_of_an_attempt_is_gone_too() {
    let place = Place::default();
    let _server = place.serve(echo());
    let (entered, mut enters) = tokio::sync::mpsc::unbounded_channel();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let left = Arc::new(std::sync::Mutex::new(left));
    let client = even().connect(place.connector(), (), move |link| {
        let (entered, left) = (entered.clone(), Arc::clone(&left));
        let stack = deaf(link);
        service_fn(move |connection: Connection<DuplexStream>| {
            let (entered, left, stack) = (entered.clone(), Arc::clone(&left), stack.clone());
            async move {
                entered.send(()).unwrap();
                // holds its thread, so that an abort has to wait
                left.lock().unwrap().recv().unwrap();
                stack.oneshot(connection).await
            }
        })
    });
    enters.recv().await.unwrap();
    client.stop();
    let mut stopped = std::pin::pin!(client.stopped());
    for _ in 0..1000 {
        assert!(futures_util::poll!(&mut stopped).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(place.open(), 1);
    leave.send(()).unwrap();
    stopped.await;
    assert_eq!(place.open(), 0);
}
