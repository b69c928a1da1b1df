//! Frames that are compressed one at a time, against another implementation of deflate.

use bytes::BytesMut;
use flate2::{Compress, Compression, FlushCompress};
use getty::codec::{Deflated, DeflatedError, Encoder, LengthDelimitedError};

use super::{Class, Decoded, Header, decode, decode_in_place, encode_in_place, frames, same};
use crate::kit::{Ending, Input, inflate, same_for_all_pieces};

/// Error of a frame that cannot be inflated, or is longer than the maximum. Either may be found
/// first.
const BAD: &str = "bad frame";
const TOO_LONG: &str = "too long";

/// The bytes that a peer leaves out at the end of a message, and an empty final block. Only a
/// message that is complete ends with them.
const TAIL: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// Inflates the payload of a message of permessage-deflate. Returns `None` if it is not valid,
/// and more than `max` bytes if it is too long.
pub(crate) fn inflate_flushed(payload: &[u8], max: usize) -> Option<Vec<u8>> {
    if payload.is_empty() {
        // It is not valid, but some peers send an empty message so.
        return Some(Vec::new());
    }
    let input = [payload, &TAIL].concat();
    let mut rest = &input[..];
    let mut message = Vec::new();
    while message.len() <= max {
        let (part, ending) = inflate(rest, false, max - message.len());
        message.extend(part);
        match ending {
            Ending::TooLong => {}
            // A message may go on after a final block.
            Ending::Done(read) => rest = &rest[read..],
            Ending::Open | Ending::Corrupt => return None,
        }
        // Behind the last block of the payload, of the marker, or of the tail.
        match rest.len() {
            0 | 5 | 9 => return Some(message),
            length if length < TAIL.len() => return None,
            _ => {}
        }
    }
    Some(message)
}

/// Compresses a message for permessage-deflate.
pub(crate) fn deflate_flushed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + message.len() / 8 + 64);
    let mut stream = Compress::new(Compression::default(), false);
    let flushed = stream.compress_vec(message, &mut bytes, FlushCompress::Sync);
    flushed.expect("memory is the only limit");
    bytes.truncate(bytes.len() - 4);
    bytes
}

fn model(header: Header, max: usize, stream: &[u8]) -> Decoded<Vec<u8>> {
    let mut decoded = header.model(stream);
    for item in &mut decoded.items {
        let Ok(frame) = item else { continue };
        let bad = |text: &str| Err(text.to_owned());
        *item = match frame.split_first() {
            None => bad("no flag"),
            Some((0, message)) if message.len() > max => bad(TOO_LONG),
            Some((0, message)) => Ok(message.to_vec()),
            Some((1, compressed)) => match inflate(compressed, false, max) {
                (message, Ending::Done(read)) if read == compressed.len() => Ok(message),
                (_, Ending::TooLong) => bad(TOO_LONG),
                _ => bad(BAD),
            },
            Some(_) => bad("flag"),
        };
    }
    decoded
}

pub(crate) fn codec_deflated(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let header = Header::plain(input.limit());
    let max = input.limit();
    let threshold = input.limit();
    let plain = input.part();
    let stream = input.rest();
    let codec = || {
        Deflated::new(header.codec())
            .with_max_length(max)
            .with_threshold(threshold)
    };
    let class = |error: &DeflatedError<LengthDelimitedError>| match error {
        DeflatedError::Frame(error) => frames::class(error),
        DeflatedError::TooLong { .. } => Class::Skips(TOO_LONG),
        DeflatedError::Corrupt => Class::Skips(BAD),
        DeflatedError::NoFlag => Class::Skips("no flag"),
        DeflatedError::UnknownFlag(_) => Class::Skips("flag"),
        other => panic!("{other:?}"),
    };
    let mut expected = model(header, max, stream);
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        decode(&mut codec(), &pieces, |_, message| message.to_vec(), class)
    });
    for (expected, ours) in expected.items.iter_mut().zip(&ours.items) {
        let is_bad = |item: &Result<_, String>| matches!(item, Err(error) if error == BAD || error == TOO_LONG);
        if is_bad(expected) && is_bad(ours) {
            *expected = ours.clone();
        }
    }
    same("messages", &ours, &expected);
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        decode_in_place(&mut codec(), &pieces, class)
    });
    same("payloads", &ours, &expected);

    // Another implementation can inflate the frames, which are at most as long as plain ones.
    for message in [plain, &plain.repeat(9)] {
        let mut sent = BytesMut::new();
        let encoded = codec().encode(message, &mut sent);
        let mut in_place = BytesMut::new();
        let placed = encode_in_place(&mut codec(), message, &mut in_place);
        assert_eq!((encoded.is_ok(), &sent), (placed.is_ok(), &in_place));
        if encoded.is_ok() {
            assert!(message.len() <= max && sent.len() <= 4 + 1 + message.len());
            let back = model(header, max, &sent);
            assert_eq!(back.items, [Ok(message.to_vec())]);
        } else {
            assert!(message.len() > max || message.len() + 1 > header.max);
            assert!(sent.is_empty());
        }
    }
}
