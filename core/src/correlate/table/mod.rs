//! The requests of one session that wait for their answers.
//!
//! One mutex guards the slots. None of the user's code runs under it: messages and wakers are woken and dropped after it is
//! released. The slots hold no memory until the first request, allocate nothing once warm, and give back what a busy time
//! made of them.

mod deadlines;
mod slots;

#[cfg(all(test, getty_loom))]
mod loom_model;
#[cfg(all(test, not(getty_loom)))]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use self::{
    deadlines::{Clock, Looks},
    slots::{FEW, Slot, Slots, State},
};
use super::matching::Answered;
use crate::{
    session::Number,
    sync::{Mutex, MutexGuard},
};

/// Why a request cannot wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many wait already as may.
    Full,
    /// Nothing more will be received.
    Over,
}

/// What has become of a request that waits.
#[derive(Debug)]
pub(crate) enum Outcome<In> {
    Answer(In),
    /// Its deadline has passed.
    Expired,
    /// Nothing more will be received.
    Over,
}

/// What a table is made with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of requests in flight.
    pub in_flight: u32,
    /// Maximum bits of an id. A byte, so that a session's table takes no more memory.
    pub id_bits: u8,
    /// Nothing goes on after an answer that has not come in its turn by its deadline.
    pub closes_at_deadline: bool,
}

impl Limits {
    /// How many bits of an id say in which slot the request waits; those above count requests.
    const fn slot_bits(self) -> u32 {
        u32::BITS - (self.in_flight - 1).leading_zeros()
    }
}

/// State of the session that follows the table. It is set under the table's lock, so that readers
/// see the changes in their order.
pub(crate) trait Observer: Copy {
    /// Sets whether any request waits for an answer.
    fn set_awaits(&self, awaits: bool);

    /// Sets the number of requests that were given up and whose answers are outstanding.
    fn set_given_up(&self, requests: usize);
}

#[cfg(test)]
impl<F: Fn(bool) + Copy> Observer for F {
    fn set_awaits(&self, awaits: bool) {
        self(awaits);
    }

    fn set_given_up(&self, _: usize) {}
}

#[derive(Debug)]
pub(crate) struct Table<In> {
    limits: Limits,
    state: Mutex<Requests<In>>,
}

#[derive(Debug)]
struct Requests<In> {
    slots: Slots<In>,
    /// How many have neither an answer nor any other outcome.
    waiting: u32,
    /// How many there were.
    count: u64,
    /// Those whose answers come in their order, from the oldest that is not answered on, and under which numbers they were
    /// queued: these grow.
    order: VecDeque<(u64, Number)>,
    /// Requests in `order` that were given up, by their numbers. The time is when the answer is
    /// overdue, or `None` where the session does not close for it.
    given_up: BTreeMap<Number, Option<Instant>>,
    looks: Looks,
    clock: Clock,
    /// A check is scheduled because the table is full of requests that were given up.
    full_watched: bool,
    /// Somebody will say when the input has ended.
    guarded: bool,
    over: bool,
    /// An answer in order is overdue: those that come may be anybody's.
    overdue: bool,
}

/// An answer in order has not come by its deadline, and nothing is to go on without it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overdue;

/// What is to be done for a request that has just begun to wait, once the lock is released.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) id: u64,
    /// A look for deadlines at this time, under this number.
    pub(crate) look: Option<(Instant, u32)>,
    /// Somebody is to say when the input has ended: nobody does as yet.
    pub(crate) unguarded: bool,
    /// It is the first.
    pub(crate) is_first: bool,
}

impl<In> Table<In> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::new(Requests {
                slots: Slots::new(),
                waiting: 0,
                count: 0,
                order: VecDeque::new(),
                given_up: BTreeMap::new(),
                looks: Looks::default(),
                clock: Clock::default(),
                full_watched: false,
                guarded: false,
                over: false,
                overdue: false,
            }),
        }
    }

    fn index(&self, id: u64) -> usize {
        let mask = (1_u64 << self.limits.slot_bits()) - 1;
        usize::try_from(id & mask).unwrap_or(usize::MAX)
    }

    fn id(&self, count: u64, slot: u32) -> u64 {
        let mask = u64::MAX >> (u64::BITS - u32::from(self.limits.id_bits));
        ((count << self.limits.slot_bits()) & mask) | u64::from(slot)
    }

    #[cfg(all(test, not(getty_loom)))]
    fn begin(
        &self,
        cx: &Context<'_>,
        deadline: Option<Duration>,
        observer: impl Observer,
    ) -> Result<Begun, Refused> {
        let begun = self.begin_in_order(cx, (deadline, 0), observer, || ((), None));
        begun.map(|(begun, ())| begun)
    }

    /// Lets a request wait, and wakes `cx` when it has an outcome. `push` is the closure of
    /// [`in_order`](Self::in_order), and `turns` the session's number of turns. If the request is
    /// not queued, [`forget_time`](Self::forget_time) must follow.
    #[inline]
    pub(crate) fn begin_in_order<R>(
        &self,
        cx: &Context<'_>,
        (deadline, turns): (Option<Duration>, u64),
        observer: impl Observer,
        push: impl FnOnce() -> (R, Option<Number>),
    ) -> Result<(Begun, R), Refused> {
        let waker = cx.waker().clone();
        let mut requests = self.state.lock();
        if requests.over {
            drop(requests);
            return Err(Refused::Over);
        }
        if requests.outstanding() >= self.limits.in_flight as usize {
            drop(requests);
            return Err(Refused::Full);
        }
        requests.count += 1;
        requests.waiting += 1;
        if requests.waiting == 1 {
            observer.set_awaits(true);
        }
        let count = requests.count;
        let deadline =
            deadline.and_then(|deadline| requests.clock.now(deadline, turns).checked_add(deadline));
        let slot = |id| Slot {
            id,
            deadline,
            state: State::Waiting(Some(waker)),
        };
        let begun = Begun {
            id: requests.slots.fill(|slot| self.id(count, slot), slot),
            look: deadline.and_then(|deadline| requests.looks.by(deadline)),
            unguarded: !mem::replace(&mut requests.guarded, true),
            is_first: count == 1,
        };
        let (result, pushed) = push();
        if let Some(number) = pushed {
            requests.order.push_back((begun.id, number));
        }
        Ok((begun, result))
    }

    /// A request has begun and is not queued: so it causes no turn.
    #[cold]
    pub(crate) fn forget_time(&self) {
        self.state.lock().clock.forget();
    }

    /// Runs `push`, which queues the request `id`, so that requests are answered in the order in which they were queued.
    pub(crate) fn in_order<R>(&self, id: u64, push: impl FnOnce() -> (R, Option<Number>)) -> R {
        let mut requests = self.state.lock();
        let (result, pushed) = push();
        if let Some(number) = pushed {
            requests.order.push_back((id, number));
        }
        result
    }

    /// The request that was queued under this number was not sent: there will be no answer to it.
    pub(crate) fn refused(&self, number: Number, observer: impl Observer) {
        let mut requests = self.state.lock();
        if let Some(place) = requests.place(number) {
            requests.order.remove(place);
            requests.is_answered(number, observer);
        }
    }

    /// Somebody says when the input has ended.
    pub(crate) fn guarded(&self) {
        self.state.lock().guarded = true;
    }

    /// What has become of the request `id`; `cx` is woken when something does. One that is answered is gone.
    #[inline]
    pub(crate) fn poll(&self, cx: &Context<'_>, id: u64) -> Poll<Outcome<In>> {
        let index = self.index(id);
        let mut requests = self.state.lock();
        if let State::Answered(_) = requests.slots.state(index) {
            // as a rule it is polled once it is woken
            return match requests.free(index) {
                State::Answered(answer) => Poll::Ready(Outcome::Answer(answer)),
                _ => unreachable!("it was looked at above"),
            };
        }
        Self::poll_unanswered(cx, requests, index)
    }

    #[cold]
    fn poll_unanswered(
        cx: &Context<'_>,
        mut requests: MutexGuard<'_, Requests<In>>,
        index: usize,
    ) -> Poll<Outcome<In>> {
        let over = requests.over;
        match requests.slots.state(index) {
            State::Waiting(_) if over => Poll::Ready(Outcome::Over),
            State::Waiting(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Waiting(waker) => {
                let old = waker.replace(cx.waker().clone());
                drop(requests);
                drop(old);
                Poll::Pending
            }
            State::Expired => Poll::Ready(Outcome::Expired),
            State::Answered(_) => unreachable!("it was looked at before"),
            State::Free(_) => unreachable!("a slot is free once its request is gone"),
        }
    }

    /// Gives up the request `id`, with its number if it was queued. If the table is then full of
    /// requests that were given up, returns the oldest, and [`look_full`](Self::look_full) must
    /// follow.
    pub(crate) fn end(
        &self,
        id: u64,
        queued: Option<Number>,
        observer: impl Observer,
    ) -> Option<Number> {
        let index = self.index(id);
        let mut requests = self.state.lock();
        requests.clock.forget(); // it may not have come to be queued
        if let Some(number) = queued
            && requests.place(number).is_some()
        {
            let deadline = requests.slots.deadline(index);
            let overdue_at = deadline.filter(|_| self.limits.closes_at_deadline);
            requests.given_up.insert(number, overdue_at);
            observer.set_given_up(requests.given_up.len());
        }
        let old = requests.free(index);
        if let State::Waiting(_) = old {
            requests.waits_no_more(observer);
        }
        let oldest = self.oldest_of_full(&requests);
        let oldest = oldest.filter(|_| !mem::replace(&mut requests.full_watched, true));
        drop(requests);
        drop(old); // may hold the user's message or waker
        oldest
    }

    /// Returns the oldest request if requests that were given up take all places.
    fn oldest_of_full(&self, requests: &Requests<In>) -> Option<Number> {
        let is_full = requests.order.len() >= self.limits.in_flight as usize;
        let (_, oldest) = requests.order.front()?;
        (is_full && requests.waiting == 0).then_some(*oldest)
    }

    /// Checks a table that was full of requests that were given up. `oldest` was the oldest
    /// request. Returns `true` if the table is still full and the peer has answered since: then
    /// another check must follow.
    pub(crate) fn look_full(&self, oldest: &mut Number) -> Result<bool, Overdue> {
        let mut requests = self.state.lock();
        let before = *oldest;
        let now = self.oldest_of_full(&requests);
        requests.full_watched = now.is_some();
        match now {
            Some(now) if now == before => {
                requests.overdue = true;
                Err(Overdue)
            }
            Some(now) => {
                *oldest = now;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Gives the request that `message` answers its answer, or gives `message` back.
    pub(crate) fn answer(
        &self,
        which: Answered,
        message: In,
        observer: impl Observer,
    ) -> Result<(), Unasked<In>> {
        let mut requests = self.state.lock();
        let (id, number) = match which {
            Answered::Request(id) => (id, None),
            Answered::Oldest if requests.overdue => return Err(Unasked::Late(message)),
            Answered::Oldest => match requests.order.pop_front() {
                Some((id, number)) => (id, Some(number)),
                None => return Err(Unasked::Push(message)),
            },
        };
        let state = requests.slots.state_of(self.index(id), id);
        let Some(waiting @ State::Waiting(_)) = state else {
            if let Some(number) = number {
                requests.is_answered(number, observer);
            }
            return Err(Unasked::Late(message));
        };
        let waker = match mem::replace(waiting, State::Answered(message)) {
            State::Waiting(waker) => waker,
            _ => None,
        };
        requests.waits_no_more(observer);
        drop(requests);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Ends the waits whose deadlines have passed; when to look again, for the latest look only.
    pub(crate) fn look(
        &self,
        look: u32,
        now: Instant,
        observer: impl Observer,
    ) -> Result<Option<Instant>, Overdue> {
        let mut requests = self.state.lock();
        if !requests.looks.is_latest(look) {
            return Ok(None);
        }
        let (mut next, mut expired, mut wakers) = (None, 0_u32, Vec::new());
        for slot in requests.slots.iter_mut() {
            let (Some(deadline), State::Waiting(_)) = (slot.deadline, &slot.state) else {
                continue;
            };
            if deadline > now {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            } else if let State::Waiting(waker) = mem::replace(&mut slot.state, State::Expired) {
                wakers.extend(waker);
                expired += 1;
            }
        }
        for _ in 0..expired {
            requests.waits_no_more(observer);
        }
        next = next
            .into_iter()
            .chain(requests.given_up.values().copied().flatten())
            .min();
        requests.overdue |= next.is_some_and(|next| next <= now)
            || (self.limits.closes_at_deadline && expired > 0 && self.is_overdue(&mut requests));
        let overdue = requests.overdue;
        requests.looks.go_on(next);
        drop(requests);
        wakers.into_iter().for_each(Waker::wake);
        if overdue { Err(Overdue) } else { Ok(next) }
    }

    /// Whether a request that waits for its turn has waited for too long.
    #[cold]
    fn is_overdue(&self, requests: &mut Requests<In>) -> bool {
        let Requests { slots, order, .. } = requests;
        order.iter().any(|(id, _)| {
            let state = slots.state_of(self.index(*id), *id);
            matches!(state, Some(State::Expired))
        })
    }

    /// Nothing more will be received.
    pub(crate) fn input_ended(&self) {
        self.state.lock().over = true;
        self.wake_all();
    }

    /// Has all that wait look whether their requests have failed.
    pub(crate) fn wake_all(&self) {
        let mut requests = self.state.lock();
        let slots = requests.slots.iter_mut();
        let waiting = slots.filter_map(|slot| match &mut slot.state {
            State::Waiting(waker) => waker.take(),
            _ => None,
        });
        let wakers: Vec<_> = waiting.collect();
        drop(requests);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Returns the number of requests in flight. Where answers come in order, requests that were
    /// given up are counted until their answers have come.
    pub(crate) fn in_flight(&self) -> usize {
        self.state.lock().outstanding()
    }

    /// Whether nothing more will be received.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().over
    }
}

/// A message that answers no request that waits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unasked<In> {
    /// Its request is gone, was answered before, or never was.
    Late(In),
    /// Nobody has asked anything.
    Push(In),
}

impl<In> Requests<In> {
    fn waits_no_more(&mut self, observer: impl Observer) {
        self.waiting -= 1;
        if self.waiting == 0 {
            observer.set_awaits(false);
        }
    }

    /// Removes the request that was queued under this number, which has its answer or will have
    /// none.
    fn is_answered(&mut self, number: Number, observer: impl Observer) {
        if self.given_up.remove(&number).is_some() {
            observer.set_given_up(self.given_up.len());
        }
    }

    /// Returns how many places are taken.
    #[inline]
    fn outstanding(&self) -> usize {
        self.order.len().max(self.slots.used())
    }

    /// Where the request that was queued under this number stands, if its answer has yet to come in its turn.
    fn place(&self, number: Number) -> Option<usize> {
        let place = self
            .order
            .binary_search_by_key(&number, |(_, asked)| *asked);
        place.ok()
    }

    /// Frees the slot at `index`, and gives back what was in it.
    #[inline]
    fn free(&mut self, index: usize) -> State<In> {
        let old = self.slots.free(index);
        if self.slots.is_quiet() {
            self.order.shrink_to(FEW);
        }
        old
    }
}
