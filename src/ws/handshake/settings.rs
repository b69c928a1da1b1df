//! Settings of the server's side.

use std::time::Duration;

use super::{head::HeadLimits, rules::Rules};
use crate::ws::{
    message::Messages,
    transport::{Limits, Role, TransportSettings},
};

/// Default time for an opening handshake.
pub(in crate::ws) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a `WsLayer`, shared by its connections.
#[derive(Clone, Debug)]
pub(in crate::ws) struct ServerSettings {
    pub(in crate::ws) rules: Rules,
    pub(in crate::ws) head: HeadLimits,
    pub(in crate::ws) limits: Limits,
    pub(in crate::ws) messages: Messages,
    pub(in crate::ws) timeout: Duration,
}

impl ServerSettings {
    /// Returns the settings of a server's transport.
    pub(in crate::ws) const fn transport(&self) -> TransportSettings {
        TransportSettings {
            role: Role::Server,
            limits: self.limits,
            messages: self.messages,
        }
    }
}
