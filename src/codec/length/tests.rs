use std::{error::Error, io};

use proptest::{collection::vec, option, prelude::*, sample::select};
use tokio_util::codec::{LengthDelimitedCodec, length_delimited};

use super::{super::testing::*, *};

fn encoded(codec: &Length, payloads: &[Vec<u8>]) -> Result<BytesMut, LengthError> {
    let mut stream = BytesMut::new();
    for payload in payloads {
        codec
            .clone()
            .encode(Bytes::from(payload.clone()), &mut stream)?;
    }
    Ok(stream)
}

fn refused_header(codec: &Length, header: &[u8]) -> LengthError {
    let mut buffer = BytesMut::from(header);
    let error = codec.clone().decode(&mut buffer).unwrap_err();
    assert_eq!(buffer, header, "the buffer is left as it was");
    error
}

#[test]
fn codec_is_small_enough_to_sit_in_every_session() {
    assert!(size_of::<Length>() <= 40);
}

#[test]
fn payload_shares_the_memory_that_it_arrived_in() {
    let mut buffer = BytesMut::from(&b"\0\0\0\x02ab\0\0\0\x01c"[..]);
    let arrived = buffer.as_ptr() as usize;
    let mut codec = Length::new();
    let first = codec.decode(&mut buffer).unwrap().unwrap();
    let second = codec.decode(&mut buffer).unwrap().unwrap();
    assert_eq!(first.as_ptr() as usize, arrived + 4);
    assert_eq!(second.as_ptr() as usize, arrived + 10);
}

#[test]
fn maximum_is_checked_before_the_payload_arrives_and_nothing_is_reserved_for_it() {
    let mut buffer = BytesMut::with_capacity(16);
    buffer.extend_from_slice(&65_537_u32.to_be_bytes());
    let error = Length::new().decode(&mut buffer).unwrap_err();
    assert!(matches!(
        error,
        LengthError::TooLong {
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
    assert_eq!(Length::new().decode(&mut buffer).unwrap(), None);
    assert_eq!(buffer.capacity(), 65_540);
}

#[test]
fn maximum_is_of_the_payload_and_not_of_the_field() {
    let codec = Length::new().with_adjustment(-4).with_max_length(8);
    assert!(matches!(
        refused_header(&codec, &[0, 0, 0, 13]),
        LengthError::TooLong { length: 9, max: 8 }
    ));
    let stream = encoded(&codec, &[vec![7; 8]]).unwrap();
    assert_eq!(stream[..4], [0, 0, 0, 12]);
    assert!(encoded(&codec, &[vec![7; 9]]).is_err());
}

#[test]
fn adjustment_below_zero_or_beyond_64_bits_is_an_error() {
    let under = Length::new().with_adjustment(-4);
    assert_eq!(
        refused_header(&under, &[0, 0, 0, 3]).to_string(),
        "length field of 3 with an adjustment of -4 is no length"
    );
    let over = Length::new()
        .with_field_width(FieldWidth::U64)
        .with_adjustment(1);
    assert!(matches!(
        refused_header(&over, &[0xff; 8]),
        LengthError::OutOfRange {
            field: u64::MAX,
            ..
        }
    ));
}

#[test]
fn frame_that_ends_within_its_header_is_an_error_and_not_an_endless_loop() {
    let whole_frames = Length::new().with_skip(0);
    for length in 0..4 {
        assert!(matches!(
            refused_header(&whole_frames, &[0, 0, 0, length]),
            LengthError::TooShort { header: 4, .. }
        ));
    }
    let error = encoded(&whole_frames, &[vec![0; 3]]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "frame of 3 bytes, where the header alone has 4"
    );
}

#[test]
fn length_field_is_written_over_a_payload_that_contains_it() {
    let codec = Length::new()
        .with_field_offset(1)
        .with_field_width(FieldWidth::U16)
        .with_skip(0);
    let stream = encoded(&codec, &[b"T??hello".to_vec()]).unwrap();
    assert_eq!(stream, b"T\x00\x08hello"[..]);
}

#[test]
fn message_that_cannot_be_sent_leaves_no_bytes() {
    let narrow = Length::new().with_field_width(FieldWidth::U8);
    let counted = Length::new().with_adjustment(10);
    let small = Length::new().with_max_length(5);
    let whole = Length::new().with_skip(0);
    for (codec, length, expected) in [
        (
            narrow,
            256,
            "length of 256 less an adjustment of 0 does not fit a field of 1 bytes",
        ),
        (
            counted,
            9,
            "length of 9 less an adjustment of 10 does not fit a field of 4 bytes",
        ),
        (small, 6, "frame of 6 bytes, where 5 are allowed"),
        (whole, 2, "frame of 2 bytes, where the header alone has 4"),
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
        let error = Length::new().decode_eof(&mut buffer).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(buffer.capacity(), before);
    }
}

#[test]
fn truncated_message_does_not_disturb_the_next_one() {
    let mut codec = Length::new();
    let mut truncated = BytesMut::from(&b"\0\0\0\x09abc"[..]);
    assert!(codec.decode_eof(&mut truncated).is_err());
    let mut next = BytesMut::from(&b"\0\0\0\x03abc"[..]);
    assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "abc");
}

#[test]
fn settings_that_change_nothing_stay_fast() {
    let codec = Length::new()
        .with_little_endian()
        .with_field_offset(3)
        .with_skip(4)
        .with_field_offset(0)
        .with_big_endian();
    assert!(codec.plain);
}

#[test]
fn each_setting_alone_changes_how_a_header_is_read() {
    let codec = Length::new().with_skip(4);
    for (codec, field) in [
        (codec.clone(), [0, 0, 0, 1]),
        (codec.clone().with_adjustment(-1), [0, 0, 0, 2]),
        (codec.clone().with_field_offset(1), [9, 0, 0, 0]),
        (
            codec.clone().with_field_width(FieldWidth::U16),
            [0, 1, 9, 9],
        ),
        (codec.clone().with_little_endian(), [1, 0, 0, 0]),
        (codec.with_skip(5), [0, 0, 0, 1]),
    ] {
        let mut buffer = BytesMut::from(&field[..]);
        buffer.extend_from_slice(&[1; 2]);
        let payload = codec.clone().decode(&mut buffer).unwrap();
        assert_eq!(payload.as_deref(), Some(&[1][..]), "{codec:?}");
    }
}

#[test]
fn maximum_beyond_what_memory_can_hold_is_cut() {
    let codec = Length::new()
        .with_field_width(FieldWidth::U64)
        .with_max_length(usize::MAX);
    assert_eq!(codec.max_length(), 1 << 30);
    assert!(matches!(
        refused_header(&codec, &[0x7f; 8]),
        LengthError::TooLong { .. }
    ));
}

#[test]
fn io_error_is_the_source() {
    let error = LengthError::from(io::Error::from(io::ErrorKind::ConnectionReset));
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
    /// Any settings, often one or two away from those of `new`, and the maximum a small one.
    fn settings()(
        width in prop_oneof![Just(FieldWidth::U32), select(&WIDTHS[..])],
        offset in prop_oneof![Just(0), 0_u16..6],
        adjustment in prop_oneof![Just(0), -12_i32..12],
        skip in option::of(prop_oneof![Just(4), 0_u16..16]),
        little_endian in any::<bool>(),
        max in 0_usize..300,
    ) -> Length {
        let codec = Length::new()
            .with_field_width(width)
            .with_field_offset(offset)
            .with_adjustment(adjustment)
            .with_max_length(max);
        let codec = if little_endian { codec.with_little_endian() } else { codec };
        match skip {
            Some(skip) => codec.with_skip(skip),
            None => codec,
        }
    }
}

fn plain_or_settings() -> impl Strategy<Value = Length> {
    let plain = (0_usize..300).prop_map(|max| Length::new().with_max_length(max));
    prop_oneof![1 => plain, 3 => settings()]
}

/// tokio-util's codec with the same settings, but for its maximum, which counts otherwise and is out of the way.
fn peer(codec: &Length) -> length_delimited::Builder {
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

/// Payloads as a decoder makes them: where they contain the length field, it says what it should.
fn settled(codec: &Length, payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut settled = Vec::new();
    for payload in payloads {
        if let Ok(frame) = encoded(codec, std::slice::from_ref(payload)) {
            settled.push(frame[codec.skip()..].to_vec());
        }
    }
    settled
}

/// Bytes that are often a header with a small length.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![3 => Just(0), 2 => 0_u8..20, 1 => any::<u8>()],
        0..200,
    )
}

proptest! {
    #[test]
    fn what_is_sent_arrives_however_it_is_split(
        codec in plain_or_settings(), payloads in payloads(), pieces in pieces(),
    ) {
        let payloads = settled(&codec, &payloads);
        let stream = encoded(&codec, &payloads).unwrap();
        let (received, error) = decode_stream(&mut codec.clone(), &stream, &pieces);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(received, payloads);
    }

    #[test]
    fn tokio_util_decodes_what_we_send(codec in plain_or_settings(), payloads in payloads()) {
        let mut peer = peer(&codec).new_codec();
        // It clips its maximum to the longest payload that the field can express, but holds the field itself
        // against it: with an adjustment below zero it refuses the largest values of a narrow field.
        let clip = peer.max_frame_length() as i64;
        let mut payloads = settled(&codec, &payloads);
        payloads.retain(|payload| payload.len() as i64 - i64::from(codec.adjustment) <= clip);
        let mut stream = encoded(&codec, &payloads).unwrap();
        for payload in &payloads {
            let received = peer.decode(&mut stream).unwrap();
            prop_assert_eq!(received.as_deref(), Some(&payload[..]));
        }
        prop_assert!(stream.is_empty());
    }

    #[test]
    fn we_send_what_tokio_util_sends_where_the_field_is_all_of_the_header(
        mut codec in plain_or_settings(), payloads in payloads(),
    ) {
        // tokio-util's encoder writes no other header
        codec = Length { offset: 0, skip: None, ..codec }.settled();
        let mut peer = peer(&codec).new_codec();
        let mut theirs = BytesMut::new();
        let payloads = settled(&codec, &payloads);
        for payload in &payloads {
            peer.encode(Bytes::from(payload.clone()), &mut theirs).unwrap();
        }
        prop_assert_eq!(&encoded(&codec, &payloads).unwrap(), &theirs);
        let (received, error) = decode_stream(&mut codec, &theirs, &[7]);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(received, payloads);
    }

    #[test]
    fn any_bytes_decode_as_tokio_util_decodes_them_until_one_is_refused(
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
    fn any_bytes_are_decoded_within_the_maximum_and_its_memory(
        codec in plain_or_settings(), stream in any_stream(),
    ) {
        let mut codec = codec;
        let frame = codec.skip() + codec.max;
        let mut buffer = BytesMut::from(&stream[..]);
        let room = buffer.capacity();
        while let Ok(Some(payload)) = codec.decode(&mut buffer) {
            prop_assert!(payload.len() <= codec.max);
        }
        // a buffer that grows may double
        prop_assert!(buffer.capacity() <= (room + frame).max(2 * room));
    }

    #[test]
    fn whatever_is_decoded_can_be_encoded_to_the_same_payload(
        codec in plain_or_settings(), stream in any_stream(),
    ) {
        let (payloads, _) = decode_stream(&mut codec.clone(), &stream, &[stream.len().max(1)]);
        let payloads: Vec<_> = payloads.iter().map(|payload| payload.to_vec()).collect();
        prop_assert_eq!(settled(&codec, &payloads), payloads);
    }
}
