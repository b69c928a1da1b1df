use std::{collections::BTreeMap, fmt::Debug};

use bytes::BytesMut;
use proptest::{collection::vec, prelude::*};
use prost::Message;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use tower::BoxError;

use super::{
    DecodePayload, EncodePayload, FormatError, Typed, json::JsonFormat,
    message_pack::MessagePackFormat, postcard::PostcardFormat, prost::ProstFormat,
};
use crate::codec::{
    Binary, Buf, Decoder, Encoder, FieldWidth, FrameCodec, Frames, Json, LengthDelimited, Lines,
    LinesError, Malformed, Text, TextError, VarintDelimited, testing::*,
};

/// A type that contains itself.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tree(Vec<Tree>);

/// The same for prost.
#[derive(Clone, PartialEq, prost::Message)]
struct Nested {
    #[prost(message, repeated, tag = "1")]
    inner: Vec<Nested>,
}

/// One of each kind of value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    Newtype(Option<Box<Kind>>),
    Tuple(u8, i64, char),
    Struct { map: BTreeMap<String, (bool, f64)> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    unit: (),
    text: String,
    wide: u64,
    kinds: Vec<Kind>,
    id: Id,
    pair: [i16; 2],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Id(u32);

fn encoded<T>(format: &impl EncodePayload<T>, message: &T) -> BytesMut {
    let mut payload = BytesMut::new();
    format.encode_payload(message, &mut payload).unwrap();
    payload
}

fn malformed<T: Debug>(format: &impl DecodePayload<T>, payload: &[u8]) -> String {
    let malformed = format.decode_payload(payload).unwrap_err();
    assert_eq!(malformed.length(), payload.len());
    malformed.to_string()
}

fn kind() -> impl Strategy<Value = Kind> {
    let leaf = prop_oneof![
        Just(Kind::Unit),
        any::<(u8, i64, char)>().prop_map(|(a, b, c)| Kind::Tuple(a, b, c)),
        proptest::collection::btree_map(
            ".{0,5}",
            (any::<bool>(), any::<i32>().prop_map(f64::from)),
            0..3
        )
        .prop_map(|map| Kind::Struct { map }),
        Just(Kind::Newtype(None)),
    ];
    leaf.prop_recursive(4, 8, 1, |inner| {
        inner.prop_map(|kind| Kind::Newtype(Some(Box::new(kind))))
    })
}

fn everything() -> impl Strategy<Value = Everything> {
    let parts = (".{0,20}", any::<u64>(), vec(kind(), 0..4), any::<u32>());
    (parts, any::<[i16; 2]>()).prop_map(|((text, wide, kinds, id), pair)| Everything {
        unit: (),
        text,
        wide,
        kinds,
        id: Id(id),
        pair,
    })
}

fn round_trip<F>(format: F, message: &Everything)
where
    F: Copy + DecodePayload<Everything> + EncodePayload<Everything>,
{
    let payload = encoded(&format, message);
    assert_eq!(&format.decode_payload(&payload).unwrap(), message);
}

proptest! {
    #[test]
    fn every_kind_of_value_is_decoded_as_it_was_encoded(message in everything()) {
        round_trip(JsonFormat, &message);
        round_trip(MessagePackFormat::default(), &message);
        round_trip(MessagePackFormat::default().with_structs_as_arrays(), &message);
        round_trip(PostcardFormat, &message);
        // The other implementations read it as well.
        let payload = encoded(&PostcardFormat, &message);
        prop_assert_eq!(&postcard::from_bytes::<Everything>(&payload).unwrap(), &message);
        let payload = encoded(&MessagePackFormat::default(), &message);
        prop_assert_eq!(&rmp_serde::from_slice::<Everything>(&payload).unwrap(), &message);
    }

    #[test]
    fn any_bytes_are_a_message_or_malformed(bytes in vec(any::<u8>(), 0..200)) {
        // It must not panic, and getty must accept no more than the libraries do.
        fn check<T: DeserializeOwned + Debug>(bytes: &[u8]) {
            let _ = DecodePayload::<T>::decode_payload(&JsonFormat, bytes);
            let _ = DecodePayload::<T>::decode_payload(&MessagePackFormat::default(), bytes);
            let decoded: Result<T, _> = PostcardFormat.decode_payload(bytes);
            assert!(decoded.is_err() || postcard::from_bytes::<T>(bytes).is_ok());
        }
        check::<Everything>(&bytes);
        check::<Kind>(&bytes);
        check::<Tree>(&bytes);
        let _ = DecodePayload::<Nested>::decode_payload(&ProstFormat, &bytes);
    }

    #[test]
    fn frames_are_filled_in_place_as_they_are_encoded(text in ".{0,300}") {
        fn check<C>(frames: C, payload: &str)
        where
            C: FrameCodec<Error: Debug> + Clone + for<'a> Encoder<&'a [u8], Error: Debug>,
        {
            let (mut whole, mut in_place) = (BytesMut::from("before"), BytesMut::from("before"));
            frames.clone().encode(payload.as_bytes(), &mut whole).unwrap();
            let mut codec = Typed::<_, Verbatim, String, String>::new(frames);
            codec.encode(payload.to_owned(), &mut in_place).unwrap();
            assert_eq!(whole, in_place);
            in_place.advance(6);
            assert_eq!(codec.decode_eof(&mut in_place).unwrap().unwrap(), payload);
            assert!(in_place.is_empty());
        }
        check(LengthDelimited::new(), &text);
        check(Frames::default(), &text);
        check(VarintDelimited::new(), &text);
        check(Binary::new(), &text);
        let header = LengthDelimited::new()
            .length_field_offset(1)
            .length_field_length(FieldWidth::U24)
            .little_endian()
            .length_adjustment(-2);
        check(header, &text);
    }

    #[test]
    fn streams_are_decoded_from_any_pieces(
        messages in vec(everything(), 0..4), pieces in pieces(),
    ) {
        fn check<C: FrameCodec<Error: Debug>, F>(
            mut codec: Typed<C, F, Everything, Everything>,
            messages: &[Everything],
            pieces: &[usize],
        ) where F: DecodePayload<Everything> + EncodePayload<Everything> {
            let mut stream = BytesMut::new();
            for message in messages {
                codec.encode(message.clone(), &mut stream).unwrap();
            }
            let (decoded, error) = decode_stream(&mut codec, &stream, pieces);
            assert!(error.is_none());
            assert_eq!(decoded, messages);
        }
        check(Json::new(Lines::new()), &messages, &pieces);
        check(Json::new(Lines::new().with_crlf()), &messages, &pieces);
        check(Typed::<_, PostcardFormat, _, _>::new(Frames::default()), &messages, &pieces);
        check(Typed::<_, MessagePackFormat, _, _>::new(VarintDelimited::new()), &messages, &pieces);
    }
}

/// Text as it is.
#[derive(Clone, Copy, Debug, Default)]
struct Verbatim;

impl DecodePayload<String> for Verbatim {
    fn decode_payload(&self, payload: &[u8]) -> Result<String, Malformed> {
        String::from_utf8(payload.to_vec())
            .map_err(|error| Malformed::new("text", payload.len(), error))
    }
}

impl EncodePayload<String> for Verbatim {
    fn encode_payload(&self, message: &String, dst: &mut BytesMut) -> Result<(), BoxError> {
        dst.extend_from_slice(message.as_bytes());
        Ok(())
    }
}

/// A format that writes these bytes and then fails.
#[derive(Clone, Copy, Debug)]
struct Fails;

impl EncodePayload<()> for Fails {
    fn encode_payload(&self, (): &(), dst: &mut BytesMut) -> Result<(), BoxError> {
        dst.extend_from_slice(b"partly");
        Err("failed".into())
    }
}

#[test]
fn message_that_cannot_be_sent_leaves_no_bytes() {
    let mut dst = BytesMut::from("before");
    let mut codec = Typed::<_, _, (), ()>::with_format(VarintDelimited::new(), Fails);
    let failed = codec.encode((), &mut dst).unwrap_err();
    assert!(matches!(failed, FormatError::Encode(_)));
    assert_eq!(dst, "before");

    let mut codec = Json::<_, (), String>::new(LengthDelimited::new().max_frame_length(6));
    codec.encode("four".to_owned(), &mut dst).unwrap();
    assert!(codec.encode("fives".to_owned(), &mut dst).is_err());
    assert_eq!(dst, "before\0\0\0\u{6}\"four\"");
}

#[test]
fn lines_and_texts_refuse_what_is_not_text_and_lines_a_line_feed() {
    let mut dst = BytesMut::new();
    let mut lines = Typed::<_, PostcardFormat, u8, u8>::new(Lines::new());
    for (byte, newline) in [(b'\n', true), (0xff, false)] {
        match lines.encode(byte, &mut dst) {
            Err(FormatError::Frame(LinesError::Newline { at: 0 })) => assert!(newline),
            Err(FormatError::Frame(LinesError::Utf8 { length: 1, .. })) => assert!(!newline),
            other => panic!("{other:?}"),
        }
    }
    let mut texts = Typed::<_, PostcardFormat, u8, u8>::new(Text::new());
    let refused = texts.encode(0xff, &mut dst);
    assert!(matches!(
        refused,
        Err(FormatError::Frame(TextError::NotUtf8))
    ));
    assert!(dst.is_empty());
}

#[test]
fn raw_json_with_line_feeds_is_sent_in_one_line() {
    let value = "{\n \"text\": \"a\\nb\",\r\n \"n\": 1\n}";
    let raw: Box<RawValue> = serde_json::from_str(value).unwrap();
    let mut line = BytesMut::from("before\n");
    Json::<_, (), _>::new(Lines::new())
        .encode([raw], &mut line)
        .unwrap();
    assert_eq!(line, "before\n[{  \"text\": \"a\\nb\",\r  \"n\": 1 }]\n");
    let decoded: [serde_json::Value; 1] = serde_json::from_slice(&line[7..]).unwrap();
    assert_eq!(
        decoded[0],
        serde_json::from_str::<serde_json::Value>(value).unwrap()
    );
}

#[test]
fn reasons_are_named_without_the_content() {
    let message = Id(7);
    let json = |payload: &[u8]| malformed::<Vec<String>>(&JsonFormat, payload);
    assert_eq!(
        json(b"[\"a\", 12345]"),
        "malformed JSON of 12 bytes: wrong type or value at line 1 column 11"
    );
    assert_eq!(
        json(b"[\"a\" \"b\"]"),
        "malformed JSON of 9 bytes: syntax error at line 1 column 6"
    );
    assert_eq!(
        json(b"[\"a\""),
        "malformed JSON of 4 bytes: unexpected end at line 1 column 4"
    );
    assert_eq!(
        json(b"[\"\xff\"]"),
        "malformed JSON of 5 bytes: syntax error at line 1 column 3"
    );
    assert_eq!(
        json(b"[] []"),
        "malformed JSON of 5 bytes: syntax error at line 1 column 4"
    );
    assert_eq!(
        json(b""),
        "malformed JSON of 0 bytes: unexpected end at line 1 column 0"
    );

    let pack = |payload: &[u8]| malformed::<Vec<String>>(&MessagePackFormat::default(), payload);
    assert_eq!(
        pack(b"\x91\xa3ab"),
        "malformed MessagePack of 4 bytes: unexpected end"
    );
    assert_eq!(
        pack(b""),
        "malformed MessagePack of 0 bytes: unexpected end"
    );
    assert_eq!(
        pack(b"\x91\x07"),
        "malformed MessagePack of 2 bytes: wrong type or value"
    );
    assert_eq!(
        pack(b"\x91\xa1\xff"),
        "malformed MessagePack of 3 bytes: text is not UTF-8"
    );
    for rest in ["\x07", "\u{91}", "\u{c0}", "\u{a3}", "\u{c1}"] {
        let rest: Vec<u8> = rest.chars().map(|byte| byte as u8).collect();
        assert_eq!(
            pack(&[b"\x91\xa1a", &rest[..]].concat()),
            "malformed MessagePack of 4 bytes: bytes after the message"
        );
    }

    let card = |payload: &[u8]| malformed::<String>(&PostcardFormat, payload);
    let end = "malformed postcard of 2 bytes: Hit the end of buffer, expected more data";
    assert_eq!(card(b"\x02a"), end);
    assert!(card(b"\x01\xff").starts_with("malformed postcard of 2 bytes: "));
    let mut payload = encoded(&PostcardFormat, &message);
    payload.extend_from_slice(b"x");
    assert_eq!(
        malformed::<Id>(&PostcardFormat, &payload),
        "malformed postcard of 2 bytes: bytes after the message"
    );

    let truncated = malformed::<String>(&ProstFormat, b"\x0a\x05ab");
    assert!(truncated.starts_with("malformed protobuf of 4 bytes: "));
    assert!(malformed::<String>(&ProstFormat, b"\x0a\x01\xff").contains("protobuf of 3 bytes"));
}

/// Checks that `nested(depth)` is decoded up to a depth, and refused beyond it without a stack
/// overflow.
fn nesting<T: Debug>(
    format: &impl DecodePayload<T>,
    max: usize,
    nested: impl Fn(usize) -> Vec<u8>,
) {
    assert!(format.decode_payload(&nested(max)).is_ok());
    for depth in [max + 1, 30_000] {
        assert!(format.decode_payload(&nested(depth)).is_err(), "{depth}");
    }
}

#[test]
fn nesting_is_limited() {
    nesting::<Tree>(&JsonFormat, 127, |depth| {
        ["[".repeat(depth), "]".repeat(depth)].concat().into_bytes()
    });
    nesting::<Tree>(&MessagePackFormat::default(), 128, |depth| {
        let mut payload = vec![0x91; depth - 1];
        payload.push(0x90);
        payload
    });
    nesting::<Tree>(&PostcardFormat, 128, |depth| {
        let mut payload = vec![1; depth - 1];
        payload.push(0);
        payload
    });
    // The option and the enum are a level each, and so is the last variant.
    nesting::<Kind>(&PostcardFormat, 63, |depth| {
        let mut payload = b"\x01\x01".repeat(depth);
        payload.push(0);
        payload
    });
    nesting::<Nested>(&ProstFormat, 100, |depth| {
        let mut payload = Vec::new();
        for _ in 0..depth {
            let inner = payload;
            payload = vec![0x0a];
            prost::encode_length_delimiter(inner.len(), &mut payload).unwrap();
            payload.extend(inner);
        }
        payload
    });
    assert_eq!(Nested::default().encoded_len(), 0);
}

/// Elements without a size have no bytes in postcard, so their number is limited.
#[test]
fn empty_elements_are_limited_in_postcard() {
    let decode = |payload: &[u8]| PostcardFormat.decode_payload(payload);
    let few: Vec<()> = decode(b"\x80\x08").unwrap();
    assert_eq!(few.len(), 1024);
    let many: Result<Vec<()>, _> = decode(b"\xff\xff\xff\xff\x0f");
    assert!(many.is_err());
}
