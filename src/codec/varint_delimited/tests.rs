use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::{super::testing::*, *};

fn refused(stream: &[u8]) -> VarintDelimitedError {
    let mut buffer = BytesMut::from(stream);
    let error = VarintDelimited::new().decode(&mut buffer).unwrap_err();
    assert_eq!(buffer, stream, "the buffer must not change");
    error
}

/// Writes a frame as a [`FrameCodec`]: in place.
fn in_place(payload: &[u8], dst: &mut BytesMut) {
    let start = dst.len();
    let mut codec = VarintDelimited::new().max_frame_length(usize::MAX);
    codec.begin_frame(dst);
    dst.put_slice(payload);
    codec.end_frame(dst, start).unwrap();
}

#[test]
fn frames_are_those_of_prost() {
    let messages = [String::new(), "hello".to_owned(), "x".repeat(20_000)];
    let mut stream = BytesMut::new();
    for message in &messages {
        message.encode_length_delimited(&mut stream).unwrap();
    }
    let mut codec = VarintDelimited::new();
    let mut again = BytesMut::new();
    for message in &messages {
        let payload = codec.decode(&mut stream).unwrap().unwrap();
        assert_eq!(&String::decode(&payload[..]).unwrap(), message);
        codec.encode(payload, &mut again).unwrap();
    }
    for message in &messages {
        assert_eq!(
            &String::decode_length_delimited(&mut again).unwrap(),
            message
        );
    }
    assert!(stream.is_empty() && again.is_empty());
}

#[test]
fn prefix_may_have_five_bytes_and_not_six() {
    let mut buffer = BytesMut::from(&b"\x82\x80\x80\x80\x00ab"[..]);
    let payload = VarintDelimited::new().decode(&mut buffer).unwrap();
    assert_eq!(payload.unwrap(), "ab");
    assert!(matches!(
        refused(b"\x82\x80\x80\x80\x80\x00ab"),
        VarintDelimitedError::Prefix
    ));
    // What Netty reads as a negative number.
    assert!(matches!(
        refused(b"\xff\xff\xff\xff\x0f"),
        VarintDelimitedError::TooLong {
            length: 0xffff_ffff,
            ..
        }
    ));
}

#[test]
fn maximum_is_checked_before_the_payload_arrives_and_in_both_directions() {
    let mut codec = VarintDelimited::new().max_frame_length(200);
    let mut buffer = BytesMut::new();
    codec.encode(&[1; 200][..], &mut buffer).unwrap();
    let refused = codec.encode(&[1; 201][..], &mut buffer).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "frame of 201 bytes exceeds the maximum of 200"
    );
    assert_eq!(buffer.len(), 202, "a refused message leaves no bytes");
    assert_eq!(codec.decode(&mut buffer).unwrap().unwrap().len(), 200);
    buffer.extend_from_slice(b"\xc9\x01");
    assert!(codec.decode(&mut buffer).is_err());
}

#[test]
fn room_for_an_incomplete_frame_is_reserved_at_once() {
    let mut buffer = BytesMut::with_capacity(16);
    buffer.extend_from_slice(b"\x80\x80\x04");
    assert_eq!(VarintDelimited::new().decode(&mut buffer).unwrap(), None);
    assert_eq!(buffer.capacity(), 65_539);
}

#[test]
fn end_within_a_frame_is_an_error() {
    for (stream, expected) in [(&b"\x80"[..], 2), (b"\x05hell", 6), (b"\x05", 6)] {
        let mut buffer = BytesMut::from(stream);
        let mut codec = VarintDelimited::new();
        assert_eq!(codec.decode(&mut buffer).unwrap(), None);
        for error in [
            codec.decode_eof(&mut buffer).unwrap_err(),
            codec.read_frame_eof(&mut buffer, <[u8]>::len).unwrap_err(),
        ] {
            let VarintDelimitedError::Truncated {
                received,
                expected: whole,
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!((received, whole), (stream.len(), expected));
        }
    }
}

/// Payloads around the lengths at which the prefix grows, and a few others.
fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let length = prop_oneof![0_usize..40, 126_usize..130, 16_382_usize..16_386];
    vec(
        length.prop_flat_map(|length| vec(any::<u8>(), length)),
        0..6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_encoded_is_decoded_from_any_pieces(
        payloads in payloads(), pieces in pieces(),
    ) {
        let mut stream = BytesMut::new();
        let mut written_in_place = BytesMut::new();
        for payload in &payloads {
            VarintDelimited::new().encode(&payload[..], &mut stream).unwrap();
            in_place(payload, &mut written_in_place);
        }
        prop_assert_eq!(&stream, &written_in_place);
        let (decoded, error) = decode_stream(&mut VarintDelimited::new(), &stream, &pieces);
        prop_assert!(error.is_none());
        prop_assert_eq!(decoded, payloads);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_as_prost_would_read_their_prefix(
        stream in vec(any::<u8>(), 0..300), pieces in pieces(),
    ) {
        let mut codec = VarintDelimited::new().max_frame_length(100);
        let (decoded, error) = decode_stream(&mut codec, &stream, &pieces);
        let mut rest = &stream[..];
        for payload in decoded {
            let length = prost::decode_length_delimiter(&mut rest).unwrap();
            prop_assert!(length <= 100);
            prop_assert_eq!(&rest[..length], &payload[..]);
            rest = &rest[length..];
        }
        match error {
            None => prop_assert!(rest.is_empty()),
            Some(VarintDelimitedError::TooLong { length, max: 100 }) => {
                let read = prost::decode_length_delimiter(rest).unwrap();
                prop_assert_eq!(read as u64, length);
                prop_assert!(length > 100);
            }
            Some(VarintDelimitedError::Prefix) => {
                prop_assert!(rest[..5].iter().all(|&byte| byte >= 0x80));
            }
            Some(VarintDelimitedError::Truncated { received, expected }) => {
                prop_assert_eq!(received, rest.len());
                prop_assert!(received < expected);
            }
            Some(error) => prop_assert!(false, "{error}"),
        }
    }
}
