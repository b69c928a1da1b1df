//! Parser of both versions of the header. It has no I/O and keeps no state.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    str::FromStr,
};

use getty_core::Address;

use super::{
    crc::crc32c,
    error::HeaderError,
    info::{ProxyCommand, ProxyVersion},
};

/// Length of the shortest header, `PROXY UNKNOWN\r\n`. This many bytes can be read before the
/// version is known.
const SHORTEST: usize = 15;
/// Maximum length of a header of version 1, with its line end.
const LONGEST_LINE: usize = 107;
/// Length of the fixed part of version 2.
pub(super) const FIXED: usize = 16;
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Length of a path in an address of the family Unix.
pub(super) const PATH: usize = 108;

/// TLV of a checksum.
pub(super) const CRC32C: u8 = 0x03;
/// TLV of the client's TLS, which contains other TLVs behind five bytes.
pub(super) const SSL: u8 = 0x20;
pub(super) const SSL_FIXED: usize = 5;

/// A complete header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: ProxyVersion,
    pub(super) command: ProxyCommand,
    /// Source and destination, or `None` if those of the socket apply.
    pub(super) addresses: Option<(Address, Address)>,
    /// Position of the TLVs in the header.
    pub(super) tlvs: Range<usize>,
}

/// Returns a number of bytes that certainly belong to the header that begins with `bytes`, or 0
/// if it is complete. `max` is the maximum length of a header.
///
/// Only headers longer than `bytes` by this number or more can be valid, so the caller may read
/// it without taking a byte of the application's.
pub(super) fn missing(bytes: &[u8], max: usize) -> Result<usize, HeaderError> {
    let is_line = begins(bytes, b"PROXY ");
    if !is_line && !begins(bytes, SIGNATURE) {
        return Err(HeaderError::Missing);
    }
    if is_line {
        return missing_of_line(bytes, max.min(LONGEST_LINE));
    }
    if let Some(&version) = bytes.get(SIGNATURE.len()) {
        command(version)?;
    }
    match bytes.get(14..FIXED) {
        Some(length) => within(bytes.len(), FIXED + usize::from(be16(length)), max),
        // the first bytes may still be those of version 1
        None if bytes.len() < SHORTEST => within(bytes.len(), SHORTEST, max),
        None => within(bytes.len(), FIXED, max),
    }
}

/// Returns `true` if one of the two is the beginning of the other.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}

fn within(len: usize, total: usize, max: usize) -> Result<usize, HeaderError> {
    if total > max {
        return Err(HeaderError::TooLong { max });
    }
    Ok(total - len)
}

fn missing_of_line(bytes: &[u8], max: usize) -> Result<usize, HeaderError> {
    if let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        // an earlier end would be that of a line too short to be a header
        return if end + 2 == bytes.len() && bytes.len() >= SHORTEST {
            Ok(0)
        } else {
            Err(HeaderError::Line)
        };
    }
    if bytes.len() < SHORTEST {
        return within(bytes.len(), SHORTEST, max);
    }
    let rest = match &bytes[6..11] {
        _ if bytes.ends_with(b"\r") => 1,
        b"TCP4 " => shortest_rest(bytes, 7)?,
        b"TCP6 " => shortest_rest(bytes, 2)?,
        b"UNKNO" => 2,
        _ => return Err(HeaderError::Line),
    };
    within(bytes.len(), bytes.len() + rest, max)
}

/// Returns the length of the shortest rest of a line with addresses of at least `address` bytes.
fn shortest_rest(bytes: &[u8], address: usize) -> Result<usize, HeaderError> {
    // minimum lengths of the fields behind the family
    let fields = [address, address, 1, 1];
    let spaces = bytes.iter().filter(|byte| **byte == b' ').count();
    let begun = spaces - 2;
    let later = fields.get(begun + 1..).ok_or(HeaderError::Line)?;
    let current = if bytes.ends_with(b" ") {
        fields[begun]
    } else {
        0
    };
    let later: usize = later.iter().map(|field| 1 + field).sum();
    Ok(current + later + 2)
}

/// Parses a header that is complete: [`missing`] has returned 0.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
    if bytes.starts_with(SIGNATURE) {
        parse_binary(bytes)
    } else {
        parse_line(bytes)
    }
}

fn parse_line(bytes: &[u8]) -> Result<Header, HeaderError> {
    let line = bytes
        .strip_prefix(b"PROXY ")
        .and_then(|rest| rest.strip_suffix(b"\r\n"))
        .ok_or(HeaderError::Line)?;
    let addresses = if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        None
    } else {
        let line = std::str::from_utf8(line).map_err(|_| HeaderError::Line)?;
        Some(line_addresses(line).ok_or(HeaderError::Line)?)
    };
    Ok(Header {
        version: ProxyVersion::V1,
        command: ProxyCommand::Proxy,
        addresses,
        tlvs: bytes.len()..bytes.len(),
    })
}

fn line_addresses(line: &str) -> Option<(Address, Address)> {
    let mut fields = line.split(' ');
    let family = fields.next()?;
    let (source, destination) = (fields.next()?, fields.next()?);
    let (source_port, destination_port) = (port(fields.next()?)?, port(fields.next()?)?);
    if fields.next().is_some() {
        return None;
    }
    let (source, destination) = match family {
        "TCP4" => (ip::<Ipv4Addr>(source)?, ip::<Ipv4Addr>(destination)?),
        "TCP6" => (ip::<Ipv6Addr>(source)?, ip::<Ipv6Addr>(destination)?),
        _ => return None,
    };
    Some((
        SocketAddr::new(source, source_port).into(),
        SocketAddr::new(destination, destination_port).into(),
    ))
}

fn ip<I: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<I>().ok().map(Into::into)
}

/// Parses a port without a sign and without leading zeros, which other parsers may take for
/// octal.
fn port(text: &str) -> Option<u16> {
    let canonical = text == "0" || text.starts_with(|first| matches!(first, '1'..='9'));
    text.parse().ok().filter(|_| canonical)
}

fn command(version: u8) -> Result<ProxyCommand, HeaderError> {
    match (version >> 4, version & 0x0F) {
        (2, 0) => Ok(ProxyCommand::Local),
        (2, 1) => Ok(ProxyCommand::Proxy),
        (2, command) => Err(HeaderError::Command(command)),
        (version, _) => Err(HeaderError::Version(version)),
    }
}

fn parse_binary(bytes: &[u8]) -> Result<Header, HeaderError> {
    let [version, family, ..] = bytes[SIGNATURE.len()..] else {
        return Err(HeaderError::Missing);
    };
    let command = command(version)?;
    let end = bytes.len();
    let mut header = Header {
        version: ProxyVersion::V2,
        command,
        addresses: None,
        tlvs: end..end,
    };
    if command == ProxyCommand::Local {
        // everything behind the length is discarded, the family included
        return Ok(header);
    }
    let block = &bytes[FIXED..];
    let (family, transport) = (family >> 4, family & 0x0F);
    let size = match (family, transport) {
        (_, 3..) => return Err(HeaderError::Family(family << 4 | transport)),
        (0, _) => 0,
        (1, _) => 2 * (4 + 2),
        (2, _) => 2 * (16 + 2),
        (3, _) => 2 * PATH,
        _ => return Err(HeaderError::Family(family << 4 | transport)),
    };
    let addresses = block.get(..size).ok_or(HeaderError::Addresses)?;
    header.tlvs = FIXED + size..end;
    match check_tlvs(bytes, header.tlvs.start) {
        // what follows an unspecified family need not be TLVs
        Err(HeaderError::Tlv(_)) if family == 0 => header.tlvs = end..end,
        checked => checked?,
    }
    if transport != 0 {
        header.addresses = block_addresses(family, addresses);
    }
    Ok(header)
}

fn block_addresses(family: u8, block: &[u8]) -> Option<(Address, Address)> {
    let (source, destination): (IpAddr, IpAddr) = match family {
        1 => {
            let [source, destination] = [0, 4].map(|at| <[u8; 4]>::try_from(&block[at..at + 4]));
            (source.ok()?.into(), destination.ok()?.into())
        }
        2 => {
            let [source, destination] = [0, 16].map(|at| <[u8; 16]>::try_from(&block[at..at + 16]));
            (source.ok()?.into(), destination.ok()?.into())
        }
        3 => return Some((path(&block[..PATH]), path(&block[PATH..]))),
        _ => return None,
    };
    let ports = &block[block.len() - 4..];
    Some((
        SocketAddr::new(source, be16(&ports[..2])).into(),
        SocketAddr::new(destination, be16(&ports[2..])).into(),
    ))
}

/// Returns the address of a path that ends with its first zero. An abstract name begins with a
/// zero, and is unnamed here.
fn path(bytes: &[u8]) -> Address {
    let path = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Address::Unix(if path.is_empty() { None } else { os_path(path) })
}

#[cfg(unix)]
fn os_path(path: &[u8]) -> Option<std::sync::Arc<std::path::Path>> {
    use std::os::unix::ffi::OsStrExt;
    Some(std::path::Path::new(std::ffi::OsStr::from_bytes(path)).into())
}

#[cfg(not(unix))]
fn os_path(path: &[u8]) -> Option<std::sync::Arc<std::path::Path>> {
    Some(std::path::Path::new(std::str::from_utf8(path).ok()?).into())
}

/// Checks that the TLVs from `start` on fill the header exactly, also those inside the TLV of
/// TLS, and that a checksum is right.
fn check_tlvs(bytes: &[u8], start: usize) -> Result<(), HeaderError> {
    let mut at = start;
    let mut checksum = None;
    while at < bytes.len() {
        let (kind, value) = next_tlv(&bytes[at..])?;
        at += 3;
        if kind == CRC32C && (value.len() != 4 || checksum.replace(at).is_some()) {
            return Err(HeaderError::Checksum);
        }
        if kind == SSL {
            let mut rest = value.get(SSL_FIXED..).ok_or(HeaderError::Tlv(SSL))?;
            while !rest.is_empty() {
                let (_, value) = next_tlv(rest)?;
                rest = &rest[3 + value.len()..];
            }
        }
        at += value.len();
    }
    if let Some(at) = checksum {
        let expected = crc32c(&[&bytes[..at], &[0; 4], &bytes[at + 4..]]);
        if bytes[at..at + 4] != expected.to_be_bytes() {
            return Err(HeaderError::Checksum);
        }
    }
    Ok(())
}

/// Returns the type and the value of the TLV that `bytes` begin with.
pub(super) fn next_tlv(bytes: &[u8]) -> Result<(u8, &[u8]), HeaderError> {
    let kind = *bytes.first().ok_or(HeaderError::Tlv(0))?;
    let length = bytes.get(1..3).ok_or(HeaderError::Tlv(kind))?;
    let end = 3 + usize::from(be16(length));
    let value = bytes.get(3..end).ok_or(HeaderError::Tlv(kind))?;
    Ok((kind, value))
}

fn be16(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u16::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4096;

    fn all(bytes: &[u8]) -> Result<Header, HeaderError> {
        assert_eq!(missing(bytes, MAX)?, 0, "{}", bytes.escape_ascii());
        parse(bytes)
    }

    fn ip(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    fn binary(version: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version, family]);
        bytes.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
        bytes.extend(block);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x10, 0, 0, 80];

    fn v4(tlvs: &[u8]) -> Vec<u8> {
        binary(0x21, 0x11, &[&V4, tlvs].concat())
    }

    #[test]
    fn lines_have_their_addresses() {
        let header = all(b"PROXY TCP4 192.0.2.1 192.0.2.2 4096 0\r\n").unwrap();
        assert_eq!(header.version, ProxyVersion::V1);
        let expected = (ip("192.0.2.1:4096"), ip("192.0.2.2:0"));
        assert_eq!(header.addresses, Some(expected));
        let header = all(b"PROXY TCP6 2001:DB8::1 ::ffff:192.0.2.2 1 65535\r\n").unwrap();
        let expected = (ip("[2001:db8::1]:1"), ip("[::ffff:192.0.2.2]:65535"));
        assert_eq!(header.addresses, Some(expected));
        for unknown in ["", " ", " ffff:: \x7f \r \n \u{fffd}"] {
            let header = all(format!("PROXY UNKNOWN{unknown}\r\n").as_bytes()).unwrap();
            assert_eq!(header.addresses, None);
        }
    }

    #[test]
    fn lines_that_deviate_from_the_grammar_are_refused() {
        for line in [
            "TCP4 192.0.2.1 192.0.2.2 4096 080",
            "TCP4 192.0.2.1 192.0.2.2 +4096 80",
            "TCP4 192.0.2.1 192.0.2.2 4096 65536",
            "TCP4 192.0.2.1 192.0.2.2 4096 ",
            "TCP4 192.0.2.1 192.0.2.2 4096",
            "TCP4 192.0.2.1 192.0.2.2 4096 80 ",
            "TCP4 192.0.2.1 192.0.2.2  4096 80",
            "TCP4 192.0.2.01 192.0.2.2 4096 80",
            "TCP4 192.0.2.1\t192.0.2.2 4096 80",
            "TCP4 2001:db8::1 2001:db8::2 4096 80",
            "TCP6 192.0.2.1 192.0.2.2 4096 80",
            "TCP6 fe80::1%eth0 2001:db8::2 4096 80",
            "TCP6 [2001:db8::1] 2001:db8::2 4096 80",
            "TCP5 192.0.2.1 192.0.2.2 4096 80",
            "UDP4 192.0.2.1 192.0.2.2 4096 80",
            "UNKNOWNS",
            "unknown ",
            " TCP4 192.0.2.1 192.0.2.2 4096 80",
        ] {
            let result = all(format!("PROXY {line}\r\n").as_bytes());
            assert_eq!(result, Err(HeaderError::Line), "{line}");
        }
    }

    #[test]
    fn other_protocols_are_detected_by_their_first_wrong_byte() {
        for bytes in [
            &b"G"[..],
            b"PROXX",
            b"\r\n\r\n\r",
            b"\x16",
            b"p",
            b"PROXY\t",
        ] {
            assert_eq!(missing(bytes, MAX), Err(HeaderError::Missing));
            let before = &bytes[..bytes.len() - 1];
            assert_eq!(missing(before, MAX), Ok(SHORTEST - before.len()));
        }
        assert_eq!(missing(b"PROXY \r\n", MAX), Err(HeaderError::Line));
        assert_eq!(missing(b"PROXY HTTP/1.1 2", MAX), Err(HeaderError::Line));
    }

    #[test]
    fn line_may_have_107_bytes_and_no_more() {
        let line = |fill| format!("PROXY UNKNOWN {}\r\n", "f".repeat(fill));
        let longest = line(LONGEST_LINE - 16);
        assert_eq!(longest.len(), LONGEST_LINE);
        assert!(all(longest.as_bytes()).is_ok());
        let longer = line(LONGEST_LINE - 15);
        let too_long = Err(HeaderError::TooLong { max: LONGEST_LINE });
        assert_eq!(
            missing(&longer.as_bytes()[..LONGEST_LINE - 1], MAX),
            too_long
        );
        assert_eq!(
            missing(&longest.as_bytes()[..40], 41),
            Err(HeaderError::TooLong { max: 41 })
        );
    }

    #[test]
    fn blocks_have_their_addresses() {
        let header = all(&v4(&[])).unwrap();
        let expected = (ip("192.0.2.1:4096"), ip("192.0.2.2:80"));
        assert_eq!(header.addresses, Some(expected.clone()));
        let datagrams = all(&binary(0x21, 0x12, &V4)).unwrap();
        assert_eq!(datagrams.addresses, Some(expected));

        let (source, destination) = ([0x20; 16], [0x2A; 16]);
        let block = [&source[..], &destination, &[0, 1, 0, 2]].concat();
        let header = all(&binary(0x21, 0x21, &block)).unwrap();
        let (source, destination) = (Ipv6Addr::from(source), Ipv6Addr::from(destination));
        let expected = (
            SocketAddr::new(source.into(), 1).into(),
            SocketAddr::new(destination.into(), 2).into(),
        );
        assert_eq!(header.addresses, Some(expected));
    }

    #[cfg(unix)]
    #[test]
    fn unix_paths_end_with_their_first_zero_or_with_the_field() {
        let mut block = vec![0; 2 * PATH];
        block[..6].copy_from_slice(b"/run/x");
        block[PATH..].fill(b'y');
        let header = all(&binary(0x21, 0x31, &block)).unwrap();
        let named = |path: &str| Address::Unix(Some(std::path::Path::new(path).into()));
        let expected = (named("/run/x"), named(&"y".repeat(PATH)));
        assert_eq!(header.addresses, Some(expected));
        block[0] = 0; // an abstract name
        let header = all(&binary(0x21, 0x32, &block)).unwrap();
        assert_eq!(header.addresses.unwrap().0, Address::Unix(None));
    }

    #[test]
    fn local_and_unspecified_headers_have_no_addresses() {
        for (version, family) in [(0x20, 0x11), (0x20, 0xFF), (0x21, 0x00), (0x21, 0x02)] {
            for block in [&[][..], &[9], &V4] {
                let header = all(&binary(version, family, block)).unwrap();
                assert_eq!(header.addresses, None);
                assert_eq!(header.tlvs.len(), 0);
            }
        }
        // the family has a size but no transport
        let header = all(&binary(0x21, 0x10, &[&V4[..], &[4, 0, 0]].concat())).unwrap();
        assert_eq!((header.addresses, header.tlvs.len()), (None, 3));
        // TLVs of an unspecified family are kept
        let header = all(&binary(0x21, 0x00, &[5, 0, 1, b'x'])).unwrap();
        assert_eq!(header.tlvs, 16..20);
    }

    #[test]
    fn health_check_of_aws_is_local_with_a_family_and_tlvs_in_place_of_addresses() {
        // as captured in kubernetes/kubernetes#57250
        let block = [&[3, 0, 4, 0xBC, 0xE5, 0x95, 0x1F, 4, 0, 0x4A][..], &[0; 74]].concat();
        let header = all(&binary(0x20, 0x11, &block)).unwrap();
        assert_eq!(
            (header.command, header.addresses),
            (ProxyCommand::Local, None)
        );
    }

    #[test]
    fn invalid_fixed_parts_are_refused_as_soon_as_they_are_read() {
        for (version, family, expected) in [
            (0x11, 0x11, HeaderError::Version(1)),
            (0x22, 0x11, HeaderError::Command(2)),
            (0x21, 0x41, HeaderError::Family(0x41)),
            (0x21, 0x13, HeaderError::Family(0x13)),
            (0x21, 0x21, HeaderError::Addresses),
            (0x21, 0x31, HeaderError::Addresses),
        ] {
            assert_eq!(all(&binary(version, family, &V4)), Err(expected));
        }
        let early = &binary(0x31, 0x11, &V4)[..13];
        assert_eq!(missing(early, MAX), Err(HeaderError::Version(3)));
        let long = binary(0x20, 0, &[0; 5000]);
        let too_long = Err(HeaderError::TooLong { max: MAX });
        assert_eq!(missing(&long[..FIXED], MAX), too_long);
        assert_eq!(missing(&long[..FIXED], 5016), Ok(5000));
    }

    #[test]
    fn lengths_of_tlvs_are_checked() {
        for (tlvs, kind) in [
            (&[7][..], 7),
            (&[7, 0], 7),
            (&[7, 0, 1], 7),
            (&[4, 0, 0, 8, 0, 2, 1], 8),
            (&[SSL, 0, 4, 1, 0, 0, 0], SSL),
            (&[SSL, 0, 6, 1, 0, 0, 0, 0, 0x21], 0x21),
            (&[SSL, 0, 8, 1, 0, 0, 0, 0, 0x22, 0, 1, 9], 0x22),
        ] {
            assert_eq!(all(&v4(tlvs)), Err(HeaderError::Tlv(kind)), "{tlvs:?}");
        }
        for tlvs in [
            &[4, 0, 0][..],
            &[9, 0, 2, 1, 2, 9, 0, 0],
            &[SSL, 0, 5, 1, 0, 0, 0, 0],
        ] {
            assert_eq!(all(&v4(tlvs)).unwrap().tlvs.len(), tlvs.len());
        }
    }

    #[test]
    fn checksums_are_verified_over_the_whole_header() {
        let mut bytes = v4(&[CRC32C, 0, 4, 0, 0, 0, 0, 5, 0, 1, 9]);
        let sum = crc32c(&[&bytes]);
        let at = bytes.len() - 8;
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
        assert!(all(&bytes).is_ok());
        // all bytes whose change leaves the structure valid
        for at in (16..28).chain([at, at + 3, bytes.len() - 4, bytes.len() - 1]) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert_eq!(all(&changed), Err(HeaderError::Checksum), "byte {at}");
        }
        let twice = [CRC32C, 0, 4, 0, 0, 0, 0].repeat(2);
        assert_eq!(all(&v4(&twice)), Err(HeaderError::Checksum));
        assert_eq!(all(&v4(&[CRC32C, 0, 1, 0])), Err(HeaderError::Checksum));
    }
}
