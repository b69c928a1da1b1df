//! What can be wrong with a configuration.

use std::{error::Error, fmt, io};

use tokio_rustls::rustls::{self, pki_types::pem, server::VerifierBuilderError};

use super::Pem;

/// What is wrong with a configuration, and with which file. Nothing of it was put to use.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file could not be read.
    Read {
        /// Which.
        file: Pem,
        /// Why.
        source: io::Error,
    },
    /// What a file holds is not PEM, or is cut off.
    Malformed {
        /// Which.
        file: Pem,
        /// In what respect.
        source: pem::Error,
    },
    /// There is no certificate in the file.
    NoCertificate {
        /// Which.
        file: Pem,
    },
    /// A certificate in the file cannot be used.
    BadCertificate {
        /// Which.
        file: Pem,
        /// Why.
        source: rustls::Error,
    },
    /// There is no private key in the file.
    NoKey {
        /// Which.
        file: Pem,
    },
    /// The private key in the file needs a password. Decrypt it, with `openssl pkey` say, and let the permissions of the
    /// file protect it.
    EncryptedKey {
        /// Which.
        file: Pem,
    },
    /// The private key in the file is of a kind that cannot be used.
    BadKey {
        /// Which.
        file: Pem,
        /// Why.
        source: rustls::Error,
    },
    /// The private key is not that of the first certificate of the chain.
    WrongKey {
        /// The key's file.
        file: Pem,
        /// The chain's.
        chain: Pem,
    },
    /// A name that a certificate is to be shown for is not the name of a host.
    BadName {
        /// Which.
        name: Box<str>,
    },
    /// A certificate is to be shown for a name that it is not valid for.
    WrongName {
        /// The name.
        name: Box<str>,
        /// The certificate's file.
        file: Pem,
        /// For which names it is valid.
        source: rustls::Error,
    },
    /// The operating system offers no roots to trust.
    NoSystemRoots {
        /// Why, where that is known.
        source: Option<rustls_native_certs::Error>,
    },
    /// Nothing can be verified with the roots for clients.
    BadRoots {
        /// Their file.
        file: Pem,
        /// Why.
        source: VerifierBuilderError,
    },
    /// rustls cannot work like this.
    Unusable {
        /// Why.
        source: rustls::Error,
    },
    /// A configuration that was not made from files cannot be reloaded.
    NoFiles,
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, .. } => write!(f, "cannot read {file}"),
            Self::Malformed { file, .. } => write!(f, "{file} is not well-formed PEM"),
            Self::NoCertificate { file } => write!(f, "there is no certificate in {file}"),
            Self::BadCertificate { file, .. } => {
                write!(f, "a certificate in {file} cannot be used")
            }
            Self::NoKey { file } => write!(f, "there is no private key in {file}"),
            Self::EncryptedKey { file } => {
                write!(
                    f,
                    "the private key in {file} is encrypted: only keys without a password can be read"
                )
            }
            Self::BadKey { file, .. } => write!(f, "the private key in {file} cannot be used"),
            Self::WrongKey { file, chain } => write!(
                f,
                "the private key in {file} is not that of the first certificate in {chain}"
            ),
            Self::BadName { name } => write!(f, "{name:?} is not the name of a host"),
            Self::WrongName { name, file, .. } => {
                write!(f, "the certificate in {file} is not for {name}")
            }
            Self::NoSystemRoots { .. } => {
                f.write_str("the operating system offers no root certificates")
            }
            Self::BadRoots { file, .. } => {
                write!(f, "clients cannot be verified with the roots in {file}")
            }
            Self::Unusable { .. } => f.write_str("the TLS configuration cannot be used"),
            Self::NoFiles => f.write_str("the TLS configuration was not made from files"),
        }
    }
}

impl Error for TlsConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Malformed { source, .. } => Some(source),
            Self::BadCertificate { source, .. }
            | Self::BadKey { source, .. }
            | Self::WrongName { source, .. }
            | Self::Unusable { source } => Some(source),
            Self::NoSystemRoots { source } => source.as_ref().map(|source| source as _),
            Self::BadRoots { source, .. } => Some(source),
            Self::NoCertificate { .. }
            | Self::NoKey { .. }
            | Self::EncryptedKey { .. }
            | Self::WrongKey { .. }
            | Self::BadName { .. }
            | Self::NoFiles => None,
        }
    }
}
