use proptest::{collection::vec, prelude::*};

use super::{super::testing::*, *};

fn stream(payloads: &[Vec<u8>]) -> BytesMut {
    let mut stream = BytesMut::new();
    for payload in payloads {
        LengthDelimited::new().put(payload, &mut stream).unwrap();
    }
    stream
}

#[test]
fn returned_frames_do_not_change_the_reference_count() {
    let mut codec = Frames::default();
    let mut src = stream(&[vec![1; 10], vec![2; 10], vec![3; 10], vec![4; 10]]);
    let mut dst = BytesMut::new();
    let first = codec.decode(&mut src).unwrap().unwrap();
    assert!(src.is_empty(), "the codec holds the other frames");
    assert_eq!(Arc::strong_count(&first.block), 2);
    codec.encode(first, &mut dst).unwrap();
    for n in 2..4_u8 {
        let frame = codec.decode(&mut src).unwrap().unwrap();
        assert_eq!(frame, &[n; 10]);
        assert_eq!(Arc::strong_count(&frame.block), 2);
        codec.reuse(frame);
    }
    let last = codec.decode(&mut src).unwrap().unwrap();
    assert_eq!(Arc::strong_count(&last.block), 1);
    codec.encode(last, &mut dst).unwrap();
    assert!(codec.decode(&mut src).unwrap().is_none());
    assert!(codec.block.is_none() && codec.spare.is_none());
    assert_eq!(dst, stream(&[vec![1; 10], vec![4; 10]]));
}

#[test]
fn frames_that_are_kept_or_returned_late_keep_their_bytes() {
    let payloads: Vec<_> = (0..200).map(|n| vec![n; usize::from(n)]).collect();
    let mut codec = Frames::default();
    let mut src = stream(&payloads);
    let mut kept = Vec::new();
    while let Some(frame) = codec.decode(&mut src).unwrap() {
        kept.push(frame);
        if kept.len() % 3 == 0 {
            codec.reuse(kept[kept.len() / 2].clone());
        }
    }
    let kept: Vec<_> = kept.into_iter().map(Frame::into_bytes).collect();
    assert_eq!(kept, payloads);
}

#[test]
fn at_most_one_block_is_taken_at_once() {
    let mut codec = Frames::default();
    let mut src = stream(&vec![vec![7; 60]; 1000]);
    let before = src.len();
    codec.decode(&mut src).unwrap().unwrap();
    assert_eq!(before - src.len(), BLOCK);
    // A longer frame is taken whole.
    let mut src = stream(&[vec![7; 2 * BLOCK], vec![8; 1]]);
    let long = Frames::default().refill(&mut src).unwrap().unwrap();
    assert_eq!(long.len(), 2 * BLOCK);
    assert_eq!(src.len(), 5);
}

#[test]
fn partial_frame_is_put_back_before_later_bytes() {
    let mut codec = Frames::default();
    let sent = stream(&[vec![1; 10], vec![2; 10], vec![3; 10]]);
    for arrived in [14 + 1, 14 + 4, 14 + 13] {
        let mut src = BytesMut::from(&sent[..arrived]);
        assert_eq!(codec.decode(&mut src).unwrap().unwrap(), &[1; 10]);
        assert!(codec.decode(&mut src).unwrap().is_none());
        assert_eq!(
            src,
            sent[14..arrived],
            "the session must see the incomplete frame"
        );
        assert!(codec.block.is_none() && codec.spare.is_none());

        let mut src = BytesMut::from(&sent[..arrived]);
        assert_eq!(codec.decode(&mut src).unwrap().unwrap(), &[1; 10]);
        src.extend_from_slice(&sent[arrived..]);
        for n in 2..4 {
            assert_eq!(codec.decode(&mut src).unwrap().unwrap(), &[n; 10]);
        }
        assert!(src.is_empty() && codec.decode(&mut src).unwrap().is_none());
    }
}

#[test]
fn frames_before_a_refused_one_are_decoded_first() {
    let mut codec = Frames::new().max_frame_length(10);
    let mut src = stream(&[vec![1; 10], vec![2; 10], vec![3; 11]]);
    for n in 1..3 {
        assert_eq!(codec.decode(&mut src).unwrap().unwrap(), &[n; 10]);
    }
    let refused = codec.decode(&mut src).unwrap_err();
    assert!(matches!(
        refused,
        LengthDelimitedError::TooLong {
            length: 11,
            max: 10
        }
    ));
    assert_eq!(src.len(), 15);
}

#[test]
fn message_of_a_message_transport_is_one_frame() {
    let mut codec = Frames::default();
    let mut src = stream(&[vec![1; 3], vec![2; 3]]);
    assert_eq!(codec.decode_eof(&mut src).unwrap().unwrap(), &[1; 3]);
    assert_eq!(src.len(), 7, "the excess stays in the buffer");
}

#[test]
fn frame_converts_from_and_into_bytes_without_a_copy() {
    let bytes = Bytes::from(vec![1, 2, 3]);
    let frame = Frame::from(bytes.clone());
    assert_eq!(frame.as_ptr(), bytes.as_ptr());
    assert_eq!(Bytes::from(frame.clone()).as_ptr(), bytes.as_ptr());
    assert_eq!(frame, Frame::from(vec![1, 2, 3]));
    assert_ne!(frame, Frame::from("\u{1}\u{2}"));
    assert_eq!(format!("{frame:?}"), format!("{bytes:?}"));
}

#[test]
fn vec_text_and_bytes_are_encoded_without_a_named_type() {
    let (mut codec, mut dst) = (Frames::new(), BytesMut::new());
    codec.encode(vec![1, 2].into(), &mut dst).unwrap();
    codec.encode("ab".into(), &mut dst).unwrap();
    codec.encode(Bytes::from("c").into(), &mut dst).unwrap();
    Encoder::encode(&mut codec, Bytes::from("d"), &mut dst).unwrap();
    Encoder::encode(&mut codec, &b"e"[..], &mut dst).unwrap();
    let payloads: [&[u8]; 5] = [&[1, 2], b"ab", b"c", b"d", b"e"];
    assert_eq!(dst, stream(&payloads.map(<[u8]>::to_vec)));
    let mut codec = Frames::new().max_frame_length(2);
    assert!(codec.encode(vec![0; 3].into(), &mut dst).is_err());
    assert_eq!(codec.max_payload(), 2);
}

proptest! {
    #[test]
    fn frames_decodes_and_refuses_the_same_as_length_delimited(
        stream in vec(prop_oneof![3 => Just(0), 2 => 0_u8..20, 1 => any::<u8>()], 0..200),
        pieces in pieces(), skip in 0_u16..6,
    ) {
        let length = LengthDelimited::new().max_frame_length(64).num_skip(skip);
        let (theirs, refused) = decode_stream(&mut length.clone(), &stream, &pieces);
        let (ours, error) = decode_stream(&mut Frames::with_header(length), &stream, &pieces);
        let ours: Vec<_> = ours.into_iter().map(Frame::into_bytes).collect();
        prop_assert_eq!(ours, theirs);
        prop_assert_eq!(
            error.map(|error| error.to_string()),
            refused.map(|error| error.to_string())
        );
    }

    #[test]
    fn echo_returns_the_same_bytes_for_any_read_ahead(
        payloads in vec(vec(any::<u8>(), 0..300), 0..60), pieces in pieces(), frames_per_read in vec(0_usize..9, 1..20),
    ) {
        let sent = stream(&payloads);
        let mut codec = Frames::default();
        let (mut src, mut dst) = (BytesMut::new(), BytesMut::new());
        let mut rest = &sent[..];
        for (piece, frames) in pieces.iter().cycle().zip(frames_per_read.iter().cycle()) {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(rest.len().min(*piece));
            src.extend_from_slice(now);
            rest = later;
            for _ in 0..*frames {
                if let Some(frame) = codec.decode(&mut src).unwrap() {
                    codec.encode(frame, &mut dst).unwrap();
                }
            }
        }
        while let Some(frame) = codec.decode_eof(&mut src).unwrap() {
            codec.encode(frame, &mut dst).unwrap();
        }
        prop_assert_eq!(dst, sent);
    }
}
