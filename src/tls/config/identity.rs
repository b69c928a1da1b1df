//! A certificate with its key, and which one is shown for which name.

use std::{collections::HashMap, sync::Arc};

use tokio_rustls::rustls::{
    self, InconsistentKeys,
    client::verify_server_name,
    crypto::CryptoProvider,
    pki_types::ServerName,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{Pem, TlsConfigError};

/// A chain of certificates and the private key of its first.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) chain: Pem,
    pub(super) key: Pem,
}

impl Identity {
    /// Reads both, and checks that they belong together.
    pub(super) fn load(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsConfigError> {
        let Self { chain, key } = self;
        let certificates = chain.certificates()?;
        // first by itself, for what is wrong with it is not to be taken for the key's fault
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

/// Which certificate is shown to a client that asks for a name.
#[derive(Debug)]
pub(super) struct ByName {
    default: Arc<CertifiedKey>,
    /// By name in lower case, some of them `*.` and a name.
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

    fn of(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.named.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.named.get(&*format!("*.{parent}"))
        })
    }
}

/// A certificate that no client takes for the name is a mistake.
fn check_name(name: &str, identity: &Identity, key: &CertifiedKey) -> Result<(), TlsConfigError> {
    // any host of a wildcard's stands for all
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
        let found = hello.server_name().and_then(|name| self.of(name));
        Some(Arc::clone(found.unwrap_or(&self.default)))
    }
}
