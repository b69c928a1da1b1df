//! The queue between a session and its driver: messages, the outcomes of sends, and senders that wait for room.
//!
//! One mutex guards three queues, none of which holds memory until it is first used:
//!
//! - *messages* that the driver has not taken yet, each with the ticket of a `send` that waits for its outcome;
//! - *tickets*, a window with contiguous ids from the oldest send without an outcome to the newest;
//! - *waiters*, the senders for whom there was no room, in the order in which they came. Room goes to the
//!   first; nobody overtakes it. A waiter that gives up passes its wake-up on to the next.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use super::send::SendFailure;
use crate::sync::Mutex;

/// Which outcome a message is to be reported under.
pub(crate) type TicketId = u64;
/// Who waits for room.
pub(crate) type WaiterId = u64;

/// A message on its way to the driver.
#[derive(Debug)]
pub(crate) struct Queued<Out> {
    pub(crate) message: Out,
    pub(crate) ticket: Option<TicketId>,
}

/// Why a message was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
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
    tickets: VecDeque<Ticket<Out>>,
    first_ticket: TicketId,
    waiters: VecDeque<(WaiterId, Waker)>,
    next_waiter: WaiterId,
    /// How many messages may lie here and, taken but not encoded, with the driver.
    capacity: u32,
    /// How many of those the driver has taken and not encoded yet.
    taken: u32,
    /// The driver's write buffer is above its high watermark.
    blocked: bool,
    closed: bool,
}

impl<Out> State<Out> {
    fn room(&self) -> usize {
        if self.blocked {
            return 0;
        }
        (self.capacity as usize).saturating_sub(self.messages.len() + self.taken as usize)
    }

    /// The waker of the one whose turn it is, if there is room for it. It wakes the next when it has pushed.
    fn next_in_turn(&self) -> Option<Waker> {
        if self.room() == 0 {
            return None;
        }
        self.waiters.front().map(|(_, waker)| waker.clone())
    }

    fn push(&mut self, message: Out, attended: bool) -> Option<TicketId> {
        let ticket = attended.then(|| {
            self.tickets.push_back(Ticket::Waiting(None));
            self.first_ticket + self.tickets.len() as u64 - 1
        });
        self.messages.push_back(Queued { message, ticket });
        ticket
    }

    fn index(&self, ticket: TicketId) -> Option<usize> {
        let index = usize::try_from(ticket.checked_sub(self.first_ticket)?).ok()?;
        (index < self.tickets.len()).then_some(index)
    }

    /// Moves the window past what nobody will ask for.
    fn retire(&mut self) {
        while let Some(Ticket::Abandoned) = self.tickets.front() {
            self.tickets.pop_front();
            self.first_ticket += 1;
        }
        give_back(&mut self.tickets);
    }
}

/// Lets a queue that was long once, and is empty now, not stay large for ever.
fn give_back<T>(queue: &mut VecDeque<T>) {
    const KEEP: usize = 8;
    if queue.is_empty() && queue.capacity() > KEEP {
        queue.shrink_to(queue.capacity() / 2);
    }
}

impl<Out> Outbox<Out> {
    pub(crate) fn new(capacity: u32) -> Self {
        Self(Mutex::new(State {
            messages: VecDeque::new(),
            tickets: VecDeque::new(),
            first_ticket: 0,
            waiters: VecDeque::new(),
            next_waiter: 0,
            capacity,
            taken: 0,
            blocked: false,
            closed: false,
        }))
    }

    // the senders' side

    /// Queues `message` at once or hands it back. Does not overtake senders that wait.
    pub(crate) fn try_push(&self, message: Out) -> Result<(), (Refusal, Out)> {
        let mut state = self.0.lock();
        if state.closed {
            return Err((Refusal::Closed, message));
        }
        if !state.waiters.is_empty() || state.room() == 0 {
            return Err((Refusal::Full, message));
        }
        state.push(message, false);
        Ok(())
    }

    /// Queues `message` when there is room and it is the caller's turn. `message` is left where it is until then, and
    /// for good when the answer is an error. `waiter` is the caller's place among those who wait, kept between polls.
    pub(crate) fn poll_push(
        &self,
        cx: &Context<'_>,
        message: &mut Option<Out>,
        waiter: &mut Option<WaiterId>,
        attended: bool,
    ) -> Poll<Result<Option<TicketId>, Refusal>> {
        let mut state = self.0.lock();
        let place = match *waiter {
            Some(id) => state.waiters.binary_search_by_key(&id, |(id, _)| *id).ok(),
            None => None,
        };
        if state.closed {
            let gone = place.and_then(|place| state.waiters.remove(place));
            *waiter = None;
            drop(state);
            drop(gone);
            return Poll::Ready(Err(Refusal::Closed));
        }
        if place.unwrap_or(state.waiters.len()) == 0 && state.room() > 0 {
            let gone = place.and_then(|place| state.waiters.remove(place));
            *waiter = None;
            let ticket = message
                .take()
                .and_then(|message| state.push(message, attended));
            let next = state.next_in_turn();
            drop(state);
            drop(gone);
            next.into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(ticket));
        }
        let old = match place {
            Some(place) if state.waiters[place].1.will_wake(cx.waker()) => None,
            Some(place) => Some(std::mem::replace(
                &mut state.waiters[place].1,
                cx.waker().clone(),
            )),
            None => {
                let id = state.next_waiter;
                state.next_waiter += 1;
                state.waiters.push_back((id, cx.waker().clone()));
                *waiter = Some(id);
                None
            }
        };
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Gives up waiting for room; whoever is next in turn learns it.
    pub(crate) fn leave(&self, waiter: WaiterId) {
        let mut state = self.0.lock();
        let place = state
            .waiters
            .binary_search_by_key(&waiter, |(id, _)| *id)
            .ok();
        let gone = place.and_then(|place| state.waiters.remove(place));
        give_back(&mut state.waiters);
        let next = if place == Some(0) {
            state.next_in_turn()
        } else {
            None
        };
        drop(state);
        drop(gone);
        next.into_iter().for_each(Waker::wake);
    }

    /// The outcome of an attended message: how many bytes it took.
    pub(crate) fn poll_outcome(
        &self,
        cx: &Context<'_>,
        ticket: TicketId,
    ) -> Poll<Result<usize, SendFailure<Out>>> {
        let mut state = self.0.lock();
        let Some(index) = state.index(ticket) else {
            unreachable!("a ticket stays in the window until its outcome is taken");
        };
        match &mut state.tickets[index] {
            Ticket::Waiting(waker) => {
                let old = match waker {
                    Some(waker) if waker.will_wake(cx.waker()) => None,
                    _ => waker.replace(cx.waker().clone()),
                };
                drop(state);
                drop(old);
                Poll::Pending
            }
            done => {
                let outcome = std::mem::replace(done, Ticket::Abandoned);
                state.retire();
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
        let old = state
            .index(ticket)
            .map(|index| std::mem::replace(&mut state.tickets[index], Ticket::Abandoned));
        state.retire();
        drop(state);
        drop(old); // may hold the user's message or waker
    }

    /// How many messages wait here.
    pub(crate) fn len(&self) -> usize {
        let state = self.0.lock();
        state.messages.len() + state.taken as usize
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
        give_back(batch);
        std::mem::swap(&mut state.messages, batch);
        state.taken = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let next = state.next_in_turn();
        drop(state);
        next.into_iter().for_each(Waker::wake);
    }

    /// Says how much of the batch is left to encode, and whether the write buffer is above its high watermark. `true` if
    /// that woke a sender that waits.
    pub(crate) fn report(&self, left: usize, blocked: bool) -> bool {
        let mut state = self.0.lock();
        state.taken = u32::try_from(left).unwrap_or(u32::MAX);
        state.blocked = blocked;
        let next = state.next_in_turn();
        drop(state);
        let woken = next.is_some();
        next.into_iter().for_each(Waker::wake);
        woken
    }

    pub(crate) fn set_capacity(&self, capacity: u32) {
        self.0.lock().capacity = capacity;
    }

    pub(crate) fn complete(&self, ticket: TicketId, outcome: Result<usize, SendFailure<Out>>) {
        let mut state = self.0.lock();
        let Some(index) = state.index(ticket) else {
            return;
        };
        let old = match &mut state.tickets[index] {
            Ticket::Abandoned => Ticket::Done(outcome),
            waiting => std::mem::replace(waiting, Ticket::Done(outcome)),
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
        let wakers: Vec<_> = state
            .waiters
            .iter()
            .map(|(_, waker)| waker.clone())
            .collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The end: what was not sent fails, by `failure` given the message where it was never encoded.
    pub(crate) fn fail_all(
        &self,
        left: VecDeque<Queued<Out>>,
        failure: impl Fn(Option<Out>) -> SendFailure<Out>,
    ) {
        self.close();
        let mut state = self.0.lock();
        let messages = std::mem::take(&mut state.messages);
        drop(state);
        let mut unattended = Vec::new();
        for Queued { message, ticket } in left.into_iter().chain(messages) {
            match ticket {
                Some(ticket) => self.complete(ticket, Err(failure(Some(message)))),
                None => unattended.push(message),
            }
        }
        let mut state = self.0.lock();
        let mut wakers = Vec::new();
        for ticket in &mut state.tickets {
            if let Ticket::Waiting(waker) = ticket {
                wakers.extend(waker.take());
                *ticket = Ticket::Done(Err(failure(None)));
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        drop(unattended);
    }
}
