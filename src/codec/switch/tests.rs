use bytes::{Bytes, BytesMut};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::codec::{
    Binary, BinaryError, Frame, Frames, LengthDelimited, LengthDelimitedError, Lines, LinesError,
    testing::{decode_stream, pieces},
};

type Message = Switched<String, Bytes>;

fn is_binary(line: &str) -> bool {
    line == "BINARY"
}

fn lines_then_frames() -> Switch<Lines, LengthDelimited, fn(&String) -> bool> {
    Switch::new(Lines::new(), LengthDelimited::new(), |line| is_binary(line))
}

/// Returns a stream with these messages, of which the last of the first codec switches.
fn stream<A: Encoder<X, Error: fmt::Debug>, X, B: Encoder<Y, Error: fmt::Debug>, Y>(
    (mut first, before): (A, impl IntoIterator<Item = X>),
    (mut second, after): (B, impl IntoIterator<Item = Y>),
) -> BytesMut {
    let mut stream = BytesMut::new();
    for message in before {
        first.encode(message, &mut stream).unwrap();
    }
    for message in after {
        second.encode(message, &mut stream).unwrap();
    }
    stream
}

proptest! {
    #[test]
    fn stream_may_be_split_at_every_point(
        lines in vec("[a-z]{0,20}", 0..4),
        frames in vec(vec(any::<u8>(), 0..40), 0..6),
        pieces in pieces(),
    ) {
        let before: Vec<_> = lines.into_iter().chain(["BINARY".to_owned()]).collect();
        let after: Vec<_> = frames.into_iter().map(Bytes::from).collect();
        let stream = stream((Lines::new(), before.clone()), (LengthDelimited::new(), after.clone()));
        let expected: Vec<Message> = before
            .into_iter()
            .map(Switched::Before)
            .chain(after.into_iter().map(Switched::After))
            .collect();
        let (items, error) = decode_stream(&mut lines_then_frames(), &stream, &pieces);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(items, expected);
    }

    #[test]
    fn bytes_that_frames_have_taken_ahead_are_decoded_by_the_second_codec(
        frames in vec("[a-z]{0,20}", 0..6),
        lines in vec("[a-z]{0,20}", 0..6),
        pieces in pieces(),
    ) {
        let before: Vec<_> = frames.into_iter().chain(["TEXT".to_owned()]).collect();
        let encoded = before.iter().map(|frame| Bytes::from(frame.clone()));
        let stream = stream((Frames::default(), encoded), (Lines::new(), lines.clone()));
        let mut codec = Switch::new(Frames::default(), Lines::new(), |frame: &Frame| {
            frame[..] == b"TEXT"[..]
        });
        let (items, error) = decode_stream(&mut codec, &stream, &pieces);
        prop_assert!(error.is_none(), "{error:?}");
        let texts: Vec<_> = items
            .into_iter()
            .map(|item| match item {
                Switched::Before(frame) => String::from_utf8(frame.to_vec()).unwrap(),
                Switched::After(line) => line,
            })
            .collect();
        prop_assert_eq!(texts, [before, lines].concat());
    }
}

#[test]
fn directions_switch_separately_with_a_predicate() {
    let mut codec = lines_then_frames();
    let mut received = BytesMut::from("BINARY\n\0\0\0\x02hi");
    let request = codec.decode(&mut received).unwrap();
    assert_eq!(request, Some(Switched::Before("BINARY".to_owned())));
    assert!(codec.receives_second() && !codec.sends_second());

    let mut sent = BytesMut::new();
    codec
        .encode(Message::Before("OK".to_owned()), &mut sent)
        .unwrap();
    assert!(!codec.sends_second());
    codec
        .encode(Message::After("hi".into()), &mut sent)
        .unwrap();
    assert_eq!(sent, b"OK\n\0\0\0\x02hi"[..]);
    assert!(codec.sends_second());
    let frame = codec.decode(&mut received).unwrap();
    assert_eq!(frame, Some(Switched::After("hi".into())));
}

#[test]
fn message_of_the_first_codec_is_refused_after_the_switch() {
    let mut codec = lines_then_frames();
    let mut sent = BytesMut::new();
    codec
        .encode(Message::After("hi".into()), &mut sent)
        .unwrap();
    let before = sent.clone();
    let refused = codec.encode(Message::Before("OK".to_owned()), &mut sent);
    assert!(matches!(refused, Err(SwitchError::Switched)));
    assert_eq!(sent, before);
    // It was not the received direction that switched.
    let line = codec.decode(&mut BytesMut::from("hello\n")).unwrap();
    assert_eq!(line, Some(Switched::Before("hello".to_owned())));
}

#[test]
fn first_sent_message_switches_both_directions_without_a_predicate() {
    // RESP2 and RESP3 also have frames that are alike.
    let mut codec = Switch::when_sent(Lines::new(), LengthDelimited::new());
    let mut received = BytesMut::from("HELLO 3\n\0\0\0");
    let request = codec.decode(&mut received).unwrap();
    assert_eq!(request, Some(Switched::Before("HELLO 3".to_owned())));
    assert_eq!(
        codec.decode(&mut received).unwrap(),
        None,
        "a part of a line"
    );
    codec
        .encode(Message::After("ok".into()), &mut BytesMut::new())
        .unwrap();
    assert!(codec.receives_second());
    received.extend_from_slice(b"\x02hi");
    let frame = codec.decode(&mut received).unwrap();
    assert_eq!(
        frame,
        Some(Switched::After("hi".into())),
        "buffered bytes belong to the second"
    );
}

#[test]
fn message_that_cannot_be_encoded_does_not_switch() {
    let second = LengthDelimited::new().max_frame_length(1);
    let mut codec = Switch::when_sent(Lines::new(), second);
    let mut sent = BytesMut::new();
    let error = codec
        .encode(Message::After("too long".into()), &mut sent)
        .unwrap_err();
    let source = error.source().unwrap();
    assert!(source.is::<LengthDelimitedError>());
    assert!(!codec.sends_second() && !codec.receives_second() && sent.is_empty());
    let error = codec
        .encode(Message::Before("two\nlines".to_owned()), &mut sent)
        .unwrap_err();
    assert!(matches!(&error, SwitchError::Before(source) if source.is::<LinesError>()));
}

#[test]
fn stream_that_ends_at_the_switch_ends_in_an_orderly_way() {
    // The last line has no line end, so only `decode_eof` returns it.
    let (items, error) = decode_stream(&mut lines_then_frames(), b"hello\nBINARY", &[5]);
    assert!(error.is_none());
    let lines = ["hello", "BINARY"].map(|line| Message::Before(line.to_owned()));
    assert_eq!(items, lines);

    let (items, error) = decode_stream(&mut lines_then_frames(), b"BINARY\n\0\0", &[5]);
    assert_eq!(items.len(), 1);
    let error = error.unwrap();
    assert!(error.source().unwrap().is::<LengthDelimitedError>());
}

#[test]
fn second_codec_knows_that_its_transport_is_a_stream() {
    let mut codec = Switch::new(Lines::new(), Binary::new(), |line: &String| is_binary(line));
    let mut src = BytesMut::from("BINARY\n");
    assert!(codec.decode(&mut src).unwrap().is_some());
    src.extend_from_slice(b"rest");
    let error = codec.decode_eof(&mut src).unwrap_err();
    let source = error.source().unwrap().downcast_ref();
    assert!(matches!(source, Some(BinaryError::NoBoundaries)));
}

#[test]
fn each_message_of_a_message_transport_is_decoded_alone() {
    let mut codec = Switch::new(Lines::new(), Binary::new(), |line: &String| is_binary(line));
    for (message, expected) in [
        ("hello", Switched::Before("hello".to_owned())),
        ("BINARY", Switched::Before("BINARY".to_owned())),
        ("\0\x01", Switched::After(Bytes::from("\0\x01"))),
        ("", Switched::After(Bytes::new())),
    ] {
        let decoded = codec.decode_eof(&mut BytesMut::from(message)).unwrap();
        assert_eq!(decoded, Some(expected));
    }
}

#[test]
fn codec_that_keeps_whole_messages_fails_instead_of_losing_them() {
    /// Wraps `Frames`, whose bytes cannot be put back from outside.
    struct Wrapped(Frames);

    impl Decoder for Wrapped {
        type Item = Frame;
        type Error = LengthDelimitedError;

        fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, LengthDelimitedError> {
            self.0.decode(src)
        }
    }

    let switch = |_: &Frame| true;
    // The second codec's bytes are a whole frame of the first.
    let mut codec = Switch::new(Wrapped(Frames::default()), Lines::new(), switch);
    let mut src = BytesMut::from("\0\0\0\x01a\0\0\0\x01\n");
    assert!(codec.decode(&mut src).unwrap().is_some());
    let error = codec.decode(&mut src).unwrap_err();
    assert!(matches!(error, SwitchError::CodecReadAhead));

    // Bytes that are no frame are put back by the codec, be they a part of one or invalid.
    for (with_first, later) in [("hel", "lo\n"), ("hello\n", "")] {
        let mut codec = Switch::new(Wrapped(Frames::default()), Lines::new(), switch);
        let mut src = BytesMut::from("\0\0\0\x01a");
        src.extend_from_slice(with_first.as_bytes());
        assert!(codec.decode(&mut src).unwrap().is_some());
        src.extend_from_slice(later.as_bytes());
        let line = codec.decode(&mut src).unwrap();
        assert_eq!(line, Some(Switched::After("hello".to_owned())));
    }
}
