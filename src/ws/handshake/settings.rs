//! Settings of the server's side.

use std::time::Duration;

use getty_core::ConnectionHandle;
use http::{Request, Response};

use super::{head::HeadLimits, refusal::WsRefusal, rules::Rules};
use crate::ws::{
    deflate::{Deflate, PerMessage},
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
    /// Compression that is agreed with clients that offer it.
    pub(in crate::ws) deflate: Option<Deflate>,
}

impl ServerSettings {
    /// Decides on a request: see [`Rules::decide`].
    pub(in crate::ws) async fn decide(
        &self,
        request: Request<()>,
        handle: &ConnectionHandle,
    ) -> Result<(Response<()>, Option<PerMessage>), WsRefusal> {
        let deflate = self.deflate.as_ref();
        self.rules.decide(request, handle, deflate).await
    }

    /// Returns the settings of a server's transport.
    pub(in crate::ws) const fn transport(&self) -> TransportSettings {
        TransportSettings {
            role: Role::Server,
            limits: self.limits,
            messages: self.messages,
        }
    }
}
