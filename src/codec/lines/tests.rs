use proptest::{collection::vec, prelude::*};

use super::{super::testing::*, *};

fn decode_all(codec: &mut Lines, stream: &[u8]) -> (Vec<String>, Option<LinesError>) {
    decode_stream(codec, stream, &[stream.len().max(1)])
}

#[test]
fn line_of_maximum_length_passes_with_any_line_end() {
    for stream in ["12345\n", "12345\r\n", "12345\r", "12345"] {
        for piece in 1..=stream.len() {
            let codec = &mut Lines::new().with_max_length(5);
            let (lines, error) = decode_stream(codec, stream.as_bytes(), &[piece]);
            assert_eq!(lines, ["12345"], "{stream:?}");
            assert!(error.is_none(), "{stream:?}");
        }
    }
}

#[test]
fn line_over_the_maximum_is_an_error_before_its_end_arrives() {
    for stream in ["123456", "12345\r6", "12345\r\r", "123456\n", "123456\r\n"] {
        for piece in 1..=stream.len() {
            let codec = &mut Lines::new().with_max_length(5);
            let (lines, error) = decode_stream(codec, stream.as_bytes(), &[piece]);
            assert!(lines.is_empty(), "{stream:?}");
            let Some(LinesError::TooLong { length, max: 5 }) = error else {
                panic!("{stream:?}: {error:?}");
            };
            assert!((6..=7).contains(&length), "{stream:?}: {length}");
        }
    }
}

#[test]
fn error_contains_the_length_of_the_line_and_not_of_the_buffer() {
    let (_, error) = decode_all(
        &mut Lines::new().with_max_length(2),
        b"1234\r\nmore\nlines\n",
    );
    assert_eq!(
        error.unwrap().to_string(),
        "line of at least 4 bytes exceeds the maximum of 2"
    );
}

#[test]
fn maximum_of_zero_passes_empty_lines_only() {
    let codec = &mut Lines::new().with_max_length(0);
    let (lines, error) = decode_all(codec, b"\n\r\n\nx");
    assert_eq!(lines, ["", "", ""]);
    assert!(matches!(
        error,
        Some(LinesError::TooLong { length: 1, max: 0 })
    ));
}

#[test]
fn invalid_utf8_is_an_error_with_a_source_and_the_next_line_is_decoded() {
    let mut buffer = BytesMut::from(&b"caf\xe9\nnext\n"[..]);
    let mut codec = Lines::new();
    let error = codec.decode(&mut buffer).unwrap_err();
    assert!(matches!(error, LinesError::Utf8 { length: 4, .. }));
    assert!(error.source().unwrap().is::<Utf8Error>());
    assert_eq!(codec.decode(&mut buffer).unwrap().unwrap(), "next");
}

#[test]
fn refused_message_does_not_disturb_the_next_one() {
    let mut codec = Lines::new().with_max_length(5);
    for refused in [&b"too long"[..], b"ab\xff"] {
        let mut datagram = BytesMut::from(refused);
        codec.decode_eof(&mut datagram).unwrap_err();
        let mut next = BytesMut::from("fine");
        assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "fine");
    }
}

#[test]
fn message_without_a_line_end_does_not_affect_the_next_one() {
    let mut codec = Lines::new();
    let mut first = BytesMut::from("no end");
    assert_eq!(codec.decode_eof(&mut first).unwrap().unwrap(), "no end");
    let mut next = BytesMut::from("two\nlines");
    assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "two");
    assert_eq!(codec.decode_eof(&mut next).unwrap().unwrap(), "lines");
}

#[test]
fn unterminated_last_line_is_refused_if_required() {
    let whole = "PAY 1\nPAY 10000\r\n";
    for length in 0..=whole.len() {
        let codec = &mut Lines::new().with_final_newline_required();
        let (lines, error) = decode_all(codec, &whole.as_bytes()[..length]);
        let complete = whole[..length].matches('\n').count();
        assert_eq!(lines, ["PAY 1", "PAY 10000"][..complete], "{length}");
        let rest = whole[..length].split('\n').next_back().unwrap();
        match error {
            Some(LinesError::Unterminated { length }) => assert_eq!(length, rest.len()),
            Some(other) => panic!("{length}: {other:?}"),
            None => assert!(rest.is_empty(), "{length}"),
        }
    }
    let mut codec = Lines::new().with_final_newline_required();
    codec.decode_eof(&mut BytesMut::from("no end")).unwrap_err();
    let next = codec.decode_eof(&mut BytesMut::from("next\n"));
    assert_eq!(next.unwrap().unwrap(), "next");
}

#[test]
fn message_with_a_line_feed_is_refused_and_leaves_no_bytes() {
    let mut sent = BytesMut::from("before\n");
    let error = Lines::new().encode("one\ntwo", &mut sent).unwrap_err();
    assert_eq!(error.to_string(), "message contains a line feed at byte 3");
    let too_long = Lines::new()
        .with_max_length(3)
        .encode("four", &mut sent)
        .unwrap_err();
    assert!(matches!(
        too_long,
        LinesError::TooLong { length: 4, max: 3 }
    ));
    assert_eq!(sent, "before\n");
}

#[test]
fn crlf_is_sent_if_set() {
    let mut sent = BytesMut::new();
    let mut codec = Lines::new().with_crlf();
    codec.encode("NICK getty", &mut sent).unwrap();
    assert_eq!(sent, "NICK getty\r\n");
}

#[test]
fn ordinary_line_reserves_nothing() {
    let mut buffer = BytesMut::with_capacity(100);
    buffer.extend_from_slice(&[b'x'; 90]);
    assert_eq!(Lines::new().decode(&mut buffer).unwrap(), None);
    assert_eq!(buffer.capacity(), 100);
}

/// Reads as a session does: the buffer grows to at most 64 KiB unless the decoder reserves
/// more. It may do so once per frame.
fn read_as_a_session_does(codec: &mut Lines, mut stream: &[u8], chunk: usize) -> String {
    let mut buffer = BytesMut::with_capacity(DEFAULT_MAX_FRAME / 8);
    let mut reserved = false;
    loop {
        if buffer.len() == buffer.capacity() {
            let room = DEFAULT_MAX_FRAME.saturating_sub(buffer.len());
            assert!(room > 0, "stuck at {} bytes", buffer.len());
            buffer.reserve(room.min(DEFAULT_MAX_FRAME / 8));
        }
        let room = buffer.capacity() - buffer.len();
        let (piece, later) = stream.split_at(room.min(chunk).min(stream.len()));
        buffer.extend_from_slice(piece);
        stream = later;
        let before = buffer.capacity();
        if let Some(line) = codec.decode(&mut buffer).unwrap() {
            return line;
        }
        if buffer.capacity() > before {
            assert!(!reserved, "a second reservation");
            reserved = true;
        }
    }
}

#[test]
fn line_longer_than_the_read_ahead_bound_fits_after_one_reservation() {
    for max in [DEFAULT_MAX_FRAME, 100_000, 1 << 20] {
        let stream = ["x".repeat(max), "\r\n".to_owned()].concat();
        for chunk in [1_000, 40_000, 65_536] {
            let codec = &mut Lines::new().with_max_length(max);
            let line = read_as_a_session_does(codec, stream.as_bytes(), chunk);
            assert_eq!(line.len(), max);
        }
    }
}

/// Decodes a whole stream without a state between calls.
fn model(stream: &[u8], max: usize) -> (Vec<String>, bool) {
    let mut lines = Vec::new();
    let mut ends = stream.split(|&byte| byte == b'\n').peekable();
    while let Some(line) = ends.next() {
        if ends.peek().is_none() && line.is_empty() {
            break;
        }
        match str::from_utf8(without_carriage_return(line)) {
            Ok(line) if line.len() <= max => lines.push(line.to_owned()),
            _ => return (lines, true),
        }
    }
    (lines, false)
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_decode_like_the_whole_stream(
        stream in vec(prop_oneof![
            4 => Just(b'a'), 1 => Just(b'\r'), 2 => Just(b'\n'), 1 => Just(0xc3), 1 => Just(0xa9), 1 => any::<u8>(),
        ], 0..120),
        pieces in pieces(),
        max in 0_usize..12,
    ) {
        let codec = &mut Lines::new().with_max_length(max);
        let (lines, error) = decode_stream(codec, &stream, &pieces);
        prop_assert_eq!((lines, error.is_some()), model(&stream, max));
    }

    #[test]
    fn sent_lines_arrive_unchanged(
        lines in vec("[^\n]{0,20}", 0..8), crlf in any::<bool>(), pieces in pieces(),
    ) {
        let mut codec = if crlf { Lines::new().with_crlf() } else { Lines::new() };
        let mut sent = BytesMut::new();
        for line in &lines {
            codec.encode(line, &mut sent).unwrap();
        }
        let (received, error) = decode_stream(&mut codec, &sent, &pieces);
        prop_assert!(error.is_none());
        let expected: Vec<_> = lines
            .iter()
            .map(|line| if crlf { line } else { line.strip_suffix('\r').unwrap_or(line) })
            .collect();
        prop_assert_eq!(received, expected);
    }

    #[test]
    fn every_decoded_line_can_be_encoded(stream in vec(any::<u8>(), 0..100)) {
        let mut codec = Lines::new().with_max_length(20);
        let (lines, _) = decode_all(&mut codec.clone(), &stream);
        for line in lines {
            codec.encode(line, &mut BytesMut::new()).unwrap();
        }
    }
}
