//! Formats of typed messages, against the crates that define them.

use std::fmt::Debug;

use bytes::BytesMut;
use getty::{
    BoxError,
    codec::{
        Decoder, Encoder, Json, LengthDelimited, LengthDelimitedError, MessagePack, Postcard,
        Prost,
        format::{DecodePayload, EncodePayload, FormatError, Typed},
    },
};
use serde::{Deserialize, Serialize};

use super::{Class, Decoded, Header, decode, frames, same};
use crate::kit::{Input, same_for_all_pieces};

/// Type with everything that a format treats in its own way. It has no floats, which JSON does
/// not keep exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Message {
    Unit,
    Number(i64),
    Wide(u128),
    Text(String),
    Char(char),
    Bytes(Vec<u8>),
    Pair(u8, Option<bool>),
    List(Vec<Message>),
    Struct {
        name: String,
        inner: Option<Box<Message>>,
    },
}

#[derive(Clone, PartialEq, prost::Message)]
struct Proto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(sint64, optional, tag = "2")]
    number: Option<i64>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    parts: Vec<Vec<u8>>,
    #[prost(message, optional, boxed, tag = "4")]
    inner: Option<Box<Proto>>,
    #[prost(uint32, repeated, packed = "true", tag = "5")]
    numbers: Vec<u32>,
    #[prost(fixed64, tag = "16")]
    fixed: u64,
}

const MALFORMED: &str = "malformed";

/// Compares a format in frames with `reference`, which returns the message of a payload.
fn check<M, F>(data: &[u8], reference: impl Fn(&[u8]) -> Option<M>)
where
    M: PartialEq + Debug + Clone,
    F: DecodePayload<M> + EncodePayload<M> + Default + Clone,
{
    let mut input = Input::new(data);
    let seed = input.byte();
    let header = Header::plain(4096);
    let stream = input.rest();
    let codec = || Typed::<LengthDelimited, F, M, M>::new(header.codec());
    let class = |error: &FormatError<LengthDelimitedError>| match error {
        FormatError::Frame(error) => frames::class(error),
        FormatError::Malformed(malformed) => {
            // The logged text has a limit: that of prost is a name for each of 100 levels.
            assert!(malformed.to_string().len() < 2000, "{malformed}");
            Class::Skips(MALFORMED)
        }
        other => panic!("{other:?}"),
    };
    let frames = header.model(stream);
    let model = Decoded {
        items: frames
            .items
            .iter()
            .map(|frame| {
                let frame = frame.as_ref().expect("frames have no other error");
                reference(frame).ok_or(MALFORMED.to_owned())
            })
            .collect(),
        end: frames.end.clone(),
    };
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        decode(&mut codec(), &pieces, |_, message| message, class)
    });
    same("messages", &ours, &model);

    // A tolerant codec has the same messages as items.
    let mut buffer = BytesMut::from(stream);
    let mut tolerant = codec().tolerant();
    for expected in &model.items {
        let item = tolerant.decode(&mut buffer);
        let item = item.expect("the frame is valid").expect("it is complete");
        assert_eq!(item.ok().as_ref(), expected.as_ref().ok());
    }
    for message in model.messages() {
        let mut sent = BytesMut::new();
        let encoded: Result<(), FormatError<_>> = codec().encode(message.clone(), &mut sent);
        match encoded {
            Ok(()) => {
                let back = decode(&mut codec(), &[&sent], |_, message| message, class);
                assert_eq!(back.items, [Ok(message.clone())]);
            }
            // A message may be longer in the canonical form.
            Err(_) => assert!(sent.is_empty()),
        }
    }
}

pub(crate) fn codec_json(data: &[u8]) {
    type Format = getty::codec::format::json::JsonFormat;
    let _: fn(LengthDelimited) -> Json<LengthDelimited, Message> = Json::new;
    check::<Message, Format>(data, |payload| serde_json::from_slice(payload).ok());
}

pub(crate) fn codec_message_pack(data: &[u8]) {
    type Format = getty::codec::format::message_pack::MessagePackFormat;
    let _: fn(LengthDelimited) -> MessagePack<LengthDelimited, Message> = MessagePack::new;
    check::<Message, Format>(data, |payload| {
        let mut rest = payload;
        let mut decoder = rmp_serde::Deserializer::new(&mut rest);
        decoder.set_max_depth(129);
        let message = Message::deserialize(&mut decoder).ok()?;
        drop(decoder);
        rest.is_empty().then_some(message)
    });
}

impl Message {
    /// Returns the number of messages inside each other.
    fn depth(&self) -> usize {
        1 + match self {
            Self::List(all) => all.iter().map(Self::depth).max().unwrap_or_default(),
            Self::Struct { inner, .. } => inner.as_ref().map_or(0, |inner| inner.depth()),
            _ => 0,
        }
    }
}

/// Depth that getty's format accepts for any kind of message.
const SHALLOW: usize = 25;

/// postcard has no limit of its depth, so a deep message is compared only if getty decodes it.
pub(crate) fn codec_postcard(data: &[u8]) {
    type Format = getty::codec::format::postcard::PostcardFormat;
    let _: fn(LengthDelimited) -> Postcard<LengthDelimited, Message> = Postcard::new;
    check::<Message, Format>(data, |payload| {
        let Ok((message, [])) = postcard::take_from_bytes::<Message>(payload) else {
            return None;
        };
        let is_decoded = message.depth() <= SHALLOW || {
            let ours: Result<Message, _> = Format::default().decode_payload(payload);
            ours.is_ok()
        };
        is_decoded.then_some(message)
    });
}

pub(crate) fn codec_prost(data: &[u8]) {
    type Format = getty::codec::format::prost::ProstFormat;
    let _: fn(LengthDelimited) -> Prost<LengthDelimited, Proto> = Prost::new;
    check::<Proto, Format>(data, |payload| prost::Message::decode(payload).ok());
}

/// The error type of the formats converts into a boxed error, as a session requires.
const _: fn(FormatError<std::io::Error>) -> BoxError = |error| error.into();
