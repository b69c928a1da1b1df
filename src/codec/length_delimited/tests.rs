use std::{error::Error, io};

use proptest::{collection::vec, option, prelude::*, sample::select};
use tokio_util::codec::{LengthDelimitedCodec, length_delimited};

use super::{super::testing::*, *};

fn encoded(
    codec: &LengthDelimited,
    payloads: &[Vec<u8>],
) -> Result<BytesMut, LengthDelimitedError> {
    let mut stream = BytesMut::new();
    for payload in payloads {
        codec
            .clone()
            .encode(Bytes::from(payload.clone()), &mut stream)?;
    }
    Ok(stream)
}

fn refused_header(codec: &LengthDelimited, header: &[u8]) -> LengthDelimitedError {
    let mut buffer = BytesMut::from(header);
    let error = codec.clone().decode(&mut buffer).unwrap_err();
    assert_eq!(buffer, header, "the buffer must not change");
    error
}

#[test]
fn codec_has_at_most_40_bytes() {
    assert!(size_of::<LengthDelimited>() <= 40);
}

#[test]
fn payload_shares_the_memory_it_arrived_in() {
    let mut buffer = BytesMut::from(&b"\0\0\0\x02ab\0\0\0\x01c"[..]);
    let arrived = buffer.as_ptr() as usize;
    let mut codec = LengthDelimited::new();
    let first = codec.decode(&mut buffer).unwrap().unwrap();
    let second = codec.decode(&mut buffer).unwrap().unwrap();
    assert_eq!(first.as_ptr() as usize, arrived + 4);
    assert_eq!(second.as_ptr() as usize, arrived + 10);
}

#[test]
fn maximum_is_checked_before_the_payload_arrives_and_nothing_is_reserved() {
    let mut buffer = BytesMut::with_capacity(16);
    buffer.extend_from_slice(&65_537_u32.to_be_bytes());
    let error = LengthDelimited::new().decode(&mut buffer).unwrap_err();
    assert!(matches!(
        error,
        LengthDelimitedError::TooLong {
            length: 65_537,
            max: 65_536
        }
    ));
    assert_eq!(buffer.capacity(), 16);
}

#[test]
fn room_for_an_incomplete_frame_is_reserved_at_once() {
    let mut buffer = BytesMut::with_capacity(16);
    buffer.extend_from_slice(&65_536_u32.to_be_bytes());
    assert_eq!(LengthDelimited::new().decode(&mut buffer).unwrap(), None);
    assert_eq!(buffer.capacity(), 65_540);
}

#[test]
fn maximum_applies_to_the_payload_and_not_to_the_field() {
    let codec = LengthDelimited::new()
        .length_adjustment(-4)
        .max_frame_length(8);
    assert!(matches!(
        refused_header(&codec, &[0, 0, 0, 13]),
        LengthDelimitedError::TooLong { length: 9, max: 8 }
    ));
    let stream = encoded(&codec, &[vec![7; 8]]).unwrap();
    assert_eq!(stream[..4], [0, 0, 0, 12]);
    assert!(encoded(&codec, &[vec![7; 9]]).is_err());
}

#[test]
fn adjusted_length_below_zero_or_beyond_64_bits_is_an_error() {
    let under = LengthDelimited::new().length_adjustment(-4);
    assert_eq!(
        refused_header(&under, &[0, 0, 0, 3]).to_string(),
        "length field of 3 with an adjustment of -4 is out of range"
    );
    let over = LengthDelimited::new()
        .length_field_length(FieldWidth::U64)
        .length_adjustment(1);
    assert!(matches!(
        refused_header(&over, &[0xff; 8]),
        LengthDelimitedError::OutOfRange {
            field: u64::MAX,
            ..
        }
    ));
}

#[test]
fn frame_that_ends_within_its_header_is_an_error_and_not_an_endless_loop() {
    let whole_frames = LengthDelimited::new().num_skip(0);
    for length in 0..4 {
        assert!(matches!(
            refused_header(&whole_frames, &[0, 0, 0, length]),
            LengthDelimitedError::TooShort { header: 4, .. }
        ));
    }
    let error = encoded(&whole_frames, &[vec![0; 3]]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "frame of 3 bytes is shorter than its header of 4"
    );
}

#[test]
fn length_field_is_written_over_a_payload_that_contains_it() {
    let codec = LengthDelimited::new()
        .length_field_offset(1)
        .length_field_length(FieldWidth::U16)
        .num_skip(0);
    let stream = encoded(&codec, &[b"T??hello".to_vec()]).unwrap();
    assert_eq!(stream, b"T\x00\x08hello"[..]);
}

#[test]
fn message_that_cannot_be_sent_leaves_no_bytes() {
    let narrow = LengthDelimited::new().length_field_length(FieldWidth::U8);
    let counted = LengthDelimited::new().length_adjustment(10);
    let small = LengthDelimited::new().max_frame_length(5);
    let whole = LengthDelimited::new().num_skip(0);
    for (codec, length, expected) in [
        (
            narrow,
            256,
            "message of 256 bytes with an adjustment of 0 does not fit a length field of 1 bytes",
        ),
        (
            counted,
            9,
            "message of 9 bytes with an adjustment of 10 does not fit a length field of 4 bytes",
        ),
        (small, 6, "frame of 6 bytes exceeds the maximum of 5"),
        (whole, 2, "frame of 2 bytes is shorter than its header of 4"),
    ] {
        let mut sent = BytesMut::from("before");
        let message = Bytes::from(vec![0; length]);
        let error = codec.clone().encode(message, &mut sent).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(sent, "before");
    }
}

#[test]
fn stream_that_ends_within_a_frame_is_an_error_without_a_reservation() {
    for (bytes, expected) in [
        (&b"\0\0"[..], "frame ended after 2 of 4 bytes"),
        (b"\0\0\xff\0abc", "frame ended after 7 of 65284 bytes"),
    ] {
        let mut buffer = BytesMut::from(bytes);
        let before = buffer.capacity();
        let error = LengthDelimited::new().decode_eof(&mut buffer).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(buffer.capacity(), before);
    }
}

#[test]
fn truncated_message_does_not_disturb_the_next_one() {
    let mut codec = LengthDelimited::new();
    let mut truncated = BytesMut::from(&b"\0\0\0\x09abc"[..]);
    assert!(codec.decode_eof(&mut truncated).is_err());
    let mut next = BytesMut::from(&b"\0\0\0\x03abc"[..]);
    assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "abc");
}

#[test]
fn default_settings_keep_the_fast_path() {
    let codec = LengthDelimited::new()
        .little_endian()
        .length_field_offset(3)
        .num_skip(4)
        .length_field_offset(0)
        .big_endian();
    assert!(codec.plain);
}

#[test]
fn each_setting_changes_how_a_header_is_read() {
    let codec = LengthDelimited::new().num_skip(4);
    for (codec, field) in [
        (codec.clone(), [0, 0, 0, 1]),
        (codec.clone().length_adjustment(-1), [0, 0, 0, 2]),
        (codec.clone().length_field_offset(1), [9, 0, 0, 0]),
        (
            codec.clone().length_field_length(FieldWidth::U16),
            [0, 1, 9, 9],
        ),
        (codec.clone().little_endian(), [1, 0, 0, 0]),
        (codec.num_skip(5), [0, 0, 0, 1]),
    ] {
        let mut buffer = BytesMut::from(&field[..]);
        buffer.extend_from_slice(&[1; 2]);
        let payload = codec.clone().decode(&mut buffer).unwrap();
        assert_eq!(payload.as_deref(), Some(&[1][..]), "{codec:?}");
    }
}

#[test]
fn maximum_above_1_gib_is_reduced() {
    let codec = LengthDelimited::new()
        .length_field_length(FieldWidth::U64)
        .max_frame_length(usize::MAX);
    assert_eq!(codec.get_max_frame_length(), 1 << 30);
    assert!(matches!(
        refused_header(&codec, &[0x7f; 8]),
        LengthDelimitedError::TooLong { .. }
    ));
}

#[test]
fn io_error_is_the_source() {
    let error = LengthDelimitedError::from(io::Error::from(io::ErrorKind::ConnectionReset));
    assert!(error.source().unwrap().is::<io::Error>());
}

const WIDTHS: [FieldWidth; 8] = [
    FieldWidth::U8,
    FieldWidth::U16,
    FieldWidth::U24,
    FieldWidth::U32,
    FieldWidth::U40,
    FieldWidth::U48,
    FieldWidth::U56,
    FieldWidth::U64,
];

prop_compose! {
    /// Returns any settings, often close to the defaults, with a small maximum.
    fn settings()(
        width in prop_oneof![Just(FieldWidth::U32), select(&WIDTHS[..])],
        offset in prop_oneof![Just(0), 0_u16..6],
        adjustment in prop_oneof![Just(0), -12_i32..12],
        skip in option::of(prop_oneof![Just(4), 0_u16..16]),
        little_endian in any::<bool>(),
        max in 0_usize..300,
    ) -> LengthDelimited {
        let codec = LengthDelimited::new()
            .length_field_length(width)
            .length_field_offset(offset)
            .length_adjustment(adjustment)
            .max_frame_length(max);
        let codec = if little_endian { codec.little_endian() } else { codec };
        match skip {
            Some(skip) => codec.num_skip(skip),
            None => codec,
        }
    }
}

fn plain_or_settings() -> impl Strategy<Value = LengthDelimited> {
    let plain = (0_usize..300).prop_map(|max| LengthDelimited::new().max_frame_length(max));
    prop_oneof![1 => plain, 3 => settings()]
}

/// Returns tokio-util's codec with the same settings. Its maximum has another meaning and is
/// set too high to matter.
fn peer(codec: &LengthDelimited) -> length_delimited::Builder {
    let mut builder = LengthDelimitedCodec::builder();
    builder
        .length_field_offset(codec.offset.into())
        .length_field_length(codec.width.bytes())
        .length_adjustment(codec.adjustment as isize)
        .max_frame_length(1 << 40);
    if codec.little_endian {
        builder.little_endian();
    }
    if let Some(skip) = codec.skip {
        builder.num_skip(skip.into());
    }
    builder
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..300), 0..6)
}

/// Returns the payloads as a decoder returns them, with the right value in a length field that
/// they contain.
fn sendable(codec: &LengthDelimited, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut sendable = Vec::new();
    for payload in payloads {
        if let Ok(frame) = encoded(codec, std::slice::from_ref(payload)) {
            sendable.push(frame[codec.skip()..].to_vec());
        }
    }
    sendable
}

/// Returns bytes that often start with a header of a small length.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![3 => Just(0), 2 => 0_u8..20, 1 => any::<u8>()],
        0..200,
    )
}

proptest! {
    #[test]
    fn messages_arrive_whole_for_any_split(
        codec in plain_or_settings(), payloads in payloads(), pieces in pieces(),
    ) {
        let payloads = sendable(&codec, &payloads);
        let stream = encoded(&codec, &payloads).unwrap();
        let (received, error) = decode_stream(&mut codec.clone(), &stream, &pieces);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(received, payloads);
    }

    #[test]
    fn tokio_util_decodes_sent_frames(codec in plain_or_settings(), payloads in payloads()) {
        let mut peer = peer(&codec).new_codec();
        // tokio-util reduces its maximum to the longest payload that the field can express, and
        // compares the field with it. With a negative adjustment it refuses the largest values of a
        // narrow field.
        let clip = peer.max_frame_length() as i64;
        let mut payloads = sendable(&codec, &payloads);
        payloads.retain(|payload| payload.len() as i64 - i64::from(codec.adjustment) <= clip);
        let mut stream = encoded(&codec, &payloads).unwrap();
        for payload in &payloads {
            let received = peer.decode(&mut stream).unwrap();
            prop_assert_eq!(received.as_deref(), Some(&payload[..]));
        }
        prop_assert!(stream.is_empty());
    }

    #[test]
    fn encoding_equals_tokio_util_if_the_field_is_the_whole_header(
        mut codec in plain_or_settings(), payloads in payloads(),
    ) {
        // tokio-util's encoder writes no other header.
        codec = LengthDelimited { offset: 0, skip: None, ..codec }.detect_plain_header();
        let mut peer = peer(&codec).new_codec();
        let mut theirs = BytesMut::new();
        let payloads = sendable(&codec, &payloads);
        for payload in &payloads {
            peer.encode(Bytes::from(payload.clone()), &mut theirs).unwrap();
        }
        prop_assert_eq!(&encoded(&codec, &payloads).unwrap(), &theirs);
        let (received, error) = decode_stream(&mut codec, &theirs, &[7]);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(received, payloads);
    }

    #[test]
    fn any_bytes_decode_as_in_tokio_util_until_an_error(
        codec in plain_or_settings(), stream in any_stream(), pieces in pieces(),
    ) {
        let (ours, error) = decode_stream(&mut codec.clone(), &stream, &pieces);
        let mut peer = peer(&codec).new_codec();
        let mut buffer = BytesMut::from(&stream[..]);
        for payload in &ours {
            let theirs = peer.decode(&mut buffer).unwrap();
            prop_assert_eq!(theirs.as_deref(), Some(&payload[..]));
        }
        if error.is_none() {
            prop_assert!(buffer.is_empty());
        }
    }

    #[test]
    fn decoding_any_bytes_respects_the_maximum_and_its_memory(
        codec in plain_or_settings(), stream in any_stream(),
    ) {
        let mut codec = codec;
        let frame = codec.skip() + codec.max;
        let mut buffer = BytesMut::from(&stream[..]);
        let room = buffer.capacity();
        while let Ok(Some(payload)) = codec.decode(&mut buffer) {
            prop_assert!(payload.len() <= codec.max);
        }
        // A buffer that grows may double its capacity.
        prop_assert!(buffer.capacity() <= (room + frame).max(2 * room));
    }

    #[test]
    fn every_decoded_payload_can_be_encoded(
        codec in plain_or_settings(), stream in any_stream(),
    ) {
        let (payloads, _) = decode_stream(&mut codec.clone(), &stream, &[stream.len().max(1)]);
        let payloads: Vec<_> = payloads.iter().map(|payload| payload.to_vec()).collect();
        prop_assert_eq!(sendable(&codec, &payloads), payloads);
    }
}
