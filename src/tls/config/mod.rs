//! Configurations, from PEM.

mod client;
mod error;
mod identity;
mod pem;
mod reload;
mod server;
mod unverified;

use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

pub use self::{
    client::ClientTls, error::TlsConfigError, pem::Pem, reload::TlsConfig, server::ServerTls,
};

/// Named everywhere: where two libraries of one program bring different ones, rustls's own default panics.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
