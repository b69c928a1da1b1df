//! Counters, timestamps and flags that the session's handle publishes.

use super::{Phase, PollState, SessionLoop};
use crate::{
    session::{
        framed_transport::FramedTransport,
        stack::{MessageStack, StackSource},
    },
    transport::{Received, Transport},
};

impl<S, W, R> SessionLoop<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Counts decoded messages, which are activity of the peer.
    #[inline]
    pub(super) fn count_messages(&mut self, poll: &mut PollState) {
        if self.messages_in > 0 {
            let driver = self.wire.driver();
            let now = poll.clock.timestamp(driver);
            driver.record_messages_in(std::mem::take(&mut self.messages_in).into(), now);
            poll.decoded = true;
        }
    }

    /// Records the result of a read.
    #[inline]
    pub(super) fn record_received(&mut self, received: Received, poll: &mut PollState) {
        match received {
            Received::Data(bytes) => {
                self.budget.count_bytes(bytes);
                let driver = self.wire.driver();
                driver.record_received(bytes, poll.clock.timestamp(driver));
            }
            Received::Control(bytes) => {
                let driver = self.wire.driver();
                driver.record_received(bytes, poll.clock.timestamp(driver));
            }
            Received::Lost(messages) => self.wire.driver().record_lost(messages.into()),
            Received::Invalid => {}
            Received::End => {
                self.wire.driver().record_peer_finished();
                // The transport may reply to the end, as WebSocket does.
                self.writer.mark_dirty();
            }
        }
        if self.wire.transport().needs_flush() {
            self.writer.mark_dirty();
        }
    }

    /// Publishes the state of reading, handling and writing before the poll waits.
    #[inline]
    pub(super) fn publish_activity(&mut self, in_flight: usize, poll: &mut PollState) {
        let incomplete = self.reader.is_incomplete() || self.wire.transport().is_incomplete();
        let driver = self.wire.driver();
        if driver.set_in_flight(in_flight) {
            driver.record_handled(poll.clock.timestamp(driver));
        }
        let reads = self.phase == Phase::Running && self.reader.wants_more();
        if reads != driver.is_reading() {
            driver.set_reading(reads, poll.clock.timestamp(driver));
            if !reads && !poll.yields {
                self.reader.reset_sizing(); // messages wait for their handlers
            }
        }
        if incomplete != driver.is_incomplete() || (incomplete && poll.decoded) {
            let now = poll.clock.timestamp(driver);
            driver.set_incomplete(incomplete.then_some(now));
        }
        driver.set_pending_bytes(self.writer.len());
        let stalled = self.timer.stalled_since();
        if stalled.is_some() != driver.is_stalled() {
            driver.set_stalled(stalled.map(|since| driver.timestamp(since)));
        }
    }
}
