//! Effects of tower's layers inside `SessionLayer`. Each request is a message.
//!
//! Each row serves two sessions with one stack. Up to eight messages of a session may be in
//! flight. At second 0 the first peer sends `one` and `two`, the second sends `three`. The
//! handler echoes each message after three seconds. Both peers disconnect at second 60.
//!
//! The expectations list the lines that each peer received, with their seconds. The end of the
//! session follows.

use std::{
    collections::HashSet,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, BoxPipeline, Reply, Request, Service, ServiceBuilder, Session, SessionLayer,
    layers::HandleErrorLayer, service_fn,
};
use tower::{
    ServiceExt,
    limit::GlobalConcurrencyLimitLayer,
    retry::Policy,
    spawn_ready::SpawnReadyLayer,
    timeout::TimeoutLayer,
    util::{BoxCloneSyncService, BoxService},
};

use crate::support::{Clock, Peer, Received, line_sessions, open, slow_echo};

struct Row {
    name: &'static str,
    stack: fn() -> BoxPipeline,
    first: &'static str,
    second: &'static str,
}

const UNCHANGED: (&str, &str) = (
    "3 one, 3 two, 60 closed by the peer",
    "3 three, 60 closed by the peer",
);

const ROWS: &[Row] = &[
    Row {
        name: "no layer",
        stack: || line_sessions!(layer(), service_fn(slow_echo)),
        first: UNCHANGED.0,
        second: UNCHANGED.1,
    },
    Row {
        name: "timeout limits the time of each message and closes the session when it expires",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .timeout(Duration::from_secs(1))
                    .service_fn(slow_echo)
            )
        },
        first: "1 handler failed; request timed out",
        second: "1 handler failed; request timed out",
    },
    Row {
        name: "timeout inside HandleErrorLayer",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
                    .timeout(Duration::from_secs(1))
                    .service_fn(slow_echo)
            )
        },
        first: "1 ERR request timed out, 1 ERR request timed out, 60 closed by the peer",
        second: "1 ERR request timed out, 60 closed by the peer",
    },
    Row {
        name: "concurrency_limit is shared by all sessions of the stack",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .concurrency_limit(1)
                    .service_fn(slow_echo)
            )
        },
        first: "3 one, 6 two, 60 closed by the peer",
        second: "9 three, 60 closed by the peer",
    },
    Row {
        name: "concurrency_limit in a per-session stack limits that session",
        stack: || {
            line_sessions!(
                layer_per_session(),
                service_fn(|_: Session<String>| ready(Ok::<_, BoxError>(
                    ServiceBuilder::new()
                        .concurrency_limit(1)
                        .service_fn(slow_echo)
                )))
            )
        },
        first: "3 one, 6 two, 60 closed by the peer",
        second: "3 three, 60 closed by the peer",
    },
    Row {
        name: "global_concurrency_limit is shared by per-session stacks",
        stack: || {
            let limit = GlobalConcurrencyLimitLayer::new(1);
            line_sessions!(
                layer_per_session(),
                service_fn(move |_: Session<String>| ready(Ok::<_, BoxError>(
                    ServiceBuilder::new()
                        .layer(limit.clone())
                        .service_fn(slow_echo)
                )))
            )
        },
        first: "3 one, 6 two, 60 closed by the peer",
        second: "9 three, 60 closed by the peer",
    },
    Row {
        name: "load_shed fails a message that would wait for a limit, which closes the session",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .load_shed()
                    .concurrency_limit(1)
                    .service_fn(slow_echo)
            )
        },
        first: "3 one, 3 handler failed; service overloaded",
        second: "0 handler failed; service overloaded",
    },
    Row {
        name: "load_shed inside HandleErrorLayer",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
                    .load_shed()
                    .concurrency_limit(1)
                    .service_fn(slow_echo)
            )
        },
        first: "3 one, 3 ERR service overloaded, 60 closed by the peer",
        second: "0 ERR service overloaded, 60 closed by the peer",
    },
    Row {
        name: "rate_limit, which is not Clone, in a per-session stack",
        stack: || {
            line_sessions!(
                layer_per_session(),
                service_fn(|_: Session<String>| ready(Ok::<_, BoxError>(
                    ServiceBuilder::new()
                        .rate_limit(1, Duration::from_secs(5))
                        .service_fn(slow_echo)
                )))
            )
        },
        first: "3 one, 8 two, 60 closed by the peer",
        second: "3 three, 60 closed by the peer",
    },
    Row {
        name: "buffer around rate_limit, shared by all sessions",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .buffer(8)
                    .rate_limit(1, Duration::from_secs(5))
                    .service_fn(slow_echo)
            )
        },
        first: "3 one, 8 two, 60 closed by the peer",
        second: "13 three, 60 closed by the peer",
    },
    Row {
        name: "spawn_ready, which is not Clone, in a per-session stack",
        stack: || {
            line_sessions!(
                layer_per_session(),
                service_fn(|_: Session<String>| ready(Ok::<_, BoxError>(
                    ServiceBuilder::new()
                        .layer(SpawnReadyLayer::new())
                        .concurrency_limit(1)
                        .service_fn(slow_echo)
                )))
            )
        },
        first: "3 one, 6 two, 60 closed by the peer",
        second: "3 three, 60 closed by the peer",
    },
    Row {
        name: "filter fails a message, which closes the session",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .filter(
                        |request: Request<String>| match request.message().as_str() {
                            "two" => Err(BoxError::from("not two")),
                            _ => Ok(request),
                        }
                    )
                    .service_fn(slow_echo)
            )
        },
        first: "3 one, 3 handler failed; not two",
        second: UNCHANGED.1,
    },
    Row {
        name: "filter_async fails a message after an await",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
                    .filter_async(|request: Request<String>| async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        match request.message().as_str() {
                            "three" => Err(BoxError::from("not three")),
                            _ => Ok(request),
                        }
                    })
                    .service_fn(slow_echo)
            )
        },
        first: "4 one, 4 two, 60 closed by the peer",
        second: "1 ERR not three, 60 closed by the peer",
    },
    Row {
        name: "map_request changes the message",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .map_request(|request: Request<String>| {
                        request.map(|line| line.to_uppercase())
                    })
                    .service_fn(slow_echo)
            )
        },
        first: "3 ONE, 3 TWO, 60 closed by the peer",
        second: "3 THREE, 60 closed by the peer",
    },
    Row {
        name: "map_response changes the reply, and its kind",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .map_response(|line: String| Reply::many(vec![line, "!".to_owned()]).and_close())
                    .service_fn(slow_echo)
            )
        },
        first: "3 one, 3 !, 3 two, 3 !, 3 closed by this side",
        second: "3 three, 3 !, 3 closed by this side",
    },
    Row {
        name: "map_err changes the source of the close",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .map_err(|error: BoxError| format!("mapped: {error}"))
                    .timeout(Duration::from_secs(1))
                    .service_fn(slow_echo)
            )
        },
        first: "1 handler failed; mapped: request timed out",
        second: "1 handler failed; mapped: request timed out",
    },
    Row {
        name: "map_result turns errors into replies",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .map_result(|result: Result<String, BoxError>| {
                        Ok::<_, BoxError>(result.unwrap_or_else(|error| error.to_string()))
                    })
                    .timeout(Duration::from_secs(1))
                    .service_fn(slow_echo)
            )
        },
        first: "1 request timed out, 1 request timed out, 60 closed by the peer",
        second: "1 request timed out, 60 closed by the peer",
    },
    Row {
        name: "map_future wraps the handler",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .map_future(|handler| async {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        handler.await
                    })
                    .service_fn(slow_echo)
            )
        },
        first: "4 one, 4 two, 60 closed by the peer",
        second: "4 three, 60 closed by the peer",
    },
    Row {
        name: "and_then continues after the handler",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .and_then(|line: String| async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        Ok::<_, BoxError>(vec![line.clone(), line])
                    })
                    .service_fn(slow_echo)
            )
        },
        first: "4 one, 4 one, 4 two, 4 two, 60 closed by the peer",
        second: "4 three, 4 three, 60 closed by the peer",
    },
    Row {
        name: "then continues after an error, too",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .then(|result: Result<String, BoxError>| async move {
                        Ok::<_, BoxError>(result.is_ok().then(|| "done".to_owned()))
                    })
                    .filter(
                        |request: Request<String>| match request.message().as_str() {
                            "two" => Err(BoxError::from("not two")),
                            _ => Ok(request),
                        }
                    )
                    .service_fn(slow_echo)
            )
        },
        first: "3 done, 60 closed by the peer",
        second: "3 done, 60 closed by the peer",
    },
    Row {
        name: "option_layer with a layer",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .option_layer(Some(TimeoutLayer::new(Duration::from_secs(1))))
                    .service_fn(slow_echo)
            )
        },
        first: "1 handler failed; request timed out",
        second: "1 handler failed; request timed out",
    },
    Row {
        name: "option_layer without one",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .option_layer(None::<TimeoutLayer>)
                    .service_fn(slow_echo)
            )
        },
        first: UNCHANGED.0,
        second: UNCHANGED.1,
    },
    Row {
        name: "BoxCloneSyncService",
        stack: || line_sessions!(layer(), BoxCloneSyncService::new(service_fn(slow_echo))),
        first: UNCHANGED.0,
        second: UNCHANGED.1,
    },
    Row {
        name: "BoxService, which is not Clone, in a per-session stack",
        stack: || {
            line_sessions!(
                layer_per_session(),
                service_fn(
                    |_: Session<String>| ready(Ok::<_, BoxError>(BoxService::new(service_fn(
                        slow_echo
                    ))))
                )
            )
        },
        first: UNCHANGED.0,
        second: UNCHANGED.1,
    },
    Row {
        name: "retry calls again with a clone of the message and of its session",
        stack: || {
            line_sessions!(
                layer(),
                ServiceBuilder::new()
                    .retry(Once::default())
                    .service(fails_once())
            )
        },
        first: "6 one, 6 two, 60 closed by the peer",
        second: "6 three, 60 closed by the peer",
    },
];

fn layer() -> SessionLayer {
    SessionLayer::new().with_in_flight(8)
}

fn layer_per_session() -> SessionLayer<getty::session::PerSession> {
    SessionLayer::per_session().with_in_flight(8)
}

/// Returns a handler that fails at the first attempt of each message.
fn fails_once()
-> impl Service<Request<String>, Response = String, Error = BoxError, Future: Send> + Clone + Sync {
    let seen = Arc::new(Mutex::new(HashSet::new()));
    service_fn(slow_echo).and_then(move |line: String| {
        ready(if seen.lock().unwrap().insert(line.clone()) {
            Err(BoxError::from("not yet"))
        } else {
            Ok(line)
        })
    })
}

/// Retries a message once.
#[derive(Clone, Debug, Default)]
struct Once {
    retried: bool,
}

impl<Res, E> Policy<Request<String>, Res, E> for Once {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<String>, result: &mut Result<Res, E>) -> Option<Ready<()>> {
        let again = result.is_err() && !self.retried;
        self.retried = true;
        again.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<String>) -> Option<Request<String>> {
        Some(request.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn tower_layers_inside_the_session_layer_act_on_messages() {
    for row in ROWS {
        let clock = Clock::start();
        let mut stack = (row.stack)();
        let (mut one, one_ended) = open(&mut stack).await;
        let (mut other, other_ended) = open(&mut stack).await;
        one.say("one").await;
        one.say("two").await;
        other.say("three").await;
        let (mut first, mut second) =
            tokio::join!(receive_all(one, clock), receive_all(other, clock));
        for (events, ended) in [(&mut first, one_ended), (&mut second, other_ended)] {
            let closed = ended.await.unwrap().unwrap();
            *events += &closed.reason.to_string();
            if let Some(source) = &closed.source {
                *events += &format!("; {source}");
            }
        }
        assert_eq!(first, row.first, "{}: first session", row.name);
        assert_eq!(second, row.second, "{}: second session", row.name);
    }
}

/// Returns the lines that the peer received, each with its second. The last element is the
/// second at which the peer or the server disconnected.
async fn receive_all(mut peer: Peer, clock: Clock) -> String {
    let mut events = String::new();
    loop {
        let received = peer.receive_until(clock.at(60)).await;
        events += &clock.second().to_string();
        events += " ";
        match received {
            Received::Line(line) => events += &format!("{line}, "),
            Received::End | Received::Nothing => return events,
        }
    }
}
