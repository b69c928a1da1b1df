//! Settings of a WebSocket transport.

use crate::ws::message::Messages;

/// Default maximum length of a message in bytes: 64 KiB, as for every codec of this crate.
pub const DEFAULT_MAX_MESSAGE: usize = crate::codec::DEFAULT_MAX_FRAME;

/// Side of the connection. A client masks its frames, and a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ws) enum Role {
    Server,
    Client,
}

/// Maximum lengths of received frames and messages in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::ws) struct Limits {
    pub(in crate::ws) frame: usize,
    pub(in crate::ws) message: usize,
}

impl Limits {
    pub(in crate::ws) const DEFAULT: Self = Self {
        frame: usize::MAX,
        message: DEFAULT_MAX_MESSAGE,
    };
}

/// Settings of a [`WsTransport`](super::WsTransport).
#[derive(Clone, Copy, Debug)]
pub(in crate::ws) struct TransportSettings {
    pub(in crate::ws) role: Role,
    pub(in crate::ws) limits: Limits,
    pub(in crate::ws) messages: Messages,
}
