//! Certificates with their keys and the choice of a certificate by name.

use std::{collections::HashMap, sync::Arc};

use tokio_rustls::rustls::{
    self, InconsistentKeys,
    client::verify_server_name,
    crypto::CryptoProvider,
    pki_types::ServerName,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{error::TlsConfigError, pem::Pem};

/// Certificate chain and the private key of its first certificate.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) chain: Pem,
    pub(super) key: Pem,
}

impl Identity {
    /// Reads both and checks that they belong together.
    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsConfigError> {
        let Self { chain, key } = self;
        let certificates = chain.certificates()?;
        // Checked alone first so that an invalid certificate is not reported as a wrong key.
        ParsedCertificate::try_from(&certificates[0]).map_err(|source| {
            TlsConfigError::BadCertificate {
                file: chain.clone(),
                source,
            }
        })?;
        CertifiedKey::from_der(certificates, key.key()?, provider).map_err(|source| {
            let file = key.clone();
            match source {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    TlsConfigError::WrongKey {
                        file,
                        chain: chain.clone(),
                    }
                }
                source => TlsConfigError::BadKey { file, source },
            }
        })
    }
}

/// Certificates by the name that a client requests.
#[derive(Debug)]
pub(super) struct ByName {
    default: Arc<CertifiedKey>,
    /// Certificates by lower-case name. A name may begin with `*.`.
    named: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl ByName {
    pub(super) fn new(default: CertifiedKey) -> Self {
        Self {
            default: Arc::new(default),
            named: HashMap::new(),
        }
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        identity: &Identity,
        key: CertifiedKey,
    ) -> Result<(), TlsConfigError> {
        check_name(name, identity, &key)?;
        self.named
            .insert(name.to_ascii_lowercase().into(), Arc::new(key));
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.named.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.named.get(&*format!("*.{parent}"))
        })
    }
}

/// Checks that the certificate is valid for the name. Otherwise no client would accept it.
fn check_name(name: &str, identity: &Identity, key: &CertifiedKey) -> Result<(), TlsConfigError> {
    // Any host stands for all hosts of a wildcard.
    let host = match name.strip_prefix("*.") {
        Some(parent) => format!("any.{parent}"),
        None => name.to_owned(),
    };
    let Ok(host @ ServerName::DnsName(_)) = ServerName::try_from(host) else {
        return Err(TlsConfigError::BadName { name: name.into() });
    };
    let verified = key
        .end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .and_then(|certificate| verify_server_name(&certificate, &host));
    verified.map_err(|source| TlsConfigError::WrongName {
        name: name.into(),
        file: identity.chain.clone(),
        source,
    })
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.find(name));
        Some(Arc::clone(found.unwrap_or(&self.default)))
    }
}
