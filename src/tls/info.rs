//! Parameters of a TLS connection as an attribute of its handle.

use std::{fmt, sync::Arc};

use tokio_rustls::rustls::{
    CipherSuite, CommonState, ProtocolVersion,
    pki_types::{CertificateDer, ServerName},
};

use super::stream::TlsStream;

/// Parameters of a TLS connection. It is an attribute of the connection's handle after the
/// handshake.
///
/// ```
/// use getty::{ConnectionHandle, tls::TlsInfo};
///
/// /// Returns `true` if the peer has presented a certificate, which was then verified.
/// fn is_known(handle: &ConnectionHandle) -> bool {
///     handle.get::<TlsInfo>().is_some_and(|tls| !tls.peer_certificates().is_empty())
/// }
/// ```
#[derive(Clone)]
pub struct TlsInfo(Arc<Inner>);

struct Inner {
    peer_certificates: Box<[CertificateDer<'static>]>,
    server_name: Option<Box<str>>,
    alpn: Option<Box<[u8]>>,
    version: Option<ProtocolVersion>,
    cipher_suite: Option<CipherSuite>,
}

impl TlsInfo {
    pub(super) fn accepted<T>(stream: &TlsStream<T>) -> Self {
        Self::new(stream.state(), stream.requested_name().map(Into::into))
    }

    pub(super) fn connected<T>(stream: &TlsStream<T>, name: &ServerName<'_>) -> Self {
        Self::new(stream.state(), Some(name.to_str().into()))
    }

    fn new(state: &CommonState, server_name: Option<Box<str>>) -> Self {
        let chain = state.peer_certificates().unwrap_or_default();
        Self(Arc::new(Inner {
            peer_certificates: chain.iter().cloned().collect(),
            server_name,
            alpn: state.alpn_protocol().map(Into::into),
            version: state.protocol_version(),
            cipher_suite: state.negotiated_cipher_suite().map(|suite| suite.suite()),
        }))
    }

    /// Returns the peer's certificate chain in DER, with the peer's own certificate first.
    ///
    /// The chain was verified unless verification was disabled or replaced. Use a parser of X.509
    /// to read the contents, such as the crate `x509-parser`. The chain is empty if the peer
    /// presented no certificate. A client presents none unless it is asked for one.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.peer_certificates
    }

    /// Returns the name of the server. On the server's side it is the name that the client
    /// requested (SNI), in lower case. There may be none. On the client's side it is the name or
    /// address that the server's certificate was verified for.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// Returns the protocol inside TLS that was agreed (ALPN), or `None` if there is none.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.alpn.as_deref()
    }

    /// Returns the version of TLS.
    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.0.version.unwrap_or(ProtocolVersion::Unknown(0))
    }

    /// Returns the cipher suite.
    #[must_use]
    pub fn cipher_suite(&self) -> Option<CipherSuite> {
        self.0.cipher_suite
    }
}

impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("peer_certificates", &self.peer_certificates().len())
            .field("server_name", &self.server_name())
            .field("alpn", &self.alpn().map(String::from_utf8_lossy))
            .field("version", &self.version())
            .field("cipher_suite", &self.cipher_suite())
            .finish()
    }
}
