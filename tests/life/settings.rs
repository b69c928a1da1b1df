//! Settings of layers that change while the session is open.
//!
//! Each contract is tested in both roles, and over a stream and a message transport.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, Closed, Connection, ConnectionHandle, LinkLayer, Pipeline, Request,
    ServiceBuilder, Session, SessionLayer, Transport,
    hooks::HandleExt,
    layers::{CodecLayer, HeartbeatLayer, IdleTimeoutLayer, OnOpenLayer, ReadTimeoutLayer},
    transport::Framing,
};
use getty_test::{Peer, Stream, TestSession, messages, stream};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{Answer, connector, idle, lines, soon},
};

const MINUTE: Duration = Duration::from_secs(60);

/// The other end of a session.
enum Client {
    Stream(Peer),
    Messages(Peer),
}

impl Client {
    /// Sends a line over a stream, and a message otherwise.
    fn send(&self, line: &str) {
        match self {
            Self::Stream(peer) => peer.send(line),
            Self::Messages(peer) => peer.send(line),
        }
    }

    async fn line(&self) -> String {
        match self {
            Self::Stream(peer) => peer.line().await,
            Self::Messages(peer) => peer.text().await.trim_end().to_owned(),
        }
    }
}

/// Handles `idle N`, `read N`, `beat N` and `outbound N`, which set a time to N milliseconds,
/// and replies with the result. Other messages get no reply.
async fn set(request: Request<String>) -> Answer {
    let session = request.session();
    let Some((setting, time)) = request.message().split_once(' ') else {
        return Ok(None);
    };
    let time = match time {
        "max" => Duration::MAX,
        millis => Duration::from_millis(millis.parse()?),
    };
    let set = match setting {
        "idle" => IdleTimeoutLayer::set(session, time),
        "outbound" => IdleTimeoutLayer::set_outbound(session, time),
        "any" => IdleTimeoutLayer::set_any_traffic(session, time),
        "activity" => IdleTimeoutLayer::set_activity(session, time),
        "read" => ReadTimeoutLayer::set(session, time),
        "beat" => HeartbeatLayer::set_period(session, time),
        _ => return Err("no such setting".into()),
    };
    Ok(Some(set.to_string()))
}

/// Timeouts of a stack, in this order: idle, read, heartbeat.
type Times = [Duration; 3];

const NEVER: Times = [Duration::MAX; 3];

fn server<T: Transport + Send + 'static>([idle, read, beat]: Times) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(IdleTimeoutLayer::new(idle))
        .layer(ReadTimeoutLayer::new(read))
        .layer(CodecLayer::new(lines()))
        .layer(HeartbeatLayer::new(beat, |_: &Session<String>| "PING".to_owned()).with_jitter(0.0))
        .layer(SessionLayer::new())
        .service_fn(set)
}

fn client<T: Transport + Send + 'static>(
    link: LinkLayer<String>,
    [idle, read, beat]: Times,
) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(IdleTimeoutLayer::new(idle))
        .layer(ReadTimeoutLayer::new(read))
        .layer(CodecLayer::new(lines()))
        .layer(HeartbeatLayer::new(beat, |_: &Session<String>| "PING".to_owned()).with_jitter(0.0))
        .layer(link)
        .layer(SessionLayer::new())
        .service_fn(set)
}

/// A session in one of the two roles, over one kind of transport.
struct Case {
    name: &'static str,
    handle: ConnectionHandle,
    peer: Client,
    task: JoinHandle<Closed>,
}

impl Case {
    async fn closes(self, reason: CloseReason, after: Duration) {
        let closed = soon(self.task).await.unwrap();
        assert_eq!(closed.reason, reason, "{}", self.name);
        assert_eq!(closed.lifetime.as_secs(), after.as_secs(), "{}", self.name);
    }
}

fn served<T: Transport + Send + 'static>(
    transport: T,
    times: Times,
) -> (ConnectionHandle, JoinHandle<Closed>) {
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let session = server(times).oneshot(connection);
    let task = tokio::spawn(async { session.await.map_err(Into::<BoxError>::into).unwrap() });
    (handle, task)
}

async fn connected<T: Transport + Send + 'static>(
    transport: T,
    times: Times,
) -> (ConnectionHandle, JoinHandle<Closed>) {
    let (session, task) = getty::connect(connector(), transport, |link| client(link, times))
        .await
        .unwrap();
    let task = tokio::spawn(async { task.await.unwrap() });
    (ConnectionHandle::clone(&session), task)
}

/// The roles and kinds of transport.
const KINDS: [&str; 4] = [
    "server, stream",
    "server, messages",
    "client, stream",
    "client, messages",
];

/// Opens a session in one role over one kind of transport.
async fn case(name: &'static str, times: Times) -> Case {
    let (role, transport) = name.split_once(", ").unwrap();
    let ((handle, task), peer) = if transport == "stream" {
        let (transport, peer) = stream();
        let open = match role {
            "server" => served(transport, times),
            _ => connected(transport, times).await,
        };
        (open, Client::Stream(peer))
    } else {
        let (transport, peer) = messages(Framing::Messages);
        let open = match role {
            "server" => served(transport, times),
            _ => connected(transport, times).await,
        };
        (open, Client::Messages(peer))
    };
    assert!(soon(handle.opened()).await);
    Case {
        name,
        handle,
        peer,
        task,
    }
}

/// Returns the time since the session opened.
fn age(handle: &ConnectionHandle) -> Duration {
    Instant::now() - handle.opened_at()
}

#[tokio::test(start_paused = true)]
async fn handler_sets_the_timeout_of_its_session() {
    for kind in KINDS {
        let case = case(kind, NEVER).await;
        sleep(10 * SECOND).await;
        case.peer.send("idle 15000\n");
        assert_eq!(soon(case.peer.line()).await, "true");
        case.closes(CloseReason::IdleTimeout, 25 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn shorter_timeout_is_effective_in_the_next_poll() {
    for kind in KINDS {
        let case = case(kind, [MINUTE; 3]).await;
        sleep(10 * SECOND).await;
        // The silence is longer already. Another task sets the time while the session sleeps.
        assert!(IdleTimeoutLayer::set(&case.handle, 5 * SECOND));
        case.closes(CloseReason::IdleTimeout, 10 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn longer_timeout_replaces_a_shorter_one_before_it_expires() {
    for kind in KINDS {
        let case = case(kind, [MINUTE; 3]).await;
        HeartbeatLayer::set_period(&case.handle, Duration::MAX);
        sleep(50 * SECOND).await;
        assert!(IdleTimeoutLayer::set(&case.handle, 100 * SECOND));
        case.closes(CloseReason::IdleTimeout, 100 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn timeout_that_never_expires_gets_a_shorter_time() {
    for kind in KINDS {
        let case = case(kind, NEVER).await;
        sleep(1_000 * SECOND).await;
        assert!(IdleTimeoutLayer::set(&case.handle, 2_000 * SECOND));
        case.closes(CloseReason::IdleTimeout, 2_000 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn timeout_that_is_disabled_never_expires() {
    for kind in KINDS {
        let case = case(kind, [MINUTE, Duration::MAX, Duration::MAX]).await;
        sleep(30 * SECOND).await;
        case.peer.send("idle max\n");
        assert_eq!(soon(case.peer.line()).await, "true");
        sleep(10_000 * SECOND).await;
        assert_eq!(case.handle.reason(), None, "{}", case.name);
        // It may be enabled again.
        assert!(IdleTimeoutLayer::set(&case.handle, MINUTE));
        case.closes(CloseReason::IdleTimeout, 10_030 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn timeout_of_zero_closes_an_idle_session_at_once() {
    for kind in KINDS {
        let case = case(kind, NEVER).await;
        sleep(10 * SECOND).await;
        assert!(IdleTimeoutLayer::set(&case.handle, Duration::ZERO));
        case.closes(CloseReason::IdleTimeout, 10 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn time_of_one_session_is_not_that_of_another() {
    for kind in KINDS {
        let times = [100 * SECOND, Duration::MAX, Duration::MAX];
        let (one, other) = (case(kind, times).await, case(kind, times).await);
        assert!(IdleTimeoutLayer::set(&one.handle, 10 * SECOND));
        one.closes(CloseReason::IdleTimeout, 10 * SECOND).await;
        other.closes(CloseReason::IdleTimeout, 100 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn handler_sets_the_read_timeout() {
    for (before, stays) in [(MINUTE, true), (Duration::MAX, false)] {
        // Messages of a message transport are never incomplete.
        for kind in ["server, stream", "client, stream"] {
            let case = case(kind, [Duration::MAX, before, Duration::MAX]).await;
            case.peer.send("read 30000\nhal");
            assert_eq!(soon(case.peer.line()).await, "true");
            sleep(20 * SECOND).await;
            if stays {
                assert!(ReadTimeoutLayer::set(&case.handle, 50 * SECOND));
                case.closes(CloseReason::ReadTimeout, 50 * SECOND).await;
            } else {
                // shorter than the frame has been incomplete
                assert!(ReadTimeoutLayer::set(&case.handle, 10 * SECOND));
                case.closes(CloseReason::ReadTimeout, 20 * SECOND).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn handler_sets_the_heartbeat_period() {
    for kind in KINDS {
        let case = case(kind, NEVER).await;
        sleep(100 * SECOND).await;
        case.peer.send("beat 10000\n");
        assert_eq!(soon(case.peer.line()).await, "true");
        // Nothing was sent for longer than the period, so the first heartbeat is due at once.
        for seconds in [100, 110, 120] {
            assert_eq!(soon(case.peer.line()).await, "PING");
            assert_eq!(age(&case.handle).as_secs(), seconds, "{}", case.name);
        }
        sleep(9 * SECOND).await;
        assert!(HeartbeatLayer::set_period(&case.handle, 3 * SECOND));
        for seconds in [129, 132] {
            assert_eq!(soon(case.peer.line()).await, "PING");
            assert_eq!(age(&case.handle).as_secs(), seconds, "{}", case.name);
        }
        assert!(HeartbeatLayer::set_period(&case.handle, Duration::MAX));
        sleep(1_000 * SECOND).await;
        case.peer.send("beat max\n");
        assert_eq!(
            soon(case.peer.line()).await,
            "true",
            "no heartbeat was sent"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeat_of_zero_is_one_each_millisecond() {
    for kind in KINDS {
        let case = case(kind, NEVER).await;
        assert!(HeartbeatLayer::set_period(&case.handle, Duration::ZERO));
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(soon(case.peer.line()).await, "PING");
        }
        let took = start.elapsed().as_millis();
        assert!((99..=110).contains(&took), "{}: {took} ms", case.name);
    }
}

fn idle_stack(layer: IdleTimeoutLayer) -> TestSession {
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(set);
    TestSession::stream(stack)
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_idle_timeout_is_set_by_its_function() {
    type Set = fn(&ConnectionHandle, Duration) -> bool;
    let kinds: [(IdleTimeoutLayer, Set); 4] = [
        (IdleTimeoutLayer::new(MINUTE), IdleTimeoutLayer::set),
        (
            IdleTimeoutLayer::outbound(MINUTE),
            IdleTimeoutLayer::set_outbound,
        ),
        (
            IdleTimeoutLayer::any_traffic(MINUTE),
            IdleTimeoutLayer::set_any_traffic,
        ),
        (
            IdleTimeoutLayer::activity(MINUTE),
            IdleTimeoutLayer::set_activity,
        ),
    ];
    for (n, (layer, _)) in kinds.iter().enumerate() {
        for (m, (_, set)) in kinds.iter().enumerate() {
            let session = idle_stack(layer.clone());
            soon(session.handle().opened()).await;
            assert_eq!(set(session.handle(), 7 * SECOND), n == m);
            let closed = session.closed().await;
            assert_eq!(closed.reason, CloseReason::IdleTimeout);
            assert_eq!(closed.lifetime.as_secs(), if n == m { 7 } else { 60 });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stacked_layers_of_a_kind_all_get_the_time() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let stack = ServiceBuilder::new()
        .layer(IdleTimeoutLayer::new(MINUTE))
        .layer(CodecLayer::new(lines()))
        .layer(IdleTimeoutLayer::new(2 * MINUTE).with_hook(
            move |session: &Session<String>, idle| {
                log.lock().unwrap().push((age(session).as_secs(), idle.nth));
            },
        ))
        .layer(SessionLayer::new())
        .service_fn(set);
    let session = TestSession::stream(stack);
    soon(session.handle().opened()).await;
    sleep(20 * SECOND).await;
    assert!(IdleTimeoutLayer::set(session.handle(), 5 * SECOND));
    let closed = session.closed().await;
    assert_eq!(closed.lifetime.as_secs(), 20);
    assert!(calls.lock().unwrap().len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn hook_of_an_idle_session_may_set_the_time_for_its_next_call() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&calls);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(IdleTimeoutLayer::new(10 * SECOND).with_hook(
            move |session: &Session<String>, idle| {
                log.lock().unwrap().push((age(session).as_secs(), idle.nth));
                if idle.nth == 3 {
                    session.close();
                }
                IdleTimeoutLayer::set(session, 3 * SECOND);
            },
        ))
        .layer(SessionLayer::new())
        .service_fn(set);
    let session = TestSession::stream(stack);
    session.closed().await;
    assert_eq!(*calls.lock().unwrap(), [(10, 1), (13, 2), (16, 3)]);
}

#[tokio::test(start_paused = true)]
async fn setting_without_its_layer_changes_nothing_and_returns_false() {
    let session = idle_stack(IdleTimeoutLayer::new(MINUTE));
    for line in ["read 1", "beat 1", "outbound 1", "any 1", "activity 1"] {
        session.send(format!("{line}\n"));
        assert_eq!(soon(session.line()).await, "false");
    }
    assert!(!session.handle().set_max_frame(1));
    sleep(50 * SECOND).await;
    assert_eq!(session.handle().reason(), None);
}

#[tokio::test(start_paused = true)]
async fn setting_of_a_closed_session_changes_nothing_and_returns_false() {
    let results = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&results);
    let session = TestSession::stream(server(NEVER));
    let inside = session.handle().clone();
    session.handle().add_close_callback("test", 1, move |_| {
        let set = [
            IdleTimeoutLayer::set(&inside, SECOND),
            ReadTimeoutLayer::set(&inside, SECOND),
            HeartbeatLayer::set_period(&inside, SECOND),
        ];
        log.lock().unwrap().extend(set);
    });
    soon(session.handle().opened()).await;
    session.handle().close();
    assert!(
        !IdleTimeoutLayer::set(session.handle(), SECOND),
        "while it closes"
    );
    session.closed().await;
    assert_eq!(*results.lock().unwrap(), [false; 3]);
    assert!(!IdleTimeoutLayer::set(session.handle(), SECOND));
    session.handle().recheck();
}

#[tokio::test(start_paused = true)]
async fn open_hook_sets_the_timeouts_before_the_session_opens() {
    let stack = ServiceBuilder::new()
        .layer(IdleTimeoutLayer::new(Duration::MAX))
        .layer(CodecLayer::new(lines()))
        .layer(OnOpenLayer::new(|session: Session<String>| async move {
            sleep(5 * SECOND).await;
            if !IdleTimeoutLayer::set(&session, 20 * SECOND) {
                return Err(BoxError::from("no idle timeout"));
            }
            Ok(())
        }))
        .layer(SessionLayer::new())
        .service_fn(set);
    let session = TestSession::stream(stack);
    assert!(soon(session.handle().opened()).await);
    session.send("hello\n");
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
    assert_eq!(closed.lifetime.as_secs(), 25);
}

/// A recheck must not run what another layer has scheduled for later.
#[tokio::test(start_paused = true)]
async fn recheck_runs_no_deadline_that_is_not_due() {
    let runs = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&runs);
    let stack = ServiceBuilder::new()
        .map_request(move |connection: Connection<Stream>| {
            let log = Arc::clone(&log);
            let handle = connection.handle();
            handle.schedule(handle.opened_at() + 10 * SECOND, move |handle, _| {
                log.lock().unwrap().push(age(handle).as_secs());
                None
            });
            connection
        })
        .service(server(NEVER));
    let session = TestSession::stream(stack);
    soon(session.handle().opened()).await;
    for _ in 0..5 {
        sleep(SECOND).await;
        session.handle().recheck();
        idle().await;
    }
    assert!(runs.lock().unwrap().is_empty());
    sleep(10 * SECOND).await;
    assert_eq!(*runs.lock().unwrap(), [10]);
}

/// The session sleeps in another thread, with no deadline that is near. A lost wake-up would
/// leave it open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_sleeps_is_woken_by_a_setting_of_another_thread() {
    for round in 0..300_u32 {
        let (transport, peer) = stream();
        let (handle, task) = served(transport, NEVER);
        assert!(handle.opened().await);
        if round % 2 == 0 {
            peer.send("hello\n");
        }
        let setters: Vec<_> = (0..2)
            .map(|n| {
                let handle = handle.clone();
                std::thread::spawn(move || {
                    HeartbeatLayer::set_period(&handle, Duration::from_secs(100 + n));
                    IdleTimeoutLayer::set(&handle, Duration::ZERO)
                })
            })
            .collect();
        let closed = tokio::time::timeout(MINUTE, task).await.unwrap().unwrap();
        assert_eq!(closed.reason, CloseReason::IdleTimeout);
        for setter in setters {
            setter.join().unwrap();
        }
    }
}

/// Settings race with messages and with the close. The last one must hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_of_many_concurrent_settings_holds() {
    for _ in 0..100 {
        let (transport, peer) = stream();
        let (handle, task) = served(transport, NEVER);
        assert!(handle.opened().await);
        let setter = {
            let handle = handle.clone();
            std::thread::spawn(move || {
                for n in 0..50 {
                    IdleTimeoutLayer::set(&handle, Duration::from_secs(1_000 + n));
                    ReadTimeoutLayer::set(&handle, Duration::from_secs(1_000 + n));
                }
            })
        };
        for _ in 0..50 {
            peer.send("hello\n");
        }
        setter.join().unwrap();
        peer.send("beat 1000000\n");
        assert_eq!(soon(peer.line()).await, "true");
        assert_eq!(handle.reason(), None);
        assert!(IdleTimeoutLayer::set(&handle, Duration::ZERO));
        let closed = tokio::time::timeout(MINUTE, task).await.unwrap().unwrap();
        assert_eq!(closed.reason, CloseReason::IdleTimeout);
    }
}
