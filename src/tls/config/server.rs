//! Server settings from PEM.

use std::{sync::Arc, time::Duration};

use tokio_rustls::rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::{
    common::{alpn_protocols, provider},
    error::TlsConfigError,
    identity::{ByName, Identity},
    pem::{Pem, Stamp},
};

/// Settings of a server's TLS. [`load`](Self::load) turns them into a
/// [`TlsConfig`](crate::tls::TlsConfig).
///
/// TLS 1.2 and 1.3 are supported without early data. TLS sessions of the last 256 clients can
/// be resumed unless clients must present certificates. Each handshake then verifies them
/// again.
///
/// ```no_run
/// use std::time::Duration;
/// use getty::tls::{ServerTls, TlsLayer};
///
/// # fn layer() -> Result<TlsLayer, getty::BoxError> {
/// let (chain, key) = ("/etc/getty/api-chain.pem", "/etc/getty/api-key.pem");
/// let config = ServerTls::new("/etc/getty/chain.pem", "/etc/getty/key.pem")
///     .with_certificate_for("api.example.com", chain, key)
///     .with_client_roots("/etc/getty/devices.pem")
///     .with_alpn(["chat/1"])
///     .with_automatic_reload(Duration::from_secs(60))
///     .load()?;
/// # Ok(TlsLayer::new(config))
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they are loaded"]
pub struct ServerTls {
    default: Identity,
    named: Vec<(String, Identity)>,
    client_roots: Option<Pem>,
    alpn: Vec<Vec<u8>>,
    pub(super) automatic_reload: Option<Duration>,
}

impl ServerTls {
    /// Creates new settings that present the certificates in `chain`. The server's own must be
    /// first. Those of the authorities between it and a root follow. `key` is the private key of
    /// the first certificate and must not be encrypted. Both are usually paths and may name the
    /// same file. Clients are not asked for certificates.
    pub fn new(chain: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        Self {
            default: Identity {
                chain: chain.into(),
                key: key.into(),
            },
            named: Vec::new(),
            client_roots: None,
            alpn: Vec::new(),
            automatic_reload: None,
        }
    }

    /// Presents another certificate to clients that request `name` (SNI). The certificate must be
    /// valid for that name. `*.example.com` matches any single label in place of the star, and an
    /// exact name takes precedence. Clients that request no name or another one receive the
    /// certificate of [`new`](Self::new).
    pub fn with_certificate_for(
        mut self,
        name: impl Into<String>,
        chain: impl Into<Pem>,
        key: impl Into<Pem>,
    ) -> Self {
        let identity = Identity {
            chain: chain.into(),
            key: key.into(),
        };
        self.named.push((name.into(), identity));
        self
    }

    /// Requires a certificate from every client and verifies that it leads to one of these roots.
    /// The application decides on permissions, with
    /// [`TlsInfo::peer_certificates`](crate::tls::TlsInfo::peer_certificates). By default clients
    /// are not asked for certificates.
    pub fn with_client_roots(mut self, roots: impl Into<Pem>) -> Self {
        self.client_roots = Some(roots.into());
        self
    }

    /// Sets the protocols inside TLS (ALPN), in order of preference. The default is none. A client
    /// that offers protocols must offer one of these. A client that offers none is accepted.
    pub fn with_alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = alpn_protocols(protocols);
        self
    }

    /// Checks the files at most once per `period` and loads them again if they have changed. The
    /// default is never. With a period of zero every connection checks.
    ///
    /// A connection runs the check before its handshake and outside the runtime's worker threads.
    /// So the first client after a change receives the new certificate, and other connections do
    /// not wait. If the files cannot be used, a warning is logged and the old configuration stays
    /// in use.
    pub const fn with_automatic_reload(mut self, period: Duration) -> Self {
        self.automatic_reload = Some(period);
        self
    }

    /// Builds the configuration of rustls.
    pub(super) fn build(&self) -> Result<Arc<ServerConfig>, TlsConfigError> {
        let provider = provider();
        let mut certificates = ByName::new(self.default.load(&provider)?);
        for (name, identity) in &self.named {
            certificates.add(name, identity, identity.load(&provider)?)?;
        }
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsConfigError::Unusable { source })?;
        let builder = match &self.client_roots {
            Some(file) => {
                let roots = Arc::new(file.roots()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|source| TlsConfigError::BadRoots {
                        file: file.clone(),
                        source,
                    })?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols.clone_from(&self.alpn);
        if self.client_roots.is_some() {
            // A resumed session presents no certificate, and the first one may have expired
            // (design.md: Why are sessions not resumed where clients present certificates?).
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }

    /// Returns the stamps of all files.
    pub(super) fn stamps(&self) -> Vec<Option<Stamp>> {
        let identities = self.named.iter().map(|(_, identity)| identity);
        std::iter::once(&self.default)
            .chain(identities)
            .flat_map(|identity| [&identity.chain, &identity.key])
            .chain(&self.client_roots)
            .map(Pem::stamp)
            .collect()
    }
}
