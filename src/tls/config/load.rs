//! Certificates and keys from a source of PEM.

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error, PemObject},
    },
};

use super::{error::TlsConfigError, pem::Pem};

impl Pem {
    fn text(&self) -> Result<Vec<u8>, TlsConfigError> {
        self.read().map_err(|source| TlsConfigError::Read {
            file: self.clone(),
            source,
        })
    }

    fn malformed(&self) -> impl FnOnce(Error) -> TlsConfigError {
        let file = self.clone();
        |source| TlsConfigError::Malformed { file, source }
    }

    /// Returns the certificates, at least one.
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.text()?)
            .collect::<Result<_, _>>()
            .map_err(self.malformed())?;
        if certificates.is_empty() {
            return Err(TlsConfigError::NoCertificate { file: self.clone() });
        }
        Ok(certificates)
    }

    /// Returns the first private key.
    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
        let text = self.text()?;
        if is_encrypted(&text) {
            return Err(TlsConfigError::EncryptedKey { file: self.clone() });
        }
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
            Error::NoItemsFound => TlsConfigError::NoKey { file: self.clone() },
            error => self.malformed()(error),
        })
    }

    /// Returns the certificates as trusted roots.
    pub(super) fn roots(&self) -> Result<RootCertStore, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|source| TlsConfigError::BadCertificate {
                    file: self.clone(),
                    source,
                })?;
        }
        Ok(roots)
    }
}

/// Returns `true` if a key requires a password in the form of PKCS #8 or in OpenSSL's older
/// form.
fn is_encrypted(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || (line.starts_with(b"Proc-Type:") && line.trim_ascii_end().ends_with(b"ENCRYPTED"))
    })
}
