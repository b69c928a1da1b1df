//! Headers of the PROXY protocol, against the crates `proxy-header` and `ppp`.
//!
//! The three agree except where `tests/net/proxy_protocol/differential.rs` names a reason. The
//! reasons here are the same.

use std::sync::Arc;

use getty::{
    Address, BoxError, Connection, Endpoints, Layer, TransportKind,
    layers::access::{AccessList, IpNet},
    proxy::{HeaderError, ProxyError, ProxyInfo, ProxyProtocolLayer},
};
use ppp::v2;
use tokio::io::AsyncReadExt;
use tower::{ServiceExt, service_fn};

use crate::kit::{After, Input, Wire, block_on, same_for_all_pieces, wire};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    Invalid,
    /// More bytes could complete the header.
    Incomplete,
    TooLong,
}

/// The addresses of source and destination if the header sets them, and its length.
type Outcome = Result<(Option<(Address, Address)>, usize), Defect>;

/// Outcome of the layer with its TLVs.
#[derive(Clone, Debug, PartialEq)]
struct Ours {
    outcome: Outcome,
    defect: Option<HeaderError>,
    tlvs: Vec<(u8, Vec<u8>)>,
}

fn ip(text: &str) -> Address {
    Address::Ip(text.parse().expect("an address"))
}

fn ours(pieces: &[&[u8]], max: usize) -> Ours {
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    let is_line = pieces.concat().starts_with(b"P");
    let (io, peer) = wire();
    peer.send(pieces.iter().copied());
    peer.then(After::End);
    let proxies =
        AccessList::deny_all().with_allowed(["10.0.0.0/8".parse::<IpNet>().expect("a net")]);
    let layer = ProxyProtocolLayer::from_sources(proxies).with_max_header(max);
    let endpoints = Endpoints::new(TransportKind::Tcp, ip("10.0.0.1:7000"), ip("10.0.0.2:4096"));
    let connection = Connection::with_endpoints(io, endpoints);
    let handle = connection.handle().clone();
    let inner = service_fn(|mut connection: Connection<Wire>| async move {
        let mut rest = Vec::new();
        let info = connection.handle().get::<ProxyInfo>();
        connection.transport_mut().read_to_end(&mut rest).await?;
        Ok::<_, BoxError>((rest, info))
    });
    let result = block_on(layer.layer(inner).oneshot(connection));
    let invalid = |outcome, defect| Ours {
        outcome: Err(outcome),
        defect,
        tlvs: Vec::new(),
    };
    let (rest, info) = match result {
        Ok(read) => read,
        Err(error) => {
            return match error.downcast_ref().expect("an error of the layer") {
                ProxyError::Probe | ProxyError::Truncated => invalid(Defect::Incomplete, None),
                // A line may also have another defect, and either may be found first.
                ProxyError::Header(HeaderError::TooLong { .. }) if is_line => {
                    invalid(Defect::Invalid, Some(HeaderError::Line))
                }
                ProxyError::Header(HeaderError::TooLong { .. }) => invalid(Defect::TooLong, None),
                ProxyError::Header(defect) => invalid(Defect::Invalid, Some(*defect)),
                other => panic!("{other:?}"),
            };
        }
    };
    let addresses = (handle.peer_addr().clone(), handle.local_addr().clone());
    let set = addresses.0 != *handle.socket_peer_addr();
    let tlvs = info.map(|info| {
        // Reading them does not panic.
        let _ = (info.alpn(), info.authority(), info.unique_id());
        if let Some(ssl) = info.ssl() {
            let _ = (
                ssl.version(),
                ssl.common_name(),
                ssl.cipher(),
                ssl.tlvs().count(),
            );
        }
        info.tlvs()
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect()
    });
    Ours {
        outcome: Ok((set.then_some(addresses), total - rest.len())),
        defect: None,
        tlvs: tlvs.unwrap_or_default(),
    }
}

fn by_proxy_header(bytes: &[u8]) -> Outcome {
    use proxy_header::{Error, ParseConfig, ProxyHeader};
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((header, len)) => {
            let addresses = header.proxied_address();
            let addresses = addresses.map(|both| (both.source.into(), both.destination.into()));
            Ok((addresses, len))
        }
        Err(Error::BufferTooShort) => Err(Defect::Incomplete),
        Err(_) => Err(Defect::Invalid),
    }
}

fn by_ppp(bytes: &[u8]) -> Outcome {
    use ppp::{HeaderResult, PartialResult, v1};
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() {
        return Err(Defect::Incomplete);
    }
    let ips = |source: std::net::SocketAddr, destination: std::net::SocketAddr| {
        Some((Address::Ip(source), Address::Ip(destination)))
    };
    match result {
        HeaderResult::V1(Ok(header)) => {
            let addresses = match header.addresses {
                v1::Addresses::Tcp4(both) => ips(
                    (both.source_address, both.source_port).into(),
                    (both.destination_address, both.destination_port).into(),
                ),
                v1::Addresses::Tcp6(both) => ips(
                    (both.source_address, both.source_port).into(),
                    (both.destination_address, both.destination_port).into(),
                ),
                v1::Addresses::Unknown => None,
            };
            Ok((addresses, header.header.len()))
        }
        HeaderResult::V2(Ok(header)) => {
            let addresses = match header.addresses {
                _ if header.command == v2::Command::Local => None,
                v2::Addresses::IPv4(both) => ips(
                    (both.source_address, both.source_port).into(),
                    (both.destination_address, both.destination_port).into(),
                ),
                v2::Addresses::IPv6(both) => ips(
                    (both.source_address, both.source_port).into(),
                    (both.destination_address, both.destination_port).into(),
                ),
                v2::Addresses::Unspecified => None,
                v2::Addresses::Unix(ref both) => {
                    Some((unix(&both.source), unix(&both.destination)))
                }
            };
            Ok((addresses, header.len()))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(Defect::Invalid),
    }
}

fn unix(path: &[u8]) -> Address {
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    #[cfg(unix)]
    let path: &std::path::Path = {
        use std::os::unix::ffi::OsStrExt;
        std::ffi::OsStr::from_bytes(path).as_ref()
    };
    #[cfg(not(unix))]
    let path: &std::path::Path = str::from_utf8(path).unwrap_or_default().as_ref();
    let is_named = !path.as_os_str().is_empty();
    Address::Unix(is_named.then(|| Arc::from(path)))
}

/// Returns `true` if a reference may differ from getty here.
fn may_differ(bytes: &[u8], ours: &Ours, other: &Outcome) -> bool {
    let line = bytes.starts_with(b"PROXY");
    let binary = bytes.starts_with(SIGNATURE);
    match (&ours.outcome, other) {
        (ours, other) if ours == other => true,
        // A defect may be found before the header is complete, or behind it.
        (Err(_), Err(_)) => true,
        // The references do not check TLVs.
        (Err(_), _)
            if matches!(
                ours.defect,
                Some(HeaderError::Tlv(_) | HeaderError::Checksum)
            ) =>
        {
            true
        }
        // Behind LOCAL the family has no meaning.
        (Ok(_), _) if binary && bytes[12] == 0x20 && bytes[13] != 0 => true,
        // `proxy-header` decodes no Unix addresses.
        (Ok(_), _) if binary && matches!(bytes[13], 0x31 | 0x32) => true,
        // A half of the family's byte is unspecified.
        (Ok(_), _) if binary && (bytes[13] & 0x0F == 0 || bytes[13] >> 4 == 0) => true,
        // The rest of a line UNKNOWN is any bytes up to CRLF.
        (Ok(_), _) if line && bytes[6..].starts_with(b"UNKNOWN") => true,
        // `proxy-header` accepts what the grammar forbids.
        (Err(_), Ok(_)) if line && ours.defect.is_some() => true,
        // `ppp` takes a space before LF for a CR.
        (Err(Defect::Incomplete), Ok((_, len))) if line => {
            bytes[..*len].windows(2).any(|two| two == b" \n")
        }
        _ => false,
    }
}

pub(crate) fn proxy_header(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let max = input.byte();
    let bytes = input.rest();
    let max = if max == 0 {
        16 + 65_535
    } else {
        100 + usize::from(max)
    };
    let ours = same_for_all_pieces(bytes, seed, |pieces| ours(&pieces, max));
    if let Ok((_, length)) = ours.outcome {
        assert!(length <= max);
    }
    if ours.outcome == Err(Defect::TooLong) {
        return;
    }
    let (proxy_header, ppp) = (by_proxy_header(bytes), by_ppp(bytes));
    for (name, other) in [("proxy-header", &proxy_header), ("ppp", &ppp)] {
        assert!(
            may_differ(bytes, &ours, other),
            "{name}: ours {ours:?}, theirs {other:?}"
        );
    }
    if let Ok((Some(_), _)) = ours.outcome
        && let Ok(header) = v2::Header::try_from(bytes)
    {
        let tlvs = header.tlvs().map(|tlv| {
            let tlv = tlv.expect("getty has accepted it");
            (tlv.kind, tlv.value.into_owned())
        });
        assert_eq!(ours.tlvs, tlvs.collect::<Vec<_>>());
    }
}
