//! Upgrades the transport of an open session, for example to TLS.
//!
//! A reply requests it. [`Phase::Upgrading`] has two parts. The old transport flushes the
//! encoded bytes first. Then the transport runs its handshake. The phase must not read and must
//! not encode. So messages that are sent meanwhile leave through the new transport.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use getty_core::{CloseReason, Reply};

use super::{OutputEnd, Phase, PollState, SessionLoop, Step};
use crate::{
    session::{
        calls::InFlight,
        catch::drop_catching_panics,
        framed_transport::FramedTransport,
        schedule::Clock,
        stack::{MessageStack, StackSource},
    },
    transport::{CloseCause, Transport},
    upgrade::{BytesBeforeUpgrade, UpgradeError},
};

impl<S, W, R> SessionLoop<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Begins the upgrade that `reply` requests: encodes all that was queued before it and then the
    /// reply. A refused upgrade closes the session, and the reply is not sent. Returns the reply if
    /// the session is closing already. It must then be sent as usual.
    #[cold]
    pub(super) fn begin_upgrade(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        reply: Reply<W::Out>,
    ) -> Option<Reply<W::Out>> {
        if self.phase != Phase::Running || self.is_closing() {
            return Some(reply);
        }
        if self.wire.driver().poll_signals() {
            // Settings that the handler has changed. Its message was decoded.
            let decoded = true;
            self.apply_settings(&PollState {
                decoded,
                ..PollState::default()
            });
        }
        self.encode_own();
        if self.is_closing() {
            return Some(reply);
        }
        match self.check_upgrade(calls.len()) {
            Ok(()) => {
                self.phase = Phase::Upgrading;
                self.encode_reply(reply);
            }
            Err(CloseCause { reason, source }) => {
                self.close_because(reason, source);
                self.wire.driver().record_unsent(reply.len() as u64, 0);
                drop_catching_panics(reply);
                self.give_up_upgrade(calls, &mut Clock::default());
            }
        }
        None
    }

    /// Returns an error if the session or its transport cannot be upgraded now. `in_flight` other
    /// messages are being handled.
    fn check_upgrade(&mut self, in_flight: usize) -> Result<(), CloseCause> {
        let messages = in_flight + self.replies.len() + self.reader.ahead();
        // The codec may refer to an incomplete message that it has seen.
        if messages > 0 || self.reader.is_incomplete() {
            let bytes = self.reader.undecoded();
            return Err(BytesBeforeUpgrade { messages, bytes }.into());
        }
        // A codec such as `Frames` takes several messages out of the buffer at once. It returns the
        // next one, or puts back the bytes behind its last one.
        let mut kept = BytesMut::new();
        match self.wire.decode(&mut kept, false) {
            Ok(Some(message)) => {
                drop_catching_panics(message);
                self.wire.driver().record_unhandled(1, 0);
                self.reader.put_back_bytes(kept);
                let bytes = self.reader.undecoded();
                return Err(BytesBeforeUpgrade { messages: 1, bytes }.into());
            }
            Err(source) if kept.is_empty() => {
                let reason = CloseReason::Decode;
                return Err(CloseCause { reason, source });
            }
            // Bytes that are no message of the codec may belong to the upgraded stream.
            Ok(None) | Err(_) => self.reader.put_back_bytes(kept),
        }
        if self.config.in_flight > 1 {
            return Err(UpgradeError::SeveralHandlers.into());
        }
        if self.output_end != OutputEnd::Open {
            return Err(UpgradeError::Finished.into());
        }
        if self.reader.has_ended() {
            return Err(UpgradeError::PeerFinished.into());
        }
        let undecoded = self.reader.undecoded_bytes();
        self.wire.transport().check_upgrade(undecoded)
    }

    /// Runs the transport's handshake once all output is flushed.
    #[cold]
    pub(super) fn poll_upgrade(&mut self, cx: &mut Context<'_>, poll: &mut PollState) -> Step {
        self.reader.shrink_if_idle();
        if !self.writer.is_flushed() {
            return Step::Next;
        }
        let handle = self.session().handle().clone();
        let undecoded = self.reader.undecoded_mut();
        let transport = self.wire.transport_mut();
        match transport.poll_upgrade(cx, &handle, undecoded) {
            Poll::Pending => Step::Next,
            Poll::Ready(Ok(())) => {
                self.reader.restart(self.wire.max_frame());
                self.phase = Phase::Running;
                poll.transport_pending = false;
                self.wire.driver().record_upgraded();
                Step::Repeat
            }
            Poll::Ready(Err(CloseCause { reason, source })) => {
                self.close_because(reason, source);
                Step::End
            }
        }
    }

    /// Ends the upgrade because the session closes. During the handshake nothing can reach the
    /// peer. Before it, the old transport flushes what is encoded.
    #[cold]
    pub(super) fn cut_off_upgrade(
        &mut self,
        calls: Pin<&mut InFlight<S::Future>>,
        poll: &mut PollState,
    ) -> Step {
        if self.writer.is_flushed() || self.is_cut_short() {
            return Step::End;
        }
        self.give_up_upgrade(calls, &mut poll.clock);
        Step::Next
    }

    /// Begins the close of a session that was not upgraded. Only encoded bytes are flushed. Queued
    /// messages fail, because they must not leave through the old transport.
    fn give_up_upgrade(&mut self, mut calls: Pin<&mut InFlight<S::Future>>, clock: &mut Clock) {
        let replies = self.replies.take();
        let driver = self.wire.driver();
        driver.fail_queued(None);
        driver.record_unhandled(calls.len() as u64, 0);
        driver.record_unsent(replies.len() as u64, 0);
        calls.as_mut().clear();
        for reply in replies {
            drop_catching_panics(reply);
        }
        self.stop_reading(Phase::Flushing, clock);
    }
}
