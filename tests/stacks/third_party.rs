//! Third-party layers on connections. Some refuse. Others move a connection's future to a task
//! (design.md: What if a layer moves a connection's future to another task?).

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
use getty_test::settle;
use tokio::{io::DuplexStream, sync::oneshot, task::JoinHandle};
use tokio_util::codec::LinesCodec;
use tower::{ServiceExt, util::MapRequest};

use crate::support::{Server, dial, echo_sessions, line_sessions};

/// The close records of connections. Their close callbacks add them.
#[derive(Clone, Debug, Default)]
struct Records(Arc<Mutex<Vec<Closed>>>);

impl Records {
    /// Wraps `stack` so that the close of each of its connections is recorded.
    fn observe<S>(
        &self,
        stack: S,
    ) -> MapRequest<
        S,
        impl Fn(Connection<DuplexStream>) -> Connection<DuplexStream> + Clone + Send + use<S>,
    > {
        let records = self.0.clone();
        MapRequest::new(stack, move |connection: Connection<DuplexStream>| {
            let records = records.clone();
            connection
                .handle()
                .add_close_callback("test", 0, move |closed| {
                    records.lock().unwrap().push(closed.clone());
                });
            connection
        })
    }

    /// Returns the reason and the source of each recorded close.
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

fn refuse(_: Connection<DuplexStream>) -> Result<Connection<DuplexStream>, BoxError> {
    Err("not today".into())
}

/// The name of a case, its stack, and the expected record of the refused connection.
type Refusal = (&'static str, fn() -> Stack, &'static str);

const REFUSALS: &[Refusal] = &[
    (
        "load_shed",
        || {
            ServiceBuilder::new()
                .load_shed()
                .concurrency_limit(0)
                .service(echo_sessions())
                .boxed()
        },
        "refused; service overloaded",
    ),
    (
        "filter",
        || {
            ServiceBuilder::new()
                .filter(refuse)
                .service(echo_sessions())
                .boxed()
        },
        "refused; not today",
    ),
    (
        "filter_async",
        || {
            ServiceBuilder::new()
                .filter_async(|connection| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    refuse(connection)
                })
                .service(echo_sessions())
                .boxed()
        },
        "refused; not today",
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
                .service(echo_sessions())
                .boxed()
        },
        "dropped while open; request timed out",
    ),
    (
        "a layer that returns later",
        || {
            ServiceBuilder::new()
                .then(|result: Result<Closed, BoxError>| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    result
                })
                .filter(refuse)
                .service(echo_sessions())
                .boxed()
        },
        // The layer returns its error in a later poll. The close does not wait for it.
        "refused",
    ),
    (
        "a layer that waits for the close",
        || {
            ServiceBuilder::new()
                .layer_fn(AwaitClosed)
                .filter(refuse)
                .service(echo_sessions())
                .boxed()
        },
        "refused",
    ),
];

/// A service whose future completes once the connection has closed.
#[derive(Clone, Debug)]
struct AwaitClosed<S>(S);

impl<S> Service<Connection<DuplexStream>> for AwaitClosed<S>
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
        let call = self.0.call(connection);
        Box::pin(async move {
            let result = call.await;
            handle.closed().await;
            result
        })
    }
}

#[tokio::test(start_paused = true)]
async fn error_of_a_refusing_layer_is_the_source_of_the_close() {
    for (name, stack, expected) in REFUSALS {
        let records = Records::default();
        let server = Server::start(records.observe(stack()));
        let mut peer = server.dial().await;
        assert_eq!(peer.receive().await, None, "{name}");
        settle().await;
        assert_eq!(records.take(), [*expected], "{name}");
        // By now the layer that returns later has returned.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(server.stop().await, Drained::default(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn error_of_a_refusing_layer_is_the_source_of_the_close_in_a_client_too() {
    for (name, stack, expected) in REFUSALS.iter().take(4) {
        let records = Records::default();
        let (_listener, connector) = net::memory(1024);
        let refused = getty::connect(connector, (), |_: getty::LinkLayer<String>| {
            records.observe(stack())
        });
        let error = refused.await.unwrap_err();
        assert!(
            matches!(error, getty::OpenError::Open(_)),
            "{name}: {error}"
        );
        assert_eq!(records.take(), [*expected], "{name}");
    }
}

/// Behaviour of the layer's future while the connection's future runs in a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outer {
    /// Awaits the task like an executor layer.
    AwaitTask,
    /// Fails after a second and leaves the task running. A timeout that does not cancel does this.
    Fail,
}

/// Moves the future of each connection to a separate task.
#[derive(Clone, Copy, Debug)]
struct DetachLayer(Outer);

#[derive(Clone, Debug)]
struct Detach<S>(S, Outer);

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
        let outer = self.1;
        Box::pin(async move {
            match outer {
                Outer::AwaitTask => task.await?,
                Outer::Fail => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Err(io::Error::from(io::ErrorKind::TimedOut).into())
                }
            }
        })
    }
}

fn detached(outer: Outer, records: &Records) -> impl Pipeline<DuplexStream> + Clone + use<> {
    records.observe(DetachLayer(outer).layer(echo_sessions()))
}

#[tokio::test(start_paused = true)]
async fn session_in_another_task_ends_with_the_future_of_its_connection() {
    let records = Records::default();
    let server = Server::start(detached(Outer::Fail, &records));
    let mut peer = server.dial().await;
    peer.say("hello").await;
    assert_eq!(peer.receive().await.as_deref(), Some("hello"));
    assert_eq!(peer.receive().await, None);
    settle().await;
    assert_eq!(records.take(), ["dropped while open; timed out"]);
    assert_eq!(server.stop().await, Drained::default());
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_a_session_whose_connection_future_has_completed() {
    let records = Records::default();
    let (listener, connector) = net::memory(1024);
    let (stop, stopped) = oneshot::channel::<()>();
    let slow = ServiceBuilder::new()
        .layer(DetachLayer(Outer::Fail))
        .service(line_sessions!(
            SessionLayer::new().with_drain_deadline(Duration::from_secs(60)),
            service_fn(|request: Request<String>| async move {
                let seconds = request.message().parse()?;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok::<_, BoxError>(request.into_message())
            })
        ));
    let serving = serve(listener, records.observe(slow)).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let serving: JoinHandle<_> = tokio::spawn(serving.into_future());
    let mut peers = Vec::new();
    // One handler can finish within the drain deadline of five seconds. The other cannot.
    for seconds in ["4", "40"] {
        let mut peer = dial(&connector).await;
        peer.say(seconds).await;
        peers.push(peer);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.send(()).unwrap();
    let drained = serving.await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (1, 1));
    assert_eq!(peers[0].receive().await.as_deref(), Some("4"));
    assert_eq!(records.take()[0], "dropped while open; timed out");
}

#[tokio::test(start_paused = true)]
async fn session_in_an_awaited_task_ends_with_the_server() {
    let records = Records::default();
    let (listener, connector) = net::memory(1024);
    let stack = detached(Outer::AwaitTask, &records);
    let serving = tokio::spawn(serve(listener, stack).into_future());
    let mut peer = dial(&connector).await;
    peer.say("hello").await;
    assert_eq!(peer.receive().await.as_deref(), Some("hello"));
    serving.abort();
    assert_eq!(peer.receive().await, None);
    settle().await;
    assert_eq!(records.take(), [CloseReason::Dropped.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn client_session_in_another_task_ends_with_the_future_of_the_client() {
    let records = Records::default();
    let (listener, connector) = net::memory(1024);
    tokio::spawn(serve(listener, echo_sessions()).into_future());
    for outer in [Outer::AwaitTask, Outer::Fail] {
        let (session, task) = getty::connect(connector.clone(), (), |link| {
            let sessions = ServiceBuilder::new()
                .layer(CodecLayer::new(LinesCodec::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(|_: Request<String>| async { Ok::<_, BoxError>(None::<String>) });
            records.observe(DetachLayer(outer).layer(sessions))
        })
        .await
        .unwrap();
        match outer {
            Outer::AwaitTask => task.abort(),
            Outer::Fail => assert!(task.await.is_err()),
        }
        let closed = tokio::time::timeout(Duration::from_secs(60), session.closed()).await;
        let closed = closed.expect("the session must close");
        assert_eq!(closed.reason, CloseReason::Dropped);
        assert_eq!(records.take().len(), 1);
    }
}
