//! Common parts of all compared servers: the protocol of child processes, the frames, and a
//! runtime.
//!
//! This crate does not depend on getty. The servers in `benches/peers` need no new build when
//! getty changes.

pub mod accept;
pub mod affinity;
pub mod check;
pub mod child;
pub mod cpu;
pub mod frames;
pub mod websocket;

use frames::Form;

/// Protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Length-delimited frames: a 4-byte big-endian length and the payload.
    Length,
    /// Binary WebSocket messages.
    WebSocket,
}

impl Protocol {
    /// Returns the form of the client's frames and that of the server's frames.
    #[must_use]
    pub fn forms(self) -> (Form, Form) {
        match self {
            Self::Length => (Form::Length, Form::Length),
            Self::WebSocket => (Form::Masked, Form::Unmasked),
        }
    }
}
