//! Client side: the layer around a connector that sends headers.

use std::{
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::{Address, Close, Connection};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::Instant,
};
use tower::{BoxError, Layer, Service};

use super::{
    error::ProxyError,
    header::ProxyVersion,
    layer::TIMEOUT,
    parse::{CRC32C, FIXED, PATH, SIGNATURE},
    target::{ProxiedTarget, ProxyHeader},
};
use crate::crc32c::crc32c;
use crate::{
    Connector,
    transport::{Interrupted, uninterrupted},
};

/// Sends a PROXY header at the start of each connection, around any connector. The transport
/// stays the same.
///
/// - *ready*: polls the connector.
/// - *call*: connects and then sends the header: that of the client in a
///   [`ProxyFor`](super::ProxyFor), or one without addresses for a plain target.
/// - *drop*: abandons the attempt and closes its connection.
/// - *close*: if the header cannot be sent, the connection closes as
///   [`Refused`](crate::CloseReason::Refused) or
///   [`HandshakeTimeout`](crate::CloseReason::HandshakeTimeout). The source, which is also the
///   error of this service, is a [`ProxyError`]. If the connector fails, its error is returned.
///
/// Scope: the settings apply to each call. The layer must be inside `TlsConnectLayer` and
/// `WsConnectLayer` because the header comes before the handshake.
///
/// Some receivers refuse UNKNOWN, which version 1 sends for a plain target. Version 2 or a
/// [`ProxyFor`](super::ProxyFor) with two IP addresses avoids it.
#[derive(Clone, Debug)]
pub struct ProxyProtocolConnectLayer {
    version: ProxyVersion,
    checksum: bool,
    timeout: Duration,
}

impl ProxyProtocolConnectLayer {
    /// Creates a new layer that sends headers of version 1, a line of text.
    #[must_use]
    pub const fn v1() -> Self {
        Self::new(ProxyVersion::V1)
    }

    /// Creates a new layer that sends headers of version 2, with TLVs.
    #[must_use]
    pub const fn v2() -> Self {
        Self::new(ProxyVersion::V2)
    }

    const fn new(version: ProxyVersion) -> Self {
        Self {
            version,
            checksum: false,
            timeout: TIMEOUT,
        }
    }

    /// Adds a checksum (CRC-32C) to headers of version 2 that relay a client. The default is none.
    #[must_use]
    pub const fn with_checksum(mut self) -> Self {
        self.checksum = true;
        self
    }

    /// Sets the time for sending the header. The default is 5 s. It begins once the connector has
    /// connected. The connector has a separate timeout.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn encode(&self, header: Option<&ProxyHeader>) -> Result<Vec<u8>, ProxyError> {
        match self.version {
            ProxyVersion::V1 => Ok(line(header)),
            ProxyVersion::V2 => binary(header, self.checksum),
        }
    }
}

/// Returns both addresses in the same family, or `None` if one is no IP address.
fn same_family(header: &ProxyHeader) -> Option<(SocketAddr, SocketAddr)> {
    let source = header.source.socket_addr()?;
    let destination = header.destination.socket_addr()?;
    if source.is_ipv4() == destination.is_ipv4() {
        return Some((source, destination));
    }
    let [source, destination] = [source, destination].map(|address| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    });
    Some((source, destination))
}

fn line(header: Option<&ProxyHeader>) -> Vec<u8> {
    let Some((source, destination)) = header.and_then(same_family) else {
        return b"PROXY UNKNOWN\r\n".into();
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.port(), destination.port());
    let (source, destination) = (source.ip(), destination.ip());
    format!("PROXY {family} {source} {destination} {from} {to}\r\n").into()
}

fn binary(header: Option<&ProxyHeader>, checksum: bool) -> Result<Vec<u8>, ProxyError> {
    let mut bytes = SIGNATURE.to_vec();
    let Some(header) = header else {
        bytes.extend([0x20, 0, 0, 0]); // LOCAL
        return Ok(bytes);
    };
    bytes.extend([0x21, 0, 0, 0]); // PROXY; family and length follow
    bytes[13] = append_addresses(&mut bytes, header)?;
    for (kind, value) in &header.tlvs {
        let length = u16::try_from(value.len()).map_err(|_| ProxyError::TooLarge)?;
        bytes.push(*kind);
        bytes.extend(length.to_be_bytes());
        bytes.extend(value);
    }
    let end = bytes.len();
    if checksum {
        bytes.extend([CRC32C, 0, 4, 0, 0, 0, 0]);
    }
    let length = u16::try_from(bytes.len() - FIXED).map_err(|_| ProxyError::TooLarge)?;
    bytes[14..FIXED].copy_from_slice(&length.to_be_bytes());
    if checksum {
        let sum = crc32c(&[&bytes]);
        bytes[end + 3..].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(bytes)
}

/// Appends the addresses of a stream. Returns the byte of their family.
fn append_addresses(bytes: &mut Vec<u8>, header: &ProxyHeader) -> Result<u8, ProxyError> {
    if let Some((source, destination)) = same_family(header) {
        for ip in [source.ip(), destination.ip()] {
            match ip {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
        }
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        return Ok(if source.is_ipv4() { 0x11 } else { 0x21 });
    }
    let (Address::Unix(source), Address::Unix(destination)) = (&header.source, &header.destination)
    else {
        return Ok(0);
    };
    for path in [source, destination] {
        let path = path
            .as_ref()
            .map(|path| path.as_os_str().as_encoded_bytes());
        let path = path.unwrap_or_default();
        let padding = PATH.checked_sub(path.len()).ok_or(ProxyError::TooLarge)?;
        bytes.extend(path);
        bytes.extend(std::iter::repeat_n(0, padding));
    }
    Ok(0x31)
}

impl<C> Layer<C> for ProxyProtocolConnectLayer {
    type Service = ProxyProtocolConnect<C>;

    fn layer(&self, inner: C) -> ProxyProtocolConnect<C> {
        ProxyProtocolConnect {
            inner,
            layer: self.clone(),
        }
    }
}

/// Connector that [`ProxyProtocolConnectLayer`] creates.
#[derive(Clone, Debug)]
pub struct ProxyProtocolConnect<C> {
    inner: C,
    layer: ProxyProtocolConnectLayer,
}

impl<S> ProxyProtocolConnect<S> {
    getty_core::inner_service_accessors!();
}

impl<C, A> Service<A> for ProxyProtocolConnect<C>
where
    A: ProxiedTarget,
    C: Connector<A::Target, Future: Send + 'static>,
    C::Io: AsyncWrite + Unpin + Send + 'static,
{
    type Response = Connection<C::Io>;
    type Error = BoxError;
    type Future = ProxyProtocolConnecting<C::Io>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: A) -> Self::Future {
        let (target, header) = target.into_parts();
        let header = match self.layer.encode(header.as_ref()) {
            Ok(header) => header,
            Err(error) => return ProxyProtocolConnecting(Box::pin(async { Err(error.into()) })),
        };
        let timeout = self.layer.timeout;
        let dial = self.inner.call(target);
        ProxyProtocolConnecting(Box::pin(async move {
            let mut connection = dial.await.map_err(Into::into)?;
            let handle = connection.handle().clone();
            let send = send(connection.transport_mut(), &header);
            let deadline = Instant::now().checked_add(timeout);
            let error = match uninterrupted(&handle, deadline, send).await {
                Ok(Ok(())) => return Ok(connection),
                Ok(Err(error)) => ProxyError::Io(error.into()),
                Err(Interrupted::TimedOut) => ProxyError::TimedOut(timeout),
                Err(Interrupted::Closed) => ProxyError::Cancelled,
            };
            handle.close_with(Close::new(error.reason()).with_source(error.clone()));
            Err(error.into())
        }))
    }
}

async fn send<T: AsyncWrite + Unpin>(transport: &mut T, header: &[u8]) -> std::io::Result<()> {
    transport.write_all(header).await?;
    transport.flush().await
}

/// Future of [`ProxyProtocolConnect`].
///
/// # Cancel safety
///
/// Dropping it abandons the attempt and closes its connection.
#[must_use = "futures do nothing unless polled"]
pub struct ProxyProtocolConnecting<T>(BoxFuture<'static, Result<Connection<T>, BoxError>>);

impl<T> Future for ProxyProtocolConnecting<T> {
    type Output = Result<Connection<T>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for ProxyProtocolConnecting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyProtocolConnecting")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::proxy::{header::Header, parse};

    fn ip(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    fn parsed(layer: &ProxyProtocolConnectLayer, header: &ProxyHeader) -> Header {
        let bytes = layer.encode(Some(header)).unwrap();
        assert_eq!(parse::missing(&bytes, usize::MAX), Ok(0));
        parse::parse(&bytes).unwrap()
    }

    #[test]
    fn headers_are_parsed_back() {
        let v2 = ProxyProtocolConnectLayer::v2();
        let (a, b) = (ip("192.0.2.1:1"), ip("192.0.2.2:65535"));
        let (c, d) = (ip("[2001:db8::1]:3"), ip("[2001:db8::2]:4"));
        let mapped = ip("[::ffff:192.0.2.1]:1");
        for (source, destination, received) in [
            (&a, &b, Some((a.clone(), b.clone()))),
            (&c, &d, Some((c.clone(), d.clone()))),
            (&a, &d, Some((mapped.clone(), d.clone()))),
            (&d, &a, Some((d.clone(), mapped))),
            (&a, &Address::Unknown, None),
            (&Address::Memory(1), &Address::Memory(2), None),
        ] {
            let header = ProxyHeader::new(source.clone(), destination.clone());
            assert_eq!(
                parsed(&ProxyProtocolConnectLayer::v1(), &header).addresses,
                received
            );
            assert_eq!(parsed(&v2, &header).addresses, received);
            let header = header.with_tlv(0xE0, "x").with_tlv(4, Bytes::new());
            let checked = parsed(&v2.clone().with_checksum(), &header);
            assert_eq!((checked.addresses, checked.tlvs.len()), (received, 14));
        }
    }

    #[cfg(unix)]
    #[test]
    fn unix_paths_fit_their_fields_or_are_refused() {
        let named = |path: &str| Address::Unix(Some(std::path::Path::new(path).into()));
        let v2 = ProxyProtocolConnectLayer::v2();
        let header = ProxyHeader::new(Address::Unix(None), named(&"x".repeat(PATH)));
        let addresses = (header.source.clone(), header.destination.clone());
        assert_eq!(parsed(&v2, &header).addresses, Some(addresses));
        assert_eq!(line(Some(&header)), b"PROXY UNKNOWN\r\n");
        let header = ProxyHeader::new(Address::Unix(None), named(&"x".repeat(PATH + 1)));
        assert!(matches!(
            v2.encode(Some(&header)),
            Err(ProxyError::TooLarge)
        ));
    }

    #[test]
    fn plain_targets_have_headers_without_addresses() {
        let v2 = ProxyProtocolConnectLayer::v2()
            .with_checksum()
            .encode(None)
            .unwrap();
        assert_eq!(v2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        let v1 = ProxyProtocolConnectLayer::v1().encode(None).unwrap();
        assert_eq!(v1, b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn tlvs_fit_a_header_or_are_refused() {
        let header = |len| ProxyHeader::default().with_tlv(0xE0, vec![0; len]);
        let v2 = ProxyProtocolConnectLayer::v2();
        assert_eq!(parsed(&v2, &header(65_532)).tlvs.len(), 65_535);
        for (layer, len) in [
            (&v2, 65_533),
            (&v2, 65_536),
            (&v2.clone().with_checksum(), 65_532),
        ] {
            let encoded = layer.encode(Some(&header(len)));
            assert!(matches!(encoded, Err(ProxyError::TooLarge)), "{len}");
        }
    }
}
