//! Headers of the PROXY protocol, against the crates `proxy-header` and `ppp`.
//!
//! The three agree except where `tests/net/proxy_protocol/differential.rs` names a reason. The
//! reasons here are the same.

use getty::{
    Address, BoxError, Connection, Endpoints, Layer, TransportKind,
    layers::access::{AccessList, IpNet},
    proxy::{HeaderError, ProxyError, ProxyInfo, ProxyProtocolLayer},
};
use ppp::v2;
use tokio::io::AsyncReadExt;
use tower::{ServiceExt, service_fn};

use self::references::{Defect, Outcome, by_ppp, by_proxy_header};
use crate::kit::{Input, Wire, block_on, same_for_all_pieces, send, wire};

#[path = "../../tests/net/proxy_protocol/references.rs"]
mod references;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

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
    send(&peer, pieces.iter().copied());
    peer.finish();
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
    if let Some(HeaderError::TooLong { .. }) = ours.defect {
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
