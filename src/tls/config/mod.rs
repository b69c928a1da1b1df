//! TLS configurations from PEM.

mod client;
mod common;
mod error;
mod identity;
mod load;
mod pem;
mod reload;
mod server;
mod unverified;

pub use self::{
    client::ClientTls, error::TlsConfigError, pem::Pem, reload::TlsConfig, server::ServerTls,
};
