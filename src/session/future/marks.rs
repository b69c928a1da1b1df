//! What the handle says of its session: what has moved, and what stands still since when.

use getty_core::{IntoReply, Request};
use tower::{BoxError, Service};

use super::{Phase, State, Turn};
use crate::{
    session::{renew::Renew, wire::Wire},
    transport::Received,
};

impl<S, W, R> State<S, W, R>
where
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
    R: Renew<S>,
{
    /// Counts what was decoded, and marks it as activity.
    #[inline]
    pub(super) fn count_messages(&mut self, turn: &mut Turn) {
        if self.messages_in > 0 {
            let driver = self.wire.driver();
            let now = turn.clock.moment(driver);
            driver.messages_in(std::mem::take(&mut self.messages_in).into(), now);
            turn.decoded = true;
        }
    }

    #[inline]
    pub(super) fn received(&mut self, received: Received, turn: &mut Turn) {
        match received {
            Received::Data(bytes) => {
                self.count_bytes(bytes);
                let driver = self.wire.driver();
                driver.received(bytes, turn.clock.moment(driver));
            }
            Received::Control(bytes) => {
                let driver = self.wire.driver();
                driver.received(bytes, turn.clock.moment(driver));
            }
            Received::Lost(messages) => self.wire.driver().lost(messages.into()),
            Received::End => {
                self.wire.driver().peer_finished();
                // the transport may have an answer to it
                self.writer.poke();
            }
        }
        if self.wire.owes() {
            self.writer.poke();
        }
    }

    /// Keeps up what the handle says of reading and of handlers.
    #[inline]
    pub(super) fn mark(&mut self, in_flight: usize, turn: &mut Turn) {
        let incomplete = self.reader.is_incomplete() || self.wire.is_incomplete();
        let driver = self.wire.driver();
        if driver.in_flight(in_flight) {
            driver.answered(turn.clock.moment(driver));
        }
        let reads = self.phase == Phase::Running && self.reader.wants_more();
        if reads != driver.is_reading() {
            driver.reading(reads, turn.clock.moment(driver));
            if !reads && !turn.yields {
                self.reader.end_bulk(); // messages wait for their handlers
            }
        }
        if incomplete != driver.is_incomplete() || (incomplete && turn.decoded) {
            let now = turn.clock.moment(driver);
            driver.incomplete(incomplete.then_some(now));
        }
        driver.pending(self.writer.len());
        let stalled = self.timer.stalled_since();
        if stalled.is_some() != driver.is_stalled() {
            driver.stalled(stalled.map(|since| driver.moment(since)));
        }
    }
}
