//! From what has arrived to what is to be written: decodes, calls, encodes. Here it is decided what a message costs.

use std::{
    mem::needs_drop,
    pin::Pin,
    task::{Context, Poll},
};

use getty_core::{
    CloseReason, IntoReply, Reply, Request,
    driver::{Payload, Ticket},
};
use tokio::task::coop;
use tower::{BoxError, Service};

use super::{Finish, MESSAGES_A_UNIT, Phase, State, Turn, quietly};
use crate::{
    session::{
        calls::Calls, read::Decoded, ready::poll_ready_unconstrained, renew::Renew, wire::Wire,
    },
    transport::Ended,
};

/// Why the loop over ready messages stopped.
enum Stop<In, Out, E> {
    /// There is no message.
    Nothing,
    /// There is something else than a message.
    Decoded(Result<Decoded<In>, BoxError>),
    ServiceWaits,
    ServiceFailed(BoxError),
    CallWaits,
    CallFailed(E),
    /// A reply of more than one message, or one that others' messages go before.
    Reply(Reply<Out>),
    EncodeFailed(BoxError),
    /// The write buffer is above its limit.
    Blocked,
    /// Others may have waited long enough.
    Budget,
}

impl<S, W, R> State<S, W, R>
where
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
    R: Renew<S>,
{
    /// From what has arrived to what is to be written: decodes, calls, encodes, until one of them has to wait.
    #[inline]
    pub(super) fn exchange(
        &mut self,
        calls: Pin<&mut Calls<S::Future>>,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) {
        self.exchange_in_turn(calls, cx, turn);
        if self.handles() {
            let waits = turn.calls_wait || turn.service_waits || self.replies_blocked;
            if waits && !turn.yields && self.session().awaits_answers() {
                self.look_ahead();
            }
            if self.reader.is_finished() {
                self.wire.driver().input_ended();
            }
        }
    }

    /// The peer's answers are waited for, by a handler maybe: decodes past the messages whose turn has not come, so that
    /// the codec's adapters see the answers that lie behind them.
    #[cold]
    fn look_ahead(&mut self) {
        loop {
            match self.reader.decode_ahead(&mut self.wire) {
                Ok((Decoded::Message(message), bytes)) => {
                    self.messages_in += 1;
                    self.steps += 1;
                    if self.waiting.is_empty() {
                        self.reader.caught_up(bytes);
                    }
                    self.waiting.push_back(message, bytes);
                }
                Ok((Decoded::Nothing | Decoded::End, _)) => return,
                other => {
                    let other = other.map(|(decoded, _)| decoded);
                    if self.decode_failed(other).is_none() {
                        return;
                    }
                }
            }
        }
    }

    #[inline]
    fn exchange_in_turn(
        &mut self,
        mut calls: Pin<&mut Calls<S::Future>>,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) {
        loop {
            // handlers go on whatever the peer reads
            while !calls.is_empty() && !turn.calls_wait {
                match calls.as_mut().poll_next(cx) {
                    Poll::Ready(Some(result)) => {
                        if let Some(reply) = self.finished(result) {
                            self.replies.push_back(reply);
                        }
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => turn.calls_wait = true,
                }
            }
            // what a handler has queued leaves before its reply
            self.wire.driver().look();
            if self.wire.driver().has_outgoing() {
                self.encode_outgoing();
            }
            while !self.replies_blocked
                && let Some(reply) = self.replies.pop_front()
            {
                if self.wire.driver().has_own_messages() {
                    self.encode_own();
                }
                self.encode_reply(reply);
            }
            if self.replies_blocked || turn.yields || !self.handles() {
                return;
            }
            if self.phase == Phase::Running && self.is_closing() {
                return;
            }
            let none = calls.is_empty() && self.replies.is_empty();
            let has_room = none || calls.len() + self.replies.len() < self.config.in_flight;
            if !has_room || !self.call_next(calls.as_mut(), cx, turn) {
                let finished = self.reader.is_finished() && self.waiting.is_empty();
                if finished && self.phase == Phase::Running {
                    self.peer_finished(calls.len());
                }
                return;
            }
        }
    }

    /// All that the peer has sent is with the handlers. On a half-close it is answered first, for as long as that takes.
    #[cold]
    fn peer_finished(&mut self, in_flight: usize) {
        if let Some(Ended { reason, source }) = self.wire.ended() {
            self.close_because(reason, source);
        } else if in_flight == 0 && self.replies.is_empty() {
            self.session().close_with(CloseReason::PeerClosed);
        }
    }

    /// Calls the service, until something has to wait. `false` when there is nothing to call now.
    #[inline]
    fn call_next(
        &mut self,
        mut calls: Pin<&mut Calls<S::Future>>,
        cx: &mut Context<'_>,
        turn: &mut Turn,
    ) -> bool {
        if turn.service_waits {
            return false;
        }
        let (steps, before) = (self.steps, self.writer.len());
        let stop = self.run(calls.as_mut(), cx);
        if const { needs_drop::<S>() } {
            turn.called |= self.steps != steps;
        }
        match stop {
            Stop::Nothing => return false,
            Stop::Decoded(other) => return self.decode_failed(other).is_some(),
            Stop::ServiceWaits => {
                turn.service_waits = true;
                return false;
            }
            Stop::ServiceFailed(error) => {
                // the message that was taken for it
                self.wire.driver().unhandled(1, 0);
                self.stack_failed(error);
                return false;
            }
            Stop::CallWaits => turn.calls_wait = calls.waits_alone(),
            Stop::CallFailed(error) => self.stack_failed(error),
            Stop::Reply(reply) => {
                let reply = self.check_reply(reply);
                if self.wire.driver().is_signalled() {
                    self.replies.push_back(reply);
                } else {
                    self.encode_reply(reply);
                }
            }
            Stop::EncodeFailed(error) => self.encode_failed(error),
            Stop::Blocked => {
                self.count_bytes(self.writer.len() - before);
                self.replies_blocked = self.is_over_limit(before);
            }
            Stop::Budget => {}
        }
        turn.yields = self.take_budget(cx).is_pending();
        true
    }

    /// Calls the service with one message after another as long as nobody wants anything else of this session: the loop
    /// that decides what a message costs.
    #[inline]
    fn run(
        &mut self,
        mut calls: Pin<&mut Calls<S::Future>>,
        cx: &mut Context<'_>,
    ) -> Stop<W::In, W::Out, S::Error> {
        let limit = self.call_limit();
        let Self {
            wire,
            reader,
            writer,
            waiting,
            messages_in,
            steps,
            finish,
            ..
        } = self;
        let Some(service) = &mut self.service else {
            return Stop::ServiceWaits;
        };
        let lets_send = finish.lets_send();
        loop {
            // decode first: a session without a message holds no permit
            let message = if waiting.is_empty() {
                match reader.decode(wire) {
                    Ok(Decoded::Message(message)) => {
                        *messages_in += 1;
                        message
                    }
                    Ok(Decoded::Nothing) => return Stop::Nothing,
                    other => return Stop::Decoded(other),
                }
            } else {
                let Some((message, bytes)) = waiting.pop_front() else {
                    return Stop::Nothing;
                };
                reader.caught_up(bytes);
                message
            };
            let mut ready = service.poll_ready(cx);
            // without drop glue the stack holds no tokio resource that could have spent the budget
            if const { needs_drop::<S>() } && !coop::has_budget_remaining() {
                ready = poll_ready_unconstrained(service, cx, ready);
                *steps = MESSAGES_A_UNIT; // the poll ends after this message
            }
            match ready {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Stop::ServiceFailed(error.into()),
                Poll::Pending => {
                    waiting.push_front(message);
                    return Stop::ServiceWaits;
                }
            }
            *steps += 1;
            let call = || service.call(wire.driver().request(message));
            let Poll::Ready(result) = calls.as_mut().start(cx, call) else {
                return Stop::CallWaits;
            };
            let message = match result.map(|response| response.into_reply().into_plain()) {
                Ok(Ok(message)) => message,
                Ok(Err(reply)) => return Stop::Reply(reply),
                Err(error) => return Stop::CallFailed(error),
            };
            // what a handler has queued leaves before its reply, and a close that it asked for stops us here
            if wire.driver().is_signalled() || !lets_send {
                return Stop::Reply(message.into_reply());
            }
            if let Some(message) = message
                && let Err(error) = writer.encode(wire, message)
            {
                return Stop::EncodeFailed(error);
            }
            if writer.len() > limit {
                return Stop::Blocked;
            }
            if *steps >= MESSAGES_A_UNIT {
                return Stop::Budget;
            }
        }
    }

    #[cold]
    fn decode_failed(&mut self, decoded: Result<Decoded<W::In>, BoxError>) -> Option<()> {
        match decoded {
            Ok(Decoded::Bad(error)) if self.skip_bad => {
                self.skip(&*error);
                return Some(());
            }
            Ok(Decoded::Bad(error)) | Err(error) => {
                self.close_because(CloseReason::Decode, error);
                self.stop_receiving();
            }
            Ok(_) => {} // the end, which closes the session once all is answered
        }
        None
    }

    /// A handler has finished: its reply, unless it failed and the session closes.
    fn finished(&mut self, result: Result<S::Response, S::Error>) -> Option<Reply<W::Out>> {
        match result {
            Ok(response) => Some(self.check_reply(response.into_reply())),
            Err(error) => {
                self.stack_failed(error);
                None
            }
        }
    }

    #[inline]
    fn check_reply(&mut self, reply: Reply<W::Out>) -> Reply<W::Out> {
        if reply.is_after_error() {
            self.renew();
        }
        reply
    }

    /// Replaces the stack before the session waits for its next message: it may still hold a permit
    /// of a shared limit, or a position in the queue for one (design.md: Why does the loop replace
    /// its clone of the stack?).
    #[inline]
    pub(super) fn release_readiness(&mut self, turn: &mut Turn) {
        // without drop glue there is nothing to give back
        if const { needs_drop::<S>() } && turn.called && !turn.service_waits {
            turn.called = false;
            self.renew();
        }
    }

    /// Replaces the stack by one that was never polled, where there is one.
    #[inline(never)]
    fn renew(&mut self) {
        if self.service.is_some()
            && let Some(fresh) = self.renew.fresh()
        {
            let old = self.service.replace(fresh);
            if const { needs_drop::<S>() } {
                quietly(|| drop(old));
            }
        }
    }

    /// Encodes what was sent, as far as the peer reads it.
    #[inline(never)]
    fn encode_outgoing(&mut self) {
        let limit = self.push_limit();
        let start = self.writer.encoded();
        while self.wire.driver().has_outgoing() {
            if self.writer.len() > limit {
                self.pushes_blocked = true;
                self.writer.mark_pushed(start);
                return;
            }
            let Some(bytes) = self.encode_next() else {
                break;
            };
            self.writer.note_size(bytes);
        }
        self.writer.mark_pushed(start);
        self.wire.driver().encoded_all();
    }

    /// Encodes what this session's handlers have queued, and all that was queued earlier. It leaves
    /// before the handlers' replies, and counts as replies.
    #[cold]
    fn encode_own(&mut self) {
        while self.wire.driver().has_outgoing() && self.encode_next().is_some() {}
        self.wire.driver().encoded_all();
    }

    /// Encodes the next message that was sent. Returns its size in bytes, and `None` if there is no
    /// message.
    #[inline(always)]
    fn encode_next(&mut self) -> Option<usize> {
        let outgoing = self.wire.driver().next_outgoing()?;
        if let Payload::Finish = outgoing.payload {
            outgoing
                .ticket
                .into_iter()
                .for_each(|ticket| self.finish(ticket));
            return Some(0);
        }
        match (
            self.writer.put(&mut self.wire, outgoing.payload),
            outgoing.ticket,
        ) {
            (Ok(bytes), Some(ticket)) => {
                self.writer.attend(ticket, bytes);
                return Some(bytes);
            }
            (Ok(bytes), None) => return Some(bytes),
            (Err(error), Some(ticket)) => self.wire.driver().fail(&ticket, error.into()),
            (Err(error), None) => self.encode_failed(error),
        }
        Some(0)
    }

    /// Our direction is to end here.
    #[cold]
    fn finish(&mut self, ticket: Ticket) {
        if self.wire.can_finish() {
            self.finish = Finish::Asked;
            self.writer.keep_end(ticket);
        } else {
            self.wire.driver().cannot_finish(&ticket);
        }
    }

    #[inline(never)]
    fn encode_reply(&mut self, reply: Reply<W::Out>) {
        let (messages, close) = reply.into_parts();
        let before = self.writer.len();
        for message in messages {
            if !self.finish.lets_send() {
                self.discard_reply(message);
                continue;
            }
            if let Err(error) = self.writer.encode(&mut self.wire, message) {
                self.encode_failed(error);
                if !self.skip_bad {
                    break; // what comes after it is not to be taken for it
                }
            }
        }
        self.limit_calls(before);
        if let Some(reason) = close {
            self.session().close_with(reason);
        }
    }

    /// Counts a reply that cannot be sent.
    #[cold]
    #[inline(never)]
    fn discard_reply(&mut self, message: W::Out) {
        let driver = self.wire.driver();
        if self.finish == Finish::Failed {
            driver.unsent(1, 0);
        } else {
            driver.dropped(1);
        }
        quietly(|| drop(message));
    }

    /// Nobody waits for the outcome of this message.
    #[cold]
    fn encode_failed(&mut self, error: BoxError) {
        if self.skip_bad {
            self.skip(&*error);
        } else {
            self.close_because(CloseReason::Encode, error);
        }
    }

    #[cold]
    fn skip(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        tracing::debug!(session = %self.session(), %error, "a message is skipped");
        self.wire.driver().skipped();
    }
}
