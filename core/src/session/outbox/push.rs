//! The senders' side: the way into the queue, and the wait for room in it.

use std::task::{Context, Poll};

use super::{
    Outbox, Refusal,
    entry::{Attention, Queued, watched_number},
    line::WaiterId,
    state::{Attended, Next},
    tickets::TicketId,
};
use crate::session::{payload::Payload, watched::Number};

impl<Out> Outbox<Out> {
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
        let refused = state.closed || state.finished || state.charges.is_some();
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
        let old = state.senders().waiters.stand(place, waiter, cx);
        drop(state);
        drop(old);
        (Poll::Pending, Next::One(None))
    }

    /// Queues `payload` as long as the queue has places, though the write buffer be above its high watermark. Without one,
    /// a `droppable` one replaces the oldest of its kind, which is handed out. Does not overtake senders that wait.
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
        let has_place = state.waiting() == 0 && state.places() > 0;
        if !has_place || !state.charge(&payload) {
            let is_droppable = |queued: &Queued<Out>| queued.attention.is_droppable();
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
            state.held -= replaced.as_ref().map_or(0, |old| old.attention.weight());
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
            let line = &mut state.senders().watchers;
            let place = watcher.and_then(|id| line.place(id));
            let old = if ready.is_some() {
                *watcher = None;
                line.remove(place)
            } else {
                line.stand(place, watcher, cx)
            };
            drop(state);
            drop(old);
        }
        ready.map_or(Poll::Pending, Poll::Ready)
    }

    /// Does not want to know of room any more.
    pub(crate) fn look_away(&self, watcher: WaiterId) {
        let mut state = self.0.lock();
        let line = &mut state.senders().watchers;
        let place = line.place(watcher);
        let gone = line.remove(place);
        drop(state);
        drop(gone);
    }
}
