//! Contents of a received header as an attribute of the connection's handle.

use std::{fmt, sync::Arc};

use super::{
    header::{Header, ProxyCommand, ProxyVersion},
    parse::{SSL, SSL_FIXED, next_tlv},
};

/// PROXY header of a connection. It is an attribute of the connection's handle once
/// [`ProxyProtocolLayer`](super::ProxyProtocolLayer) has received one.
///
/// The addresses are not here: the handle's
/// [`peer_addr`](crate::ConnectionHandle::peer_addr) and
/// [`local_addr`](crate::ConnectionHandle::local_addr) return them.
///
/// Version 2 may contain further values, as TLVs: a type, a length and a value. The methods for
/// known types return the first TLV of their type. All TLVs are kept as they were received.
///
/// ```
/// use getty::{ConnectionHandle, proxy::{ProxyCommand, ProxyInfo}};
///
/// /// Returns `true` if the connection is a health check of the load balancer.
/// fn is_health_check(handle: &ConnectionHandle) -> bool {
///     handle.get::<ProxyInfo>().is_some_and(|proxy| proxy.command() == ProxyCommand::Local)
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyInfo(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    version: ProxyVersion,
    command: ProxyCommand,
    /// TLVs whose lengths were checked.
    tlvs: Box<[u8]>,
}

impl ProxyInfo {
    pub(super) fn new(header: &Header, bytes: &[u8]) -> Self {
        Self(Arc::new(Inner {
            version: header.version,
            command: header.command,
            tlvs: bytes[header.tlvs.clone()].into(),
        }))
    }

    /// Returns the version of the header.
    #[must_use]
    pub fn version(&self) -> ProxyVersion {
        self.0.version
    }

    /// Returns the reason for which the proxy has opened the connection. It is
    /// [`Proxy`](ProxyCommand::Proxy) for every header of version 1.
    #[must_use]
    pub fn command(&self) -> ProxyCommand {
        self.0.command
    }

    /// Returns all TLVs as pairs of type and value, in the order of the header.
    ///
    /// There are none in version 1 and behind the command LOCAL.
    pub fn tlvs(&self) -> impl Iterator<Item = (u8, &[u8])> {
        tlvs(&self.0.tlvs)
    }

    /// Returns the value of the first TLV of this type, such as `0xEA` for the values of AWS.
    #[must_use]
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        find(&self.0.tlvs, kind)
    }

    /// Returns the protocol inside the client's TLS that was agreed (ALPN).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlv(0x01)
    }

    /// Returns the host name that the client asked for, usually the name in its TLS handshake
    /// (SNI). There is none if it is not UTF-8.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        str::from_utf8(self.tlv(0x02)?).ok()
    }

    /// Returns the proxy's identifier of the connection, for the correlation of logs.
    #[must_use]
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlv(0x05)
    }

    /// Returns the client's TLS, which the proxy has terminated.
    #[must_use]
    pub fn ssl(&self) -> Option<ProxySsl<'_>> {
        let value = self.tlv(SSL)?;
        let (&[client, ref verify @ ..], tlvs) = value.split_first_chunk::<SSL_FIXED>()?;
        Some(ProxySsl {
            client,
            verify: u32::from_be_bytes(*verify),
            tlvs,
        })
    }
}

fn tlvs(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, value) = next_tlv(rest).ok()?;
        rest = &rest[3 + value.len()..];
        Some((kind, value))
    })
}

fn find(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    tlvs(bytes)
        .find(|(other, _)| *other == kind)
        .map(|(_, value)| value)
}

// The values may be secrets of an application, such as a token of the proxy.
impl fmt::Debug for ProxyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<u8> = self.tlvs().map(|(kind, _)| kind).collect();
        f.debug_struct("ProxyInfo")
            .field("version", &self.version())
            .field("command", &self.command())
            .field("authority", &self.authority())
            .field("tlvs", &kinds)
            .finish()
    }
}

/// TLS between the client and the proxy. Returned by [`ProxyInfo::ssl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxySsl<'a> {
    client: u8,
    verify: u32,
    tlvs: &'a [u8],
}

impl<'a> ProxySsl<'a> {
    /// Returns `true` if the client connected over TLS. A proxy may also send this TLV for
    /// clients without TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.client & 1 != 0
    }

    /// Returns `true` if the client presented a certificate, over this connection or earlier in
    /// the same TLS session.
    #[must_use]
    pub const fn has_certificate(&self) -> bool {
        self.client & 6 != 0
    }

    /// Returns `true` if the client presented a certificate and the proxy has verified it.
    #[must_use]
    pub const fn is_verified(&self) -> bool {
        self.is_tls() && self.has_certificate() && self.verify == 0
    }

    /// Returns the version of TLS, such as `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> Option<&'a str> {
        self.text(0x21)
    }

    /// Returns the common name of the client's certificate. Trust it only if the certificate
    /// [is verified](Self::is_verified).
    #[must_use]
    pub fn common_name(&self) -> Option<&'a str> {
        self.text(0x22)
    }

    /// Returns the name of the cipher, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    #[must_use]
    pub fn cipher(&self) -> Option<&'a str> {
        self.text(0x23)
    }

    /// Returns the algorithm that the proxy's certificate is signed with, such as `SHA256`.
    #[must_use]
    pub fn signature_algorithm(&self) -> Option<&'a str> {
        self.text(0x24)
    }

    /// Returns the algorithm of the proxy's key, such as `RSA2048`.
    #[must_use]
    pub fn key_algorithm(&self) -> Option<&'a str> {
        self.text(0x25)
    }

    /// Returns all inner TLVs as pairs of type and value.
    pub fn tlvs(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        tlvs(self.tlvs)
    }

    fn text(&self, kind: u8) -> Option<&'a str> {
        str::from_utf8(find(self.tlvs, kind)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(tlvs: &[u8]) -> ProxyInfo {
        let header = Header {
            version: ProxyVersion::V2,
            command: ProxyCommand::Proxy,
            addresses: None,
            tlvs: 0..tlvs.len(),
        };
        ProxyInfo::new(&header, tlvs)
    }

    #[test]
    fn values_are_found_by_their_types_and_the_first_one_counts() {
        let info = info(b"\x04\0\0\x02\0\x01a\x02\0\x01b\x01\0\x02h2\x05\0\x01\xFF\xEA\0\0");
        assert_eq!(info.authority(), Some("a"));
        assert_eq!(info.alpn(), Some(&b"h2"[..]));
        assert_eq!(info.unique_id(), Some(&[0xFF][..]));
        assert_eq!(info.tlv(0xEA), Some(&[][..]));
        assert_eq!(info.ssl(), None);
        let kinds: Vec<u8> = info.tlvs().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [4, 2, 2, 1, 5, 0xEA]);
        assert!(!format!("{info:?}").contains("h2"));
    }

    #[test]
    fn certificates_are_verified_only_if_there_is_one() {
        let ssl = |client, verify| {
            let tlvs = [0x20, 0, 9, client, 0, 0, 0, verify, 0x22, 0, 1, b'x'];
            let info = info(&tlvs);
            let ssl = info.ssl().unwrap();
            assert_eq!((ssl.common_name(), ssl.version()), (Some("x"), None));
            (ssl.is_tls(), ssl.has_certificate(), ssl.is_verified())
        };
        assert_eq!(ssl(0, 0), (false, false, false));
        assert_eq!(ssl(1, 0), (true, false, false));
        assert_eq!(ssl(3, 0), (true, true, true));
        assert_eq!(ssl(5, 0), (true, true, true));
        assert_eq!(ssl(3, 18), (true, true, false));
        assert_eq!(ssl(2, 0), (false, true, false));
    }
}
