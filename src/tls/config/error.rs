//! Errors of a configuration.

use std::{error::Error, fmt, io};

use tokio_rustls::rustls::{self, pki_types::pem, server::VerifierBuilderError};
use tower::BoxError;

use super::pem::Pem;

/// Returned when a configuration cannot be loaded. Nothing from it is used.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file could not be read.
    Read {
        /// The file.
        file: Pem,
        /// The reason.
        source: io::Error,
    },
    /// The contents of a file are not PEM or are truncated.
    Malformed {
        /// The file.
        file: Pem,
        /// The reason.
        source: pem::Error,
    },
    /// The file contains no certificate.
    NoCertificate {
        /// The file.
        file: Pem,
    },
    /// A certificate in the file cannot be used.
    BadCertificate {
        /// The file.
        file: Pem,
        /// The reason.
        source: rustls::Error,
    },
    /// The file contains no private key.
    NoKey {
        /// The file.
        file: Pem,
    },
    /// The private key in the file requires a password. Decrypt it (for example with `openssl
    /// pkey`) and protect it with the file's permissions.
    EncryptedKey {
        /// The file.
        file: Pem,
    },
    /// The private key in the file is of an unsupported kind.
    BadKey {
        /// The file.
        file: Pem,
        /// The reason.
        source: rustls::Error,
    },
    /// The private key does not belong to the first certificate of the chain.
    WrongKey {
        /// File of the key.
        file: Pem,
        /// File of the chain.
        chain: Pem,
    },
    /// The name for a certificate is not a host name.
    BadName {
        /// The name.
        name: Box<str>,
    },
    /// A certificate is not valid for the name that it should be presented for.
    WrongName {
        /// The name.
        name: Box<str>,
        /// File of the certificate.
        file: Pem,
        /// The reason with the names that the certificate is valid for.
        source: rustls::Error,
    },
    /// The operating system offers no trusted roots.
    NoSystemRoots {
        /// The reason if it is known.
        source: Option<BoxError>,
    },
    /// Client certificates cannot be verified with the given roots.
    BadRoots {
        /// File of the roots.
        file: Pem,
        /// The reason.
        source: VerifierBuilderError,
    },
    /// rustls does not support the configuration.
    Unusable {
        /// The reason.
        source: rustls::Error,
    },
    /// A configuration that was not loaded from files cannot be reloaded.
    NoFiles,
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, .. } => write!(f, "cannot read {file}"),
            Self::Malformed { file, .. } => write!(f, "{file} is not well-formed PEM"),
            Self::NoCertificate { file } => write!(f, "no certificate in {file}"),
            Self::BadCertificate { file, .. } => {
                write!(f, "a certificate in {file} cannot be used")
            }
            Self::NoKey { file } => write!(f, "no private key in {file}"),
            Self::EncryptedKey { file } => {
                write!(
                    f,
                    "the private key in {file} is encrypted; decrypt it to remove the password"
                )
            }
            Self::BadKey { file, .. } => write!(f, "the private key in {file} cannot be used"),
            Self::WrongKey { file, chain } => write!(
                f,
                "the private key in {file} does not belong to the first certificate in {chain}"
            ),
            Self::BadName { name } => write!(f, "{name:?} is not a host name"),
            Self::WrongName { name, file, .. } => {
                write!(f, "the certificate in {file} is not valid for {name}")
            }
            Self::NoSystemRoots { .. } => {
                f.write_str("the operating system offers no root certificates")
            }
            Self::BadRoots { file, .. } => {
                write!(
                    f,
                    "client certificates cannot be verified with the roots in {file}"
                )
            }
            Self::Unusable { .. } => f.write_str("the TLS configuration cannot be used"),
            Self::NoFiles => f.write_str("the TLS configuration was not loaded from files"),
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
            Self::NoSystemRoots { source } => source.as_deref().map(|source| source as _),
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
