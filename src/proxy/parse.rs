//! Parser of both versions of the header. It has no I/O and keeps no state.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use getty_core::Address;

use super::{
    error::HeaderError,
    header::{Header, ProxyCommand, ProxyVersion},
};
use crate::{crc32c::crc32c, platform};

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

/// Returns the minimum number of bytes that the header beginning with `bytes` still lacks, or 0
/// if it is complete. `max` is the maximum length of a header.
///
/// No valid header is shorter, so the caller can read this number without taking a byte of the
/// application.
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
        // a line that ends earlier is too short for a header
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

/// Returns the length of the shortest rest of a line with addresses of at least `address`
/// bytes.
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
    Address::Unix(if path.is_empty() {
        None
    } else {
        platform::path(path).map(Into::into)
    })
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
mod tests;
