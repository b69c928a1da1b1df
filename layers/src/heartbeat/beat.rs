//! Kinds of heartbeats: a message, an optional message, or a ping of the transport.

use std::{any::type_name, fmt};

use getty_core::{Session, hooks::HandleExt};

/// Kind of heartbeat that a [`HeartbeatLayer`](super::HeartbeatLayer) sends.
///
/// The constructors of the layer create it. The trait is sealed.
pub trait Beat<Out>: sealed::Sealed {
    /// Sends a heartbeat unless the peer does not read. Returns `true` if a response can be
    /// expected.
    fn beat(&self, session: &Session<Out>) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl<F> Sealed for super::Message<F> {}
    impl<F> Sealed for super::OptionalMessage<F> {}
    impl Sealed for super::Ping {}
}

/// Heartbeat by a message; see [`HeartbeatLayer::new`](super::HeartbeatLayer::new).
#[derive(Clone)]
pub struct Message<F>(pub(super) F);

/// Heartbeat by a message or nothing; see
/// [`HeartbeatLayer::optional`](super::HeartbeatLayer::optional).
#[derive(Clone)]
pub struct OptionalMessage<F>(pub(super) F);

/// Heartbeat by a ping of the transport; see
/// [`HeartbeatLayer::ping`](super::HeartbeatLayer::ping).
#[derive(Clone, Copy, Debug)]
pub struct Ping;

impl<Out, F: Fn(&Session<Out>) -> Out> Beat<Out> for Message<F> {
    fn beat(&self, session: &Session<Out>) -> bool {
        if session.is_finished() {
            return false; // Nothing is sent after `finish`, so no response can be expected.
        }
        if is_read(session) {
            // A full queue or a closing session needs no heartbeat.
            let _ = session.try_send((self.0)(session));
        }
        true
    }
}

impl<Out, F: Fn(&Session<Out>) -> Option<Out>> Beat<Out> for OptionalMessage<F> {
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

/// Returns `true` if no earlier bytes or messages wait for the peer to read.
fn is_read<Out>(session: &Session<Out>) -> bool {
    session.queued() == 0 && session.stalled_since().is_none()
}

impl<F> fmt::Debug for Message<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Message").field(&type_name::<F>()).finish()
    }
}

impl<F> fmt::Debug for OptionalMessage<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OptionalMessage")
            .field(&type_name::<F>())
            .finish()
    }
}
