//! Drops a session: each value of the application separately, after the losses are counted.

use std::{mem::needs_drop, pin::Pin};

use super::SessionLoop;
use crate::session::{
    calls::InFlight, catch::drop_catching_panics, framed_transport::FramedTransport,
};

/// Drops the handlers in flight and then the rest of the session, unless that has happened
/// already.
pub(crate) fn discard<S, W, R, F>(
    mut calls: Pin<&mut InFlight<F>>,
    session: &mut Option<SessionLoop<S, W, R>>,
) where
    W: FramedTransport,
    F: Future,
{
    let Some(losing) = session else {
        return;
    };
    losing.count_losses(calls.len());
    calls.as_mut().clear();
    if let Some(session) = session.take() {
        session.discard();
    }
}

impl<S, W: FramedTransport, R> SessionLoop<S, W, R> {
    /// Counts accepted work that the session did not finish. The driver counts queued messages.
    fn count_losses(&mut self, in_flight: usize) {
        let driver = self.wire.driver();
        let undecoded = self.reader.undecoded() + self.reader.discarded();
        if in_flight + undecoded > 0 || self.reader.has_ahead() {
            let messages = self.reader.ahead() + in_flight;
            driver.record_unhandled(messages as u64, undecoded as u64);
        }
        let (replies, bytes) = (self.replies.len(), self.writer.len());
        if replies + bytes > 0 {
            driver.record_unsent(replies as u64, bytes as u64);
        }
    }

    #[inline(always)]
    fn discard(self) {
        let Self {
            wire,
            service,
            source,
            reader,
            writer,
            replies,
            ..
        } = self;
        // Must come first, so that the transport is dropped before the driver reports the end to
        // senders.
        wire.discard();
        if const { needs_drop::<S>() } {
            drop_catching_panics(service);
        }
        if const { needs_drop::<R>() } {
            drop_catching_panics(source);
        }
        drop(writer);
        reader.drop_messages();
        for reply in replies {
            drop_catching_panics(reply);
        }
    }
}
