//! Drops the values of the application that a session holds, each in a catch of its own.
//!
//! Rust aborts the process when a destructor panics while another panic unwinds. Each value is
//! therefore dropped by itself, on every path: a panic in a destructor is logged, and the next one
//! still runs.

use std::pin::Pin;

use getty_layers::Panic;

use super::State;
use crate::session::{calls::Calls, wire::Wire};

/// Runs a destructor of the application; a panic in it is logged and ends here.
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
    if let Some(state) = state.take() {
        calls.as_mut().clear();
        state.discard();
    }
}

impl<S, W: Wire, R> State<S, W, R> {
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
        // first, so that the transport goes before senders learn the end from the driver
        quietly(|| wire.discard());
        quietly(|| drop(service));
        quietly(|| drop(renew));
        quietly(|| drop((reader, writer)));
        waiting.discard();
        for reply in replies {
            quietly(|| drop(reply));
        }
    }
}
