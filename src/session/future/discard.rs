//! Drops the values of the application that a session holds, each inside a separate catch.
//!
//! Rust aborts the process when a destructor panics while another panic unwinds. Each value is
//! therefore dropped alone, on every path. A panic in a destructor is logged, and the next
//! destructor still runs.

use std::{mem::needs_drop, pin::Pin};

use getty_core::Panic;

use super::State;
use crate::session::{calls::Calls, wire::Wire};

/// Runs a destructor of the application. A panic is caught and logged.
pub(in crate::session) fn quietly(f: impl FnOnce()) {
    if let Err(panic) = Panic::catch(f) {
        tracing::error!(%panic, "a destructor panicked at the end of a session");
    }
}

/// Drops the handlers in flight and then the rest of the session, unless that has happened already.
pub(super) fn discard<S, W, R, F>(mut calls: Pin<&mut Calls<F>>, state: &mut Option<State<S, W, R>>)
where
    W: Wire,
    F: Future,
{
    let Some(losing) = state else {
        return;
    };
    losing.count_losses(calls.len());
    calls.as_mut().clear();
    if let Some(state) = state.take() {
        state.discard();
    }
}

impl<S, W: Wire, R> State<S, W, R> {
    /// Counts what the session had accepted and did not finish. The driver counts what is queued.
    fn count_losses(&mut self, in_flight: usize) {
        let driver = self.wire.driver();
        let undecoded = self.reader.undecoded() + self.reader.discarded();
        if in_flight + undecoded > 0 || !self.waiting.is_empty() {
            let messages = self.waiting.len() + in_flight;
            driver.unhandled(messages as u64, undecoded as u64);
        }
        let (replies, bytes) = (self.replies.len(), self.writer.len());
        if replies + bytes > 0 {
            driver.unsent(replies as u64, bytes as u64);
        }
    }

    #[inline(always)]
    fn discard(self) {
        let Self {
            wire,
            service,
            renew,
            reader,
            writer,
            waiting,
            replies,
            ..
        } = self;
        // first, so that the transport is dropped before the driver reports the end to senders
        wire.discard();
        if const { needs_drop::<S>() } {
            quietly(|| drop(service));
        }
        if const { needs_drop::<R>() } {
            quietly(|| drop(renew));
        }
        drop((reader, writer));
        waiting.discard();
        for reply in replies {
            quietly(|| drop(reply));
        }
    }
}
