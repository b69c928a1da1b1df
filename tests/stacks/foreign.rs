//! Third-party layers on connections: layers that refuse, and layers that move a connection's
//! future to a task.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, Drained, Layer, Pipeline, Request,
    Service, ServiceBuilder, SessionLayer, net, serve, service_fn,
};
use tokio::{io::DuplexStream, sync::oneshot, task::JoinHandle};
use tokio_util::codec::LinesCodec;
use tower::ServiceExt;

use crate::support::{Peer, Server, line_sessions};

async fn echo(request: Request<String>) -> Result<String, BoxError> {
    Ok(request.into_message())
}

fn sessions() -> getty::BoxPipeline {
    line_sessions!(SessionLayer::new(), service_fn(echo))
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The records of connections, as their close callbacks see them.
#[derive(Clone, Debug, Default)]
struct Records(Arc<Mutex<Vec<Closed>>>);

impl Records {
    fn watch<T>(&self, connection: &Connection<T>) {
        let records = self.0.clone();
        connection
            .handle()
            .add_close_callback("test", 0, move |closed| {
                records.lock().unwrap().push(closed.clone());
            });
    }

    fn take(&self) -> Vec<String> {
        let records = std::mem::take(&mut *self.0.lock().unwrap());
        records
            .iter()
            .map(|closed| match &closed.source {
                Some(source) => format!("{}; {source}", closed.reason),
                None => closed.reason.to_string(),
            })
            .collect()
    }
}

type Stack = tower::util::BoxService<Connection<DuplexStream>, Closed, BoxError>;

fn no(_: Connection<DuplexStream>) -> Result<Connection<DuplexStream>, BoxError> {
    Err("no".into())
}

/// A refusing layer, and the record of the connection that it refused.
type Refusal = (&'static str, fn() -> Stack, &'static str);

const REFUSALS: &[Refusal] = &[
    (
        "load_shed",
        || {
            ServiceBuilder::new()
                .load_shed()
                .concurrency_limit(0)
                .service(sessions())
                .boxed()
        },
        "refused; service overloaded",
    ),
    (
        "filter",
        || ServiceBuilder::new().filter(no).service(sessions()).boxed(),
        "refused; no",
    ),
    (
        "filter_async",
        || {
            ServiceBuilder::new()
                .filter_async(|connection| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    no(connection)
                })
                .service(sessions())
                .boxed()
        },
        "refused; no",
    ),
    (
        "timeout before the session opens",
        || {
            ServiceBuilder::new()
                .timeout(Duration::from_secs(1))
                .service_fn(|connection: Connection<DuplexStream>| async move {
                    let _connection = connection;
                    std::future::pending::<Result<Closed, BoxError>>().await
                })
                .boxed()
        },
        "refused; request timed out",
    ),
    (
        "timeout after the session has opened",
        || {
            ServiceBuilder::new()
                .timeout(Duration::from_secs(1))
                .service(sessions())
                .boxed()
        },
        "dropped while open; request timed out",
    ),
    (
        "a layer that answers later",
        || {
            ServiceBuilder::new()
                .then(|result: Result<Closed, BoxError>| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    result
                })
                .filter(no)
                .service(sessions())
                .boxed()
        },
        // its error is not known before it is polled again, and the close does not wait for that
        "refused",
    ),
    (
        "a layer that waits for the close",
        || {
            ServiceBuilder::new()
                .layer_fn(AwaitsClosed)
                .filter(no)
                .service(sessions())
                .boxed()
        },
        "refused",
    ),
];

/// Answers once the connection has closed.
#[derive(Clone, Debug)]
struct AwaitsClosed<S>(S);

impl<S> Service<Connection<DuplexStream>> for AwaitsClosed<S>
where
    S: Service<Connection<DuplexStream>, Response = Closed, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Closed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Closed, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<DuplexStream>) -> Self::Future {
        let handle = connection.handle().clone();
        let life = self.0.call(connection);
        Box::pin(async move {
            let result = life.await;
            handle.closed().await;
            result
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_layer_that_refuses_is_the_source_of_the_close() {
    for (name, stack, expected) in REFUSALS {
        let records = Records::default();
        let watching = records.clone();
        let server = Server::start(
            ServiceBuilder::new()
                .map_request(move |connection: Connection<DuplexStream>| {
                    watching.watch(&connection);
                    connection
                })
                .service(stack()),
        );
        let mut peer = server.dial().await;
        assert_eq!(peer.hear().await, None, "{name}");
        settle().await;
        assert_eq!(records.take(), [*expected], "{name}");
        // the layer that answers later has done so
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(server.stop().await, Drained::default(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_layer_that_refuses_is_the_source_for_a_client_as_well() {
    for (name, stack, expected) in REFUSALS.iter().take(4) {
        let records = Records::default();
        let (_listener, connector) = net::memory(1024);
        let refused = getty::connect(connector, (), |_: getty::LinkLayer<String>| {
            let records = records.clone();
            ServiceBuilder::new()
                .map_request(move |connection: Connection<DuplexStream>| {
                    records.watch(&connection);
                    connection
                })
                .service(stack())
        });
        let error = refused.await.unwrap_err();
        assert!(
            matches!(error, getty::OpenError::Open(_)),
            "{name}: {error}"
        );
        assert_eq!(records.take(), [*expected], "{name}");
    }
}

/// Behaviour of the layer's own future while the connection's runs on a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    /// Like an executor layer.
    AwaitsTheTask,
    /// Like a time limit that does not cancel: it fails after a second.
    GivesUp,
}

/// Moves the future of each connection to a separate task.
#[derive(Clone, Copy, Debug)]
struct DetachLayer(Meanwhile);

#[derive(Clone, Debug)]
struct Detach<S>(S, Meanwhile);

impl<S> Layer<S> for DetachLayer {
    type Service = Detach<S>;

    fn layer(&self, inner: S) -> Detach<S> {
        Detach(inner, self.0)
    }
}

impl<S, T> Service<Connection<T>> for Detach<S>
where
    S: Service<Connection<T>, Response = Closed, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Closed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Closed, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let task = tokio::spawn(self.0.call(connection));
        let meanwhile = self.1;
        Box::pin(async move {
            match meanwhile {
                Meanwhile::AwaitsTheTask => task.await?,
                Meanwhile::GivesUp => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Err(io::Error::from(io::ErrorKind::TimedOut).into())
                }
            }
        })
    }
}

fn detached(meanwhile: Meanwhile, records: &Records) -> impl Pipeline<DuplexStream> + Clone {
    let records = records.clone();
    ServiceBuilder::new()
        .map_request(move |connection: Connection<DuplexStream>| {
            records.watch(&connection);
            connection
        })
        .layer(DetachLayer(meanwhile))
        .service(sessions())
}

#[tokio::test(start_paused = true)]
async fn a_session_on_another_task_ends_with_the_future_that_served_it() {
    let records = Records::default();
    let server = Server::start(detached(Meanwhile::GivesUp, &records));
    let mut peer = server.dial().await;
    peer.say("hello").await;
    assert_eq!(peer.hear().await.as_deref(), Some("hello"));
    assert_eq!(peer.hear().await, None);
    settle().await;
    assert_eq!(records.take(), ["dropped while open; timed out"]);
    assert_eq!(server.stop().await, Drained::default());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_a_session_that_its_future_has_left() {
    let records = Records::default();
    let (listener, connector) = net::memory(1024);
    let (stop, stopped) = oneshot::channel::<()>();
    let slow = ServiceBuilder::new()
        .layer(DetachLayer(Meanwhile::GivesUp))
        .service(line_sessions!(
            SessionLayer::new().with_drain_deadline(Duration::from_secs(60)),
            service_fn(|request: Request<String>| async move {
                let seconds = request.message().parse()?;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok::<_, BoxError>(request.into_message())
            })
        ));
    let watching = records.clone();
    let stack = ServiceBuilder::new()
        .map_request(move |connection: Connection<DuplexStream>| {
            watching.watch(&connection);
            connection
        })
        .service(slow);
    let serving = serve(listener, stack).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let serving: JoinHandle<_> = tokio::spawn(serving.into_future());
    let mut peers = Vec::new();
    // one is done within the drain deadline of five seconds, one is not
    for seconds in ["4", "40"] {
        let mut peer = Peer::new(connector.connect().await.unwrap().into_parts().0);
        peer.say(seconds).await;
        peers.push(peer);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.send(()).unwrap();
    let drained = serving.await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (1, 1));
    assert_eq!(peers[0].hear().await.as_deref(), Some("4"));
    assert_eq!(records.take()[0], "dropped while open; timed out");
}

#[tokio::test(start_paused = true)]
async fn a_session_on_a_task_that_is_awaited_ends_with_the_server() {
    let records = Records::default();
    let (listener, connector) = net::memory(1024);
    let stack = detached(Meanwhile::AwaitsTheTask, &records);
    let serving = tokio::spawn(serve(listener, stack).into_future());
    let mut peer = Peer::new(connector.connect().await.unwrap().into_parts().0);
    peer.say("hello").await;
    assert_eq!(peer.hear().await.as_deref(), Some("hello"));
    serving.abort();
    assert_eq!(peer.hear().await, None);
    settle().await;
    assert_eq!(records.take(), [CloseReason::Dropped.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn a_session_of_a_client_on_another_task_ends_with_the_future_of_the_client() {
    let records = Records::default();
    let (listener, connector) = net::memory(1024);
    tokio::spawn(serve(listener, sessions()).into_future());
    for meanwhile in [Meanwhile::AwaitsTheTask, Meanwhile::GivesUp] {
        let (session, task) = getty::connect(connector.clone(), (), |link| {
            let records = records.clone();
            let sessions = ServiceBuilder::new()
                .layer(CodecLayer::new(LinesCodec::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(|_: Request<String>| async { Ok::<_, BoxError>(None::<String>) });
            ServiceBuilder::new()
                .map_request(move |connection: Connection<DuplexStream>| {
                    records.watch(&connection);
                    connection
                })
                .layer(DetachLayer(meanwhile))
                .service(sessions)
        })
        .await
        .unwrap();
        match meanwhile {
            Meanwhile::AwaitsTheTask => task.abort(),
            Meanwhile::GivesUp => assert!(task.await.is_err()),
        }
        let closed = tokio::time::timeout(Duration::from_secs(60), session.closed()).await;
        let closed = closed.expect("the session ends");
        assert_eq!(closed.reason, CloseReason::Dropped);
        assert_eq!(records.take().len(), 1);
    }
}
