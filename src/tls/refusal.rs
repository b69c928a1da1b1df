//! Refusal of a client by its first message.

use std::{error::Error, fmt};

use getty_core::SharedError;
use tokio_rustls::rustls::AlertDescription;
use tower::BoxError;

/// Refusal of a client by its first message, with the alert that the client receives.
///
/// ```
/// use getty::tls::TlsRefusal;
///
/// let refusal = TlsRefusal::unrecognized_name().with_source("the tenant has moved");
/// assert_eq!(refusal.to_string(), "the client was refused with the alert UnrecognisedName");
/// ```
#[derive(Clone, Debug)]
pub struct TlsRefusal {
    alert: AlertDescription,
    source: Option<SharedError>,
}

impl TlsRefusal {
    /// Creates a new refusal with any alert. It is sent as a fatal one.
    #[must_use]
    pub const fn new(alert: AlertDescription) -> Self {
        Self {
            alert,
            source: None,
        }
    }

    /// Creates a new refusal with the alert `unrecognized_name`: no server here has the name that
    /// the client requests.
    #[must_use]
    pub const fn unrecognized_name() -> Self {
        Self::new(AlertDescription::UnrecognisedName)
    }

    /// Creates a new refusal with the alert `no_application_protocol`: the server supports none of
    /// the protocols that the client offers.
    #[must_use]
    pub const fn no_application_protocol() -> Self {
        Self::new(AlertDescription::NoApplicationProtocol)
    }

    /// Creates a new refusal with the alert `access_denied`.
    #[must_use]
    pub const fn access_denied() -> Self {
        Self::new(AlertDescription::AccessDenied)
    }

    /// Creates a new refusal with the alert `handshake_failure`: the client does not support the
    /// required parameters.
    #[must_use]
    pub const fn handshake_failure() -> Self {
        Self::new(AlertDescription::HandshakeFailure)
    }

    /// Adds the reason for logs. The client does not receive it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(SharedError::from(source.into()));
        self
    }

    /// Returns the alert.
    #[must_use]
    pub const fn alert(&self) -> AlertDescription {
        self.alert
    }
}

impl fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the client was refused with the alert {:?}", self.alert)
    }
}

impl Error for TlsRefusal {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
