//! Ten thousand concurrent sessions. Heartbeats and timeouts must be on time, and each session
//! must close once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    CloseReason, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{
        CodecLayer, HandshakeTimeoutLayer, HeartbeatLayer, IdleTimeoutLayer, MaxAgeLayer,
        ReadTimeoutLayer, WriteTimeoutLayer,
    },
};
use getty_test::{Peer, stream};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{Answer, idle, lines, soon},
};

const SESSIONS: u64 = 10_000;
/// Resolution of the clock. An event may be late by one tick. It may be late by two if it
/// depends on an action of the peer.
const TICK: Duration = Duration::from_millis(1);

/// Events of each session in order, by the session's id.
type Log<T> = Arc<Mutex<HashMap<u64, Vec<T>>>>;

/// Behaviour of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Behaviour {
    /// Answers every heartbeat.
    Responsive,
    /// Answers this number of heartbeats and then none.
    StopsAnswering { answers: u32 },
    /// Answers two heartbeats, then sends an incomplete frame.
    SendsIncompleteFrame,
    /// Answers two heartbeats, then reads nothing while messages wait for it.
    StopsReading,
}

impl Behaviour {
    fn of(n: u64) -> Self {
        match n % 5 {
            0 => Self::StopsAnswering { answers: 0 },
            1 => Self::StopsAnswering { answers: 3 },
            2 => Self::SendsIncompleteFrame,
            3 => Self::StopsReading,
            _ => Self::Responsive,
        }
    }

    /// Returns the expected close of the session: its time, its reason and the number of heartbeats
    /// until then.
    fn expected_close(self) -> (Duration, CloseReason, u64) {
        match self {
            // A heartbeat every 20 s. Its answer must come within 8 s.
            Self::StopsAnswering { answers } => (
                (20 * (answers + 1) + 8) * SECOND,
                CloseReason::HeartbeatMissed,
                u64::from(answers) + 1,
            ),
            // The frame starts at 40 s and must be complete within 15 s.
            Self::SendsIncompleteFrame => (55 * SECOND, CloseReason::ReadTimeout, 2),
            // The peer stops reading at 40 s. Bytes must be written within 6 s.
            Self::StopsReading => (46 * SECOND, CloseReason::WriteTimeout, 2),
            Self::Responsive => (290 * SECOND, CloseReason::LifetimeExpired, 14),
        }
    }

    async fn run(self, peer: Peer) {
        for n in 1.. {
            assert_eq!(peer.line().await, "PING");
            match self {
                Self::StopsAnswering { answers } if n > answers => return,
                Self::SendsIncompleteFrame if n == 2 => {
                    peer.send("PONG\nan incomplete fra");
                    return;
                }
                Self::StopsReading if n == 2 => {
                    peer.stall();
                    peer.send("PONG\necho\n");
                    return;
                }
                _ => peer.send("PONG\n"),
            }
        }
    }
}

async fn echo(request: Request<String>) -> Answer {
    Ok(Some(request.into_message()))
}

#[tokio::test(start_paused = true)]
async fn heartbeats_and_timeouts_of_ten_thousand_sessions_are_on_time_and_close_each_once() {
    let heartbeats: Log<Duration> = Arc::default();
    let closes: Log<(Duration, CloseReason)> = Arc::default();
    let log = Arc::clone(&heartbeats);
    let stack = ServiceBuilder::new()
        .layer(HandshakeTimeoutLayer::default())
        .layer(MaxAgeLayer::new(290 * SECOND))
        .layer(WriteTimeoutLayer::new(6 * SECOND))
        .layer(ReadTimeoutLayer::new(15 * SECOND))
        .layer(IdleTimeoutLayer::new(300 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(
            HeartbeatLayer::new(20 * SECOND, move |session| {
                let at = session.opened_at().elapsed();
                log.lock()
                    .unwrap()
                    .entry(session.id())
                    .or_default()
                    .push(at);
                "PING".to_owned()
            })
            .with_jitter(0.0)
            .with_response_timeout(8 * SECOND)
            .with_pong(|message: &String| message == "PONG"),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);

    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let (transport, peer) = stream();
        let connection = Connection::new(transport);
        let handle = connection.handle().clone();
        let (id, opened, log) = (handle.id(), handle.opened_at(), Arc::clone(&closes));
        handle.add_close_callback("test", 0, move |closed| {
            let close = (opened.elapsed(), closed.reason.clone());
            log.lock().unwrap().entry(id).or_default().push(close);
        });
        tokio::spawn(Behaviour::of(n).run(peer));
        let task = tokio::spawn(stack.clone().oneshot(connection));
        sessions.push((id, Behaviour::of(n), task));
        // Some sessions open together. Others do not.
        if n % 7 == 0 {
            sleep(TICK).await;
        }
    }
    for (_, _, task) in &mut sessions {
        soon(task).await.unwrap().unwrap();
    }

    let (heartbeats, closes) = (heartbeats.lock().unwrap(), closes.lock().unwrap());
    for (id, peer, _) in sessions {
        let (expected_time, expected_reason, count) = peer.expected_close();
        let [(at, reason)] = &closes[&id][..] else {
            panic!("session {id} has closed more than once: {:?}", closes[&id]);
        };
        assert_eq!(*reason, expected_reason, "{peer:?}");
        assert!(
            at.abs_diff(expected_time) <= TICK,
            "{peer:?} closed at {at:?}"
        );
        let times = &heartbeats[&id];
        assert_eq!(times.len() as u64, count, "{peer:?}: {times:?}");
        for (time, n) in times.iter().zip(1..) {
            let difference = time.abs_diff(n * 20 * SECOND);
            assert!(difference <= TICK, "{peer:?}: {times:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn idle_timeouts_of_ten_thousand_sessions_are_independent() {
    let calls: Log<Duration> = Arc::default();
    let log = Arc::clone(&calls);
    let stack = ServiceBuilder::new()
        .layer(IdleTimeoutLayer::activity(100 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(
            IdleTimeoutLayer::new(30 * SECOND).with_hook(move |session, idle| {
                assert_eq!(idle.nth, next_call(&log, session.id()));
                let at = session.opened_at().elapsed();
                log.lock()
                    .unwrap()
                    .entry(session.id())
                    .or_default()
                    .push(at);
            }),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);
    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let (transport, peer) = stream();
        let connection = Connection::new(transport);
        let id = connection.handle().id();
        let task = tokio::spawn(stack.clone().oneshot(connection));
        let sent_at = Duration::from_millis(n % 1000 * 29);
        tokio::spawn(async move {
            sleep(sent_at).await;
            peer.send("hello\n");
        });
        sessions.push((id, sent_at, task));
    }
    for (id, sent_at, task) in sessions {
        let closed = soon(task).await.unwrap().unwrap();
        assert_eq!(closed.reason, CloseReason::IdleTimeout);
        assert!(closed.lifetime.abs_diff(sent_at + 100 * SECOND) <= 2 * TICK);
        let times = &calls.lock().unwrap()[&id];
        assert_eq!(times.len(), 3);
        for (time, nth) in times.iter().zip(1..) {
            assert!(time.abs_diff(sent_at + nth * 30 * SECOND) <= 2 * TICK);
        }
    }
}

/// Returns the number of the next call of a session's hook, starting at 1.
fn next_call(log: &Log<Duration>, id: u64) -> u64 {
    log.lock()
        .unwrap()
        .get(&id)
        .map_or(1, |calls| calls.len() as u64 + 1)
}

#[tokio::test(start_paused = true)]
async fn jitter_spreads_the_heartbeats_of_sessions_that_open_together() {
    let heartbeats: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let log = Arc::clone(&heartbeats);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(HeartbeatLayer::new(100 * SECOND, move |_session| {
            log.lock().unwrap().push(Instant::now());
            "PING".to_owned()
        }))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let opened = Instant::now();
    let peers: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let (transport, peer) = stream();
            tokio::spawn(stack.clone().oneshot(Connection::new(transport)));
            peer
        })
        .collect();
    sleep(111 * SECOND).await;
    idle().await;
    let heartbeats = heartbeats.lock().unwrap();
    assert_eq!(
        heartbeats.len() as u64,
        SESSIONS,
        "each session sends one heartbeat"
    );
    // Number of heartbeats in each second after the first period.
    let mut counts = [0; 10];
    for time in heartbeats.iter() {
        let jitter = (*time - opened).checked_sub(100 * SECOND);
        let jitter = jitter
            .expect("no heartbeat may come before a whole period")
            .as_secs();
        counts[usize::try_from(jitter.min(9)).unwrap()] += 1;
    }
    assert!(counts.iter().all(|n| (800..1200).contains(n)), "{counts:?}");
    assert!(peers.iter().all(|peer| peer.written() == 5));
}
