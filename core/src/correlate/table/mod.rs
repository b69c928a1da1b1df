//! Table of the requests of one session that await responses.
//!
//! One mutex guards the slots. No code of the user runs under it: messages are dropped and
//! wakers woken after it is released. The slots hold no memory before the first request,
//! allocate nothing once warm, and are freed after a busy time (design.md: Why is there one
//! table for responses by id and in order?).

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
    deadlines::{Scans, StartClock},
    slots::{RETAINED_SLOTS, Slot, Slots, State},
};
use super::matching::ResponseTo;
use crate::{
    connection::RequestNumber,
    sync::{Mutex, MutexGuard},
};

/// Reason why a request cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BeginError {
    /// The maximum number of requests is in flight.
    Full,
    /// The input has ended.
    InputEnded,
}

/// Outcome of a request.
#[derive(Debug)]
pub(crate) enum Outcome<In> {
    Response(In),
    /// The deadline has passed.
    Expired,
    /// The input has ended.
    InputEnded,
}

/// Limits of a table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of requests in flight.
    pub in_flight: u32,
    /// Maximum number of bits of an id. One byte, so that a session's table takes no more memory.
    pub id_bits: u8,
    /// `true` if a missed deadline of a request in order closes the session.
    pub closes_at_deadline: bool,
}

impl Limits {
    /// Returns the number of lower bits of an id that contain the slot. The upper bits count
    /// requests (design.md: Why do request ids have the slot in their lower bits?).
    const fn slot_bits(self) -> u32 {
        u32::BITS - (self.in_flight - 1).leading_zeros()
    }
}

/// State of the session that follows the table. It is set under the table's lock so that
/// readers see the changes in their order.
pub(crate) trait Observer: Copy {
    /// Sets whether any request awaits a response.
    fn set_awaits_responses(&self, awaits: bool);

    /// Sets the number of abandoned requests whose responses are outstanding.
    fn set_abandoned(&self, requests: usize);
}

#[cfg(test)]
impl<F: Fn(bool) + Copy> Observer for F {
    fn set_awaits_responses(&self, awaits: bool) {
        self(awaits);
    }

    fn set_abandoned(&self, _: usize) {}
}

#[derive(Debug)]
pub(crate) struct RequestTable<In> {
    limits: Limits,
    state: Mutex<TableState<In>>,
}

#[derive(Debug)]
struct TableState<In> {
    slots: Slots<In>,
    /// Number of requests without an outcome.
    waiting: u32,
    /// Number of requests that were ever started.
    count: u64,
    /// Requests in the order of their responses, starting with the oldest without one. Each has
    /// its id and the number under which it was queued. The numbers increase.
    order: VecDeque<(u64, RequestNumber)>,
    /// Abandoned requests in `order`, by their numbers. The time is when the response is overdue,
    /// or `None` if the session does not close for it.
    abandoned: BTreeMap<RequestNumber, Option<Instant>>,
    scans: Scans,
    clock: StartClock,
    /// `true` if a check is scheduled because the table is full of abandoned requests.
    full_check_scheduled: bool,
    /// `true` if a guard will report the end of the input.
    input_guarded: bool,
    input_ended: bool,
    /// `true` once a response in order is overdue: later responses could belong to any request.
    overdue: bool,
}

/// A response in order has missed its deadline and the session must close.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overdue;

/// A started request, with the work that must follow after the lock is released.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) id: u64,
    /// Scan to schedule: its time, and its number.
    pub(crate) scan: Option<(Instant, u32)>,
    /// `true` if no guard reports the end of the input yet.
    pub(crate) needs_guard: bool,
    /// `true` for the first request.
    pub(crate) is_first: bool,
}

impl<In> RequestTable<In> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::new(TableState {
                slots: Slots::new(),
                waiting: 0,
                count: 0,
                order: VecDeque::new(),
                abandoned: BTreeMap::new(),
                scans: Scans::default(),
                clock: StartClock::default(),
                full_check_scheduled: false,
                input_guarded: false,
                input_ended: false,
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
    ) -> Result<Started, BeginError> {
        let started = self.begin_with(cx, (deadline, 0), observer, || ((), None));
        started.map(|(started, ())| started)
    }

    /// Starts a request, and registers the waker of `cx` for its outcome. `push` is the closure of
    /// [`in_order`](Self::in_order), and `polls` the session's number of polls. If the request is
    /// not queued, [`reset_clock`](Self::reset_clock) must follow.
    #[inline]
    pub(crate) fn begin_with<R>(
        &self,
        cx: &Context<'_>,
        (deadline, polls): (Option<Duration>, u64),
        observer: impl Observer,
        push: impl FnOnce() -> (R, Option<RequestNumber>),
    ) -> Result<(Started, R), BeginError> {
        let waker = cx.waker().clone();
        let mut requests = self.state.lock();
        if requests.input_ended {
            drop(requests);
            return Err(BeginError::InputEnded);
        }
        if requests.outstanding() >= self.limits.in_flight as usize {
            drop(requests);
            return Err(BeginError::Full);
        }
        requests.count += 1;
        requests.waiting += 1;
        if requests.waiting == 1 {
            observer.set_awaits_responses(true);
        }
        let count = requests.count;
        let deadline =
            deadline.and_then(|deadline| requests.clock.now(deadline, polls).checked_add(deadline));
        let slot = |id| Slot {
            id,
            deadline,
            state: State::Waiting(Some(waker)),
        };
        let started = Started {
            id: requests.slots.fill(|slot| self.id(count, slot), slot),
            scan: deadline.and_then(|deadline| requests.scans.request_by(deadline)),
            needs_guard: !mem::replace(&mut requests.input_guarded, true),
            is_first: count == 1,
        };
        let (result, pushed) = push();
        if let Some(number) = pushed {
            requests.order.push_back((started.id, number));
        }
        Ok((started, result))
    }

    /// Records that a request was started and not queued, and so causes no poll.
    #[cold]
    pub(crate) fn reset_clock(&self) {
        self.state.lock().clock.reset();
    }

    /// Runs `push`, which queues the request `id`, under the lock. So the order of responses is
    /// the order of the queue.
    pub(crate) fn in_order<R>(
        &self,
        id: u64,
        push: impl FnOnce() -> (R, Option<RequestNumber>),
    ) -> R {
        let mut requests = self.state.lock();
        let (result, pushed) = push();
        if let Some(number) = pushed {
            requests.order.push_back((id, number));
        }
        result
    }

    /// Removes the request with this number, which was not sent and has no response.
    pub(crate) fn remove_unsent(&self, number: RequestNumber, observer: impl Observer) {
        let mut requests = self.state.lock();
        if let Some(position) = requests.position(number) {
            requests.order.remove(position);
            requests.remove_abandoned(number, observer);
        }
    }

    /// Records that a guard will report the end of the input.
    pub(crate) fn input_guarded(&self) {
        self.state.lock().input_guarded = true;
    }

    /// Polls the outcome of the request `id`. A request with a response is removed.
    #[inline]
    pub(crate) fn poll(&self, cx: &Context<'_>, id: u64) -> Poll<Outcome<In>> {
        let index = self.index(id);
        let mut requests = self.state.lock();
        if let State::Responded(_) = requests.slots.state(index) {
            // usually the request is polled after it was woken
            return match requests.free(index) {
                State::Responded(response) => Poll::Ready(Outcome::Response(response)),
                _ => unreachable!("the state was checked above"),
            };
        }
        Self::poll_without_response(cx, requests, index)
    }

    #[cold]
    fn poll_without_response(
        cx: &Context<'_>,
        mut requests: MutexGuard<'_, TableState<In>>,
        index: usize,
    ) -> Poll<Outcome<In>> {
        let input_ended = requests.input_ended;
        match requests.slots.state(index) {
            State::Waiting(_) if input_ended => Poll::Ready(Outcome::InputEnded),
            State::Waiting(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Waiting(waker) => {
                let old = waker.replace(cx.waker().clone());
                drop(requests);
                drop(old);
                Poll::Pending
            }
            State::Expired => Poll::Ready(Outcome::Expired),
            State::Responded(_) => unreachable!("the state was checked by the caller"),
            State::Free(_) => unreachable!("a slot is free once its request is gone"),
        }
    }

    /// Abandons the request `id`, with its number if it was queued. If the table is then full of
    /// abandoned requests, returns the oldest, and [`check_full`](Self::check_full) must follow.
    pub(crate) fn end(
        &self,
        id: u64,
        queued: Option<RequestNumber>,
        observer: impl Observer,
    ) -> Option<RequestNumber> {
        let index = self.index(id);
        let mut requests = self.state.lock();
        requests.clock.reset(); // the request may not be queued
        if let Some(number) = queued
            && requests.position(number).is_some()
        {
            let deadline = requests.slots.deadline(index);
            let overdue_at = deadline.filter(|_| self.limits.closes_at_deadline);
            requests.abandoned.insert(number, overdue_at);
            observer.set_abandoned(requests.abandoned.len());
        }
        let old = requests.free(index);
        if let State::Waiting(_) = old {
            requests.decrement_waiting(observer);
        }
        let oldest = self.oldest_if_full(&requests);
        let oldest = oldest.filter(|_| !mem::replace(&mut requests.full_check_scheduled, true));
        drop(requests);
        drop(old); // may hold the user's message or waker
        oldest
    }

    /// Returns the oldest request if abandoned requests fill the table.
    fn oldest_if_full(&self, requests: &TableState<In>) -> Option<RequestNumber> {
        let is_full = requests.order.len() >= self.limits.in_flight as usize;
        let (_, oldest) = requests.order.front()?;
        (is_full && requests.waiting == 0).then_some(*oldest)
    }

    /// Checks a table that was full of abandoned requests. `oldest` was the oldest request.
    /// Returns `true` if the table is still full and the peer has responded since: another check
    /// must follow.
    pub(crate) fn check_full(&self, oldest: &mut RequestNumber) -> Result<bool, Overdue> {
        let mut requests = self.state.lock();
        let before = *oldest;
        let now = self.oldest_if_full(&requests);
        requests.full_check_scheduled = now.is_some();
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

    /// Stores `message` as the response of its request, or returns it.
    pub(crate) fn deliver(
        &self,
        which: ResponseTo,
        message: In,
        observer: impl Observer,
    ) -> Result<(), Unsolicited<In>> {
        let mut requests = self.state.lock();
        let (id, number) = match which {
            ResponseTo::Request(id) => (id, None),
            ResponseTo::Oldest if requests.overdue => return Err(Unsolicited::Late(message)),
            ResponseTo::Oldest => match requests.order.pop_front() {
                Some((id, number)) => (id, Some(number)),
                None => return Err(Unsolicited::Push(message)),
            },
        };
        let state = requests.slots.state_of(self.index(id), id);
        let Some(waiting @ State::Waiting(_)) = state else {
            if let Some(number) = number {
                requests.remove_abandoned(number, observer);
            }
            return Err(Unsolicited::Late(message));
        };
        let waker = match mem::replace(waiting, State::Responded(message)) {
            State::Waiting(waker) => waker,
            _ => None,
        };
        requests.decrement_waiting(observer);
        drop(requests);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Expires the requests whose deadlines have passed. Returns the time of the next scan for the
    /// latest scan only.
    pub(crate) fn expire(
        &self,
        scan: u32,
        now: Instant,
        observer: impl Observer,
    ) -> Result<Option<Instant>, Overdue> {
        let mut requests = self.state.lock();
        if !requests.scans.is_latest(scan) {
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
            requests.decrement_waiting(observer);
        }
        next = next
            .into_iter()
            .chain(requests.abandoned.values().copied().flatten())
            .min();
        // (design.md: Why does a missed deadline not close a session with responses by id?)
        requests.overdue |= next.is_some_and(|next| next <= now)
            || (self.limits.closes_at_deadline && expired > 0 && self.is_overdue(&mut requests));
        let overdue = requests.overdue;
        requests.scans.set_next(next);
        drop(requests);
        wakers.into_iter().for_each(Waker::wake);
        if overdue { Err(Overdue) } else { Ok(next) }
    }

    /// Returns `true` if a request in order has expired.
    #[cold]
    fn is_overdue(&self, requests: &mut TableState<In>) -> bool {
        let TableState { slots, order, .. } = requests;
        order.iter().any(|(id, _)| {
            let state = slots.state_of(self.index(*id), *id);
            matches!(state, Some(State::Expired))
        })
    }

    /// Records the end of the input and wakes all requests.
    pub(crate) fn input_ended(&self) {
        self.state.lock().input_ended = true;
        self.wake_all();
    }

    /// Wakes all requests so that each checks whether it has failed.
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

    /// Returns the number of requests in flight. Where responses come in order, abandoned requests
    /// are counted until their responses have arrived.
    pub(crate) fn in_flight(&self) -> usize {
        self.state.lock().outstanding()
    }

    /// Returns `true` once the input has ended.
    pub(crate) fn has_input_ended(&self) -> bool {
        self.state.lock().input_ended
    }
}

/// A message to which no request corresponds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsolicited<In> {
    /// The request was abandoned, has its response already, or never existed.
    Late(In),
    /// No request is in flight.
    Push(In),
}

impl<In> TableState<In> {
    fn decrement_waiting(&mut self, observer: impl Observer) {
        self.waiting -= 1;
        if self.waiting == 0 {
            observer.set_awaits_responses(false);
        }
    }

    /// Removes the request with this number from the abandoned ones. It has its response, or will
    /// have none.
    fn remove_abandoned(&mut self, number: RequestNumber, observer: impl Observer) {
        if self.abandoned.remove(&number).is_some() {
            observer.set_abandoned(self.abandoned.len());
        }
    }

    /// Returns the number of requests that count towards the limit.
    #[inline]
    fn outstanding(&self) -> usize {
        self.order.len().max(self.slots.used())
    }

    /// Returns the position in `order` of the request with this number.
    fn position(&self, number: RequestNumber) -> Option<usize> {
        let position = self
            .order
            .binary_search_by_key(&number, |(_, asked)| *asked);
        position.ok()
    }

    /// Frees the slot at `index` and returns its state.
    #[inline]
    fn free(&mut self, index: usize) -> State<In> {
        let old = self.slots.free(index);
        if self.slots.should_shrink() {
            self.order.shrink_to(RETAINED_SLOTS);
        }
        old
    }
}
