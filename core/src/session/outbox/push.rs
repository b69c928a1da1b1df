//! Methods for senders: queueing a message, and waiting for room.

use std::task::{Context, Poll};

use super::{
    Outbox, Refusal,
    completions::TicketId,
    entry::{Completion, Queued, request_number},
    state::{CompletionKind, PendingWakes},
};
use crate::{connection::RequestNumber, session::payload::Payload, sync::WaiterId};

impl<Out> Outbox<Out> {
    /// Queues `payload` at once or returns it. Does not overtake waiting senders.
    pub(crate) fn try_push(&self, payload: Payload<Out>) -> Result<(), (Refusal, Payload<Out>)> {
        let mut state = self.0.lock();
        if let Some(refusal) = state.refusal() {
            return Err((refusal, payload));
        }
        if state.waiter_count() > 0 || state.room() == 0 {
            return Err((Refusal::Full, payload));
        }
        if !state.charge(&payload) {
            return Err((Refusal::Budget, payload));
        }
        state.push(payload, CompletionKind::None);
        Ok(())
    }

    /// Queues `payload` once there is room and no earlier sender waits. `payload` is not taken
    /// until then, nor with an error. `waiter` is the caller's id in the queue of senders, kept
    /// between polls.
    pub(crate) fn poll_push(
        &self,
        cx: &Context<'_>,
        payload: &mut Option<Payload<Out>>,
        waiter: &mut Option<WaiterId>,
        attended: bool,
    ) -> Poll<Result<Option<TicketId>, Refusal>> {
        let attended = if attended {
            CompletionKind::Send
        } else {
            CompletionKind::None
        };
        let (pushed, next) = self.poll_push_with(cx, payload, waiter, attended);
        next.wake();
        pushed
    }

    /// Queues a request if there is room at once and no sender waits.
    #[inline]
    pub(crate) fn push_request(&self, message: &mut Option<Out>) -> Option<RequestNumber> {
        let mut state = self.0.lock();
        let refused = state.closed || state.finished || state.usage.is_some();
        if refused || state.waiter_count() > 0 || state.room() == 0 {
            return None;
        }
        // no sender waits, so none must be woken
        let payload = Payload::Message(message.take()?);
        let completion = state.next_request();
        state.messages.push_back(Queued {
            payload,
            completion,
        });
        Some(state.last_request)
    }

    /// Like [`poll_push`](Self::poll_push) for a request. The second value contains the wakers of
    /// the next senders, which must be woken outside the caller's lock.
    pub(crate) fn poll_push_request(
        &self,
        cx: &Context<'_>,
        payload: &mut Option<Payload<Out>>,
        waiter: &mut Option<WaiterId>,
    ) -> (Poll<Result<Option<RequestNumber>, Refusal>>, PendingWakes) {
        let (pushed, next) =
            self.poll_push_with(cx, payload, waiter, CompletionKind::RequestOutcomes);
        let number = |ticket: Option<TicketId>| ticket.and_then(request_number);
        (pushed.map_ok(number), next)
    }

    #[inline]
    fn poll_push_with(
        &self,
        cx: &Context<'_>,
        payload: &mut Option<Payload<Out>>,
        waiter: &mut Option<WaiterId>,
        attended: CompletionKind,
    ) -> (Poll<Result<Option<TicketId>, Refusal>>, PendingWakes) {
        let mut state = self.0.lock();
        let position = waiter.and_then(|id| state.position(id));
        if let Some(refusal) = state.refusal() {
            let gone = state.remove(position);
            *waiter = None;
            drop(state);
            drop(gone);
            return (Poll::Ready(Err(refusal)), PendingWakes::One(None));
        }
        if position.unwrap_or(state.waiter_count()) == 0 && state.room() > 0 {
            let gone = state.remove(position);
            *waiter = None;
            if payload
                .as_ref()
                .is_some_and(|payload| !state.charge(payload))
            {
                let next = state.next_waiter();
                drop(state);
                drop(gone);
                // (design.md: Why does a full budget refuse a `send` when a full queue makes it
                // wait?)
                return (Poll::Ready(Err(Refusal::Budget)), next);
            }
            let finishes = matches!(payload, Some(Payload::Finish));
            let ticket = payload
                .take()
                .and_then(|payload| state.push(payload, attended));
            let next = if finishes {
                state.finished = true;
                PendingWakes::All(state.wake_all())
            } else {
                state.next_waiter()
            };
            drop(state);
            drop(gone);
            return (Poll::Ready(Ok(ticket)), next);
        }
        let old = state.senders().waiters.register(position, waiter, cx);
        drop(state);
        drop(old);
        (Poll::Pending, PendingWakes::One(None))
    }

    /// Queues `payload` while the queue has a free entry even if the write buffer is above its
    /// high watermark. Without a free entry, a `droppable` payload replaces the oldest droppable
    /// one, which is returned. Does not overtake waiting senders.
    #[inline]
    pub(crate) fn offer(
        &self,
        payload: Payload<Out>,
        droppable: bool,
    ) -> Result<Option<Payload<Out>>, (Refusal, Payload<Out>)> {
        let mut state = self.0.lock();
        if let Some(refusal) = state.refusal() {
            return Err((refusal, payload));
        }
        let mut replaced = None;
        let has_place = state.waiter_count() == 0 && state.free_entries() > 0;
        if !has_place || !state.charge(&payload) {
            let is_droppable = |queued: &Queued<Out>| queued.completion.is_droppable();
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
            state.held -= replaced.as_ref().map_or(0, |old| old.completion.weight());
        }
        state.messages.push_back(Queued {
            payload,
            completion: if droppable {
                Completion::DROPPABLE
            } else {
                Completion::NONE
            },
        });
        drop(state);
        Ok(replaced.map(|queued| queued.payload))
    }

    /// Stops waiting for room and wakes the next sender if there is room.
    pub(crate) fn cancel_push(&self, waiter: WaiterId) {
        let mut state = self.0.lock();
        let position = state.position(waiter);
        let gone = state.remove(position);
        let next = if position == Some(0) {
            state.next_waiter()
        } else {
            PendingWakes::One(None)
        };
        drop(state);
        drop(gone);
        next.wake();
    }

    /// Waits until a message would be queued at once, without taking the room. `watcher` is the
    /// caller's id, kept between polls.
    pub(crate) fn poll_room(
        &self,
        cx: &Context<'_>,
        watcher: &mut Option<WaiterId>,
    ) -> Poll<Result<(), Refusal>> {
        let mut state = self.0.lock();
        let ready = match state.refusal() {
            Some(refusal) => Some(Err(refusal)),
            None if state.waiter_count() == 0 && state.room() > 0 => Some(Ok(())),
            None => None,
        };
        if ready.is_none() || watcher.is_some() {
            let line = &mut state.senders().writable_waiters;
            let position = watcher.and_then(|id| line.position(id));
            let old = if ready.is_some() {
                *watcher = None;
                line.remove(position)
            } else {
                line.register(position, watcher, cx)
            };
            drop(state);
            drop(old);
        }
        ready.map_or(Poll::Pending, Poll::Ready)
    }

    /// Stops waiting for room that is not taken.
    pub(crate) fn cancel_room(&self, watcher: WaiterId) {
        let mut state = self.0.lock();
        let line = &mut state.senders().writable_waiters;
        let position = line.position(watcher);
        let gone = line.remove(position);
        drop(state);
        drop(gone);
    }
}
