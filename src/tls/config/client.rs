//! Client configuration from PEM and the operating system's roots.

use std::sync::Arc;

use rustls_native_certs::load_native_certs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, sign::SingleCertAndKey};

use super::{
    common::{alpn_protocols, provider},
    error::TlsConfigError,
    identity::Identity,
    pem::Pem,
    unverified::Unverified,
};

/// Settings of a client's TLS. [`load`](Self::load) turns them into a configuration.
///
/// A server's certificate is always verified: it must lead to a trusted root, be valid now, and
/// be issued for the intended server. TLS 1.2 and 1.3 are supported without early data.
///
/// ```no_run
/// use getty::tls::{ClientTls, TlsConnectLayer};
///
/// # fn layer() -> Result<TlsConnectLayer, getty::BoxError> {
/// let config = ClientTls::new()
///     .with_roots("/etc/getty/our-own-authority.pem")
///     .with_certificate("/etc/getty/device-chain.pem", "/etc/getty/device-key.pem")
///     .with_alpn(["chat/1"])
///     .load()?;
/// # Ok(TlsConnectLayer::new(config))
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they are loaded"]
pub struct ClientTls {
    roots: Roots,
    identity: Option<Identity>,
    alpn: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Roots {
    System,
    Given(Pem),
    /// No verification: any peer can pose as the server.
    Unverified,
}

impl ClientTls {
    /// Creates new settings with the operating system's roots and without a client certificate.
    ///
    /// On Unix the roots are the files that OpenSSL would use or those that the environment
    /// variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    pub const fn new() -> Self {
        Self {
            roots: Roots::System,
            identity: None,
            alpn: Vec::new(),
        }
    }

    /// Trusts only these roots, usually the path of a file with one or more certificates. The
    /// default is the operating system's roots.
    pub fn with_roots(mut self, roots: impl Into<Pem>) -> Self {
        self.roots = Roots::Given(roots.into());
        self
    }

    /// Presents this certificate to servers that request one. Chain and key are as in
    /// [`ServerTls::new`](super::ServerTls::new). The default is none.
    pub fn with_certificate(mut self, chain: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.identity = Some(Identity {
            chain: chain.into(),
            key: key.into(),
        });
        self
    }

    /// Sets the protocols inside TLS (ALPN), in order of preference. The default is none. A server
    /// that supports none of these may end the handshake or respond without a choice.
    pub fn with_alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = alpn_protocols(protocols);
        self
    }

    /// Accepts every server certificate. **An attacker between client and server can then read and
    /// change everything.** Only passive listeners are kept out.
    ///
    /// Use it for experiments on one machine. If servers have self-signed certificates, add these
    /// as [roots](Self::with_roots) instead. Loading logs a warning.
    pub fn dangerous_without_verification(mut self) -> Self {
        self.roots = Roots::Unverified;
        self
    }

    /// Reads and checks the configuration. It blocks while it reads, which may take some
    /// milliseconds for the system's roots. Load once and share the result.
    ///
    /// # Errors
    ///
    /// Returns an error with the file that cannot be used and the reason.
    pub fn load(self) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsConfigError::Unusable { source })?;
        let builder = match &self.roots {
            Roots::System => builder.with_root_certificates(system_roots()?),
            Roots::Given(pem) => builder.with_root_certificates(pem.roots()?),
            Roots::Unverified => {
                tracing::warn!(
                    "server certificates are not verified: any peer can pose as a server"
                );
                let unverified = Arc::new(Unverified(Arc::clone(&provider)));
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(unverified)
            }
        };
        let mut config = match &self.identity {
            Some(identity) => {
                let key = identity.load(&provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn;
        Ok(Arc::new(config))
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self::new()
    }
}

fn system_roots() -> Result<RootCertStore, TlsConfigError> {
    let mut found = load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some system roots are usually too old to be parsed.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(TlsConfigError::NoSystemRoots {
            source: found.errors.pop().map(Into::into),
        });
    }
    Ok(roots)
}
