//! What protects a connection, as its handle tells it.

use std::{fmt, sync::Arc};

use tokio_rustls::rustls::{
    CipherSuite, CommonState, ProtocolVersion,
    pki_types::{CertificateDer, ServerName},
};

use super::TlsStream;

/// What protects a connection: an attribute of its handle from the end of the handshake on.
///
/// ```
/// use getty::{ConnectionHandle, tls::TlsInfo};
///
/// /// Whether the peer has shown a certificate, which was verified then.
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

    /// The peer's certificate chain, its own certificate first, in DER. It was verified, unless verification was turned
    /// off or replaced. What they say, such as whose they are, is for a parser of X.509 to read, the `x509-parser` crate's
    /// for one. Empty where the peer has shown none, as a server's peers do that are not asked for one.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.peer_certificates
    }

    /// The name of the server: on its side the one that the client asked for (SNI), if it did, in lower case; on the
    /// client's side the one, or the address, that the server's certificate was verified for.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// The protocol inside of TLS that both sides agreed on (ALPN), if they spoke of it.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.alpn.as_deref()
    }

    /// The version of TLS.
    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.0.version.unwrap_or(ProtocolVersion::Unknown(0))
    }

    /// The cipher suite.
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
