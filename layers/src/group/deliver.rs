//! One message to a list of members: into the queues where there is room, by each one's policy where there is none.

use std::{
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
    internal::{Published, Waiting},
};
use tokio::task::coop;

use super::{
    Report,
    members::{List, Member, Present},
    settings::{Notice, Settings},
};

/// How many members are worth a unit of tokio's cooperative budget, as so many messages are in the session loop.
const MEMBERS_A_UNIT: usize = 32;

/// How many units a broadcast takes at least: with 128 of them in a turn of a task, and a session loop that looks every
/// 32 messages, a session whose peer has sent a page of lines has sent no more than 64 of them on when it is the turn of
/// those who are to write them.
const UNITS: usize = 4;

/// The largest budget that a turn has.
const MOST_UNITS: usize = 128;

/// One message for many.
pub(super) struct Broadcast<Out> {
    list: List<Out>,
    except: Option<u64>,
    message: Arc<SharedMessage<Out>>,
    notice: Option<Notice<Out>>,
    share: fn(Out) -> SharedMessage<Out>,
}

/// What became of it for one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Delivered,
    Replaced,
    Dropped,
    Closed,
}

impl Outcome {
    /// `None` where there is no room, and the publisher must wait.
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
    pub(super) fn new(members: Present<Out>, message: Out, settings: &Settings<Out>) -> Self
    where
        Out: Clone,
    {
        Self {
            list: members.list,
            except: None,
            message: Arc::new(SharedMessage::weighed(message, members.weigh)),
            notice: settings.notice.clone(),
            share: SharedMessage::new,
        }
    }

    pub(super) fn except(mut self, session: &ConnectionHandle) -> Self {
        self.except = Some(session.id());
        self
    }

    /// Delivers it without waiting for anybody.
    pub(super) fn now(self) -> Report {
        spend(self.units(), &mut Context::from_waker(Waker::noop()));
        self.deliver(|member, session| {
            session.handle().count_dropped(1);
            member.missed(1);
            Some(Outcome::Dropped)
        })
    }

    /// Delivers it, but to those that have no room and are to be waited for. What becomes of these `full` decides.
    fn deliver(
        &self,
        mut full: impl FnMut(&Member<Out>, Session<Out>) -> Option<Outcome>,
    ) -> Report {
        let mut report = Report::default();
        for member in &*self.list {
            if self.except == Some(member.id) {
                continue;
            }
            let outcome = match member.session.upgrade() {
                Some(session) => match self.offer(member, &session) {
                    Some(outcome) => Some(outcome),
                    None => full(member, session),
                },
                // gone, and its close callback is about to take it off the list
                None => Some(Outcome::Closed),
            };
            if let Some(outcome) = outcome {
                report.count(outcome);
            }
        }
        report
    }

    /// `None` where there is no room, and the publisher must wait.
    fn offer(&self, member: &Member<Out>, session: &Session<Out>) -> Option<Outcome> {
        if let (Some(lag), Some(notice)) = (&member.lag, &self.notice)
            && lag.load(Relaxed) > 0
        {
            self.tell(session, lag, notice);
        }
        let published = session.publish(&self.message, member.policy);
        match published {
            Published::Queued(0) | Published::Full | Published::Closed => {}
            Published::Queued(replaced) => member.missed(replaced),
            Published::Dropped => member.missed(1),
        }
        Outcome::of(published)
    }

    /// Queues the notice of missed messages with a member, if there is room. It uses the room for
    /// broadcasts, so that the notice leaves before the next broadcast.
    #[cold]
    fn tell(&self, session: &Session<Out>, lag: &AtomicU64, notice: &Notice<Out>) {
        let missed = lag.swap(0, Relaxed);
        // it is none if another broadcast has sent the notice meanwhile
        if missed > 0 {
            let message = Arc::new((self.share)(notice(missed)));
            if session.publish(&message, SlowConsumer::Wait) != Published::Queued(0) {
                lag.fetch_add(missed, Relaxed);
            }
        }
    }

    /// How much of a turn it is worth.
    fn units(&self) -> usize {
        (self.list.len() / MEMBERS_A_UNIT).clamp(UNITS, MOST_UNITS)
    }
}

impl<Out> Member<Out> {
    fn missed(&self, messages: u64) {
        if let Some(lag) = &self.lag {
            lag.fetch_add(messages, Relaxed);
        }
    }
}

/// Takes what is done here out of the turn of the task that does it, so that those who are to write get theirs.
fn spend(units: usize, cx: &mut Context<'_>) {
    for _ in 0..units {
        match coop::poll_proceed(cx) {
            Poll::Ready(unit) => unit.made_progress(),
            Poll::Pending => return,
        }
    }
}

/// The future of [`Group::broadcast_and_wait`](super::Group::broadcast_and_wait) and of
/// [`Topics::broadcast_and_wait`](super::Topics::broadcast_and_wait).
///
/// # Panics
///
/// When it is polled after it was ready.
#[must_use = "futures do nothing unless polled"]
pub struct Broadcasting<Out> {
    /// Until it is first polled.
    begin: Option<Broadcast<Out>>,
    /// Those for whose room it waits.
    waiting: Vec<Waiting<Out>>,
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

    /// Leaves `session` out, as a rule the one that the message came from. To be called before the first poll.
    pub fn except(mut self, session: &ConnectionHandle) -> Self {
        self.begin = self.begin.map(|broadcast| broadcast.except(session));
        self
    }
}

// what is in it is moved, never pinned
impl<Out> Unpin for Broadcasting<Out> {}

impl<Out> Future for Broadcasting<Out> {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let this = &mut *self;
        if this.begin.is_some() {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        if let Some(broadcast) = this.begin.take() {
            spend(broadcast.units() - 1, cx);
            let waiting = &mut this.waiting;
            this.report = broadcast.deliver(|_, session| {
                waiting.push(Waiting::new(session, Arc::clone(&broadcast.message)));
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
