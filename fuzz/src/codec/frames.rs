//! Frames with a length: in a header, or as a varint.

use bytes::{Bytes, BytesMut};
use getty::{
    codec::{
        Encoder, FieldWidth, Frame, FrameCodec, Frames, LengthDelimited, LengthDelimitedError,
        Packets, VarintDelimited, VarintDelimitedError, format::FormatError,
    },
    handler::{Opcode, Packet},
};

use super::{Class, Decoded, Next, decode, decode_in_place, encode_in_place, same};
use crate::kit::{Input, same_for_all_pieces};

/// Settings of a header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) max: usize,
    offset: u16,
    width: FieldWidth,
    skip: Option<u16>,
    adjustment: i32,
    little_endian: bool,
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

impl Header {
    /// A header of four bytes, which has a fast path.
    pub(crate) const fn plain(max: usize) -> Self {
        Self {
            max,
            offset: 0,
            width: FieldWidth::U32,
            skip: None,
            adjustment: 0,
            little_endian: false,
        }
    }

    pub(crate) fn read(input: &mut Input<'_>) -> Self {
        let bits = input.byte();
        let max = input.limit();
        if bits & 1 == 0 {
            return Self::plain(max);
        }
        let adjustment = match input.byte() {
            0 => i32::MIN,
            1 => i32::MAX,
            small => i32::from(small.cast_signed()) - 2,
        };
        Self {
            max,
            offset: u16::from(bits >> 5),
            width: WIDTHS[input.below(8)],
            skip: (bits & 4 != 0).then(|| u16::from(input.byte() % 20)),
            adjustment,
            little_endian: bits & 2 != 0,
        }
    }

    pub(crate) fn codec(self) -> LengthDelimited {
        let mut codec = LengthDelimited::new()
            .max_frame_length(self.max)
            .length_field_offset(self.offset)
            .length_field_length(self.width)
            .length_adjustment(self.adjustment);
        if let Some(skip) = self.skip {
            codec = codec.num_skip(skip);
        }
        if self.little_endian {
            codec = codec.little_endian();
        }
        codec
    }

    fn field(self) -> std::ops::Range<usize> {
        let start = usize::from(self.offset);
        start..start + self.width.bytes()
    }

    fn skip(self) -> usize {
        self.skip.map_or(self.field().end, usize::from)
    }

    /// Returns the first payload with the rest of the stream. `None` is the end of the stream.
    pub(crate) fn next(self, stream: &[u8]) -> Next<'_> {
        if stream.is_empty() {
            return None;
        }
        let fails = |error: String| Some((Err(error), &[][..]));
        let truncated = |expected: usize| {
            let received = stream.len();
            fails(format!(
                "Truncated {{ received: {received}, expected: {expected} }}"
            ))
        };
        let Some(field) = stream.get(self.field()) else {
            return truncated(self.field().end);
        };
        let mut field = field.to_vec();
        if self.little_endian {
            field.reverse();
        }
        let field = field
            .iter()
            .fold(0_i128, |value, byte| value * 256 + i128::from(*byte));
        let Ok(length) = u64::try_from(field + i128::from(self.adjustment)) else {
            return fails("OutOfRange".to_owned());
        };
        if u128::from(length) > self.max as u128 {
            return fails(format!("TooLong {{ length: {length} }}"));
        }
        let length = usize::try_from(length).expect("at most the maximum");
        let payload = self.skip()..self.skip() + length;
        if payload.end < self.field().end {
            return fails("TooShort".to_owned());
        }
        match stream.get(payload.clone()) {
            Some(bytes) => Some((Ok(bytes), &stream[payload.end..])),
            None => truncated(payload.end),
        }
    }

    pub(crate) fn model(self, mut stream: &[u8]) -> Decoded<Vec<u8>> {
        let mut decoded = Decoded::default();
        while let Some((payload, rest)) = self.next(stream) {
            match payload {
                Ok(payload) => decoded.items.push(Ok(payload.to_vec())),
                Err(error) => {
                    decoded.end = Some(error);
                    break;
                }
            }
            stream = rest;
        }
        decoded
    }
}

pub(crate) fn class(error: &LengthDelimitedError) -> Class {
    Class::Ends(match error {
        LengthDelimitedError::TooLong { length, .. } => format!("TooLong {{ length: {length} }}"),
        LengthDelimitedError::TooShort { .. } => "TooShort".to_owned(),
        LengthDelimitedError::OutOfRange { .. } => "OutOfRange".to_owned(),
        LengthDelimitedError::Truncated { received, expected } => {
            format!("Truncated {{ received: {received}, expected: {expected} }}")
        }
        other => panic!("{other:?}"),
    })
}

fn to_vec<C>(_: &mut C, bytes: Bytes) -> Vec<u8> {
    bytes.into()
}

pub(crate) fn codec_length_delimited(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let header = Header::read(&mut input);
    let stream = input.rest();
    let model = header.model(stream);
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        decode(&mut header.codec(), &pieces, to_vec, class)
    });
    same("messages", &ours, &model);
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        decode_in_place(&mut header.codec(), &pieces, class)
    });
    same("payloads", &ours, &model);

    for message in model.messages() {
        let back = sent_again(header, message);
        let back = back.expect("a received message can be sent");
        assert_eq!(&back, message, "{header:?}");
    }
    // Any bytes are sent as one frame or refused. Only a length field within them is replaced.
    if let Some(mut back) = sent_again(header, stream) {
        let kept = header.field().start.max(header.skip())..header.field().end.max(header.skip());
        let kept = kept.start - header.skip()..kept.end - header.skip();
        let mut stream = stream.to_vec();
        stream[kept.clone()].fill(0);
        back[kept].fill(0);
        assert_eq!(back, stream, "{header:?}");
    } else {
        assert!(
            stream.len() > header.max
                || header.width != FieldWidth::U64
                || header.skip.is_some()
                || header.adjustment != 0
        );
    }
}

/// Encodes and decodes a message. Returns `None` if it is refused.
fn sent_again(header: Header, message: &[u8]) -> Option<Vec<u8>> {
    let mut sent = BytesMut::from("before");
    let encoded = header.codec().encode(message, &mut sent);
    let mut in_place = BytesMut::from("before");
    // The length field of a header that stays in the message is the caller's to write.
    let placed = encode_in_place(&mut header.codec(), message, &mut in_place);
    assert_eq!(encoded.is_ok(), placed.is_ok());
    assert_eq!(sent, in_place);
    if encoded.is_err() {
        assert_eq!(sent, "before");
        return None;
    }
    let decoded = decode(&mut header.codec(), &[&sent[6..]], to_vec, class);
    assert_eq!(decoded.end, None, "{header:?}");
    let [Ok(message)] = &decoded.items[..] else {
        panic!("one message was sent: {decoded:?}")
    };
    Some(message.clone())
}

/// `Frames` decodes what `LengthDelimited` does, whether frames are kept, dropped or reused.
pub(crate) fn codec_frames(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let fates = input.byte();
    let header = Header::read(&mut input);
    let stream = input.rest();
    let model = header.model(stream);
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        let (mut kept, mut held) = (Vec::new(), None);
        let mut fates = (0..).map(|n| fates.rotate_right(n) & 3);
        let read = |codec: &mut Frames, frame: Frame| {
            let message = frame.to_vec();
            match fates.next() {
                Some(0) => codec.reuse(frame),
                Some(1) => kept.push((frame, message.clone())),
                Some(2) => codec.reuse(frame.clone()),
                // A frame of an earlier block may come back as well.
                _ => {
                    if let Some(earlier) = held.replace(frame) {
                        codec.reuse(earlier);
                    }
                }
            }
            message
        };
        let decoded = decode(
            &mut Frames::with_header(header.codec()),
            &pieces,
            read,
            class,
        );
        for (frame, message) in kept {
            assert_eq!(&frame[..], message, "a kept frame has changed");
        }
        decoded
    });
    same("frames", &ours, &model);
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        decode_in_place(&mut Frames::with_header(header.codec()), &pieces, class)
    });
    same("payloads", &ours, &model);
    for message in model.messages() {
        let mut sent = BytesMut::new();
        let mut expected = BytesMut::new();
        let frame = Frame::from(message.clone());
        Frames::with_header(header.codec())
            .encode(frame, &mut sent)
            .expect("a received message can be sent");
        header
            .codec()
            .encode(&message[..], &mut expected)
            .expect("here too");
        assert_eq!(sent, expected);
    }
}

pub(crate) fn codec_varint_delimited(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let max = input.limit();
    let stream = input.rest();
    let class = |error: &VarintDelimitedError| {
        Class::Ends(match error {
            VarintDelimitedError::TooLong { length, .. } => format!("too long: {length}"),
            VarintDelimitedError::Prefix => "prefix".to_owned(),
            VarintDelimitedError::Truncated { .. } => "truncated".to_owned(),
            other => panic!("{other:?}"),
        })
    };
    let codec = || VarintDelimited::new().max_frame_length(max);
    let mut model = Decoded::default();
    let mut rest = stream;
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| **byte >= 0x80).count();
        if digits >= 5 {
            model.end = Some("prefix".to_owned());
            break;
        }
        let Some(prefix) = rest.get(..=digits) else {
            model.end = Some("truncated".to_owned());
            break;
        };
        let digit = |(at, byte): (usize, &u8)| u64::from(byte % 0x80) << (7 * at);
        let length: u64 = prefix.iter().enumerate().map(digit).sum();
        if length > max as u64 {
            model.end = Some(format!("too long: {length}"));
            break;
        }
        let length = usize::try_from(length).expect("at most the maximum");
        let Some(payload) = rest[digits + 1..].get(..length) else {
            model.end = Some("truncated".to_owned());
            break;
        };
        model.items.push(Ok(payload.to_vec()));
        rest = &rest[digits + 1 + length..];
    }
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        decode(&mut codec(), &pieces, to_vec, class)
    });
    same("messages", &ours, &model);
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        decode_in_place(&mut codec(), &pieces, class)
    });
    same("payloads", &ours, &model);
    let any = stream.to_vec();
    for message in model.messages().chain([&any]) {
        let mut sent = BytesMut::from("before");
        let fits = codec().encode(&message[..], &mut sent).is_ok();
        assert_eq!(fits, message.len() <= max);
        let mut in_place = BytesMut::from("before");
        let placed = encode_in_place(&mut codec(), message, &mut in_place);
        assert_eq!((placed.is_ok(), &in_place), (fits, &sent));
        if fits {
            let back = decode(&mut codec(), &[&sent[6..]], to_vec, class);
            assert_eq!(back.items, [Ok(message.clone())]);
        }
    }
}

pub(crate) fn codec_packets(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(3) {
        0 => packets::<u8>(input, 1, |opcode| vec![*opcode]),
        1 => packets::<u16>(input, 2, |opcode| opcode.to_be_bytes().to_vec()),
        _ => packets::<u32>(input, 4, |opcode| opcode.to_be_bytes().to_vec()),
    }
}

fn packets<K: Opcode>(mut input: Input<'_>, width: usize, bytes: fn(&K) -> Vec<u8>) {
    let seed = input.byte();
    let max = input.limit();
    let stream = input.rest();
    let header = Header::plain(max);
    const NO_OPCODE: &str = "no opcode";
    let class = |error: &FormatError<LengthDelimitedError>| match error {
        FormatError::Frame(error) => class(error),
        _ => Class::Skips(NO_OPCODE),
    };
    let mut model = header.model(stream);
    for item in &mut model.items {
        if item.as_ref().is_ok_and(|frame| frame.len() < width) {
            *item = Err(NO_OPCODE.to_owned());
        }
    }
    fn check<C, K: Opcode>(
        frames: C,
        pieces: &[&[u8]],
        bytes: fn(&K) -> Vec<u8>,
        class: impl Fn(&FormatError<LengthDelimitedError>) -> Class,
    ) -> Decoded<Vec<u8>>
    where
        C: FrameCodec<Item: Into<Bytes>, Error = LengthDelimitedError>,
    {
        let map = |_: &mut Packets<C, K>, packet: Packet<K>| {
            [bytes(&packet.opcode), packet.payload.to_vec()].concat()
        };
        decode(&mut Packets::new(frames), pieces, map, class)
    }
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        check::<_, K>(header.codec(), &pieces, bytes, class)
    });
    same("packets", &ours, &model);
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        check::<_, K>(Frames::with_header(header.codec()), &pieces, bytes, class)
    });
    same("packets of frames", &ours, &model);
    for message in model.messages() {
        let mut frame = Bytes::from(message.clone());
        let opcode = K::decode(&mut frame).expect("it has an opcode");
        let packet = Packet::new(opcode, frame);
        let mut sent = BytesMut::new();
        let mut codec = Packets::new(header.codec());
        codec.encode(packet, &mut sent).expect("it was received");
        let mut expected = BytesMut::new();
        let encoded = header.codec().encode(&message[..], &mut expected);
        encoded.expect("it was received");
        assert_eq!(sent, expected);
    }
}
