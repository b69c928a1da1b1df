//! Codecs that frame nothing, and the codec that changes its framing.

use std::str;

use bytes::{Bytes, BytesMut};
use getty::codec::{
    Binary, BinaryError, Decoder, Encoder, Frames, LengthDelimitedError, LinesError, Raw, Switch,
    SwitchError, Switched, Text, TextError,
};

use super::{Class, Decoded, Header, Lines, decode, frames, lines, same};
use crate::kit::{Input, same_for_all_pieces};

/// Bytes of a stream without frames: all arrive, in order and within the maximum.
pub(crate) fn codec_raw(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let max = input.limit();
    let stream = input.rest();
    let codec = Raw::new().with_max_length(max);
    let all = same_for_all_pieces(stream, seed, |pieces| {
        let class = |error: &std::io::Error| Class::Ends(error.to_string());
        let decoded = decode(&mut codec.clone(), &pieces, |_, part| part, class);
        let lengths = decoded.messages().map(Bytes::len);
        assert!({ lengths }.all(|length| (1..=max.max(1)).contains(&length)));
        decoded.messages().flatten().copied().collect::<Vec<u8>>()
    });
    assert_eq!(all, stream);
}

/// Messages of a transport that keeps their boundaries.
pub(crate) fn codec_messages(data: &[u8]) {
    let mut input = Input::new(data);
    let max = input.limit();
    let (mut text, mut binary) = (
        Text::new().with_max_length(max),
        Binary::new().with_max_length(max),
    );
    while !input.is_empty() {
        let message = input.part();
        let mut buffer = BytesMut::from(message);
        let decoded = binary.decode_eof(&mut buffer);
        match decoded {
            Ok(Some(bytes)) => {
                assert!(bytes == message && message.len() <= max && buffer.is_empty());
                let mut sent = BytesMut::new();
                binary.encode(bytes, &mut sent).expect("it was received");
                assert_eq!(sent, message);
            }
            Err(BinaryError::TooLong { .. }) => assert!(message.len() > max),
            other => panic!("{other:?}"),
        }
        let mut buffer = BytesMut::from(message);
        let is_text = str::from_utf8(message).is_ok();
        match text.decode_eof(&mut buffer) {
            Ok(Some(line)) => {
                assert!(line.as_bytes() == message && message.len() <= max && buffer.is_empty());
                let mut sent = BytesMut::new();
                text.encode(&line, &mut sent).expect("it was received");
                assert_eq!(sent, message);
            }
            Err(TextError::TooLong { .. }) => assert!(message.len() > max),
            Err(TextError::NotUtf8) => assert!(!is_text),
            other => panic!("{other:?}"),
        }
        // A stream has no boundaries, and its end is none.
        if !message.is_empty() {
            let mut buffer = BytesMut::from(message);
            let stream = &mut Text::new();
            assert_eq!(stream.decode(&mut buffer), Err(TextError::NoBoundaries));
            assert_eq!(stream.decode_eof(&mut buffer), Err(TextError::NoBoundaries));
        }
    }
}

/// Message that switches.
const SWITCHES: &[u8] = b"BINARY";

/// Lines up to one, then frames; or frames up to one, then lines.
pub(crate) fn codec_switch(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let frames_first = input.byte() & 1 != 0;
    let lines = Lines::read(&mut input);
    let header = Header::plain(input.limit());
    let stream = input.rest();

    let mut model = Decoded::default();
    let mut rest = stream;
    let mut in_frames = frames_first;
    loop {
        let next = if in_frames {
            header.next(rest)
        } else {
            lines.next(rest)
        };
        let Some((message, later)) = next else { break };
        match message {
            Ok(line) if !in_frames && str::from_utf8(line).is_err() => {
                model.items.push(Err("not UTF-8".to_owned()));
            }
            Ok(message) => {
                model.items.push(Ok(message.to_vec()));
                if in_frames == frames_first && message == SWITCHES {
                    in_frames = !in_frames;
                }
            }
            Err(error) => {
                model.end = Some(error);
                break;
            }
        }
        rest = later;
    }

    let class = |error: &SwitchError| {
        let (SwitchError::Before(source) | SwitchError::After(source)) = error else {
            panic!("{error:?}")
        };
        match (source.downcast_ref::<LinesError>(), source.downcast_ref()) {
            (Some(error), _) => lines::class(error),
            (_, Some(error)) => {
                let error: &LengthDelimitedError = error;
                frames::class(error)
            }
            _ => panic!("{error:?}"),
        }
    };
    let ours = same_for_all_pieces(stream, seed, |pieces| {
        if frames_first {
            // It keeps bytes outside the buffer, which must be put back.
            let codec = Frames::with_header(header.codec());
            let switches = |frame: &getty::codec::Frame| **frame == *SWITCHES;
            let mut switch = Switch::new(codec, lines.codec(), switches);
            let map = |_: &mut _, message: Switched<getty::codec::Frame, String>| match message {
                Switched::Before(frame) => frame.to_vec(),
                Switched::After(line) => line.into_bytes(),
            };
            decode(&mut switch, &pieces, map, class)
        } else {
            let switches = |line: &String| line.as_bytes() == SWITCHES;
            let mut switch = Switch::new(lines.codec(), header.codec(), switches);
            let map = |_: &mut _, message: Switched<String, Bytes>| match message {
                Switched::Before(line) => line.into_bytes(),
                Switched::After(frame) => frame.to_vec(),
            };
            decode(&mut switch, &pieces, map, class)
        }
    });
    same("messages", &ours, &model);
}
