//! What tower's middleware does outside `SessionLayer`, where a request is a connection.
//!
//! Each row serves two connections with one stack. Both dial at second 0 and say `hello`, which is answered at once; both
//! hang up at second 60. Seen from outside the layer in question, which is the first one of its row: when the stack was
//! called with the connection, when the peer was answered, and when and how the connection ended.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use getty::{
    BoxError, BoxPipeline, Closed, Connection, ConnectionHandle, Layer, Request, Service,
    ServiceBuilder, SessionLayer, service_fn,
};
use tokio::io::DuplexStream;
use tower::{
    ServiceExt,
    limit::GlobalConcurrencyLimitLayer,
    retry::Policy,
    spawn_ready::SpawnReadyLayer,
    timeout::TimeoutLayer,
    util::{BoxCloneService, BoxService},
};

use crate::support::{Clock, Heard, Server, line_sessions};

/// tower's `BoxService` is not `Clone`, and serves one listener.
type Stack = BoxService<Connection<DuplexStream>, Closed, BoxError>;

struct Row {
    name: &'static str,
    stack: fn() -> Stack,
    first: &'static str,
    second: &'static str,
}

const UNTOUCHED: &str = "called 0, answered 0, ended 60: closed by the peer";

const ROWS: &[Row] = &[
    Row {
        name: "nothing",
        stack: || echo().boxed(),
        first: UNTOUCHED,
        second: UNTOUCHED,
    },
    Row {
        name: "timeout bounds a connection's life and cuts it off",
        stack: || {
            ServiceBuilder::new()
                .timeout(Duration::from_secs(20))
                .service(echo())
                .boxed()
        },
        first: "called 0, answered 0, ended 20: dropped while open; request timed out",
        second: "called 0, answered 0, ended 20: dropped while open; request timed out",
    },
    Row {
        name: "concurrency_limit caps connections: the next one waits in the listener",
        stack: || {
            ServiceBuilder::new()
                .concurrency_limit(1)
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: "called 60, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "global_concurrency_limit caps connections, of other stacks too",
        stack: || {
            ServiceBuilder::new()
                .layer(GlobalConcurrencyLimitLayer::new(1))
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: "called 60, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "load_shed refuses what a limit would make wait",
        stack: || {
            ServiceBuilder::new()
                .load_shed()
                .concurrency_limit(1)
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: "called 0, ended 0: refused; service overloaded",
    },
    Row {
        name: "rate_limit paces accepting",
        stack: || {
            ServiceBuilder::new()
                .rate_limit(1, Duration::from_secs(7))
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: "called 7, answered 7, ended 60: closed by the peer",
    },
    Row {
        name: "buffer accepts connections that nobody drives until there is a slot",
        stack: || {
            ServiceBuilder::new()
                .buffer(8)
                .concurrency_limit(1)
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: "called 0, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "spawn_ready waits for a slot on a task of its own, and changes nothing else",
        stack: || {
            ServiceBuilder::new()
                .layer(SpawnReadyLayer::new())
                .concurrency_limit(1)
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: "called 60, answered 60, ended 60: closed by the peer",
    },
    Row {
        name: "filter refuses",
        stack: || {
            let mut accepted = 0;
            ServiceBuilder::new()
                .filter(move |connection: Connection<DuplexStream>| {
                    accepted += 1;
                    match accepted {
                        1 => Ok(connection),
                        _ => Err(BoxError::from("one is enough")),
                    }
                })
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: "called 0, ended 0: refused; one is enough",
    },
    Row {
        name: "filter_async refuses once it has made up its mind",
        stack: || {
            ServiceBuilder::new()
                .filter_async(|_: Connection<DuplexStream>| async {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    Err::<Connection<DuplexStream>, _>(BoxError::from("on second thoughts"))
                })
                .service(echo())
                .boxed()
        },
        first: "called 0, ended 3: refused; on second thoughts",
        second: "called 0, ended 3: refused; on second thoughts",
    },
    Row {
        name: "map_request sees the connection before it opens",
        stack: || {
            ServiceBuilder::new()
                .map_request(|connection: Connection<DuplexStream>| {
                    connection.handle().close_with(getty::CloseReason::Shutdown);
                    connection
                })
                .service(echo())
                .boxed()
        },
        first: "called 0, ended 0: shut down",
        second: "called 0, ended 0: shut down",
    },
    Row {
        name: "map_response sees how it ended",
        stack: || {
            ServiceBuilder::new()
                .map_response(|mut closed: Closed| {
                    closed.source = Some(Arc::new(Note("seen")));
                    closed
                })
                .service(echo())
                .boxed()
        },
        first: "called 0, answered 0, ended 60: closed by the peer; seen",
        second: "called 0, answered 0, ended 60: closed by the peer; seen",
    },
    Row {
        name: "map_err sees why the session never opened",
        stack: || {
            ServiceBuilder::new()
                .map_err(|error: BoxError| BoxError::from(format!("mapped: {error}")))
                .load_shed()
                .concurrency_limit(1)
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: "called 0, ended 0: refused; mapped: service overloaded",
    },
    Row {
        name: "map_result sees both",
        stack: || {
            ServiceBuilder::new()
                .map_result(|result: Result<Closed, BoxError>| match result {
                    Ok(_) => Err(BoxError::from("was open")),
                    Err(error) => Err(error),
                })
                .load_shed()
                .concurrency_limit(1)
                .service(echo())
                .boxed()
        },
        first: "called 0, answered 0, ended 60: closed by the peer; was open",
        second: "called 0, ended 0: refused; service overloaded",
    },
    Row {
        name: "map_future wraps a connection's life",
        stack: || {
            ServiceBuilder::new()
                .map_future(|life| async {
                    let ended = life.await;
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    ended
                })
                .service(echo())
                .boxed()
        },
        first: "called 0, answered 0, ended 65: closed by the peer",
        second: "called 0, answered 0, ended 65: closed by the peer",
    },
    Row {
        name: "and_then goes on after a connection's life",
        stack: || {
            ServiceBuilder::new()
                .and_then(|closed: Closed| async {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    Ok::<_, BoxError>(closed)
                })
                .service(echo())
                .boxed()
        },
        first: "called 0, answered 0, ended 65: closed by the peer",
        second: "called 0, answered 0, ended 65: closed by the peer",
    },
    Row {
        name: "then goes on after a refusal too",
        stack: || {
            ServiceBuilder::new()
                .then(|result: Result<Closed, BoxError>| async {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    result
                })
                .load_shed()
                .concurrency_limit(1)
                .service(echo())
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
                .service(echo())
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
                .service(echo())
                .boxed()
        },
        first: UNTOUCHED,
        second: UNTOUCHED,
    },
    Row {
        name: "BoxCloneService inside a limit",
        stack: || {
            ServiceBuilder::new()
                .concurrency_limit(1)
                .service(BoxCloneService::new(echo()))
                .boxed()
        },
        first: UNTOUCHED,
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
                .service(echo())
                .boxed()
        },
        // the filter's count goes with its clone, and each connection is tried once by a clone of its own
        first: "called 0, ended 0: refused; attempt 1",
        second: "called 0, ended 0: refused; attempt 2",
    },
];

fn echo() -> BoxPipeline {
    line_sessions!(
        SessionLayer::new(),
        service_fn(
            |request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) }
        )
    )
}

#[tokio::test(start_paused = true)]
async fn stock_layers_outside_the_session_layer_do_connection_things() {
    for row in ROWS {
        let clock = Clock::start();
        let records = Records::default();
        let server = Server::start(Recorder {
            inner: (row.stack)(),
            records: records.clone(),
            clock,
        });
        let dialled = (server.dial().await, server.dial().await);
        let visit = |mut peer: crate::support::Peer| async move {
            peer.say("hello").await;
            let mut answered = None;
            loop {
                match peer.hear_until(clock.at(60)).await {
                    Heard::Line(line) => {
                        assert_eq!(line, "hello", "{}", row.name);
                        answered = Some(clock.second());
                    }
                    Heard::End => return answered,
                    Heard::Nothing => break,
                }
            }
            if answered.is_none() {
                // it has been waiting all along; the first one has just left
                let heard = peer.hear_until(clock.at(61)).await;
                assert_eq!(heard, Heard::line("hello"), "{}", row.name);
                answered = Some(clock.second());
            }
            answered
        };
        let (first, second) = tokio::join!(visit(dialled.0), visit(dialled.1));
        tokio::time::sleep_until(clock.at(70)).await;
        assert_eq!(records.tell(0, first), row.first, "{}: the first", row.name);
        assert_eq!(
            records.tell(1, second),
            row.second,
            "{}: the second",
            row.name
        );
        let drained = server.stop().await;
        assert_eq!(drained.finished + drained.aborted, 0, "{}", row.name);
    }
}

/// Retries whatever fails, if it can.
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

/// Writes down when the stack is called, and when and how the connection ends.
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
    called: u64,
    handle: ConnectionHandle,
    ended: Option<(u64, Option<String>)>,
}

impl Records {
    fn tell(&self, index: usize, answered: Option<u64>) -> String {
        let records = self.0.lock().unwrap();
        let Record {
            called,
            handle,
            ended,
        } = &records[index];
        let (ended, source) = ended.as_ref().expect("the connection has ended");
        let mut told = format!("called {called}");
        if let Some(answered) = answered {
            told += &format!(", answered {answered}");
        }
        told += &format!(", ended {ended}: {}", handle.reason().unwrap());
        if let Some(source) = source {
            told += &format!("; {source}");
        }
        told
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
        let life = self.inner.call(connection);
        Box::pin(async move {
            let result = life.await;
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
async fn a_layer_that_hands_the_inner_service_to_a_task_needs_it_to_be_clone() {
    // `rate_limit` is not `Clone`: around it stands `buffer`, which is
    let stack = ServiceBuilder::new()
        .layer(CloneForEach)
        .buffer(8)
        .rate_limit(1, Duration::from_secs(7))
        .service(echo());
    let server = Server::start(stack);
    let clock = Clock::start();
    for second in [0, 7] {
        let mut peer = server.dial().await;
        peer.say("hello").await;
        assert_eq!(peer.hear().await.as_deref(), Some("hello"));
        assert_eq!(clock.second(), second);
    }
}

/// A layer that does something of its own before it calls the inner service, as handshakes do.
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
        // the one that is ready goes with the connection, its clone stays
        let clone = self.0.clone();
        let mut ready = std::mem::replace(&mut self.0, clone);
        Box::pin(async move {
            tokio::task::yield_now().await;
            ready.call(connection).await
        })
    }
}
