//! PROXY protocol.
mod connect;
mod crc;
mod error;
mod info;
mod layer;
mod parse;
mod target;

pub use self::{
    connect::{ProxyConnect, ProxyConnectLayer, ProxyConnecting},
    error::{HeaderError, ProxyError},
    info::{ProxyCommand, ProxyInfo, ProxySsl, ProxyVersion},
    layer::{ProxyProtocol, ProxyProtocolLayer, Untrusted},
    target::{ProxiedTarget, ProxyFor, ProxyHeader},
};
