//! Delivery of one message to a list of members. The policy of a member applies if its queue is
//! full.

use std::{
    borrow::Borrow,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use getty_core::{
    ConnectionHandle, Session, SlowConsumer,
    driver::SharedMessage,
    hooks::HandleExt,
    internal::{BroadcastExt, BroadcastSend, Published},
};
use tokio::task::coop;

use super::{
    Report,
    builder::{Notice, Settings},
    members::{List, Member, Recipients},
};

/// Number of members that cost one unit of tokio's cooperative budget. The session loop counts
/// as many messages per unit.
const MEMBERS_PER_UNIT: usize = 32;

/// Minimum of budget units of a broadcast. A task has 128 units per poll, and the session loop
/// checks the budget every 32 messages. So a session whose peer has sent many lines broadcasts
/// at most 64 messages before the members' sessions are polled (design.md: Why does a broadcast
/// use the task's cooperative budget?).
const MIN_UNITS: usize = 4;

/// Budget of a task per poll, in units.
const MAX_UNITS: usize = 128;

/// Message for a list of members.
pub(super) struct Broadcast<Out> {
    list: List<Out>,
    except: Option<u64>,
    message: Arc<SharedMessage<Out>>,
    notice: Option<Notice<Out>>,
    share: fn(Out) -> SharedMessage<Out>,
}

/// Outcome for one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Delivered,
    Replaced,
    Dropped,
    Closed,
}

impl Outcome {
    /// Returns `None` if there is no room and the publisher must wait.
    const fn of(published: Published) -> Option<Self> {
        match published {
            Published::Queued(0) => Some(Self::Delivered),
            Published::Queued(_) => Some(Self::Replaced),
            Published::Dropped => Some(Self::Dropped),
            Published::Closed => Some(Self::Closed),
            Published::Full => None,
        }
    }
}

impl Report {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Delivered => self.delivered += 1,
            Outcome::Replaced => {
                self.delivered += 1;
                self.replaced += 1;
            }
            Outcome::Dropped => self.dropped += 1,
            Outcome::Closed => self.closed += 1,
        }
    }
}

impl<Out> Broadcast<Out> {
    pub(super) fn new(recipients: Recipients<Out>, message: Out, settings: &Settings<Out>) -> Self
    where
        Out: Clone,
    {
        Self {
            list: recipients.list,
            except: None,
            message: Arc::new(SharedMessage::weighed(message, recipients.weigh)),
            notice: settings.notice.clone(),
            share: SharedMessage::new,
        }
    }

    pub(super) fn except(mut self, session: &ConnectionHandle) -> Self {
        self.except = Some(session.id());
        self
    }

    /// Delivers the message without waiting.
    pub(super) fn send_now(self) -> Report {
        consume_budget(self.units(), &mut Context::from_waker(Waker::noop()));
        self.deliver(|member, session| {
            session.handle().count_dropped(1);
            member.count_missed(1);
            Some(Outcome::Dropped)
        })
    }

    /// Delivers the message to all members. Calls `on_full` for members that have no room and the
    /// policy to wait.
    fn deliver(
        &self,
        mut on_full: impl FnMut(&Member<Out>, Session<Out>) -> Option<Outcome>,
    ) -> Report {
        let mut report = Report::default();
        for member in &*self.list {
            if self.except == Some(member.id) {
                continue;
            }
            let outcome = match member.session.upgrade() {
                Some(session) => match self.offer(member, &session) {
                    Some(outcome) => Some(outcome),
                    None => on_full(member, session),
                },
                // The session was dropped. Its close callback is about to remove the member.
                None => Some(Outcome::Closed),
            };
            if let Some(outcome) = outcome {
                report.count(outcome);
            }
        }
        report
    }

    /// Queues the message with one member. Returns `None` if there is no room and the publisher
    /// must wait.
    fn offer(&self, member: &Member<Out>, session: &Session<Out>) -> Option<Outcome> {
        if let (Some(missed), Some(notice)) = (&member.missed, &self.notice)
            && missed.load(Relaxed) > 0
        {
            self.send_notice(session, missed, notice);
        }
        let published = session.publish(&self.message, member.policy);
        match published {
            Published::Queued(0) | Published::Full | Published::Closed => {}
            Published::Queued(replaced) => member.count_missed(replaced),
            Published::Dropped => member.count_missed(1),
        }
        Outcome::of(published)
    }

    /// Queues the notice about missed messages, if there is room. It uses the byte bound of
    /// broadcasts, so it is sent before the next broadcast.
    #[cold]
    fn send_notice(&self, session: &Session<Out>, missed: &AtomicU64, notice: &Notice<Out>) {
        let count = missed.swap(0, Relaxed);
        // Zero if another broadcast has sent the notice meanwhile.
        if count > 0 {
            let message = Arc::new((self.share)(notice(count)));
            if session.publish(&message, SlowConsumer::Wait) != Published::Queued(0) {
                missed.fetch_add(count, Relaxed);
            }
        }
    }

    /// Returns the cost in units of the cooperative budget.
    fn units(&self) -> usize {
        (self.list.len() / MEMBERS_PER_UNIT).clamp(MIN_UNITS, MAX_UNITS)
    }
}

/// Queues `message` with each of `sessions` without waiting: see
/// [`Group::broadcast_to`](super::Group::broadcast_to).
pub(super) fn send_to<Out: Clone + Send + 'static>(
    sessions: impl IntoIterator<Item: Borrow<Session<Out>>>,
    message: Out,
    policy: SlowConsumer,
) -> Report {
    let mut report = Report::default();
    let mut sessions = sessions.into_iter().peekable();
    let weigh = sessions.peek().and_then(|session| session.borrow().weigh());
    let message = Arc::new(SharedMessage::weighed(message, weigh));
    for session in sessions {
        let session = session.borrow();
        let outcome = Outcome::of(session.publish(&message, policy)).unwrap_or_else(|| {
            session.handle().count_dropped(1);
            Outcome::Dropped
        });
        report.count(outcome);
    }
    let units = (report.members() / MEMBERS_PER_UNIT).clamp(MIN_UNITS, MAX_UNITS);
    consume_budget(units, &mut Context::from_waker(Waker::noop()));
    report
}

impl<Out> Member<Out> {
    pub(super) fn count_missed(&self, messages: u64) {
        if let Some(missed) = &self.missed {
            missed.fetch_add(messages, Relaxed);
        }
    }
}

/// Consumes units of the task's cooperative budget, so that the members' sessions are polled
/// soon.
fn consume_budget(units: usize, cx: &mut Context<'_>) {
    for _ in 0..units {
        match coop::poll_proceed(cx) {
            Poll::Ready(unit) => unit.made_progress(),
            Poll::Pending => return,
        }
    }
}

/// Future of [`Group::broadcast_and_wait`](super::Group::broadcast_and_wait) and
/// [`Topics::broadcast_and_wait`](super::Topics::broadcast_and_wait).
///
/// # Panics
///
/// Panics if it is polled after completion.
#[must_use = "futures do nothing unless polled"]
pub struct Broadcasting<Out> {
    /// Message to deliver, until the first poll.
    begin: Option<Broadcast<Out>>,
    /// Members whose room the future waits for.
    waiting: Vec<BroadcastSend<Out>>,
    report: Report,
}

impl<Out> Broadcasting<Out> {
    pub(super) fn new(broadcast: Broadcast<Out>) -> Self {
        Self {
            begin: Some(broadcast),
            waiting: Vec::new(),
            report: Report::default(),
        }
    }

    /// Excludes `session`, usually the sender of the message. Must be called before the first poll.
    pub fn except(mut self, session: &ConnectionHandle) -> Self {
        self.begin = self.begin.map(|broadcast| broadcast.except(session));
        self
    }
}

// No field is pinned.
impl<Out> Unpin for Broadcasting<Out> {}

impl<Out> Future for Broadcasting<Out> {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let this = &mut *self;
        if this.begin.is_some() {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        if let Some(broadcast) = this.begin.take() {
            consume_budget(broadcast.units() - 1, cx);
            let waiting = &mut this.waiting;
            this.report = broadcast.deliver(|_, session| {
                waiting.push(BroadcastSend::new(session, Arc::clone(&broadcast.message)));
                None
            });
        }
        let mut next = 0;
        while let Some(waiting) = this.waiting.get_mut(next) {
            match waiting.poll(cx) {
                Poll::Pending => next += 1,
                Poll::Ready(published) => {
                    let outcome = Outcome::of(published);
                    outcome
                        .into_iter()
                        .for_each(|outcome| this.report.count(outcome));
                    drop(this.waiting.swap_remove(next));
                }
            }
        }
        if this.waiting.is_empty() {
            Poll::Ready(this.report)
        } else {
            Poll::Pending
        }
    }
}

impl<Out> fmt::Debug for Broadcasting<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcasting")
            .field("begun", &self.begin.is_none())
            .field("waiting", &self.waiting.len())
            .field("report", &self.report)
            .finish()
    }
}
