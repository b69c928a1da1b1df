use proptest::{collection::vec, prelude::*};

use super::{super::testing::*, *};
use crate::codec::{Binary, Frames, LengthDelimited, LengthDelimitedError, VarintDelimited};

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn encoded<C>(codec: &mut Deflated<C>, message: &[u8]) -> BytesMut
where
    C: FrameCodec<Item: Into<Bytes>>,
{
    let mut buffer = BytesMut::new();
    assert!(codec.encode(message, &mut buffer).is_ok());
    buffer
}

#[test]
fn messages_below_the_threshold_and_those_that_would_not_be_shorter_are_sent_as_they_are() {
    let mut codec = Deflated::new(LengthDelimited::new()).with_threshold(100);
    for (message, flag) in [
        (vec![7; 99], PLAIN),
        (vec![7; 100], DEFLATED),
        (noise(1_000), PLAIN),
    ] {
        let mut sent = encoded(&mut codec, &message);
        assert_eq!(sent[4], flag);
        assert_eq!(sent.len() < message.len(), flag == DEFLATED);
        assert_eq!(codec.decode(&mut sent).unwrap().unwrap(), message);
    }
}

#[test]
fn maximum_is_exact_for_compressed_and_for_plain_messages() {
    let mut codec = Deflated::new(LengthDelimited::new().max_frame_length(1_001));
    for message in [vec![7; 1_000], noise(1_000)] {
        let mut sent = encoded(&mut codec, &message);
        assert_eq!(codec.decode(&mut sent).unwrap().unwrap(), message);
    }
    for message in [vec![7; 1_001], noise(1_001)] {
        let mut buffer = BytesMut::from("before");
        let refused = codec.encode(&message[..], &mut buffer);
        assert!(matches!(
            refused,
            Err(DeflatedError::TooLong { max: 1_000 })
        ));
        assert_eq!(buffer, "before");
        // A peer without the maximum.
        let mut other = Deflated::new(LengthDelimited::new());
        let mut sent = encoded(&mut other, &message);
        let refused = codec.decode(&mut sent);
        match refused.unwrap_err() {
            DeflatedError::TooLong { max: 1_000 } => assert!(sent.is_empty()),
            DeflatedError::Frame(LengthDelimitedError::TooLong { length: 1_002, .. }) => {}
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_bomb_is_inflated_no_further_than_the_maximum() {
    let frames = LengthDelimited::new().max_frame_length(1 << 20);
    let mut sender = Deflated::new(frames)
        .with_level(Level::DEFAULT)
        .with_max_length(64 << 20);
    let sent = encoded(&mut sender, &vec![0; 16 << 20]);
    assert!(sent.len() < 80_000, "{} bytes", sent.len());
    let mut codec = Deflated::new(LengthDelimited::new().max_frame_length(1 << 20));
    let refused = codec.decode(&mut sent.clone());
    assert!(matches!(
        refused,
        Err(DeflatedError::TooLong { max: 1_048_575 })
    ));
    assert_eq!(
        sender.decode(&mut sent.clone()).unwrap().unwrap().len(),
        16 << 20
    );
}

#[test]
fn invalid_frames_are_refused_and_the_next_one_is_decoded() {
    let mut codec = Deflated::new(LengthDelimited::new());
    for (payload, expected) in [
        (&b""[..], "frame has no byte for its compression"),
        (
            b"\x02abc",
            "frame begins with 2, which is neither plain nor compressed",
        ),
        (b"\x01\x07", "compressed frame is not valid deflate"),
        (b"\x01", "compressed frame is not valid deflate"),
        // an empty stream, and bytes behind it
        (b"\x01\x03\x00x", "compressed frame is not valid deflate"),
    ] {
        let mut buffer = BytesMut::new();
        LengthDelimited::new().encode(payload, &mut buffer).unwrap();
        codec.encode(&b"next"[..], &mut buffer).unwrap();
        assert_eq!(codec.decode(&mut buffer).unwrap_err().to_string(), expected);
        assert_eq!(codec.decode(&mut buffer).unwrap().unwrap(), "next");
    }
}

#[test]
fn a_plain_message_shares_the_memory_it_arrived_in() {
    let mut codec = Deflated::new(LengthDelimited::new());
    let mut buffer = BytesMut::from(&b"\0\0\0\x06\0hello"[..]);
    let arrived = buffer.as_ptr() as usize;
    let message = codec.decode(&mut buffer).unwrap().unwrap();
    assert_eq!(message.as_ptr() as usize, arrived + 5);
}

fn check<C>(frames: C, messages: &[Vec<u8>], pieces: &[usize]) -> Result<(), TestCaseError>
where
    C: FrameCodec<Item: Into<Bytes>> + Clone,
    C::Error: fmt::Debug,
{
    let mut codec = Deflated::new(frames).with_threshold(20);
    let mut stream = BytesMut::new();
    for message in messages {
        codec
            .encode(Bytes::from(message.clone()), &mut stream)
            .unwrap();
    }
    let (received, error) = decode_stream(&mut codec.clone(), &stream, pieces);
    prop_assert!(error.is_none(), "{error:?}");
    prop_assert_eq!(received, messages);

    for message in messages {
        let read = codec.read_frame(&mut stream, <[u8]>::to_vec).unwrap();
        prop_assert_eq!(read.as_ref(), Some(message));
    }
    Ok(())
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..300),
        vec(0_u8..2, 0..300),
        (0_usize..5_000, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
    ]
}

proptest! {
    #[test]
    fn messages_arrive_whole_in_frames_of_any_kind(
        messages in vec(message(), 0..6), pieces in pieces(),
    ) {
        check(LengthDelimited::new(), &messages, &pieces)?;
        check(Frames::new(), &messages, &pieces)?;
        check(VarintDelimited::new(), &messages, &pieces)?;
        for message in &messages {
            let mut codec = Deflated::new(Binary::new()).with_threshold(20);
            let mut sent = encoded(&mut codec, message);
            let received = codec.decode_eof(&mut sent).unwrap();
            prop_assert_eq!(received.as_deref(), Some(&message[..]));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_decoded_within_the_maximum(
        payload in vec(any::<u8>(), 0..200), deflated in any::<bool>(),
    ) {
        let payload = [&[u8::from(deflated)], &payload[..]].concat();
        let mut codec = Deflated::new(LengthDelimited::new()).with_max_length(1_000);
        let mut buffer = BytesMut::new();
        LengthDelimited::new().encode(&payload[..], &mut buffer).unwrap();
        if let Ok(Some(message)) = codec.decode(&mut buffer) {
            prop_assert!(message.len() <= 1_000);
        }
        prop_assert!(buffer.is_empty());
    }
}
