//! A server's configuration, from PEM.

use std::{sync::Arc, time::Duration};

use tokio_rustls::rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::{
    Pem, TlsConfig, TlsConfigError,
    identity::{ByName, Identity},
    pem::Stamp,
    provider,
};

/// What a server's TLS is made from: settings, of which [`load`](Self::load) makes a [`TlsConfig`].
///
/// TLS 1.2 and 1.3, no early data. Sessions are resumed, for the last 256 clients, unless clients have to show
/// certificates: then each handshake verifies them anew.
///
/// ```no_run
/// use std::time::Duration;
/// use getty::tls::{ServerTls, TlsLayer};
///
/// # fn layer() -> Result<TlsLayer, getty::BoxError> {
/// let config = ServerTls::new("/etc/getty/chain.pem", "/etc/getty/key.pem")
///     .with_certificate_for("api.example.com", "/etc/getty/api-chain.pem", "/etc/getty/api-key.pem")
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
    /// Shows the certificates in `chain`, the server's own first, then those of the authorities between it and a root;
    /// `key` is the private key of the first, not encrypted. Both are paths as a rule, and may be the same. Clients are
    /// not asked for certificates.
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

    /// Shows another certificate to clients that ask for `name` (SNI). It must be valid for that name. `*.example.com`
    /// is any one name in the place of the star; an exact name goes before it. Clients that ask for no name, or for
    /// another, get the certificate of [`new`](Self::new).
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

    /// Requires of every client a certificate that leads to one of these roots, and verifies it. Who may do what is for
    /// the application to decide, by [`TlsInfo::peer_certificates`](crate::tls::TlsInfo::peer_certificates). None by default, and
    /// clients are not asked for certificates.
    pub fn with_client_roots(mut self, roots: impl Into<Pem>) -> Self {
        self.client_roots = Some(roots.into());
        self
    }

    /// The protocols that may be spoken inside of TLS (ALPN), the most wanted first. None by default. A client that offers
    /// some of its own must offer one of these; one that offers none is served all the same.
    pub fn with_alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = bytes(protocols);
        self
    }

    /// Looks at most once in `period` whether the files have changed, and then loads them anew. Off by default; with a
    /// period of zero every connection looks.
    ///
    /// It is a connection that looks, before its handshake and off the runtime's workers, so that the first client after
    /// a change is shown the new certificate, and others do not wait meanwhile. Where what is there cannot be used, the
    /// old configuration stays, and a warning is logged.
    pub const fn with_automatic_reload(mut self, period: Duration) -> Self {
        self.automatic_reload = Some(period);
        self
    }

    /// Reads and checks everything. It blocks for as long as reading takes.
    ///
    /// # Errors
    ///
    /// What is wrong, and with which file: what cannot be read, or cannot be used, or does not belong together. Whether
    /// certificates have expired is for clients to find out.
    pub fn load(self) -> Result<TlsConfig, TlsConfigError> {
        TlsConfig::from_files(self)
    }

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
            // who resumes a session shows no certificate, which may have expired meanwhile
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }

    /// What all the files look like from outside.
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

/// Protocols as rustls wants them.
pub(super) fn bytes<P: AsRef<[u8]>>(protocols: impl IntoIterator<Item = P>) -> Vec<Vec<u8>> {
    let protocols = protocols.into_iter();
    protocols
        .map(|protocol| protocol.as_ref().to_vec())
        .collect()
}
