//! The hot path: decode, call the service, encode.

use std::{
    mem::needs_drop,
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll},
};

use getty_core::{
    CloseReason, IntoReply, Reply,
    driver::{Payload, Ticket},
    hooks::HandleExt,
};
use tower::BoxError;

use super::{OutputEnd, Phase, PollState, SessionLoop};
use crate::{
    session::{
        calls::InFlight,
        catch::drop_catching_panics,
        framed_transport::FramedTransport,
        input::Decoded,
        schedule::{CooperativeBudget, poll_ready_unconstrained},
        stack::{MessageStack, StackSource},
    },
    transport::{CloseCause, Transport},
};

/// Reason why the loop over messages stopped.
enum Stop<In, Out, E> {
    /// There is no message.
    Nothing,
    /// Decoding returned a bad message, an error or the end.
    Decoded(Result<Decoded<In>, BoxError>),
    ServicePending,
    ServiceFailed(BoxError),
    CallPending,
    CallFailed(E),
    /// A reply of several messages, or one that queued messages must precede.
    Reply(Reply<Out>),
    EncodeFailed(BoxError),
    /// The write buffer is above its limit.
    OverLimit,
    /// A unit of the cooperative budget is due.
    BudgetDue,
}

impl<S, W, R> SessionLoop<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Decodes, calls the service and encodes until each step must wait.
    #[inline]
    pub(super) fn dispatch(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        cx: &mut Context<'_>,
        poll: &mut PollState,
    ) {
        self.dispatch_in_order(calls, cx, poll);
        if self.handles() {
            let waits =
                poll.calls_pending || poll.service_pending || self.watermark.stops_handling();
            if waits && !poll.yields && self.session().awaits_responses() {
                self.decode_ahead();
            }
            if self.reader.is_decoded() {
                self.wire.driver().end_input();
            }
        }
    }

    /// Decodes messages before they can be handled, because a request awaits a response that may be
    /// behind them. The codec's adapters take responses out (design.md: Why does the session loop
    /// decode ahead while a request waits?).
    #[cold]
    fn decode_ahead(&mut self) {
        loop {
            match self.reader.decode_ahead(&mut self.wire) {
                ControlFlow::Continue(()) => {
                    self.messages_in += 1;
                    self.budget.count_message();
                }
                ControlFlow::Break(Ok(Decoded::Nothing | Decoded::End)) => return,
                ControlFlow::Break(other) => {
                    if self.decode_failed(other).is_none() {
                        return;
                    }
                }
            }
        }
    }

    #[inline]
    fn dispatch_in_order(
        &mut self,
        mut calls: Pin<&mut InFlight<S::Future>>,
        cx: &mut Context<'_>,
        poll: &mut PollState,
    ) {
        loop {
            // Handlers in flight continue even while backpressure stops further calls.
            while !calls.is_empty() && !poll.calls_pending {
                match calls.as_mut().poll_next(cx) {
                    Poll::Ready(Some(result)) => {
                        if let Some(reply) = self.finished(calls.as_mut(), result) {
                            self.replies.get_or_default().push_back(reply);
                        } else if self.phase > Phase::Draining {
                            return; // nothing is encoded during an upgrade
                        }
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => poll.calls_pending = true,
                }
            }
            // Messages that a handler has queued must be encoded before its reply.
            if self.wire.driver().poll_signals() {
                self.apply_settings(poll);
            }
            if self.wire.driver().has_outgoing() {
                self.encode_outgoing();
            }
            while !self.watermark.stops_handling()
                && let Some(reply) = self.replies.pop_front()
            {
                // (design.md: Why does a handler's own push overtake others when the peer is slow?)
                if self.wire.driver().has_own_messages() {
                    self.encode_own();
                }
                self.encode_reply(reply);
            }
            if self.watermark.stops_handling() || poll.yields || !self.handles() {
                return;
            }
            if self.phase == Phase::Running && self.is_closing() {
                return;
            }
            let none = calls.is_empty() && self.replies.is_empty();
            let has_room = none || calls.len() + self.replies.len() < self.config.in_flight;
            if !has_room || !self.call_service(calls.as_mut(), cx, poll) {
                if self.reader.is_finished() && self.phase == Phase::Running {
                    self.input_finished(calls.len());
                }
                return;
            }
        }
    }

    /// Closes the session after the peer has ended its direction and handlers have all its
    /// messages. After a half-close all replies are sent first (design.md: Why does half-close not
    /// end a session?), without a deadline (design.md: Why does a half-closed session have no
    /// deadline?).
    #[cold]
    fn input_finished(&mut self, in_flight: usize) {
        if let Some(CloseCause { reason, source }) = self.wire.transport_mut().take_close_reason() {
            self.close_because(reason, source);
        } else if in_flight == 0 && self.replies.is_empty() {
            self.session().close_with(CloseReason::PeerClosed);
        }
    }

    /// Calls the service with the messages that have arrived. Returns `false` if no message can be
    /// handled now.
    #[inline]
    fn call_service(
        &mut self,
        mut calls: Pin<&mut InFlight<S::Future>>,
        cx: &mut Context<'_>,
        poll: &mut PollState,
    ) -> bool {
        if poll.service_pending {
            return false;
        }
        let (counted, before) = (self.budget.counted(), self.writer.len());
        let stop = self.call_until_stopped(calls.as_mut(), cx);
        if const { needs_drop::<S>() } {
            poll.service_called |= self.budget.counted() != counted;
        }
        match stop {
            Stop::Nothing => return false,
            Stop::Decoded(other) => return self.decode_failed(other).is_some(),
            Stop::ServicePending => {
                poll.service_pending = true;
                return false;
            }
            Stop::ServiceFailed(error) => {
                // The message that was decoded for the call.
                self.wire.driver().record_unhandled(1, 0);
                self.stack_failed(error);
                return false;
            }
            Stop::CallPending => poll.calls_pending = calls.polls_at_start(),
            Stop::CallFailed(error) => self.stack_failed(error),
            Stop::Reply(reply) => {
                let Some(reply) = self.check_reply(calls, reply) else {
                    return false;
                };
                if self.wire.driver().is_signalled() {
                    self.replies.get_or_default().push_back(reply);
                } else {
                    self.encode_reply(reply);
                }
            }
            Stop::EncodeFailed(error) => self.encode_failed(error),
            Stop::OverLimit => {
                self.budget.count_bytes(self.writer.len() - before);
                self.stop_over_limit(before);
            }
            Stop::BudgetDue => {}
        }
        poll.yields = self.budget.poll_proceed(cx).is_pending();
        true
    }

    /// Calls the service with one message after another, as long as the session has nothing else to
    /// do. This loop determines the cost of a message.
    #[inline]
    fn call_until_stopped(
        &mut self,
        mut calls: Pin<&mut InFlight<S::Future>>,
        cx: &mut Context<'_>,
    ) -> Stop<W::In, W::Out, S::Error> {
        let limit = self.handling_limit();
        let Self {
            wire,
            reader,
            writer,
            messages_in,
            budget,
            output_end,
            ..
        } = self;
        let Some(service) = &mut self.service else {
            return Stop::ServicePending;
        };
        let is_output_open = *output_end == OutputEnd::Open;
        loop {
            // The message comes before the poll of readiness, so that a session without a message
            // holds no permit (design.md: Why is a message decoded before readiness is polled?).
            let message = match reader.next(wire, messages_in) {
                Ok(Decoded::Message(message)) => message,
                Ok(Decoded::Nothing) => return Stop::Nothing,
                other => return Stop::Decoded(other),
            };
            let mut ready = service.poll_ready(cx);
            // Without drop glue the stack cannot hold a tokio resource that has spent the budget.
            if const { needs_drop::<S>() } && CooperativeBudget::is_exhausted() {
                ready = poll_ready_unconstrained(service, cx, ready);
                budget.make_due(); // the poll ends after this message
            }
            match ready {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Stop::ServiceFailed(error.into()),
                Poll::Pending => {
                    reader.put_back(message);
                    return Stop::ServicePending;
                }
            }
            budget.count_message();
            let Some(single) = calls.as_mut().single() else {
                calls.push(service.call(wire.driver().request(message)));
                return Stop::CallPending;
            };
            let call = || service.call(wire.driver().request(message));
            let Poll::Ready(result) = single.start(cx, call) else {
                return Stop::CallPending;
            };
            let message = match result.map(|response| response.into_reply().into_plain()) {
                Ok(Ok(message)) => message,
                Ok(Err(reply)) => return Stop::Reply(reply),
                Err(error) => return Stop::CallFailed(error),
            };
            // A handler's queued messages must go before its reply. Its close takes effect here.
            if wire.driver().is_signalled() || !is_output_open {
                return Stop::Reply(message.into_reply());
            }
            if let Some(message) = message
                && let Err(error) = writer.encode(wire, message)
            {
                return Stop::EncodeFailed(error);
            }
            // (design.md: Why is the watermark checked after each message?)
            if writer.len() > limit {
                return Stop::OverLimit;
            }
            if budget.is_due() {
                return Stop::BudgetDue;
            }
        }
    }

    /// Skips a bad message, or closes the session. `None` if no further message can be decoded.
    #[cold]
    fn decode_failed(&mut self, decoded: Result<Decoded<W::In>, BoxError>) -> Option<()> {
        match decoded {
            Ok(Decoded::Bad(error)) if self.skips_bad() => {
                self.skip(&*error);
                return Some(());
            }
            Ok(Decoded::Bad(error)) | Err(error) => {
                self.close_because(CloseReason::Decode, error);
                self.stop_receiving();
            }
            Ok(_) => {} // the end, which closes the session after all replies
        }
        None
    }

    /// Returns the reply of a handler that has finished. `None` if it failed, which closes the
    /// session.
    /// `None` as well if the reply has begun an upgrade of the transport.
    fn finished(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        result: Result<S::Response, S::Error>,
    ) -> Option<Reply<W::Out>> {
        match result {
            Ok(response) => self.check_reply(calls, response.into_reply()),
            Err(error) => {
                self.stack_failed(error);
                None
            }
        }
    }

    /// Acts on a reply that replaces an error or that upgrades the transport. Returns the reply,
    /// unless it has begun an upgrade.
    #[inline]
    fn check_reply(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        reply: Reply<W::Out>,
    ) -> Option<Reply<W::Out>> {
        if reply.is_ending() {
            return self.check_ending_reply(calls, reply);
        }
        Some(reply)
    }

    /// Acts on a reply that does more than send messages. Returns it unless it has begun an
    /// upgrade.
    #[cold]
    fn check_ending_reply(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        reply: Reply<W::Out>,
    ) -> Option<Reply<W::Out>> {
        if reply.is_after_error() {
            self.replace_stack();
        }
        if reply.upgrades() {
            return self.begin_upgrade(calls, reply);
        }
        Some(reply)
    }

    /// Replaces the stack before the session waits for its next message: it may still hold a permit
    /// of a shared limit, or a position in the queue for one (design.md: Why does the loop replace
    /// its clone of the stack?).
    #[inline]
    pub(super) fn release_readiness(&mut self, poll: &mut PollState) {
        // A stack without drop glue holds nothing that could be released.
        if const { needs_drop::<S>() } && poll.service_called && !poll.service_pending {
            poll.service_called = false;
            self.replace_stack();
        }
    }

    /// Replaces the stack with one that was never polled, unless its source makes only one.
    #[inline(never)]
    fn replace_stack(&mut self) {
        if self.service.is_some()
            && let Some(fresh) = self.source.fresh()
        {
            let old = self.service.replace(fresh);
            if const { needs_drop::<S>() } {
                drop_catching_panics(old);
            }
        }
    }

    /// Encodes messages from the outbox, up to the watermark.
    #[inline(never)]
    fn encode_outgoing(&mut self) {
        let limit = self.push_limit();
        let start = self.writer.encoded();
        while self.wire.driver().has_outgoing() {
            if self.watermark.stop_pushes_above(limit, self.writer.len()) {
                self.writer.mark_pushed(start);
                return;
            }
            let Some(bytes) = self.encode_next() else {
                break;
            };
            self.writer.note_size(bytes);
        }
        self.writer.mark_pushed(start);
        self.wire.driver().clear_own_messages();
    }

    /// Encodes the messages that this session's handlers have queued and all that were queued
    /// earlier. They precede the handlers' replies and count as replies.
    #[cold]
    pub(super) fn encode_own(&mut self) {
        while self.wire.driver().has_outgoing() && self.encode_next().is_some() {}
        self.wire.driver().clear_own_messages();
    }

    /// Encodes the next message from the outbox. Returns its size in bytes, or `None` if the outbox
    /// is empty.
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
        let is_shared = matches!(outgoing.payload, Payload::Shared(_));
        match (
            self.writer.encode_payload(&mut self.wire, outgoing.payload),
            outgoing.ticket,
        ) {
            (Ok(bytes), Some(ticket)) => {
                self.writer.add_completion(ticket, bytes);
                return Some(bytes);
            }
            (Ok(bytes), None) => return Some(bytes),
            (Err(error), Some(ticket)) => self.wire.driver().fail(&ticket, error.into()),
            (Err(error), None) if is_shared => self.drop_broadcast(&*error),
            (Err(error), None) => self.encode_failed(error),
        }
        Some(0)
    }

    /// Ends our direction behind all messages that were encoded before.
    #[cold]
    fn finish(&mut self, ticket: Ticket) {
        if self.wire.transport().can_finish() {
            self.output_end = OutputEnd::Requested;
            self.writer.set_finish_ticket(ticket);
        } else {
            self.wire.driver().fail_finish(&ticket);
        }
    }

    /// Encodes the messages of a reply, and closes the session if the reply requests it.
    #[inline(never)]
    pub(super) fn encode_reply(&mut self, reply: Reply<W::Out>) {
        let (messages, close) = reply.into_parts();
        let before = self.writer.len();
        for message in messages {
            if self.output_end != OutputEnd::Open {
                self.discard_reply(message);
                continue;
            }
            if let Err(error) = self.writer.encode(&mut self.wire, message) {
                self.encode_failed(error);
                if !self.skips_bad() {
                    break; // the peer must not take the next message for this one
                }
            }
        }
        self.limit_handling(before);
        if let Some(close) = close {
            self.session().close_with(close);
        }
    }

    /// Counts a reply that cannot be sent.
    #[cold]
    #[inline(never)]
    fn discard_reply(&mut self, message: W::Out) {
        let driver = self.wire.driver();
        if self.output_end == OutputEnd::Failed {
            driver.record_unsent(1, 0);
        } else {
            driver.record_dropped(1);
        }
        drop_catching_panics(message);
    }

    /// Drops a broadcast that this session cannot encode.
    // (design.md: Why does a broadcast that cannot be encoded close no member?)
    #[cold]
    fn drop_broadcast(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        tracing::debug!(connection = %self.session(), %error, "dropped a broadcast");
        self.wire.driver().record_dropped(1);
    }

    /// Returns `true` if bad messages are skipped and counted. Otherwise they close the session.
    // Not a field: it is rarely needed, and every session would hold it.
    #[cold]
    fn skips_bad(&self) -> bool {
        self.config.skips_bad(self.wire.transport().framing())
    }

    /// Skips a message that cannot be encoded and that no task awaits, or closes the session.
    #[cold]
    fn encode_failed(&mut self, error: BoxError) {
        if self.skips_bad() {
            self.skip(&*error);
        } else {
            self.close_because(CloseReason::Encode, error);
        }
    }

    /// Counts a bad message.
    #[cold]
    fn skip(&mut self, error: &(dyn std::error::Error + Send + Sync)) {
        tracing::debug!(connection = %self.session(), %error, "skipped a bad message");
        self.wire.driver().record_skipped();
    }
}
