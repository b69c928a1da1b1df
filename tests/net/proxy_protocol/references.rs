//! Other parsers of PROXY headers. The fuzz target `proxy_header` uses them as well.

use getty::Address;
use ppp::v2;

/// Outcome of a parser: the addresses of source and destination if the header sets them, and
/// its length.
pub(crate) type Outcome = Result<(Option<(Address, Address)>, usize), Defect>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    Invalid,
    /// More bytes could complete the header.
    Incomplete,
}

/// Parses with the crate `proxy-header`.
pub(crate) fn by_proxy_header(bytes: &[u8]) -> Outcome {
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

/// Parses with the crate `ppp`.
pub(crate) fn by_ppp(bytes: &[u8]) -> Outcome {
    use ppp::{HeaderResult, PartialResult, v1};
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() {
        return Err(Defect::Incomplete);
    }
    match result {
        HeaderResult::V1(Ok(header)) => {
            let addresses = match header.addresses {
                v1::Addresses::Tcp4(both) => Some((
                    (both.source_address, both.source_port).into(),
                    (both.destination_address, both.destination_port).into(),
                )),
                v1::Addresses::Tcp6(both) => Some((
                    (both.source_address, both.source_port).into(),
                    (both.destination_address, both.destination_port).into(),
                )),
                v1::Addresses::Unknown => None,
            };
            let addresses = addresses.map(|(a, b)| (Address::Ip(a), Address::Ip(b)));
            Ok((addresses, header.header.len()))
        }
        HeaderResult::V2(Ok(header)) => {
            let addresses = match header.addresses {
                _ if header.command == v2::Command::Local => None,
                v2::Addresses::IPv4(both) => Some((
                    (both.source_address, both.source_port).into(),
                    (both.destination_address, both.destination_port).into(),
                )),
                v2::Addresses::IPv6(both) => Some((
                    (both.source_address, both.source_port).into(),
                    (both.destination_address, both.destination_port).into(),
                )),
                v2::Addresses::Unspecified => None,
                v2::Addresses::Unix(ref both) => {
                    let named = |path: &[u8]| {
                        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
                        Address::Unix(unix_path(path))
                    };
                    let addresses = (named(&both.source), named(&both.destination));
                    return Ok((Some(addresses), header.len()));
                }
            };
            let addresses = addresses.map(|(a, b)| (Address::Ip(a), Address::Ip(b)));
            Ok((addresses, header.len()))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(Defect::Invalid),
    }
}

#[cfg(unix)]
fn unix_path(path: &[u8]) -> Option<std::sync::Arc<std::path::Path>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
    (!path.as_os_str().is_empty()).then(|| path.into())
}

#[cfg(not(unix))]
fn unix_path(path: &[u8]) -> Option<std::sync::Arc<std::path::Path>> {
    let path = std::str::from_utf8(path).ok()?;
    (!path.is_empty()).then(|| std::path::Path::new(path).into())
}
