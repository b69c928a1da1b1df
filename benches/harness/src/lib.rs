//! What a server needs to be compared: the protocol of child processes, the frames, and a runtime like that of the others.
//!
//! It knows nothing of getty, so that the servers of others, in `benches/peers`, stay built whatever changes here.

pub mod accept;
pub mod affinity;
pub mod check;
pub mod child;
pub mod cpu;
pub mod frames;
pub mod websocket;

use frames::Form;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Frames of a 4-byte big-endian length and that many bytes.
    Length,
    /// Binary WebSocket messages.
    WebSocket,
}

impl Protocol {
    /// The form of the frames that a client sends, and of those that come back.
    #[must_use]
    pub fn forms(self) -> (Form, Form) {
        match self {
            Self::Length => (Form::Length, Form::Length),
            Self::WebSocket => (Form::Masked, Form::Unmasked),
        }
    }
}
