//! Ten thousand sessions at once: everything happens when it should, as often as it should, and once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    CloseReason, Connection, Request, ServiceBuilder, SessionLayer,
    layers::{
        CodecLayer, HandshakeTimeoutLayer, HeartbeatLayer, IdleTimeoutLayer, LifetimeLayer,
        ReadTimeoutLayer, WriteTimeoutLayer,
    },
};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::support::{Answer, idle, lines, soon, stream};

const SESSIONS: u64 = 10_000;
const SECOND: Duration = Duration::from_secs(1);
/// The resolution of the clock, once for the look and once for what the peer did before it.
const TICK: Duration = Duration::from_millis(1);

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Peer {
    /// Answers every beat.
    Good,
    /// Answers so many beats and then none.
    Dies { answers: u32 },
    /// Answers every beat, and begins a frame after the second one.
    Dribbles,
    /// Answers two beats, and then reads nothing while messages wait for it.
    Stuffed,
}

impl Peer {
    fn of(n: u64) -> Self {
        match n % 5 {
            0 => Self::Dies { answers: 0 },
            1 => Self::Dies { answers: 3 },
            2 => Self::Dribbles,
            3 => Self::Stuffed,
            _ => Self::Good,
        }
    }

    /// When its session closes, why, and how often it has beaten.
    fn end(self) -> (Duration, CloseReason, u64) {
        match self {
            // a beat each 20 s, an answer within 8 s
            Self::Dies { answers } => (
                (20 * (answers + 1) + 8) * SECOND,
                CloseReason::HeartbeatMissed,
                u64::from(answers) + 1,
            ),
            // begun at 40 s, to be complete within 15 s
            Self::Dribbles => (55 * SECOND, CloseReason::ReadTimeout, 2),
            // at 40 s, to move within 6 s
            Self::Stuffed => (46 * SECOND, CloseReason::WriteTimeout, 2),
            Self::Good => (290 * SECOND, CloseReason::LifetimeExpired, 14),
        }
    }

    async fn play(self, peer: stream::Peer) {
        for beat in 1.. {
            assert_eq!(peer.line().await, "PING");
            match self {
                Self::Dies { answers } if beat > answers => return,
                Self::Dribbles if beat == 2 => {
                    peer.send("PONG\nan unfinished fra");
                    return;
                }
                Self::Stuffed if beat == 2 => {
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
async fn beats_and_timeouts_of_ten_thousand_sessions_come_to_the_tick_and_end_each_once() {
    let beats: Arc<Mutex<HashMap<u64, Vec<Duration>>>> = Arc::default();
    let ends: Arc<Mutex<HashMap<u64, Vec<(Duration, CloseReason)>>>> = Arc::default();
    let noted = Arc::clone(&beats);
    let stack = ServiceBuilder::new()
        .layer(HandshakeTimeoutLayer::default())
        .layer(LifetimeLayer::new(290 * SECOND))
        .layer(WriteTimeoutLayer::new(6 * SECOND))
        .layer(ReadTimeoutLayer::new(15 * SECOND))
        .layer(IdleTimeoutLayer::read(300 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(
            HeartbeatLayer::new(20 * SECOND, move |session| {
                let at = session.opened_at().elapsed();
                noted
                    .lock()
                    .unwrap()
                    .entry(session.id())
                    .or_default()
                    .push(at);
                "PING".to_owned()
            })
            .with_jitter(0.0)
            .with_answer_within(8 * SECOND)
            .with_pong(|message: &String| message == "PONG"),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);

    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let (transport, peer) = stream::pair();
        let connection = Connection::new(transport);
        let handle = connection.handle().clone();
        let (id, opened, ended) = (handle.id(), handle.opened_at(), Arc::clone(&ends));
        handle.add_close_callback("test", 0, move |closed| {
            let end = (opened.elapsed(), closed.reason.clone());
            ended.lock().unwrap().entry(id).or_default().push(end);
        });
        tokio::spawn(Peer::of(n).play(peer));
        let task = tokio::spawn(stack.clone().oneshot(connection));
        sessions.push((id, Peer::of(n), task));
        // some open together, some apart
        if n % 7 == 0 {
            sleep(TICK).await;
        }
    }
    for (_, _, task) in &mut sessions {
        soon(task).await.unwrap().unwrap();
    }

    let (beats, ends) = (beats.lock().unwrap(), ends.lock().unwrap());
    for (id, peer, _) in sessions {
        let (end, reason, count) = peer.end();
        let [(at, why)] = &ends[&id][..] else {
            panic!("session {id} has ended more than once: {:?}", ends[&id]);
        };
        assert_eq!(*why, reason, "{peer:?}");
        assert!(at.abs_diff(end) <= TICK, "{peer:?} ended at {at:?}");
        let beats = &beats[&id];
        assert_eq!(beats.len() as u64, count, "{peer:?} beat at {beats:?}");
        for (beat, due) in beats.iter().zip(1..) {
            let late = beat.abs_diff(due * 20 * SECOND);
            assert!(late <= TICK, "{peer:?} beat at {beats:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_sessions_are_idle_each_in_its_own_time() {
    let told: Arc<Mutex<HashMap<u64, Vec<Duration>>>> = Arc::default();
    let log = Arc::clone(&told);
    let stack = ServiceBuilder::new()
        .layer(IdleTimeoutLayer::active(100 * SECOND))
        .layer(CodecLayer::new(lines()))
        .layer(
            IdleTimeoutLayer::read(30 * SECOND).with_hook(move |session, idle| {
                assert_eq!(idle.nth % 3, log_len(&log, session.id()) % 3);
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
        let (transport, peer) = stream::pair();
        let connection = Connection::new(transport);
        let id = connection.handle().id();
        let task = tokio::spawn(stack.clone().oneshot(connection));
        let spoke = Duration::from_millis(n % 1000 * 29);
        tokio::spawn(async move {
            sleep(spoke).await;
            peer.send("hello\n");
        });
        sessions.push((id, spoke, task));
    }
    for (id, spoke, task) in sessions {
        let closed = soon(task).await.unwrap().unwrap();
        assert_eq!(closed.reason, CloseReason::IdleTimeout);
        assert!(closed.lifetime.abs_diff(spoke + 100 * SECOND) <= 2 * TICK);
        let told = &told.lock().unwrap()[&id];
        assert_eq!(told.len(), 3);
        for (told, nth) in told.iter().zip(1..) {
            assert!(told.abs_diff(spoke + nth * 30 * SECOND) <= 2 * TICK);
        }
    }
}

/// The number of the next entry.
fn log_len(log: &Mutex<HashMap<u64, Vec<Duration>>>, id: u64) -> u64 {
    log.lock()
        .unwrap()
        .get(&id)
        .map_or(1, |told| told.len() as u64 + 1)
}

#[tokio::test(start_paused = true)]
async fn sessions_that_open_together_do_not_beat_together() {
    let beats: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = Arc::clone(&beats);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(HeartbeatLayer::new(100 * SECOND, move |_session| {
            noted.lock().unwrap().push(Instant::now());
            "PING".to_owned()
        }))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let opened = Instant::now();
    let peers: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let (transport, peer) = stream::pair();
            tokio::spawn(stack.clone().oneshot(Connection::new(transport)));
            peer
        })
        .collect();
    sleep(111 * SECOND).await;
    idle().await;
    let beats = beats.lock().unwrap();
    assert_eq!(beats.len() as u64, SESSIONS, "one each");
    let mut seconds = [0; 10];
    for beat in beats.iter() {
        let late = (*beat - opened).checked_sub(100 * SECOND);
        let late = late.expect("never before a whole period").as_secs();
        seconds[usize::try_from(late.min(9)).unwrap()] += 1;
    }
    assert!(
        seconds.iter().all(|n| (800..1200).contains(n)),
        "{seconds:?}"
    );
    assert!(peers.iter().all(|peer| peer.written() == 5));
}
