//! Decoding in a session: any split of the stream, maximums, and the last frame at the end.

use std::{
    io,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, SessionLayer, codec, service_fn,
};
use getty_test::stream;
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec, LinesCodec, LinesCodecError};

use crate::support::{connector, echo, idle, lines, open, soon};

#[tokio::test(start_paused = true)]
async fn frames_that_arrive_byte_by_byte_are_whole_messages() {
    let (transport, peer) = stream();
    let (_session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;

    peer.send_in_pieces("one\ntwo\n", 1);
    assert_eq!(soon(peer.lines(2)).await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn stream_decodes_the_same_for_any_split() {
    let text = "a\nbcd\n\nef\r\ng\n";
    for first in 0..text.len() {
        for second in first..text.len() {
            let (transport, peer) = stream();
            let (_session, _task) =
                open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
            for piece in [&text[..first], &text[first..second], &text[second..]] {
                if !piece.is_empty() {
                    peer.send(piece);
                }
            }
            let answers = soon(peer.lines(5)).await;
            assert_eq!(answers, ["a", "bcd", "", "ef", "g"], "{first} {second}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_frames_in_one_read_are_answered_in_one_write() {
    let (transport, peer) = stream();
    let (_session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;

    let numbers: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    peer.send(numbers.join("\n") + "\n");
    assert_eq!(soon(peer.lines(1000)).await, numbers);
    assert_eq!(peer.counts().writes, 1);
}

#[tokio::test(start_paused = true)]
async fn frame_over_the_codecs_maximum_closes_as_decode() {
    let (transport, peer) = stream();
    let codec = LinesCodec::new_with_max_length(4);
    let (_session, task) = open(transport, codec, SessionLayer::new(), service_fn(echo)).await;

    peer.send("fits\nlonger\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Decode);
    let source = closed.source.expect("the codec's error is the source");
    assert!(matches!(
        source.downcast_ref(),
        Some(LinesCodecError::MaxLineLengthExceeded)
    ));
    assert_eq!(peer.output(), "fits\n", "earlier messages are answered");
    assert!(peer.is_shut(), "the transport was closed in order");
}

#[tokio::test(start_paused = true)]
async fn length_over_the_codecs_maximum_closes_before_the_body_arrives() {
    let (transport, peer) = stream();
    let (_session, task) = open(
        transport,
        lengths(16),
        SessionLayer::new(),
        service_fn(same),
    )
    .await;

    peer.send([0, 0, 0, 17]);
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Decode);
    assert_eq!(closed.stats.bytes_in, 4);
}

/// Decoder that never returns a message and reserves a fixed amount in each call.
#[derive(Clone, Copy, Debug)]
struct Insatiable {
    reserves: usize,
}

impl Decoder for Insatiable {
    type Item = String;
    type Error = io::Error;

    fn decode(&mut self, buf: &mut BytesMut) -> io::Result<Option<String>> {
        buf.reserve(self.reserves);
        Ok(None)
    }
}

impl Encoder<String> for Insatiable {
    type Error = io::Error;

    fn encode(&mut self, _: String, _: &mut BytesMut) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn decoder_that_never_returns_a_message_is_limited_and_closes_as_decode() {
    // One reservation per frame is allowed. Capacities may double.
    for (reserves, most) in [
        (0, 64 * 1024),
        (1, 2 * 64 * 1024),
        (4096, 2 * 64 * 1024),
        (1024 * 1024, 2 * 1024 * 1024),
    ] {
        let (transport, peer) = stream();
        let codec = Insatiable { reserves };
        let (_session, task) = open(transport, codec, SessionLayer::new(), service_fn(echo)).await;

        peer.send_endlessly([b'x'; 1000]);
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Decode);
        let source = closed.source.expect("the error is a `FrameTooLong`");
        let error: &getty::session::FrameTooLong = source.downcast_ref().unwrap();
        // Bytes that an orderly close reads after the end must not be kept.
        assert!(
            error.limit <= most,
            "limit {} with reserves {reserves}",
            error.limit
        );
        assert_eq!(closed.stats.bytes_in, error.limit as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn limit_of_undecoded_bytes_can_be_set() {
    let (transport, peer) = stream();
    let (_session, task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(LinesCodec::new()).with_max_frame(1000))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(echo)
    })
    .await
    .unwrap();

    peer.send([b'x'; 999]);
    peer.send("\n");
    assert_eq!(soon(peer.line()).await.len(), 999);

    peer.send([b'x'; 2000]);
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Decode);
    assert_eq!(closed.stats.bytes_in, 2000);
}

fn lengths(most: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(most)
        .new_codec()
}

async fn same(request: Request<BytesMut, Bytes>) -> Result<Bytes, BoxError> {
    Ok(request.into_message().freeze())
}

fn frame(byte: u8, len: u32) -> Vec<u8> {
    let mut frame = len.to_be_bytes().to_vec();
    frame.resize(4 + len as usize, byte);
    frame
}

#[tokio::test(start_paused = true)]
async fn frames_with_reserved_room_may_exceed_the_limit() {
    let sizes = [
        1024 * 1024,
        3,
        500 * 1024,
        64 * 1024,
        65 * 1024,
        0,
        64 * 1024 - 4,
        64 * 1024 - 3,
        2 * 1024 * 1024,
        1,
    ];
    let frames: Vec<u8> = (b'a'..)
        .zip(sizes)
        .flat_map(|(byte, len)| frame(byte, len))
        .collect();
    for piece in [1000, 10_007, 64 * 1024, 10 * 1024 * 1024] {
        let (transport, peer) = stream();
        let (_session, _task) = open(
            transport,
            lengths(2 * 1024 * 1024),
            SessionLayer::new(),
            service_fn(same),
        )
        .await;
        peer.send_in_pieces(&frames, piece);
        assert!(
            soon(peer.bytes(frames.len())).await == frames,
            "in pieces of {piece}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn large_frame_may_arrive_slowly() {
    let (transport, peer) = stream();
    let codec = lengths(2 * 1024 * 1024);
    let (_session, _task) = open(transport, codec, SessionLayer::new(), service_fn(same)).await;
    let large = frame(b'a', 300 * 1024);
    for piece in [1, 3, 10, 4000, 5000, 20_000] {
        for byte in large.chunks(piece).take(5) {
            peer.send(byte);
            idle().await;
        }
        peer.send_in_pieces(&large[(5 * piece).min(large.len())..], 30_000);
        assert!(soon(peer.bytes(large.len())).await == large, "{piece}");
    }
}

/// A session that receives much may exceed its limit until the peer stops reading the replies.
/// A partial frame above the limit must not stop the session from reading.
#[tokio::test(start_paused = true)]
async fn partial_frame_above_a_low_limit_is_still_read_from_a_slow_peer() {
    let (transport, peer) = stream();
    let codec = codec::LengthDelimited::new().max_frame_length(1024 * 1024);
    let (_session, _task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(codec).with_max_frame(16 * 1024))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(|request: Request<Bytes>| async {
                Ok::<_, BoxError>(request.into_message())
            })
    })
    .await
    .unwrap();
    let large = frame(b'a', 512 * 1024);
    peer.send_in_pieces(&large, 128 * 1024);
    assert!(soon(peer.bytes(large.len())).await == large);

    peer.stall();
    let [first, second] = [frame(b'b', 10), frame(b'c', 100 * 1024)];
    let (begun, rest) = second.split_at(30 * 1024);
    peer.send([&first, begun].concat());
    idle().await;
    peer.take_all();
    peer.send(rest);
    let answers = [first, second.clone()].concat();
    assert!(soon(peer.bytes(answers.len())).await == answers);
}

#[tokio::test(start_paused = true)]
async fn frame_as_long_as_the_limit_is_refused_from_a_slow_peer() {
    const BOUND: usize = 64 * 1024;
    const LARGE: usize = 260 * 1024;
    let (transport, peer) = stream();
    let codec = LinesCodec::new_with_max_length(1024 * 1024);
    let (_session, task) = open(transport, codec, SessionLayer::new(), service_fn(echo)).await;
    let lines = |bytes: usize| format!("{}\n", "x".repeat(1023)).repeat(bytes / 1024);
    peer.send_in_pieces(lines(4 * BOUND), BOUND);
    soon(peer.bytes(4 * BOUND)).await;

    peer.stall();
    peer.send(lines(LARGE - BOUND) + &"x".repeat(BOUND));
    idle().await;
    peer.take_all();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Decode);
}

#[tokio::test(start_paused = true)]
async fn later_messages_do_not_change_kept_messages() {
    let (transport, peer) = stream();
    let kept: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let keeps = Arc::clone(&kept);
    let handler = service_fn(move |request: Request<BytesMut, Bytes>| {
        keeps.lock().unwrap().push(request.into_message().freeze());
        async { Ok::<Option<Bytes>, BoxError>(None) }
    });
    let codec = lengths(2 * 1024 * 1024);
    let (_session, task) = open(transport, codec, SessionLayer::new(), handler).await;
    let sent: Vec<(u8, u32)> = (0..100_u8).map(|n| (n, u32::from(n) * 977)).collect();
    for (n, len) in &sent {
        peer.send(frame(*n, *len));
        if n % 3 == 0 {
            idle().await;
        }
    }
    peer.finish();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    for ((n, len), message) in sent.into_iter().zip(&*kept.lock().unwrap()) {
        assert_eq!(message.len(), len as usize);
        assert!(message.iter().all(|byte| *byte == n));
    }
}

#[tokio::test(start_paused = true)]
async fn gettys_codecs_close_on_a_frame_over_their_maximum() {
    async fn reason<C, Out>(codec: C, bytes: &[u8]) -> (CloseReason, u64)
    where
        C: Decoder<Error: Into<BoxError>> + Encoder<Out, Error: Into<BoxError>>,
        C: Clone + Send + 'static,
        C::Item: Send + 'static,
        Out: Send + 'static,
    {
        let (transport, peer) = stream();
        let silent =
            service_fn(|_: Request<C::Item, Out>| async { Ok::<Option<Out>, BoxError>(None) });
        let (_session, task) = open(transport, codec, SessionLayer::new(), silent).await;
        peer.send(bytes);
        let closed = soon(task).await.unwrap();
        (closed.reason, closed.stats.messages_in)
    }

    let long = [b'x'; 100];
    let lines = codec::Lines::new().with_max_length(50);
    assert_eq!(
        reason::<_, String>(lines, &long).await,
        (CloseReason::Decode, 0)
    );
    let length = codec::LengthDelimited::new().max_frame_length(50);
    let frames = [frame(b'a', 50), frame(b'a', 51)].concat();
    assert_eq!(
        reason::<_, Bytes>(length, &frames).await,
        (CloseReason::Decode, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn partial_frame_at_the_end_closes_as_decode() {
    let (transport, peer) = stream();
    let (_session, task) = open(
        transport,
        lengths(99),
        SessionLayer::new(),
        service_fn(same),
    )
    .await;

    peer.send(frame(b'a', 3));
    peer.send([0, 0, 0, 3, b'b']);
    peer.finish();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Decode);
    assert!(closed.source.is_some());
    assert_eq!(
        peer.written(),
        7,
        "the whole frame is awaited before it is answered"
    );
}

#[tokio::test(start_paused = true)]
async fn last_line_is_delivered_without_a_newline() {
    let (transport, peer) = stream();
    let (_session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;

    peer.send("first\nlast");
    peer.finish();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(closed.stats.messages_in, 2);
    assert_eq!(peer.output(), "first\nlast\n");
}

#[tokio::test(start_paused = true)]
async fn messages_before_the_end_are_answered() {
    let (transport, peer) = stream();
    let slow = service_fn(|request: Request<String>| async move {
        tokio::task::yield_now().await;
        echo(request).await
    });
    peer.send("1\n2\n3\n4\n5\n");
    peer.finish();
    let (_session, task) = open(transport, lines(), SessionLayer::new(), slow).await;

    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert_eq!(peer.output(), "1\n2\n3\n4\n5\n");
}
