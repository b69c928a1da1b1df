//! A client's configuration, from PEM and the operating system.

use std::sync::Arc;

use rustls_native_certs::load_native_certs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, sign::SingleCertAndKey};

use super::{
    Pem, TlsConfigError, identity::Identity, provider, server::bytes, unverified::Unverified,
};

/// What a client's TLS is made from: settings, of which [`load`](Self::load) makes a configuration.
///
/// A server's certificate is always verified: that it leads to a trusted root, is within its time, and is for the server
/// that was meant. TLS 1.2 and 1.3, no early data.
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
    /// Anybody is taken for the server.
    Unverified,
}

impl ClientTls {
    /// Trusts the roots of the operating system, shows no certificate.
    ///
    /// On Unix those are the files that OpenSSL would use, or what the environment variables `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` name.
    pub const fn new() -> Self {
        Self {
            roots: Roots::System,
            identity: None,
            alpn: Vec::new(),
        }
    }

    /// Trusts these roots and no others: the path of a file with one or more certificates, as a rule. Default: the
    /// operating system's.
    pub fn with_roots(mut self, roots: impl Into<Pem>) -> Self {
        self.roots = Roots::Given(roots.into());
        self
    }

    /// Shows this certificate to servers that ask for one; chain and key are as in
    /// [`ServerTls::new`](super::ServerTls::new). None by default.
    pub fn with_certificate(mut self, chain: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.identity = Some(Identity {
            chain: chain.into(),
            key: key.into(),
        });
        self
    }

    /// The protocols to speak inside of TLS (ALPN), the most wanted first. None by default. A server that knows none of
    /// them may end the handshake, or answer without a choice.
    pub fn with_alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = bytes(protocols);
        self
    }

    /// Takes anybody's word for being the server. **Whoever stands on the way reads and changes everything**: what is
    /// left is a protection against those who only listen.
    ///
    /// It is for experiments on one machine. For servers with certificates of their own making, give those as
    /// [roots](Self::with_roots). A warning is logged when it is loaded.
    pub fn dangerous_without_verification(mut self) -> Self {
        self.roots = Roots::Unverified;
        self
    }

    /// Reads and checks everything. It blocks for as long as reading takes, which for the system's roots may be some
    /// milliseconds: load once, and share.
    ///
    /// # Errors
    ///
    /// What is wrong, and with which file.
    pub fn load(self) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsConfigError::Unusable { source })?;
        let builder = match &self.roots {
            Roots::System => builder.with_root_certificates(system_roots()?),
            Roots::Given(pem) => builder.with_root_certificates(pem.roots()?),
            Roots::Unverified => {
                tracing::warn!("servers' certificates are not verified: anybody may pose as one");
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
    // among many there are always some that are too old-fashioned
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(TlsConfigError::NoSystemRoots {
            source: found.errors.pop(),
        });
    }
    Ok(roots)
}
