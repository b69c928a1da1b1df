//! What a beat is: a message, sometimes a message, or a ping of the transport's.

use std::{any::type_name, fmt};

use getty_core::Session;

/// What a heartbeat consists of. [`HeartbeatLayer`](super::HeartbeatLayer)'s constructors make them; it is implemented
/// for nothing else.
pub trait Beat<Out>: sealed::Sealed {
    /// Beats, unless the peer does not read. `true` if an answer can be expected.
    fn beat(&self, session: &Session<Out>) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl<F> Sealed for super::Message<F> {}
    impl<F> Sealed for super::MessageIf<F> {}
    impl Sealed for super::Ping {}
}

/// Beats with a message; made by [`HeartbeatLayer::new`](super::HeartbeatLayer::new).
#[derive(Clone)]
pub struct Message<F>(pub(super) F);

/// Beats with a message, if there is one; made by [`HeartbeatLayer::new_if`](super::HeartbeatLayer::new_if).
#[derive(Clone)]
pub struct MessageIf<F>(pub(super) F);

/// Beats with the transport's own ping; made by [`HeartbeatLayer::ping`](super::HeartbeatLayer::ping).
#[derive(Clone, Copy, Debug)]
pub struct Ping;

impl<Out, F: Fn(&Session<Out>) -> Out> Beat<Out> for Message<F> {
    fn beat(&self, session: &Session<Out>) -> bool {
        if session.is_finished() {
            return false; // nothing goes out any more that could be answered
        }
        if is_read(session) {
            // full or closing: in either case there is nobody to beat for
            let _ = session.try_send((self.0)(session));
        }
        true
    }
}

impl<Out, F: Fn(&Session<Out>) -> Option<Out>> Beat<Out> for MessageIf<F> {
    fn beat(&self, session: &Session<Out>) -> bool {
        if session.is_finished() {
            return false;
        }
        if !is_read(session) {
            return true;
        }
        let message = (self.0)(session);
        let beats = message.is_some();
        if let Some(message) = message {
            let _ = session.try_send(message);
        }
        beats
    }
}

impl<Out> Beat<Out> for Ping {
    fn beat(&self, session: &Session<Out>) -> bool {
        let has_ping = session.has_ping();
        if has_ping && is_read(session) {
            session.ping();
        }
        has_ping
    }
}

/// Whether what is sent now would reach the peer before what it has not read.
fn is_read<Out>(session: &Session<Out>) -> bool {
    session.queued() == 0 && session.stalled_since().is_none()
}

impl<F> fmt::Debug for Message<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Message").field(&type_name::<F>()).finish()
    }
}

impl<F> fmt::Debug for MessageIf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MessageIf").field(&type_name::<F>()).finish()
    }
}
