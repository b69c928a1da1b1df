//! Compression of messages: the extension permessage-deflate (RFC 7692).

mod context;
mod message;
mod negotiation;
mod settings;

pub(super) use self::message::PerMessage;
pub use self::{negotiation::WsDeflate, settings::Deflate};
