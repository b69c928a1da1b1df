//! The crates `proxy-header` and `ppp` as references over valid, mutated and arbitrary bytes.
//!
//! The three agree except where the specification leaves a choice or a reference is laxer than
//! it. [`Deviation`] names each such case; every other difference fails.

use getty::proxy::{HeaderError, ProxyError};
use ppp::v2;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

use super::{
    After, Pieces, SIGNATURE, block_on, connection, layer, receive_over,
    references::{Defect, Outcome, by_ppp, by_proxy_header},
    valid_header,
};

/// Returns the outcome of the layer. Its TLVs must be those of `ppp`.
fn ours(bytes: &[u8]) -> (Outcome, Option<HeaderError>) {
    let pieces = Pieces::split(bytes, &[usize::MAX], After::End);
    let max = 16 + 65_535;
    let received = block_on(receive_over(
        layer().with_max_header(max),
        connection(pieces),
    ));
    match &received.rest {
        Ok(rest) => {
            let (handle, addresses) = (&received.handle, received.addresses());
            let set = addresses.0 != *handle.socket_peer_addr();
            if set && let Ok(header) = v2::Header::try_from(bytes) {
                let tlvs = header.tlvs().map(Result::unwrap);
                let tlvs: Vec<_> = tlvs.map(|tlv| (tlv.kind, tlv.value.into_owned())).collect();
                let info = received.info.as_ref().unwrap();
                let own = info.tlvs().map(|(kind, value)| (kind, value.to_vec()));
                assert_eq!(own.collect::<Vec<_>>(), tlvs);
            }
            (
                Ok((set.then_some(addresses), bytes.len() - rest.len())),
                None,
            )
        }
        Err(ProxyError::Probe | ProxyError::Truncated) => (Err(Defect::Incomplete), None),
        Err(ProxyError::Header(defect)) => (Err(Defect::Invalid), Some(*defect)),
        Err(other) => panic!("{other:?}"),
    }
}

/// Reason for which a reference may differ from getty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deviation {
    /// getty verifies checksums and the lengths of TLVs; the references leave TLVs alone.
    Tlvs,
    /// Behind LOCAL the specification ignores the family. The references check it.
    LocalFamily,
    /// `proxy-header` does not decode Unix addresses.
    Unix,
    /// The transport is unspecified or a half of the byte is: `proxy-header` refuses it, `ppp`
    /// takes the addresses of a family whose transport is unspecified.
    HalfUnspecified,
    /// The rest of a line UNKNOWN is any bytes up to CRLF. `ppp` ends it at the first CR and
    /// wants UTF-8, `proxy-header` ends it at the first CR.
    Unknown,
    /// `proxy-header` accepts what the grammar forbids: ports with a sign or leading zeros, a
    /// line beyond 107 bytes, any byte behind PROXY, and a family that only begins with UNKNOWN.
    LaxLine,
    /// `ppp` takes a space before LF for the CR of the line's end, and ignores what follows up to
    /// a CR. getty waits for a CRLF.
    SpaceAsCr,
    /// A defect that getty finds before the header is complete, or the other way round: the
    /// references wait for a line's end, and `ppp` refuses an incomplete line.
    Early,
}

/// Returns the reason for which the outcome of a reference may differ.
fn deviation(
    bytes: &[u8],
    ours: &(Outcome, Option<HeaderError>),
    other: &Outcome,
) -> Option<Deviation> {
    let line = bytes.starts_with(b"PROXY");
    let binary = bytes.starts_with(SIGNATURE);
    let is_valid = |outcome: &Outcome| outcome.is_ok();
    match (ours, other) {
        ((ours, _), other) if ours == other => None,
        ((Err(_), _), Err(_)) => Some(Deviation::Early),
        ((Err(_), Some(HeaderError::Tlv(_) | HeaderError::Checksum)), _) => Some(Deviation::Tlvs),
        ((Ok(_), _), _) if binary && bytes[12] == 0x20 && bytes[13] != 0 => {
            Some(Deviation::LocalFamily)
        }
        ((Ok(_), _), _) if binary && matches!(bytes[13], 0x31 | 0x32) => Some(Deviation::Unix),
        ((Ok(_), _), _) if binary && (bytes[13] & 0x0F == 0 || bytes[13] >> 4 == 0) => {
            Some(Deviation::HalfUnspecified)
        }
        ((ours, _), _) if line && is_valid(ours) && bytes[6..].starts_with(b"UNKNOWN") => {
            Some(Deviation::Unknown)
        }
        ((Err(_), Some(_)), Ok(_)) if line => Some(Deviation::LaxLine),
        ((Err(Defect::Incomplete), None), Ok((_, len)))
            if line && bytes[..*len].windows(2).any(|two| two == b" \n") =>
        {
            Some(Deviation::SpaceAsCr)
        }
        _ => Some(panic_with(bytes, ours, other)),
    }
}

fn panic_with(bytes: &[u8], ours: &(Outcome, Option<HeaderError>), other: &Outcome) -> Deviation {
    panic!(
        "{}: ours {ours:?}, reference {other:?}",
        bytes.escape_ascii()
    )
}

/// Compares the three. `ppp` must never be laxer in version 1, and nothing but the deviations
/// above may differ.
fn compare(bytes: &[u8]) -> [Option<Deviation>; 2] {
    let ours = ours(bytes);
    let proxy_header = deviation(bytes, &ours, &by_proxy_header(bytes));
    let ppp = deviation(bytes, &ours, &by_ppp(bytes));
    assert_ne!(ppp, Some(Deviation::Unix), "ppp decodes Unix addresses");
    assert_ne!(proxy_header, Some(Deviation::SpaceAsCr));
    [proxy_header, ppp]
}

/// A change of a header.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    Repeat(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = select(b" \r\n\0:.09aF+-PUT\x11\x20\x21\x31\xFF".to_vec());
    let byte = prop_oneof![any::<u8>(), bytes];
    prop_oneof![
        (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (any::<Index>(), byte).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<Index>().prop_map(Change::Remove),
        any::<Index>().prop_map(Change::Truncate),
        any::<(Index, Index)>().prop_map(|(from, to)| Change::Repeat(from, to)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        match self {
            Self::Set(at, byte) => bytes[at.index(len)] = *byte,
            Self::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Self::Insert(at, byte) => bytes.insert(at.index(len), *byte),
            Self::Remove(at) => drop(bytes.remove(at.index(len))),
            Self::Truncate(at) => bytes.truncate(at.index(len)),
            Self::Repeat(from, to) => {
                let (from, to) = (from.index(len), to.index(len));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.extend(part);
            }
        }
    }
}

/// Bytes that are like a header up to the signature.
fn look_alike() -> impl Strategy<Value = Vec<u8>> {
    let binary = (
        select(vec![0x20, 0x21, 0x22]),
        any::<u8>(),
        vec(any::<u8>(), 0..300),
    );
    let binary = binary.prop_map(|(version, family, block)| super::binary(version, family, &block));
    let fields = "(TCP4|TCP6|UNKNOWN|UDP4)( ([0-9]{1,3}\\.){3}[0-9]{1,3}| [0-9a-f:]{2,20}){0,2}( [0-9+]{1,6}){0,3}";
    let line = fields.prop_map(|fields| format!("PROXY {fields}\r\n").into_bytes());
    let anything = vec(any::<u8>(), 0..64);
    let signed = anything
        .clone()
        .prop_map(|rest| [SIGNATURE, &rest].concat());
    prop_oneof![binary, line, anything, signed]
}

#[test]
fn line_that_ends_with_a_space_and_lf_is_complete_for_ppp_alone() {
    for line in [
        &b"PROXY UNKNOWN a \n"[..],
        b"PROXY UNKNOWN AAa0aAa  0aaaa \n",
    ] {
        assert_eq!(compare(line), [None, Some(Deviation::SpaceAsCr)]);
    }
    let [_, ppp] = compare(b"PROXY UNKNOWN ff::x \n\rGE");
    assert_eq!(ppp, Some(Deviation::SpaceAsCr));
}

proptest! {
    // PROPTEST_CASES may ask for more
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(1000)))]

    #[test]
    fn valid_headers_are_parsed_as_by_the_references((header, _) in valid_header()) {
        let deviations = compare(&header);
        for deviation in deviations.into_iter().flatten() {
            prop_assert!(
                matches!(deviation, Deviation::LocalFamily | Deviation::Unknown),
                "{:?}", deviation
            );
        }
    }

    #[test]
    fn mutated_headers_are_parsed_as_by_the_references(
        (header, _) in valid_header(),
        changes in vec(change(), 1..4),
        tail in vec(any::<u8>(), 0..10),
    ) {
        let mut bytes = [header, tail].concat();
        for change in changes {
            change.apply(&mut bytes);
        }
        compare(&bytes);
    }

    #[test]
    fn other_bytes_are_parsed_as_by_the_references(bytes in look_alike()) {
        compare(&bytes);
    }
}
