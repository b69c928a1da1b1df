//! Helpers for the configurations of both sides.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

/// Returns the cryptography provider. It is passed explicitly because the default of rustls
/// panics if two libraries of a program enable different providers.
// (design.md: Why is ring named everywhere?)
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Converts protocol names into the form of rustls.
pub(super) fn alpn_protocols<P: AsRef<[u8]>>(
    protocols: impl IntoIterator<Item = P>,
) -> Vec<Vec<u8>> {
    let protocols = protocols.into_iter();
    protocols
        .map(|protocol| protocol.as_ref().to_vec())
        .collect()
}
