//! A thousand sessions receive broadcasts. A tenth of the peers never read.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use getty::{
    BoxError, Group, MemoryBudget, Request, Session, SessionLayer, SessionTask, SlowConsumer,
    codec::Lines, layers::group::Report, service_fn,
};
use getty_test::{Peer, stream};

use crate::support::open;

const SESSIONS: usize = 1000;
const SLOW: usize = SESSIONS / 10;
/// Number of sessions in tests where a thousand would only take longer.
const FEWER: usize = SESSIONS / 5;
const MESSAGES: usize = 200;
/// Number of lines that fit the byte bound of a slow session's queue.
const QUEUE: usize = 32;
const HIGH: usize = 4096;

/// A line that counts how many lines exist.
#[derive(Debug)]
struct Counted {
    text: String,
    live: Arc<AtomicUsize>,
}

impl Counted {
    fn new(n: usize, live: &Arc<AtomicUsize>) -> Self {
        live.fetch_add(1, SeqCst);
        Self {
            text: format!("{n:0>63}"),
            live: Arc::clone(live),
        }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.live.fetch_add(1, SeqCst);
        Self {
            text: self.text.clone(),
            live: Arc::clone(&self.live),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(1, SeqCst);
    }
}

impl AsRef<str> for Counted {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// Memory budget of all sessions, in bytes. A session may hold a block of the budget during a
/// poll.
const BUDGET: usize = SESSIONS * 16 * 1024;

/// Size of a line, in bytes.
const LINE: usize = 64;

/// Bytes that each queued message counts beyond its size.
const PLACE: usize = 32;

/// Sessions in one group. The first `slow` sessions never read.
struct Crowd {
    group: Group<Counted>,
    sessions: Vec<(Session<Counted>, SessionTask, Peer)>,
    slow: usize,
    live: Arc<AtomicUsize>,
    budget: MemoryBudget,
}

impl Crowd {
    async fn new(readers: usize, slow: usize, policy: SlowConsumer) -> Self {
        let group = Group::builder().with_policy(policy).build();
        let budget = MemoryBudget::new(BUDGET);
        let mut sessions = Vec::new();
        for n in 0..readers + slow {
            let (transport, peer) = stream();
            let mut layer = SessionLayer::new();
            if n < slow {
                peer.stall();
                layer = layer.with_queue_bytes(QUEUE * (LINE + PLACE));
            }
            let layer = layer
                .with_watermarks(HIGH / 2, HIGH)
                .with_write_timeout(None)
                .with_memory_budget(budget.clone());
            let handler = service_fn(|_: Request<String, Counted>| async {
                Ok::<Option<Counted>, BoxError>(None)
            });
            let (session, task) = open(transport, Lines::new(), layer, handler).await;
            group.join(&session);
            sessions.push((session, task, peer));
        }
        Self {
            group,
            sessions,
            slow,
            live: Arc::default(),
            budget,
        }
    }

    /// Sends messages without a pause. Yields only where it awaits.
    async fn broadcast(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for n in 0..MESSAGES {
            let message = Counted::new(n, &self.live);
            reports.push(self.group.broadcast_and_wait(message).await);
        }
        while self
            .readers()
            .iter()
            .any(|(session, ..)| session.queued() > 0)
        {
            tokio::task::yield_now().await;
        }
        reports
    }

    fn slow(&self) -> &[(Session<Counted>, SessionTask, Peer)] {
        &self.sessions[..self.slow]
    }

    fn readers(&self) -> &[(Session<Counted>, SessionTask, Peer)] {
        &self.sessions[self.slow..]
    }

    fn assert_that_readers_lost_nothing(&self) {
        let expected: Vec<_> = (0..MESSAGES).map(|n| format!("{n:0>63}")).collect();
        for (session, _, peer) in self.readers() {
            assert!(peer.output().lines().eq(&expected));
            assert_eq!(session.stats().dropped, 0);
        }
    }

    /// Returns how often the readers' transports were polled.
    fn turns(&self) -> usize {
        let counts = self.readers().iter().map(|(.., peer)| peer.counts());
        counts
            .map(|counts| counts.reads + counts.writes + counts.flushes)
            .sum()
    }
}

#[tokio::test]
async fn slow_sessions_cost_no_memory_and_others_lose_nothing() {
    let crowd = Crowd::new(SESSIONS - SLOW, SLOW, SlowConsumer::DropNewest).await;
    let reports = crowd.broadcast().await;
    crowd.assert_that_readers_lost_nothing();

    // A line counts as the size of its type until one is encoded.
    let most = QUEUE * (LINE + PLACE) / (size_of::<Counted>() + PLACE);
    // A slow session may hold a write buffer up to its watermark and a queue of references.
    for (session, _, peer) in crowd.slow() {
        assert_eq!(peer.written(), 0);
        let encoded = usize::try_from(session.stats().messages_out).unwrap() * LINE;
        assert!((HIGH..=HIGH + LINE).contains(&encoded), "{encoded}");
        assert!(session.queued() <= most, "{}", session.queued());
    }
    let used = crowd.budget.used();
    assert!((SLOW * HIGH..=SLOW * 4 * HIGH).contains(&used), "{used}");
    // All sessions share the messages themselves.
    let live = crowd.live.load(SeqCst);
    assert!(live <= most, "{live}");

    // Reports and statistics agree.
    let dropped: usize = reports.iter().map(|report| report.dropped).sum();
    let counted: u64 = crowd
        .slow()
        .iter()
        .map(|(session, ..)| session.stats().dropped)
        .sum();
    assert_eq!(dropped as u64, counted);
    for (session, ..) in crowd.slow() {
        let (stats, queued) = (session.stats(), session.queued() as u64);
        assert_eq!(stats.messages_out + queued + stats.dropped, MESSAGES as u64);
    }
    for report in &reports {
        assert_eq!((report.members(), report.closed), (SESSIONS, 0));
        assert!(report.delivered >= SESSIONS - SLOW);
    }
    let last = reports.last().unwrap();
    assert_eq!((last.delivered, last.dropped), (SESSIONS - SLOW, SLOW));
}

#[tokio::test]
async fn slow_sessions_cost_no_polls_of_others() {
    let all_read = Crowd::new(FEWER, 0, SlowConsumer::DropNewest).await;
    all_read.broadcast().await;
    all_read.assert_that_readers_lost_nothing();
    for policy in [SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let together = Crowd::new(FEWER - FEWER / 10, FEWER / 10, policy).await;
        together.broadcast().await;
        together.assert_that_readers_lost_nothing();
        // Polls of one reader times the number of sessions.
        let (expected, turns) = (all_read.turns(), together.turns() * 10 / 9);
        assert!(turns * 10 <= expected * 11, "{turns} instead of {expected}");
    }
}

#[tokio::test]
async fn slow_sessions_can_be_closed() {
    let crowd = Crowd::new(FEWER - FEWER / 10, FEWER / 10, SlowConsumer::Close).await;
    let reports = crowd.broadcast().await;
    crowd.assert_that_readers_lost_nothing();
    assert!(
        crowd
            .slow()
            .iter()
            .all(|(session, ..)| session.is_closing())
    );
    let closed: usize = reports.iter().map(|report| report.closed).sum();
    assert!(closed >= FEWER / 10);
    assert!(reports.iter().all(|report| report.dropped == 0));
    assert_eq!(reports.last().unwrap().delivered, FEWER - FEWER / 10);
}
