//! Lines of text.

use bytes::BytesMut;
use getty::codec::{self, Encoder, LinesError};

use super::{Class, Decoded, Next, decode, decode_in_place, encode_in_place, same};
use crate::kit::{Input, same_for_all_pieces};

/// Settings of the codec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    pub(crate) max: usize,
    pub(crate) crlf: bool,
    pub(crate) final_newline: bool,
}

const UTF8: &str = "not UTF-8";

impl Lines {
    pub(crate) fn read(input: &mut Input<'_>) -> Self {
        let bits = input.byte();
        Self {
            max: input.limit(),
            crlf: bits & 1 != 0,
            final_newline: bits & 2 != 0,
        }
    }

    pub(crate) fn codec(self) -> codec::Lines {
        let mut codec = codec::Lines::new().with_max_length(self.max);
        if self.crlf {
            codec = codec.with_crlf();
        }
        if self.final_newline {
            codec = codec.with_final_newline_required();
        }
        codec
    }

    /// Returns the first line with the rest of the stream. `None` is the end or an error of it.
    pub(crate) fn next(self, stream: &[u8]) -> Next<'_> {
        let too_long = || Some((Err("too long".to_owned()), &[][..]));
        let bare = |line: &'_ [u8]| line.len() - usize::from(line.last() == Some(&b'\r'));
        if let Some(at) = stream.iter().position(|byte| *byte == b'\n') {
            let line = &stream[..at];
            if bare(line) > self.max {
                return too_long();
            }
            return Some((Ok(&line[..bare(line)]), &stream[at + 1..]));
        }
        if stream.is_empty() {
            return None;
        }
        if bare(stream) > self.max {
            too_long()
        } else if self.final_newline {
            Some((Err("unterminated".to_owned()), &[]))
        } else {
            Some((Ok(&stream[..bare(stream)]), &[]))
        }
    }

    /// Returns what the codec must decode, as payloads of frames.
    fn payloads(self, mut stream: &[u8]) -> Decoded<Vec<u8>> {
        let mut decoded = Decoded::default();
        while let Some((line, rest)) = self.next(stream) {
            match line {
                Ok(line) => decoded.items.push(Ok(line.to_vec())),
                Err(error) => {
                    decoded.end = Some(error);
                    break;
                }
            }
            stream = rest;
        }
        decoded
    }

    /// Returns what the codec must decode as text.
    pub(crate) fn model(self, stream: &[u8]) -> Decoded<Vec<u8>> {
        let mut decoded = self.payloads(stream);
        for item in &mut decoded.items {
            if let Ok(line) = item
                && str::from_utf8(line).is_err()
            {
                *item = Err(UTF8.to_owned());
            }
        }
        decoded
    }
}

pub(super) fn class(error: &LinesError) -> Class {
    match error {
        LinesError::TooLong { .. } => Class::Ends("too long".to_owned()),
        LinesError::Unterminated { .. } => Class::Ends("unterminated".to_owned()),
        LinesError::Utf8 { .. } => Class::Skips(UTF8),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn codec_lines(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let lines = Lines::read(&mut input);
    let stream = input.rest();

    let decoded = same_for_all_pieces(stream, seed, |pieces| {
        let text = |_: &mut _, line: String| line.into_bytes();
        decode(&mut lines.codec(), &pieces, text, class)
    });
    same("lines", &decoded, &lines.model(stream));
    let payloads = same_for_all_pieces(stream, seed, |pieces| {
        decode_in_place(&mut lines.codec(), &pieces, class)
    });
    same("payloads", &payloads, &lines.payloads(stream));

    // Every decoded line can be sent. A CR at its end stays only before a CR LF.
    let mut codec = lines.codec();
    for line in decoded.messages() {
        let line = str::from_utf8(line).expect("a line is text");
        let mut sent = BytesMut::new();
        codec
            .encode(line, &mut sent)
            .expect("a decoded line is sent");
        let mut same_bytes = BytesMut::new();
        encode_in_place(&mut codec, line.as_bytes(), &mut same_bytes).expect("it fits");
        assert_eq!(sent, same_bytes);
        let mut expected = line;
        if !lines.crlf {
            expected = line.strip_suffix('\r').unwrap_or(line);
        }
        let expected = Decoded {
            items: vec![Ok(expected.as_bytes().to_vec())],
            end: None,
        };
        let text = |_: &mut _, line: String| line.into_bytes();
        let back = decode(&mut lines.codec(), &[&sent], text, class);
        same("sent again", &back, &expected);
    }

    // Any text is sent as one line or refused.
    let text = String::from_utf8_lossy(stream);
    let mut sent = BytesMut::from("before");
    let fits = text.len() <= lines.max && !text.contains('\n');
    assert_eq!(codec.encode(&text, &mut sent).is_ok(), fits);
    assert!(fits || sent == "before");
}
