//! Opening handshake: an HTTP request that is answered with 101, or refused.

mod error;
mod head;
mod headers;
mod open;
mod refusal;
mod request;
mod rules;
mod settings;

pub use self::{error::WsHandshakeError, refusal::WsRefusal, request::WsRequest};
pub(super) use self::{
    head::{HeadLimits, read_response, write_head},
    headers::{has_token, is_token, mark_sensitive, subprotocol},
    open::open,
    rules::{Origin, Rules},
    settings::{HANDSHAKE_TIMEOUT, ServerSettings},
};
