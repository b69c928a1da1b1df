//! Effects of tower's layers outside `SessionLayer`. Each request is a connection.
//!
//! Each row serves two connections with one stack. Both peers connect at second 0 and send
//! `hello`. The handler replies at once. Both peers disconnect at second 60.
//!
//! The layer under test is the first layer of its row. The expectations are times outside that
//! layer, in seconds: the call of the stack with the connection, the reply, and the end with
//! its reason.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use getty::{BoxError, Closed, Connection, ConnectionHandle, Layer, Service, ServiceBuilder};
use tokio::io::DuplexStream;
use tower::{
    ServiceExt,
    limit::GlobalConcurrencyLimitLayer,
    retry::Policy,
    spawn_ready::SpawnReadyLayer,
    timeout::TimeoutLayer,
    util::{BoxCloneService, BoxService},
};

use crate::support::{Clock, Peer, Received, Server, echo_sessions};

/// A stack for one listener: tower's `BoxService` is not `Clone`.
type Stack = BoxService<Connection<DuplexStream>, Closed, BoxError>;

struct Row {
    name: &'static str,
    stack: fn() -> Stack,
    first: &'static str,
    second: &'static str,
}

const UNCHANGED: &str = "called 0, answered 0, ended 60: closed by the peer";

const ROWS: &[Row] = &[
    Row {
        name: "no layer",
        stack: || echo_sessions().boxed(),
        first: UNCHANGED,
        second: UNCHANGED,
    },
    Row {
        name: "timeout limits the lifetime of a connection and then drops it",
        stack: || {
            ServiceBuilder::new()
                .timeout(Duration::from_secs(20))
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, answered 0, ended 20: dropped while open; request timed out",
        second: "called 0, answered 0, ended 20: dropped while open; request timed out",
    },
    Row {
        name: "concurrency_limit limits connections: the next one waits in the listener",
        stack: || {
            ServiceBuilder::new()
                .concurrency_limit(1)
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: "called 60, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "global_concurrency_limit limits connections, together with other stacks",
        stack: || {
            ServiceBuilder::new()
                .layer(GlobalConcurrencyLimitLayer::new(1))
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: "called 60, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "load_shed refuses a connection that would wait for a limit",
        stack: || {
            ServiceBuilder::new()
                .load_shed()
                .concurrency_limit(1)
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: "called 0, ended 0: refused; service overloaded",
    },
    Row {
        name: "rate_limit limits the rate of accepts",
        stack: || {
            ServiceBuilder::new()
                .rate_limit(1, Duration::from_secs(7))
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: "called 7, answered 7, ended 60: closed by the peer",
    },
    Row {
        name: "buffer accepts connections that then wait for a limit without being served",
        stack: || {
            ServiceBuilder::new()
                .buffer(8)
                .concurrency_limit(1)
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: "called 0, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "spawn_ready waits for the limit in a separate task and changes nothing else",
        stack: || {
            ServiceBuilder::new()
                .layer(SpawnReadyLayer::new())
                .concurrency_limit(1)
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: "called 60, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "filter refuses a connection",
        stack: || {
            let mut accepted = 0;
            ServiceBuilder::new()
                .filter(move |connection: Connection<DuplexStream>| {
                    accepted += 1;
                    match accepted {
                        1 => Ok(connection),
                        _ => Err(BoxError::from("only one connection")),
                    }
                })
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: "called 0, ended 0: refused; only one connection",
    },
    Row {
        name: "filter_async refuses a connection after an await",
        stack: || {
            ServiceBuilder::new()
                .filter_async(|_: Connection<DuplexStream>| async {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    Err::<Connection<DuplexStream>, _>(BoxError::from("not today"))
                })
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, ended 3: refused; not today",
        second: "called 0, ended 3: refused; not today",
    },
    Row {
        name: "map_request receives the connection before its session opens",
        stack: || {
            ServiceBuilder::new()
                .map_request(|connection: Connection<DuplexStream>| {
                    connection.handle().close_with(getty::CloseReason::Shutdown);
                    connection
                })
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, ended 0: shut down",
        second: "called 0, ended 0: shut down",
    },
    Row {
        name: "map_response receives the close record",
        stack: || {
            ServiceBuilder::new()
                .map_response(|mut closed: Closed| {
                    closed.source = Some(Arc::new(Note("seen")));
                    closed
                })
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, answered 0, ended 60: closed by the peer; seen",
        second: "called 0, answered 0, ended 60: closed by the peer; seen",
    },
    Row {
        name: "map_err receives the error of a session that never opened",
        stack: || {
            ServiceBuilder::new()
                .map_err(|error: BoxError| BoxError::from(format!("mapped: {error}")))
                .load_shed()
                .concurrency_limit(1)
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: "called 0, ended 0: refused; mapped: service overloaded",
    },
    Row {
        name: "map_result receives the close record or the error",
        stack: || {
            ServiceBuilder::new()
                .map_result(|result: Result<Closed, BoxError>| match result {
                    Ok(_) => Err(BoxError::from("was open")),
                    Err(error) => Err(error),
                })
                .load_shed()
                .concurrency_limit(1)
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, answered 0, ended 60: closed by the peer; was open",
        second: "called 0, ended 0: refused; service overloaded",
    },
    Row {
        name: "map_future wraps the whole life of a connection",
        stack: || {
            ServiceBuilder::new()
                .map_future(|call| async {
                    let result = call.await;
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    result
                })
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, answered 0, ended 65: closed by the peer",
        second: "called 0, answered 0, ended 65: closed by the peer",
    },
    Row {
        name: "and_then continues after the close of a connection",
        stack: || {
            ServiceBuilder::new()
                .and_then(|closed: Closed| async {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    Ok::<_, BoxError>(closed)
                })
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, answered 0, ended 65: closed by the peer",
        second: "called 0, answered 0, ended 65: closed by the peer",
    },
    Row {
        name: "then continues after a refusal, too",
        stack: || {
            ServiceBuilder::new()
                .then(|result: Result<Closed, BoxError>| async {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    result
                })
                .load_shed()
                .concurrency_limit(1)
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, answered 0, ended 65: closed by the peer",
        second: "called 0, ended 5: refused; service overloaded",
    },
    Row {
        name: "option_layer with a layer",
        stack: || {
            ServiceBuilder::new()
                .option_layer(Some(TimeoutLayer::new(Duration::from_secs(20))))
                .service(echo_sessions())
                .boxed()
        },
        first: "called 0, answered 0, ended 20: dropped while open; request timed out",
        second: "called 0, answered 0, ended 20: dropped while open; request timed out",
    },
    Row {
        name: "option_layer without one",
        stack: || {
            ServiceBuilder::new()
                .option_layer(None::<TimeoutLayer>)
                .service(echo_sessions())
                .boxed()
        },
        first: UNCHANGED,
        second: UNCHANGED,
    },
    Row {
        name: "BoxCloneService inside a limit",
        stack: || {
            ServiceBuilder::new()
                .concurrency_limit(1)
                .service(BoxCloneService::new(echo_sessions()))
                .boxed()
        },
        first: UNCHANGED,
        second: "called 60, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "retry never retries, because a connection is not Clone",
        stack: || {
            let mut attempts = 0;
            ServiceBuilder::new()
                .retry(Always)
                .filter(move |_: Connection<DuplexStream>| {
                    attempts += 1;
                    Err::<Connection<DuplexStream>, _>(format!("attempt {attempts}"))
                })
                .service(echo_sessions())
                .boxed()
        },
        // Each connection is tried once by a clone of the inner stack with a separate count.
        first: "called 0, ended 0: refused; attempt 1",
        second: "called 0, ended 0: refused; attempt 2",
    },
];

#[tokio::test(start_paused = true)]
async fn tower_layers_outside_the_session_layer_act_on_connections() {
    for row in ROWS {
        let clock = Clock::start();
        let records = Records::default();
        let server = Server::start(Recorder {
            inner: (row.stack)(),
            records: records.clone(),
            clock,
        });
        let peers = (server.dial().await, server.dial().await);
        // Sends `hello` and returns the second of the reply.
        let run_peer = |mut peer: Peer| async move {
            peer.say("hello").await;
            let mut answered = None;
            loop {
                match peer.receive_until(clock.at(60)).await {
                    Received::Line(line) => {
                        assert_eq!(line, "hello", "{}", row.name);
                        answered = Some(clock.second());
                    }
                    Received::End => return answered,
                    Received::Nothing => break,
                }
            }
            if answered.is_none() {
                // This connection waited for the first one. That one has just disconnected.
                let received = peer.receive_until(clock.at(61)).await;
                assert_eq!(received, Received::line("hello"), "{}", row.name);
                answered = Some(clock.second());
            }
            answered
        };
        let (first, second) = tokio::join!(run_peer(peers.0), run_peer(peers.1));
        tokio::time::sleep_until(clock.at(70)).await;
        let first = records.describe(0, first);
        assert_eq!(first, row.first, "{}: first connection", row.name);
        let second = records.describe(1, second);
        assert_eq!(second, row.second, "{}: second connection", row.name);
        let drained = server.stop().await;
        assert_eq!(drained.finished + drained.aborted, 0, "{}", row.name);
    }
}

/// Retries every failed request that can be cloned.
#[derive(Clone, Debug)]
struct Always;

impl<T, Res, E> Policy<Connection<T>, Res, E> for Always {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Connection<T>,
        result: &mut Result<Res, E>,
    ) -> Option<Self::Future> {
        result.is_err().then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, _: &Connection<T>) -> Option<Connection<T>> {
        None
    }
}

#[derive(Debug)]
struct Note(&'static str);

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Note {}

/// Records the result and the times of the call and of its end.
#[derive(Debug)]
struct Recorder<S> {
    inner: S,
    records: Records,
    clock: Clock,
}

#[derive(Clone, Debug, Default)]
struct Records(Arc<Mutex<Vec<Record>>>);

#[derive(Debug)]
struct Record {
    /// Second of the call.
    called: u64,
    handle: ConnectionHandle,
    /// Second of the end, and the source of the close or the error.
    ended: Option<(u64, Option<String>)>,
}

impl Records {
    /// Describes a connection in the form of [`Row::first`].
    fn describe(&self, index: usize, answered: Option<u64>) -> String {
        let records = self.0.lock().unwrap();
        let Record {
            called,
            handle,
            ended,
        } = &records[index];
        let (ended, source) = ended.as_ref().expect("the connection has ended");
        let mut text = format!("called {called}");
        if let Some(answered) = answered {
            text += &format!(", answered {answered}");
        }
        text += &format!(", ended {ended}: {}", handle.reason().unwrap());
        if let Some(source) = source {
            text += &format!("; {source}");
        }
        text
    }
}

impl<S> Service<Connection<DuplexStream>> for Recorder<S>
where
    S: Service<Connection<DuplexStream>, Response = Closed, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Closed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Closed, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<DuplexStream>) -> Self::Future {
        let (records, clock) = (self.records.clone(), self.clock);
        let index = {
            let mut records = records.0.lock().unwrap();
            records.push(Record {
                called: clock.second(),
                handle: connection.handle().clone(),
                ended: None,
            });
            records.len() - 1
        };
        let call = self.inner.call(connection);
        Box::pin(async move {
            let result = call.await;
            let source = match &result {
                Ok(closed) => closed.source.as_ref().map(ToString::to_string),
                Err(error) => Some(error.to_string()),
            };
            records.0.lock().unwrap()[index].ended = Some((clock.second(), source));
            result
        })
    }
}

#[tokio::test(start_paused = true)]
async fn layer_that_moves_the_inner_service_into_a_future_requires_clone() {
    // `rate_limit` is not `Clone`. `buffer` around it is.
    let stack = ServiceBuilder::new()
        .layer(CloneForEach)
        .buffer(8)
        .rate_limit(1, Duration::from_secs(7))
        .service(echo_sessions());
    let server = Server::start(stack);
    let clock = Clock::start();
    for second in [0, 7] {
        let mut peer = server.dial().await;
        peer.say("hello").await;
        assert_eq!(peer.receive().await.as_deref(), Some("hello"));
        assert_eq!(clock.second(), second);
    }
}

/// A layer that awaits something before it calls the inner service. Handshakes do so.
#[derive(Clone, Debug)]
struct CloneForEach;

impl<S> Layer<S> for CloneForEach {
    type Service = CloneForEachService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CloneForEachService(inner)
    }
}

#[derive(Clone, Debug)]
struct CloneForEachService<S>(S);

impl<S, T> Service<Connection<T>> for CloneForEachService<S>
where
    S: Service<Connection<T>, Response = Closed> + Clone + Send + 'static,
    S::Future: Send,
    T: Send + 'static,
{
    type Response = Closed;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Closed, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        // The ready service moves into the future. Its clone stays here.
        let clone = self.0.clone();
        let mut ready = std::mem::replace(&mut self.0, clone);
        Box::pin(async move {
            tokio::task::yield_now().await;
            ready.call(connection).await
        })
    }
}
