//! The log line at the end of a session with and without `TraceLayer` (design.md: Why is the
//! end logged where the connection is finished?).

use std::time::Duration;

use getty::{
    BoxError, Close, CloseReason, Closed, CodecLayer, Connection, Reply, Request, ServiceBuilder,
    Session, SessionLayer,
    codec::Lines,
    layers::{IdleTimeoutLayer, MaxAgeLayer, TraceLayer},
    service_fn,
};
use getty_test::{Log, LogEvent, Peer, Stream, stream};
use tokio::io::AsyncReadExt;
use tower::{Layer, ServiceExt, util::BoxCloneService};
use tracing::Level;

use crate::support::{
    connector, idle,
    log::{lines_of, sole_end},
    soon,
};

/// Variant of the stack under test.
#[derive(Clone, Copy, Debug)]
struct Setting {
    traced: bool,
    per_session: bool,
}

const SETTINGS: [Setting; 4] = [
    Setting {
        traced: false,
        per_session: false,
    },
    Setting {
        traced: false,
        per_session: true,
    },
    Setting {
        traced: true,
        per_session: false,
    },
    Setting {
        traced: true,
        per_session: true,
    },
];

type PeerAction = fn(&Peer);
type Stack = BoxCloneService<Connection<Stream>, Closed, BoxError>;

async fn answer(request: Request<String>) -> Result<Reply<String>, BoxError> {
    Ok(match request.message().as_str() {
        "fail" => return Err("out of order".into()),
        "panic" => panic!("a bad handler"),
        "break" => Reply::one("two\nlines".to_owned()), // which the codec cannot encode
        "quit" => Reply::one("bye".to_owned()).and_close(),
        "wait" => return std::future::pending().await,
        line => Reply::one(line.to_owned()),
    })
}

fn stack(setting: Setting) -> Stack {
    let layer = setting.traced.then(TraceLayer::new);
    let outer = ServiceBuilder::new()
        .option_layer(layer)
        .layer(IdleTimeoutLayer::new(Duration::from_secs(60)))
        .layer(CodecLayer::new(Lines::new().with_max_length(16)));
    if setting.per_session {
        outer
            .layer(SessionLayer::per_session())
            .service_fn(async |_: Session<String>| Ok::<_, BoxError>(service_fn(answer)))
            .boxed_clone()
    } else {
        outer
            .layer(SessionLayer::new())
            .service_fn(answer)
            .boxed_clone()
    }
}

/// Runs a session whose peer does `action`. Returns the log and the close record.
async fn log_of(setting: Setting, action: impl FnOnce(&Peer)) -> (Log, Closed) {
    let mut log = Log::capture();
    let (transport, peer) = stream();
    let connection = Connection::new(transport);
    let task = tokio::spawn(stack(setting).oneshot(connection));
    action(&peer);
    let closed = soon(task).await.unwrap().unwrap();
    log.stop();
    (log, closed)
}

fn assert_end(setting: Setting, line: &LogEvent, level: Level, closed: &Closed) {
    let text = if setting.traced {
        "connection closed"
    } else {
        assert_eq!(line.target, "getty::session");
        assert!(line.field("connection").contains('#'), "{line:?}");
        "a session ended"
    };
    assert_eq!(line.message(), text, "{setting:?}");
    assert_eq!(line.level, level, "{setting:?} {line:?}");
    assert_eq!(line.field("reason"), closed.reason.as_str());
    let source = closed.source.as_ref();
    let source = source.map_or(String::new(), ToString::to_string);
    assert_eq!(line.field("error"), source, "{setting:?}");
}

#[tokio::test(start_paused = true)]
async fn failure_is_logged_once_as_a_warning() {
    let cases: [(&[u8], CloseReason); 6] = [
        (b"hello\nfail\n", CloseReason::Handler),
        (b"hello\npanic\n", CloseReason::Panicked),
        (b"hello\nbreak\n", CloseReason::Encode),
        (b"hello\n\xff\xfe\n", CloseReason::Decode),
        (b"seventeen letters\n", CloseReason::Decode),
        (b"\xff\xfe\n", CloseReason::Decode),
    ];
    for setting in SETTINGS {
        for (bytes, reason) in &cases {
            let (log, closed) = log_of(setting, |peer| peer.send(bytes)).await;
            assert_eq!(closed.reason, *reason);
            assert!(closed.source.is_some());
            assert_end(setting, &sole_end(&log), Level::WARN, &closed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn close_caused_by_the_peer_or_a_timeout_is_logged_once_at_debug() {
    let cases: [(PeerAction, CloseReason); 4] = [
        (Peer::finish, CloseReason::PeerClosed),
        (
            |peer| {
                peer.send("hello\n");
                peer.finish();
            },
            CloseReason::PeerClosed,
        ),
        (Peer::reset, CloseReason::Io),
        (|_| (), CloseReason::IdleTimeout),
    ];
    for setting in SETTINGS {
        for (action, reason) in &cases {
            let (log, closed) = log_of(setting, action).await;
            assert_eq!(closed.reason, *reason);
            assert_end(setting, &sole_end(&log), Level::DEBUG, &closed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn close_requested_by_the_handler_is_not_logged_by_the_session_loop() {
    for setting in SETTINGS {
        let (log, closed) = log_of(setting, |peer| peer.send("quit\n")).await;
        assert_eq!(closed.reason, CloseReason::Local);
        if setting.traced {
            assert_end(setting, &sole_end(&log), Level::DEBUG, &closed);
        } else {
            assert!(lines_of(&log).is_empty(), "{:?}", lines_of(&log));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn handler_that_a_close_interrupted_is_logged_once() {
    for traced in [false, true] {
        let setting = Setting {
            traced,
            per_session: false,
        };
        let log = Log::capture();
        let (transport, peer) = stream();
        let stack = MaxAgeLayer::new(Duration::from_secs(5)).layer(stack(setting));
        let task = tokio::spawn(stack.oneshot(Connection::new(transport)));
        peer.send("wait\n");
        let closed = soon(task).await.unwrap().unwrap();
        assert_eq!(closed.reason, CloseReason::LifetimeExpired);
        assert!(closed.source.is_some(), "the handler was interrupted");
        assert_end(setting, &sole_end(&log), Level::DEBUG, &closed);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_make_service_is_logged_once() {
    for traced in [false, true] {
        let log = Log::capture();
        let (transport, _peer) = stream();
        let stack = ServiceBuilder::new()
            .option_layer(traced.then(TraceLayer::new))
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::per_session())
            .service_fn(async |session: Session<String>| {
                if session.id() > 0 {
                    return Err(BoxError::from("no account"));
                }
                Ok(service_fn(answer))
            });
        let ended = soon(stack.oneshot(Connection::new(transport))).await;
        assert!(ended.is_err());
        let line = sole_end(&log);
        assert_eq!(line.level, Level::DEBUG);
        assert_eq!(line.field("reason"), "refused");
        assert_eq!(line.field("error"), "no account");
        if !traced {
            assert_eq!(
                line.message(),
                "a connection ended before its session opened"
            );
        }
    }
}

/// Serves one connection with a stack that refuses it. Returns the log.
async fn log_of_a_refusal<S>(stack: S) -> Log
where
    S: getty::Pipeline<tokio::io::DuplexStream>,
{
    let mut log = Log::capture();
    let (listener, connector) = getty::net::memory(64);
    let server = tokio::spawn(async move { getty::serve(listener, stack).await });
    let mut peer = connector.connect().await.unwrap().into_parts().0;
    let mut rest = Vec::new();
    soon(peer.read_to_end(&mut rest)).await.unwrap();
    idle().await;
    server.abort();
    log.stop();
    log
}

#[tokio::test(start_paused = true)]
async fn refusal_is_logged_once_with_its_error() {
    type Refused = Result<Closed, BoxError>;
    let drop_connection = async |connection: Connection<tokio::io::DuplexStream>| -> Refused {
        drop(connection);
        Err("not today".into())
    };
    let close_as_idle = async |connection: Connection<tokio::io::DuplexStream>| -> Refused {
        connection.handle().close_with(CloseReason::IdleTimeout);
        drop(connection);
        Err("not today".into())
    };
    let log = log_of_a_refusal(service_fn(close_as_idle)).await;
    assert_eq!(sole_end(&log).field("reason"), "idle_timeout");

    let close_as_refused = async |connection: Connection<tokio::io::DuplexStream>| -> Refused {
        connection
            .handle()
            .close_with(Close::new(CloseReason::Refused).with_source("not today"));
        drop(connection);
        Err("not today".into())
    };
    for (traced, log) in [
        (false, log_of_a_refusal(service_fn(drop_connection)).await),
        (false, log_of_a_refusal(service_fn(close_as_refused)).await),
        (
            true,
            log_of_a_refusal(TraceLayer::new().layer(service_fn(drop_connection))).await,
        ),
        (
            true,
            log_of_a_refusal(TraceLayer::new().layer(service_fn(close_as_refused))).await,
        ),
    ] {
        let line = sole_end(&log);
        assert_eq!(line.level, Level::DEBUG);
        assert_eq!(line.field("reason"), "refused");
        assert_eq!(line.field("error"), "not today");
        if !traced {
            assert_eq!(line.target, "getty::session");
            assert_eq!(
                line.message(),
                "a connection ended before its session opened"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn session_interrupted_by_a_layer_is_logged_once_with_the_error() {
    for traced in [false, true] {
        let stack = ServiceBuilder::new()
            .option_layer(traced.then(TraceLayer::new))
            .timeout(Duration::from_secs(5))
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service_fn(answer);
        let line = sole_end(&log_of_a_refusal(stack).await);
        assert_eq!(line.level, Level::DEBUG);
        assert_eq!(line.field("error"), "request timed out");
        if traced {
            assert_eq!(line.field("reason"), "dropped");
        } else {
            assert_eq!(line.message(), "a session ended");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stack_that_panics_in_call_is_logged_once_by_the_trace_layer() {
    let log = Log::capture();
    let (transport, _peer) = stream();
    let mut service = TraceLayer::new().layer(service_fn(
        |_: Connection<Stream>| -> std::future::Ready<Result<Closed, BoxError>> {
            panic!("a bad stack")
        },
    ));
    let call = std::panic::AssertUnwindSafe(|| {
        drop(tower::Service::call(
            &mut service,
            Connection::new(transport),
        ));
    });
    assert!(std::panic::catch_unwind(call).is_err());
    let line = sole_end(&log);
    assert_eq!(line.level, Level::WARN);
    assert_eq!(line.field("reason"), "panicked");
}

#[tokio::test(start_paused = true)]
async fn dropped_session_future_is_not_logged() {
    let log = Log::capture();
    let (transport, peer) = stream();
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let task = tokio::spawn(stack(SETTINGS[0]).oneshot(connection));
    assert!(soon(handle.opened()).await);
    task.abort();
    assert_eq!(soon(handle.closed()).await.reason, CloseReason::Dropped);
    assert!(lines_of(&log).is_empty(), "{:?}", lines_of(&log));
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn client_session_is_logged_like_a_server_session() {
    let log = Log::capture();
    let (transport, peer) = stream();
    let (_session, task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(answer)
    })
    .await
    .unwrap();
    peer.send("fail\n");
    let closed = soon(task).await.unwrap();
    assert_end(SETTINGS[0], &sole_end(&log), Level::WARN, &closed);
}

#[tokio::test(start_paused = true)]
async fn callbacks_run_even_if_the_display_of_an_error_panics() {
    #[derive(Debug)]
    struct Unprintable;
    impl std::fmt::Display for Unprintable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("a bad error")
        }
    }
    impl std::error::Error for Unprintable {}

    let _log = Log::capture();
    let connection = Connection::new(());
    let (reasons, received) = std::sync::mpsc::channel();
    connection
        .handle()
        .add_close_callback("test", 0, move |closed| {
            reasons.send(closed.reason.clone()).unwrap();
        });
    connection
        .handle()
        .close_with(Close::new(CloseReason::Handler).with_source(Unprintable));
    drop(connection);
    assert_eq!(received.try_recv(), Ok(CloseReason::Handler));
}
