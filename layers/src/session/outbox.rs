//! The queue between a session and its driver: messages, the outcomes of sends, and senders that wait for room.
//!
//! One mutex guards three queues, none of which holds memory until it is first used:
//!
//! - *messages* that the driver has not taken yet, each with the ticket of a `send` that waits for its outcome;
//! - *tickets*, a window with contiguous ids from the oldest send without an outcome to the newest;
//! - *waiters*, the senders for whom there was no room, in the order in which they came. Room goes to the
//!   first; nobody overtakes it. A waiter that gives up passes its wake-up on to the next.
//!
//! Wakers are woken, and messages, outcomes and wakers dropped, after the lock is released: they are others' code and
//! may come back. Once warm the queues allocate nothing; what a busy time made them grow to is given back after a
//! number of turns with little to do.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use super::{
    error::SendFailure,
    payload::{Payload, Weigh},
    watched::Number,
};
use crate::{
    budget::{Account, MemoryBudget},
    connection::contain,
    sync::Mutex,
};

/// Which outcome a message is to be reported under.
pub(crate) type TicketId = u64;
/// Added to the number of a message that is watched: its outcome is not the outbox's to keep but [`Watched`]'s.
///
/// [`Watched`]: super::watched::Watched
const WATCHED: TicketId = 1 << 63;

/// The number of the watched message that `ticket` stands for, if it is one.
#[inline]
pub(crate) const fn watched_number(ticket: TicketId) -> Option<Number> {
    if ticket & WATCHED == 0 {
        None
    } else {
        Some(ticket & !WATCHED)
    }
}
/// Who waits for room.
pub(crate) type WaiterId = u64;

/// What is on its way to the driver.
#[derive(Debug)]
pub(crate) struct Queued<Out> {
    pub(crate) payload: Payload<Out>,
    pub(crate) attention: Attention,
}

/// What the driver has taken.
pub(crate) type Batch<Out> = VecDeque<Queued<Out>>;

/// Who cares for the outcome of what is queued: a word, because there is one in each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attention(u64);

impl Attention {
    /// Nobody; it is sent all the same.
    pub(crate) const NOBODY: Self = Self(0);
    /// Nobody; and it may be dropped in favour of what is offered later.
    const DROPPABLE: Self = Self(u64::MAX);
    /// The sender of the watched message with this number.
    const fn watched(number: Number) -> Self {
        Self(WATCHED | number)
    }

    /// The `send` that waits for it.
    pub(crate) const fn ticket(self) -> Option<TicketId> {
        match self {
            Self::NOBODY | Self::DROPPABLE => None,
            Self(ticket) => Some(ticket),
        }
    }
}

/// What became of a message whose sender gives up.
#[derive(Debug)]
pub(crate) enum TakenBack<Out> {
    /// The driver had not taken it, and will not.
    Payload(Payload<Out>),
    /// It is too late for that: the driver has it, and may have begun to write it.
    Not { begun: bool },
    /// It is too late even to give up.
    Outcome(Result<usize, SendFailure<Out>>),
}

/// Who waits for the outcome of a message that is pushed.
#[derive(Clone, Copy, Debug)]
enum Attended {
    No,
    Waiting,
    Watched,
}

/// Why a message was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Budget,
    Finished,
    Closed,
}

#[derive(Debug)]
enum Ticket<Out> {
    Waiting(Option<Waker>),
    Done(Result<usize, SendFailure<Out>>),
    Abandoned,
}

#[derive(Debug)]
pub(crate) struct Outbox<Out>(Mutex<State<Out>>);

#[derive(Debug)]
struct State<Out> {
    messages: VecDeque<Queued<Out>>,
    /// How many messages were queued that are watched.
    watched: Number,
    /// From the first sender that waits for anything on.
    senders: Option<Box<Senders<Out>>>,
    /// How many messages may lie here and, taken but not encoded, with the driver.
    capacity: u32,
    /// How many of those the driver has taken and not encoded yet.
    taken: u32,
    /// The driver's write buffer is above its high watermark.
    blocked: bool,
    /// Our direction is to end after what lies here, or has ended.
    finished: bool,
    closed: bool,
    /// Where what lies here is charged.
    account: Option<Box<Charges<Out>>>,
    /// For how many turns in a row the queues were short.
    quiet: u8,
}

/// An account, and how to weigh what it is charged with.
#[derive(Debug)]
struct Charges<Out> {
    account: Account,
    weigh: Option<Weigh<Out>>,
}

/// The senders that wait.
#[derive(Debug)]
struct Senders<Out> {
    tickets: VecDeque<Ticket<Out>>,
    first_ticket: TicketId,
    /// The newest of which the transport is known to have taken bytes.
    begun: TicketId,
    /// Without a waker once it was woken, until it looks again.
    waiters: VecDeque<(WaiterId, Option<Waker>)>,
    /// Those who want to know of room and take none, in the order in which they came. They stand in nobody's way.
    watchers: VecDeque<(WaiterId, Option<Waker>)>,
    next_waiter: WaiterId,
}

impl<Out> Default for Senders<Out> {
    fn default() -> Self {
        Self {
            tickets: VecDeque::new(),
            first_ticket: 1, // 0 is nobody's
            begun: 0,
            waiters: VecDeque::new(),
            watchers: VecDeque::new(),
            next_waiter: 0,
        }
    }
}

impl<Out> Senders<Out> {
    /// Where this one stands among those who wait for room.
    fn place(&self, waiter: WaiterId) -> Option<usize> {
        self.waiters
            .binary_search_by_key(&waiter, |(id, _)| *id)
            .ok()
    }

    /// Where this one stands among those who watch.
    fn watching(&self, watcher: WaiterId) -> Option<usize> {
        self.watchers
            .binary_search_by_key(&watcher, |(id, _)| *id)
            .ok()
    }

    fn ticket(&mut self, id: TicketId) -> Option<&mut Ticket<Out>> {
        let index = usize::try_from(id.checked_sub(self.first_ticket)?).ok()?;
        self.tickets.get_mut(index)
    }

    /// Moves the window past what nobody will ask for.
    fn retire(&mut self) {
        while let Some(Ticket::Abandoned) = self.tickets.front() {
            self.tickets.pop_front();
            self.first_ticket += 1;
        }
    }
}

/// What is done to messages that nobody gets back: a panic of one is not to keep others' senders from the end.
pub(crate) const DROPPING: &str = "dropping a message that was not sent";
/// A queue no longer than this is short, and keeps its memory.
const SHORT: usize = 8;
/// After so many turns with short queues the memory of long ones is given back. Large against 1, so that growing again
/// costs next to nothing a message.
const QUIET: u8 = 32;

impl<Out> State<Out> {
    fn room(&self) -> usize {
        if self.blocked { 0 } else { self.places() }
    }

    /// Why nothing is queued any more, if nothing is.
    fn refusal(&self) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::Closed)
        } else if self.finished {
            Some(Refusal::Finished)
        } else {
            None
        }
    }

    /// Charges for `payload`, where there is a budget; whether that lets it.
    fn charge(&mut self, payload: &Payload<Out>) -> bool {
        self.account.as_mut().is_none_or(|charges| {
            let weight = payload.weight(charges.weigh);
            charges.account.queue(weight)
        })
    }

    /// The same, where `payload` takes the place of the message at `old`.
    fn charge_in_place_of(&mut self, old: usize, payload: &Payload<Out>) -> bool {
        self.account.as_mut().is_none_or(|charges| {
            let [old, new] =
                [&self.messages[old].payload, payload].map(|payload| payload.weight(charges.weigh));
            charges.account.replace(old, new)
        })
    }

    /// `payload` has been taken out of the queue again.
    fn refund(&mut self, payload: &Payload<Out>) {
        if let Some(charges) = &mut self.account {
            let weight = payload.weight(charges.weigh);
            charges.account.unqueue(weight);
        }
    }

    /// The wakers of all who wait for room that will never be.
    fn wake_all(&mut self) -> Vec<Waker> {
        let Some(senders) = &mut self.senders else {
            return Vec::new();
        };
        let mut all = wakers(&mut senders.waiters);
        all.append(&mut wakers(&mut senders.watchers));
        all
    }

    /// How many messages more the queue can hold, whatever the write buffer holds.
    fn places(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.len())
    }

    /// How many messages wait here and, taken but not encoded, with the driver.
    fn len(&self) -> usize {
        self.messages.len() + self.taken as usize
    }

    /// The waker of the one whose turn it is, if there is room for it and it does not know yet. It wakes the next when
    /// it has pushed or given up. Where nobody waits, all who watch learn of the room.
    fn next_in_turn(&mut self) -> Next {
        if self.room() == 0 {
            return Next::One(None);
        }
        match self.senders.as_deref_mut() {
            None => Next::One(None),
            Some(senders) => match senders.waiters.front_mut() {
                Some(first) => Next::One(first.1.take()),
                None if senders.watchers.is_empty() => Next::One(None),
                None => Next::All(wakers(&mut senders.watchers)),
            },
        }
    }

    /// How many senders wait for room.
    fn waiting(&self) -> usize {
        self.senders
            .as_ref()
            .map_or(0, |senders| senders.waiters.len())
    }

    fn place(&self, waiter: WaiterId) -> Option<usize> {
        self.senders.as_ref()?.place(waiter)
    }

    /// Takes a sender out of those who wait for room; its waker is to be dropped after the lock.
    fn remove(&mut self, place: Option<usize>) -> Option<(WaiterId, Option<Waker>)> {
        self.senders.as_mut()?.waiters.remove(place?)
    }

    #[inline]
    fn push(&mut self, payload: Payload<Out>, attended: Attended) -> Option<TicketId> {
        let attention = match attended {
            Attended::No => Attention::NOBODY,
            Attended::Waiting => {
                let senders = self.senders.get_or_insert_default();
                senders.tickets.push_back(Ticket::Waiting(None));
                Attention(senders.first_ticket + senders.tickets.len() as u64 - 1)
            }
            Attended::Watched => self.watch(),
        };
        self.messages.push_back(Queued { payload, attention });
        attention.ticket()
    }

    /// Numbers a message that is watched.
    #[inline]
    const fn watch(&mut self) -> Attention {
        self.watched += 1;
        Attention::watched(self.watched)
    }

    /// Counts turns in which the queues were short, and gives the memory of long ones back after a number of them.
    fn give_back(&mut self, batch: Option<&mut VecDeque<Queued<Out>>>) {
        let mut longest = batch.as_ref().map_or(1, |batch| batch.len());
        if let Some(senders) = &self.senders {
            longest = longest
                .max(senders.tickets.len())
                .max(senders.waiters.len())
                .max(senders.watchers.len());
        }
        if longest > SHORT {
            self.quiet = 0;
            return;
        }
        self.quiet += 1;
        if self.quiet == QUIET {
            self.quiet = 0;
            batch.into_iter().for_each(|batch| batch.shrink_to(SHORT));
            self.messages.shrink_to(SHORT);
            if let Some(senders) = &mut self.senders {
                senders.tickets.shrink_to(SHORT);
                senders.waiters.shrink_to(SHORT);
                senders.watchers.shrink_to(SHORT);
            }
        }
    }
}

/// Whom a sender wakes that has had its turn.
pub(crate) enum Next {
    One(Option<Waker>),
    All(Vec<Waker>),
}

impl Next {
    const fn is_some(&self) -> bool {
        match self {
            Self::One(waker) => waker.is_some(),
            Self::All(wakers) => !wakers.is_empty(),
        }
    }

    #[inline]
    pub(crate) fn wake(self) {
        match self {
            Self::One(waker) => waker.into_iter().for_each(Waker::wake),
            Self::All(wakers) => wakers.into_iter().for_each(Waker::wake),
        }
    }
}

/// Those that are still to be woken.
fn wakers(waiting: &mut VecDeque<(WaiterId, Option<Waker>)>) -> Vec<Waker> {
    waiting
        .iter_mut()
        .filter_map(|(_, waker)| waker.take())
        .collect()
}

/// Puts the caller's waker into `slot`; gives back the one that it replaces.
fn register(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => slot.replace(cx.waker().clone()),
    }
}

impl<Out> Outbox<Out> {
    pub(crate) fn new(capacity: u32) -> Self {
        Self(Mutex::new(State {
            messages: VecDeque::new(),
            watched: 0,
            senders: None,
            capacity,
            taken: 0,
            blocked: false,
            finished: false,
            closed: false,
            account: None,
            quiet: 0,
        }))
    }

    // the senders' side

    /// Queues `payload` at once or hands it back. Does not overtake senders that wait.
    pub(crate) fn try_push(&self, payload: Payload<Out>) -> Result<(), (Refusal, Payload<Out>)> {
        let mut state = self.0.lock();
        if let Some(refusal) = state.refusal() {
            return Err((refusal, payload));
        }
        if state.waiting() > 0 || state.room() == 0 {
            return Err((Refusal::Full, payload));
        }
        if !state.charge(&payload) {
            return Err((Refusal::Budget, payload));
        }
        state.push(payload, Attended::No);
        Ok(())
    }

    /// Queues `payload` when there is room and it is the caller's turn. `payload` is left where it is until then, and
    /// for good when the answer is an error. `waiter` is the caller's place among those who wait, kept between polls.
    pub(crate) fn poll_push(
        &self,
        cx: &Context<'_>,
        payload: &mut Option<Payload<Out>>,
        waiter: &mut Option<WaiterId>,
        attended: bool,
    ) -> Poll<Result<Option<TicketId>, Refusal>> {
        let attended = if attended {
            Attended::Waiting
        } else {
            Attended::No
        };
        let (pushed, next) = self.poll_push_with(cx, payload, waiter, attended);
        next.wake();
        pushed
    }

    /// Queues `message`, which is watched, if there is room at once and no other sender waits.
    #[inline]
    pub(crate) fn push_watched(&self, message: &mut Option<Out>) -> Option<Number> {
        let mut state = self.0.lock();
        let refused = state.closed || state.finished || state.account.is_some();
        if refused || state.waiting() > 0 || state.room() == 0 {
            return None;
        }
        // nobody waits who could be next
        let payload = Payload::Message(message.take()?);
        let attention = state.watch();
        state.messages.push_back(Queued { payload, attention });
        Some(state.watched)
    }

    /// As [`poll_push`](Self::poll_push), for a message that is watched. What comes with the answer is who is next in turn, to
    /// be woken outside of the caller's lock.
    pub(crate) fn poll_push_watched(
        &self,
        cx: &Context<'_>,
        payload: &mut Option<Payload<Out>>,
        waiter: &mut Option<WaiterId>,
    ) -> (Poll<Result<Option<Number>, Refusal>>, Next) {
        let (pushed, next) = self.poll_push_with(cx, payload, waiter, Attended::Watched);
        let number = |ticket: Option<TicketId>| ticket.and_then(watched_number);
        (pushed.map_ok(number), next)
    }

    #[inline]
    fn poll_push_with(
        &self,
        cx: &Context<'_>,
        payload: &mut Option<Payload<Out>>,
        waiter: &mut Option<WaiterId>,
        attended: Attended,
    ) -> (Poll<Result<Option<TicketId>, Refusal>>, Next) {
        let mut state = self.0.lock();
        let place = waiter.and_then(|id| state.place(id));
        if let Some(refusal) = state.refusal() {
            let gone = state.remove(place);
            *waiter = None;
            drop(state);
            drop(gone);
            return (Poll::Ready(Err(refusal)), Next::One(None));
        }
        if place.unwrap_or(state.waiting()) == 0 && state.room() > 0 {
            let gone = state.remove(place);
            *waiter = None;
            if payload
                .as_ref()
                .is_some_and(|payload| !state.charge(payload))
            {
                let next = state.next_in_turn();
                drop(state);
                drop(gone);
                return (Poll::Ready(Err(Refusal::Budget)), next);
            }
            let finishes = matches!(payload, Some(Payload::Finish));
            let ticket = payload
                .take()
                .and_then(|payload| state.push(payload, attended));
            let next = if finishes {
                state.finished = true;
                Next::All(state.wake_all())
            } else {
                state.next_in_turn()
            };
            drop(state);
            drop(gone);
            return (Poll::Ready(Ok(ticket)), next);
        }
        let senders = state.senders.get_or_insert_default();
        let old = match place {
            Some(place) => register(&mut senders.waiters[place].1, cx),
            None => {
                let id = senders.next_waiter;
                senders.next_waiter += 1;
                senders.waiters.push_back((id, Some(cx.waker().clone())));
                *waiter = Some(id);
                None
            }
        };
        drop(state);
        drop(old);
        (Poll::Pending, Next::One(None))
    }

    /// Queues `payload` as long as the queue has places, though the write buffer be above its high watermark. Without one,
    /// a `droppable` one replaces the oldest of its kind, which is handed out. Does not overtake senders that wait.
    ///
    /// As long as the write buffer is not above its mark, a `burst` may lie here before any of that: so many in all.
    /// Senders that wait are overtaken then, for they wait for room within the bound.
    #[inline]
    pub(crate) fn offer(
        &self,
        payload: Payload<Out>,
        droppable: bool,
        burst: impl FnOnce() -> usize,
    ) -> Result<Option<Payload<Out>>, (Refusal, Payload<Out>)> {
        let mut state = self.0.lock();
        if let Some(refusal) = state.refusal() {
            return Err((refusal, payload));
        }
        let mut replaced = None;
        let has_place = (state.waiting() == 0 && state.places() > 0)
            || (!state.blocked && state.len() < burst());
        if !has_place || !state.charge(&payload) {
            let is_droppable = |queued: &Queued<Out>| queued.attention == Attention::DROPPABLE;
            let oldest = state.messages.iter().position(is_droppable);
            let Some(oldest) = oldest.filter(|_| droppable) else {
                let refusal = if has_place {
                    Refusal::Budget
                } else {
                    Refusal::Full
                };
                return Err((refusal, payload));
            };
            if !state.charge_in_place_of(oldest, &payload) {
                return Err((Refusal::Budget, payload));
            }
            replaced = state.messages.remove(oldest);
        }
        state.messages.push_back(Queued {
            payload,
            attention: if droppable {
                Attention::DROPPABLE
            } else {
                Attention::NOBODY
            },
        });
        drop(state);
        Ok(replaced.map(|queued| queued.payload))
    }

    /// Takes a message back from the queue, if the driver has not taken it. Nobody waits for its outcome any more.
    pub(crate) fn take_back(&self, ticket: TicketId) -> TakenBack<Out> {
        let mut state = self.0.lock();
        let is_it = |queued: &Queued<Out>| queued.attention == Attention(ticket);
        let place = state.messages.iter().position(is_it);
        let queued = place.and_then(|place| state.messages.remove(place));
        queued
            .iter()
            .for_each(|queued| state.refund(&queued.payload));
        let senders = state.senders.get_or_insert_default();
        let begun = ticket <= senders.begun;
        let held = senders.ticket(ticket);
        let old = held.map(|held| std::mem::replace(held, Ticket::Abandoned));
        senders.retire();
        let next = state.next_in_turn();
        drop(state);
        next.wake();
        match (queued, old) {
            (Some(queued), _) => TakenBack::Payload(queued.payload),
            (None, Some(Ticket::Done(outcome))) => TakenBack::Outcome(outcome),
            (None, _) => TakenBack::Not { begun },
        }
    }

    /// Gives up waiting for room; whoever is next in turn learns it.
    pub(crate) fn leave(&self, waiter: WaiterId) {
        let mut state = self.0.lock();
        let place = state.place(waiter);
        let gone = state.remove(place);
        let next = if place == Some(0) {
            state.next_in_turn()
        } else {
            Next::One(None)
        };
        drop(state);
        drop(gone);
        next.wake();
    }

    /// Waits until a message would be queued at once, and takes no room. `watcher` is the caller's place, kept between
    /// polls.
    pub(crate) fn poll_room(
        &self,
        cx: &Context<'_>,
        watcher: &mut Option<WaiterId>,
    ) -> Poll<Result<(), Refusal>> {
        let mut state = self.0.lock();
        let ready = match state.refusal() {
            Some(refusal) => Some(Err(refusal)),
            None if state.waiting() == 0 && state.room() > 0 => Some(Ok(())),
            None => None,
        };
        if ready.is_none() || watcher.is_some() {
            let senders = state.senders.get_or_insert_default();
            let place = watcher.and_then(|id| senders.watching(id));
            let old = match (&ready, place) {
                (Some(_), place) => {
                    *watcher = None;
                    place.and_then(|place| senders.watchers.remove(place)?.1)
                }
                (None, Some(place)) => register(&mut senders.watchers[place].1, cx),
                (None, None) => {
                    let id = senders.next_waiter;
                    senders.next_waiter += 1;
                    senders.watchers.push_back((id, Some(cx.waker().clone())));
                    *watcher = Some(id);
                    None
                }
            };
            drop(state);
            drop(old);
        }
        ready.map_or(Poll::Pending, Poll::Ready)
    }

    /// Does not want to know of room any more.
    pub(crate) fn look_away(&self, watcher: WaiterId) {
        let mut state = self.0.lock();
        let senders = state.senders.get_or_insert_default();
        let place = senders.watching(watcher);
        let gone = place.and_then(|place| senders.watchers.remove(place));
        drop(state);
        drop(gone);
    }

    /// The outcome of an attended message: how many bytes it took.
    pub(crate) fn poll_outcome(
        &self,
        cx: &Context<'_>,
        ticket: TicketId,
    ) -> Poll<Result<usize, SendFailure<Out>>> {
        let mut state = self.0.lock();
        let senders = state.senders.get_or_insert_default();
        match senders.ticket(ticket) {
            None => unreachable!("a ticket stays in the window until its outcome is taken"),
            Some(Ticket::Waiting(waker)) => {
                let old = register(waker, cx);
                drop(state);
                drop(old);
                Poll::Pending
            }
            Some(done) => {
                let outcome = std::mem::replace(done, Ticket::Abandoned);
                senders.retire();
                drop(state);
                match outcome {
                    Ticket::Done(outcome) => Poll::Ready(outcome),
                    _ => unreachable!("an outcome is taken once, by its sender"),
                }
            }
        }
    }

    /// Nobody waits for this outcome any more; the message is sent all the same.
    pub(crate) fn abandon(&self, ticket: TicketId) {
        let mut state = self.0.lock();
        let senders = state.senders.get_or_insert_default();
        let ticket = senders.ticket(ticket);
        let old = ticket.map(|ticket| std::mem::replace(ticket, Ticket::Abandoned));
        senders.retire();
        drop(state);
        drop(old); // may hold the user's message or waker
    }

    /// How many messages wait here.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    // the driver's side

    /// Takes all that is queued into `batch`, which is empty, and tells what of the last batch was encoded meanwhile.
    /// Wakes the first sender that waits, if that made room.
    pub(crate) fn take(&self, batch: &mut VecDeque<Queued<Out>>) {
        debug_assert!(
            batch.is_empty(),
            "the last batch is encoded before the next is taken"
        );
        let mut state = self.0.lock();
        std::mem::swap(&mut state.messages, batch);
        state.taken = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        if let Some(charges) = &mut state.account {
            charges.account.take();
        }
        state.give_back(Some(batch));
        let next = state.next_in_turn();
        drop(state);
        next.wake();
    }

    /// The first of what is queued; the rest goes into `batch`, which is empty, as with [`take`](Self::take). `true` if
    /// what becomes of it is to be reported, as it is of a batch: one that is alone takes no place any more.
    #[inline(always)]
    pub(crate) fn take_first(
        &self,
        batch: &mut Option<Box<Batch<Out>>>,
    ) -> Option<(Queued<Out>, bool)> {
        let mut state = self.0.lock();
        if state.messages.len() > 1 || state.account.is_some() {
            drop(state);
            let batch = batch.get_or_insert_default();
            self.take(batch);
            return Some((batch.pop_front()?, true));
        }
        let only = state.messages.pop_front()?;
        state.taken = 0;
        if batch.is_some() || state.senders.is_some() || state.messages.capacity() > SHORT {
            state.give_back(batch.as_deref_mut());
            let next = state.next_in_turn();
            drop(state);
            next.wake();
        }
        Some((only, false))
    }

    /// Takes back what is left of the batch to encode, and learns whether the write buffer is above its high watermark:
    /// what the driver cannot encode now is better here, where it may be taken back and dropped. `true` if that woke a
    /// sender that waits.
    pub(crate) fn report(&self, left: &mut VecDeque<Queued<Out>>, blocked: bool) -> bool {
        let mut state = self.0.lock();
        state.taken = 0;
        state.blocked = blocked;
        if let Some(charges) = &mut state.account {
            let weigh = |queued: &Queued<Out>| queued.payload.weight(charges.weigh);
            let weight = left.iter().map(weigh).fold(0, usize::saturating_add);
            charges.account.give_back(weight);
        }
        if !left.is_empty() {
            std::mem::swap(&mut state.messages, left);
            state.messages.append(left);
        }
        let next = state.next_in_turn();
        drop(state);
        let woken = next.is_some();
        next.wake();
        woken
    }

    /// Has what lies here charged to a budget, from the beginning.
    pub(crate) fn set_budget(&self, budget: MemoryBudget, id: u64, weigh: Option<Weigh<Out>>) {
        let mut account = Account::new(budget, id);
        let mut state = self.0.lock();
        let weights = state
            .messages
            .iter()
            .map(|queued| queued.payload.weight(weigh));
        account.begin(weights.fold(0, usize::saturating_add));
        state.account = Some(Box::new(Charges { account, weigh }));
    }

    /// So many bytes lie in the write buffer.
    pub(crate) fn charge_written(&self, bytes: usize) {
        if let Some(charges) = &mut self.0.lock().account {
            charges.account.write(bytes);
        }
    }

    /// Sets how many messages may wait. Wakes the first sender that waits, if that made room.
    pub(crate) fn set_capacity(&self, capacity: u32) {
        let mut state = self.0.lock();
        state.capacity = capacity;
        let next = state.next_in_turn();
        drop(state);
        next.wake();
    }

    /// The transport has taken bytes of the message with this ticket, and all of those before it.
    pub(crate) fn begun(&self, ticket: TicketId) {
        self.0.lock().senders.get_or_insert_default().begun = ticket;
    }

    pub(crate) fn complete(&self, ticket: TicketId, outcome: Result<usize, SendFailure<Out>>) {
        let mut state = self.0.lock();
        let senders = state.senders.get_or_insert_default();
        let old = match senders.ticket(ticket) {
            None | Some(Ticket::Abandoned) => Ticket::Done(outcome),
            Some(waiting) => std::mem::replace(waiting, Ticket::Done(outcome)),
        };
        drop(state);
        if let Ticket::Waiting(Some(waker)) = old {
            waker.wake();
        }
    }

    /// No message is taken any more. Those that lie here still go out: the driver takes them with [`take`](Self::take).
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        let wakers = state.wake_all();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The transport cannot end our direction alone: messages are taken again.
    pub(crate) fn reopen(&self) {
        self.0.lock().finished = false;
    }

    /// Whether a message would be queued at once.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.0.lock();
        state.refusal().is_none() && state.waiting() == 0 && state.room() > 0
    }

    /// The end: what was not sent fails, by `failure` given the payload where none of it was encoded. Gives back what is
    /// watched of it.
    pub(crate) fn fail_all(
        &self,
        left: VecDeque<Queued<Out>>,
        failure: impl Fn(Option<Payload<Out>>) -> SendFailure<Out>,
    ) -> Vec<(Number, Payload<Out>)> {
        self.close();
        let mut state = self.0.lock();
        let messages = std::mem::take(&mut state.messages);
        let account = state.account.take();
        drop(state);
        drop(account);
        let (mut unattended, mut watched) = (Vec::new(), Vec::new());
        for Queued { payload, attention } in left.into_iter().chain(messages) {
            match attention.ticket() {
                Some(ticket) if let Some(number) = watched_number(ticket) => {
                    watched.push((number, payload));
                }
                // where its sender has given up, this drops it
                Some(ticket) => contain(DROPPING, || {
                    self.complete(ticket, Err(failure(Some(payload))));
                }),
                None => unattended.push(payload),
            }
        }
        let mut state = self.0.lock();
        let mut wakers = Vec::new();
        let tickets = state
            .senders
            .iter_mut()
            .flat_map(|senders| &mut senders.tickets);
        for ticket in tickets {
            if let Ticket::Waiting(waker) = ticket {
                wakers.extend(waker.take());
                *ticket = Ticket::Done(Err(failure(None)));
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        for payload in unattended {
            contain(DROPPING, || drop(payload));
        }
        watched
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    const CAPACITY: u32 = 64;

    fn message(n: u64) -> Payload<u64> {
        Payload::Message(n)
    }

    #[test]
    fn an_entry_is_no_larger_than_bytes_and_two_words() {
        assert!(size_of::<Queued<bytes::Bytes>>() <= 6 * size_of::<usize>());
        assert!(size_of::<Queued<String>>() <= 6 * size_of::<usize>());
    }

    /// One turn with so many attended messages in it: queued, taken, encoded, sent, learnt.
    fn turn(outbox: &Outbox<u64>, batch: &mut VecDeque<Queued<u64>>, messages: u32) {
        let cx = Context::from_waker(Waker::noop());
        for n in 0..messages {
            let pushed = outbox.poll_push(&cx, &mut Some(message(n.into())), &mut None, true);
            assert!(pushed.is_ready());
        }
        outbox.take(batch);
        assert_eq!(batch.len(), messages as usize);
        while let Some(Queued { attention, .. }) = batch.pop_front() {
            let ticket = attention.ticket().unwrap();
            outbox.complete(ticket, Ok(1));
            assert!(outbox.poll_outcome(&cx, ticket).is_ready());
        }
        outbox.report(&mut VecDeque::new(), false);
    }

    /// What the queues have room for: queued, taken, tickets, waiters.
    fn memory(outbox: &Outbox<u64>, batch: &VecDeque<Queued<u64>>) -> [usize; 4] {
        let state = outbox.0.lock();
        [
            state.messages.capacity(),
            batch.capacity(),
            state
                .senders
                .as_ref()
                .map_or(0, |senders| senders.tickets.capacity()),
            state
                .senders
                .as_ref()
                .map_or(0, |senders| senders.waiters.capacity()),
        ]
    }

    #[test]
    fn nothing_is_allocated_before_the_first_message() {
        let outbox = Outbox::new(CAPACITY);
        assert_eq!(memory(&outbox, &VecDeque::new()), [0; 4]);
    }

    #[test]
    fn busy_turns_allocate_nothing_once_the_queues_are_warm() {
        let (outbox, mut batch) = (Outbox::new(CAPACITY), VecDeque::new());
        (0..2).for_each(|_| turn(&outbox, &mut batch, CAPACITY));
        let warm = memory(&outbox, &batch);
        assert!(warm[0] >= CAPACITY as usize && warm[1] >= CAPACITY as usize);
        for busy in [CAPACITY, 9, 1, CAPACITY] {
            for _ in 1..QUIET {
                turn(&outbox, &mut batch, busy);
                let mut now = memory(&outbox, &batch);
                now[..2].sort_unstable(); // they change places
                assert_eq!(now, warm);
            }
        }
    }

    #[test]
    fn quiet_turns_give_the_memory_of_a_busy_time_back() {
        let (outbox, mut batch) = (Outbox::new(CAPACITY), VecDeque::new());
        (0..2).for_each(|_| turn(&outbox, &mut batch, CAPACITY));
        (0..QUIET).for_each(|_| turn(&outbox, &mut batch, 1));
        for capacity in memory(&outbox, &batch) {
            assert!(capacity <= SHORT, "{capacity}");
        }
        // and what is short stays
        let short = memory(&outbox, &batch);
        (0..QUIET).for_each(|_| turn(&outbox, &mut batch, 1));
        assert_eq!(memory(&outbox, &batch), short);
    }

    #[test]
    fn a_crowd_of_waiting_senders_leaves_no_memory_behind() {
        let (outbox, mut batch) = (Outbox::new(1), VecDeque::new());
        let cx = Context::from_waker(Waker::noop());
        turn(&outbox, &mut batch, 1);
        outbox.report(&mut VecDeque::new(), true);
        let mut waiters = [None; 100];
        for waiter in &mut waiters {
            assert!(
                outbox
                    .poll_push(&cx, &mut Some(message(0)), waiter, false)
                    .is_pending()
            );
        }
        // one half gives up, the other is served
        for waiter in waiters.iter().skip(1).step_by(2) {
            outbox.leave(waiter.unwrap());
        }
        outbox.report(&mut VecDeque::new(), false);
        for waiter in waiters.iter_mut().step_by(2) {
            assert!(
                outbox
                    .poll_push(&cx, &mut Some(message(0)), waiter, false)
                    .is_ready()
            );
            outbox.take(&mut batch);
            batch.clear();
            outbox.report(&mut VecDeque::new(), false);
        }
        (0..QUIET).for_each(|_| turn(&outbox, &mut batch, 1));
        assert!(memory(&outbox, &batch)[3] <= SHORT);
    }

    #[test]
    fn a_waiting_sender_is_woken_once_for_the_same_room() {
        use tokio_test::task;

        let outbox = Outbox::new(1);
        outbox.report(&mut VecDeque::new(), true);
        let mut waiting = task::spawn(());
        let mut waiter = None;
        let poll = |cx: &Context<'_>, waiter: &mut _| {
            outbox.poll_push(cx, &mut Some(message(0)), waiter, false)
        };
        assert!(waiting.enter(|cx, _| poll(cx, &mut waiter)).is_pending());
        outbox.report(&mut VecDeque::new(), false);
        assert!(waiting.is_woken());
        // the room goes before it looks, and comes again: it is told again
        outbox.report(&mut VecDeque::new(), true);
        assert!(waiting.enter(|cx, _| poll(cx, &mut waiter)).is_pending());
        assert!(!waiting.is_woken());
        outbox.report(&mut VecDeque::new(), false);
        assert!(waiting.is_woken());
        assert!(waiting.enter(|cx, _| poll(cx, &mut waiter)).is_ready());
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::future::poll_fn;

    use loom::{future::block_on, sync::Arc, thread};

    use super::*;

    /// The driver takes what there is and encodes it.
    fn make_room(outbox: &Outbox<u8>) -> usize {
        let mut batch = VecDeque::new();
        outbox.take(&mut batch);
        let taken = batch.len();
        for Queued { attention, .. } in batch.drain(..) {
            let ticket = attention.ticket().into_iter();
            ticket.for_each(|ticket| outbox.complete(ticket, Ok(1)));
        }
        outbox.report(&mut VecDeque::new(), false);
        taken
    }

    /// Whichever of them is woken by the room that the driver makes once, and whenever the other gives up, the one that
    /// stays gets the room.
    #[test]
    fn a_sender_that_gives_up_passes_its_turn_on() {
        loom::model(|| {
            let outbox = Arc::new(Outbox::new(1));
            outbox.try_push(Payload::Message(0)).unwrap();
            let (gives_up, stays) = (Arc::clone(&outbox), Arc::clone(&outbox));
            let gives_up = thread::spawn(move || {
                let cx = Context::from_waker(Waker::noop());
                let mut waiter = None;
                let pushed =
                    gives_up.poll_push(&cx, &mut Some(Payload::Message(1)), &mut waiter, false);
                if let Some(waiter) = waiter {
                    gives_up.leave(waiter);
                }
                pushed.is_ready()
            });
            let stays = thread::spawn(move || {
                let (mut message, mut waiter) = (Some(Payload::Message(2)), None);
                let pushed = block_on(poll_fn(|cx| {
                    stays.poll_push(cx, &mut message, &mut waiter, false)
                }));
                assert_eq!(pushed, Ok(None));
            });
            make_room(&outbox);
            if gives_up.join().unwrap() {
                // it was served: there is room for the other when its message has gone, too
                make_room(&outbox);
            }
            stays.join().unwrap();
        });
    }

    /// Whoever wants to know of room learns it, though the sender before gives up, and takes none from the next.
    #[test]
    fn room_that_a_sender_gives_up_is_seen_by_those_who_watch() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let outbox = Arc::new(Outbox::new(1));
            outbox.try_push(Payload::Message(0)).unwrap();
            let (gives_up, watches) = (Arc::clone(&outbox), Arc::clone(&outbox));
            let gives_up = thread::spawn(move || {
                let cx = Context::from_waker(Waker::noop());
                let mut waiter = None;
                let message = &mut Some(Payload::Message(1));
                let pushed = gives_up.poll_push(&cx, message, &mut waiter, false);
                if let Some(waiter) = waiter {
                    gives_up.leave(waiter);
                }
                pushed.is_ready()
            });
            let watches = thread::spawn(move || {
                let mut watcher = None;
                block_on(poll_fn(|cx| watches.poll_room(cx, &mut watcher))).unwrap();
            });
            make_room(&outbox);
            if gives_up.join().unwrap() {
                make_room(&outbox);
            }
            watches.join().unwrap();
        });
    }

    /// Two sends that meet the close, with room for one: each is refused, with its message, or sent, and its sender
    /// learns which.
    #[test]
    fn a_send_that_meets_the_close_is_refused_or_sent() {
        fn send(outbox: &Outbox<u8>) -> bool {
            let (mut message, mut waiter) = (Some(Payload::Message(1)), None);
            let pushed = block_on(poll_fn(|cx| {
                outbox.poll_push(cx, &mut message, &mut waiter, true)
            }));
            match pushed {
                Ok(ticket) => {
                    let ticket = ticket.unwrap();
                    let outcome = block_on(poll_fn(|cx| outbox.poll_outcome(cx, ticket)));
                    assert!(matches!(outcome, Ok(1)));
                    true
                }
                Err(refusal) => {
                    assert_eq!(refusal, Refusal::Closed);
                    assert_eq!(message.and_then(Payload::into_message), Some(1));
                    false
                }
            }
        }

        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let outbox = Arc::new(Outbox::new(1));
            let senders = [(); 2].map(|()| {
                let outbox = Arc::clone(&outbox);
                thread::spawn(move || send(&outbox))
            });
            outbox.close();
            let taken = make_room(&outbox);
            outbox.fail_all(VecDeque::new(), |_| unreachable!("nothing was left"));
            let sent = senders.map(|sender| sender.join().unwrap());
            assert_eq!(sent.into_iter().filter(|sent| *sent).count(), taken);
        });
    }
}
