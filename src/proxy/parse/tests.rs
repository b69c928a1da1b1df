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
