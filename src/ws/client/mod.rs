//! WebSocket clients: layers around any connector.

mod connect;
mod error;
#[cfg(feature = "tls")]
mod secure;
mod target;

#[cfg(feature = "tls")]
pub use self::secure::{MaybeTls, WsUrlConnect, WsUrlConnectLayer};
pub use self::{
    connect::{WsConnect, WsConnectLayer, WsConnecting},
    error::WsConnectError,
};
