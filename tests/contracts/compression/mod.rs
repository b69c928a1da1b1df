//! Compressed byte streams. Each numbered contract of the layer has a test.

mod formats;
mod receive;

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, CloseReason, Closed, Request, ServiceBuilder, Session, SessionLayer, SessionTask,
    Transport,
    codec::{Deflated, LengthDelimited, Lines},
    compress::{
        Compressed, CompressionConnectLayer, CompressionStats, Contexts, InflateBomb, InflateError,
        Level,
    },
    layers::{CodecLayer, IdleTimeoutLayer, WriteTimeoutLayer},
    service_fn,
    transport::{Framing, Received},
};
use getty_test::{Peer, Stream, stream};
use proptest::{collection::vec, prelude::*};
use tokio::time::Instant;

use self::formats::{FORMATS, Format, compressed, dial, noise, shared};
use crate::support::{connector, echo, idle, soon};

const KIB: usize = 1024;
const SYNC_MARKER: [u8; 4] = [0, 0, 0xff, 0xff];

/// Opens a session of lines over `layer`.
async fn open(
    layer: CompressionConnectLayer,
    session: SessionLayer,
) -> (Session<String>, SessionTask, Peer) {
    let (io, peer) = stream();
    let (session, task) = getty::connect(dial(&layer), io, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new().with_max_length(64 * KIB)))
            .layer(link)
            .layer(session)
            .service(service_fn(echo))
    })
    .await
    .unwrap();
    (session, task, peer)
}

fn cx() -> Context<'static> {
    Context::from_waker(futures_util::task::noop_waker_ref())
}

fn poll_send(io: &mut Compressed<Stream>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    io.poll_send(&mut cx(), &[IoSlice::new(bytes)])
}

fn is_flushed(io: &mut Compressed<Stream>) -> bool {
    matches!(io.poll_flush(&mut cx()), Poll::Ready(Ok(())))
}

async fn recv(io: &mut Compressed<Stream>, buf: &mut BytesMut, limit: usize) -> Received {
    poll_fn(|cx| {
        buf.reserve(limit);
        io.poll_recv(cx, buf, limit)
    })
    .await
    .unwrap()
}

/// Receives until the end or until invalid input.
async fn recv_all(io: &mut Compressed<Stream>) -> (BytesMut, io::Result<Received>) {
    let mut all = BytesMut::new();
    loop {
        all.reserve(KIB);
        match soon(poll_fn(|cx| io.poll_recv(cx, &mut all, KIB))).await {
            Ok(Received::Data(_) | Received::Control(_)) => {}
            other => return (all, other),
        }
    }
}

fn source<E: std::error::Error + Clone + 'static>(closed: &Closed) -> E {
    let source = closed.source.as_ref().expect("a source");
    source.downcast_ref::<E>().expect("its type").clone()
}

// 1
#[tokio::test(start_paused = true)]
async fn a_flush_is_a_sync_flush_and_repeated_polls_append_nothing() {
    for format in [Format::Deflate, Format::Zlib] {
        let (connection, peer) = compressed(format.layer()).await;
        let (mut io, _rest) = connection.take_transport();
        assert!(poll_send(&mut io, b"hello").is_ready());
        peer.stall();
        assert!(!is_flushed(&mut io) && !is_flushed(&mut io));
        peer.take(3);
        assert!(!is_flushed(&mut io));
        peer.take_all();
        assert!(is_flushed(&mut io));
        let once = peer.output_bytes();
        assert!(once.ends_with(&SYNC_MARKER));
        assert_eq!(format.inflate(&once), b"hello");
        assert!(is_flushed(&mut io) && is_flushed(&mut io));
        assert_eq!(peer.output_bytes(), once);

        // A send between two polls begins a new flush.
        assert!(poll_send(&mut io, b"one").is_ready());
        peer.hold_flush();
        assert!(!is_flushed(&mut io));
        assert!(poll_send(&mut io, b"two").is_ready());
        peer.release_flush();
        assert!(is_flushed(&mut io));
        let twice = peer.output_bytes();
        assert!(twice.ends_with(&SYNC_MARKER));
        assert_eq!(format.inflate(&twice), b"helloonetwo");
        let flushes = twice.windows(4).filter(|bytes| *bytes == SYNC_MARKER);
        assert_eq!(flushes.count(), 3);
    }
}

// 2
#[tokio::test(start_paused = true)]
async fn a_send_resolves_when_the_peer_can_inflate_all_its_bytes() {
    for &format in FORMATS {
        for length in [1, 1_000, 60_000] {
            let (session, _task, peer) = open(format.layer(), SessionLayer::new()).await;
            let line = String::from_utf8(vec![b'x'; length]).unwrap();
            peer.stall();
            let send = tokio::spawn({
                let (session, line) = (session.clone(), line.clone());
                async move { session.send(line).await }
            });
            let line = format!("{line}\n");
            loop {
                idle().await;
                let inflated = format.inflate_begun(&peer.output_bytes());
                assert!(!send.is_finished() || inflated == line.as_bytes());
                if send.is_finished() {
                    break;
                }
                peer.take(1);
            }
            soon(send).await.unwrap().unwrap();
        }
    }
}

impl Format {
    /// Returns what a peer can inflate from a stream that may be cut within a block of snappy.
    fn inflate_begun(self, stream: &[u8]) -> Vec<u8> {
        if self != Self::Snappy {
            return self.inflate(stream);
        }
        let (mut whole, mut at) = (0, 0);
        while let Some(&[_, a, b, c]) = stream[at..].first_chunk() {
            at += 4 + u32::from_le_bytes([a, b, c, 0]) as usize;
            if at > stream.len() {
                break;
            }
            whole = at;
        }
        self.inflate(&stream[..whole])
    }
}

// 3
#[tokio::test(start_paused = true)]
async fn written_bytes_are_those_the_stream_took_and_output_above_64_kib_is_pending() {
    for &format in FORMATS {
        let (connection, peer) = compressed(format.layer()).await;
        let (mut io, _rest) = connection.take_transport();
        peer.stall();
        let (noise, mut sent) = (noise(512 * KIB), 0);
        while let Poll::Ready(taken) = poll_send(&mut io, &noise[sent..][..8 * KIB]) {
            sent += taken.unwrap();
            assert!(sent < 256 * KIB, "{format:?}");
        }
        assert!((64 * KIB..=160 * KIB).contains(&sent), "{format:?}: {sent}");
        assert_eq!((io.bytes_flushed(), peer.written()), (0, 0));
        peer.take(1_000);
        assert!(poll_send(&mut io, b"x").is_pending() || io.bytes_flushed() == 1_000);
        assert_eq!(io.bytes_flushed(), 1_000);
        peer.take_all();
        assert!(is_flushed(&mut io));
        assert_eq!(io.bytes_flushed(), peer.written() as u64);
    }
}

// 3
#[tokio::test(start_paused = true)]
async fn write_timeout_follows_the_network() {
    let (io, peer) = stream();
    let layer = CompressionConnectLayer::deflate(Level::FAST);
    let (session, task) = getty::connect(dial(&layer), io, |link| {
        ServiceBuilder::new()
            .layer(WriteTimeoutLayer::new(Duration::from_secs(10)))
            .layer(CodecLayer::new(LengthDelimited::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(|_: Request<Bytes>| async { Ok::<_, BoxError>(None::<Bytes>) })
    })
    .await
    .unwrap();
    peer.stall();
    session.try_send(noise(10_000).into()).unwrap();
    // A slow peer is no stalled peer, although the transport has taken the message whole.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert!(!session.is_closing());
        peer.take(100);
    }
    let stalled = Instant::now();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::WriteTimeout);
    assert_eq!(stalled.elapsed(), Duration::from_secs(10));
}

// 10
#[tokio::test(start_paused = true)]
async fn finish_ends_the_compressed_stream_and_receiving_continues() {
    for &format in FORMATS {
        let (session, task, peer) = open(format.layer(), SessionLayer::new()).await;
        peer.stay_open();
        session.try_send("last".to_owned()).unwrap();
        soon(session.finish()).await.unwrap();
        assert!(peer.is_shut());
        let output = peer.output_bytes();
        assert_eq!(format.inflate(&output), b"last\n");
        match format {
            Format::Deflate => assert!(output.ends_with(&SYNC_MARKER)),
            Format::Zlib => {
                let end = [&[3, 0][..], &[0x05, 0xff, 0x01, 0xb3]].concat();
                assert_eq!(output[output.len() - 6..output.len() - 4], end[..2]);
            }
            _ => {}
        }
        peer.send(format.compress(&[b"one\n", b"two\n"], true));
        idle().await;
        assert_eq!(session.stats().messages_in, 2);
        peer.finish();
        assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
        assert_eq!(peer.output_bytes(), output);
    }
}

// 10
#[tokio::test(start_paused = true)]
async fn input_after_the_close_is_discarded_without_being_inflated() {
    let (session, task, peer) = open(Format::Deflate.layer(), SessionLayer::new()).await;
    peer.stay_open();
    session.send("hello".to_owned()).await.unwrap();
    session.close();
    idle().await;
    assert!(peer.is_shut());
    // It is no deflate, and a bomb of 1 GiB if it were inflated.
    peer.send(noise(1 << 20));
    idle().await;
    assert_eq!(peer.unread(), 0);
    peer.finish();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.is_none());
}

// 11
#[tokio::test(start_paused = true)]
async fn a_session_at_rest_holds_no_context_and_continues_with_an_empty_window() {
    for &format in FORMATS {
        let contexts = Contexts::new(2);
        let mut sessions = Vec::new();
        for _ in 0..5 {
            let layer = format.layer().with_contexts(contexts.clone());
            sessions.push(open(layer, SessionLayer::new()).await);
        }
        let mut expected = String::new();
        for round in 0..4 {
            for (session, ..) in &sessions {
                soon(session.send(format!("round {round}, round {round}")))
                    .await
                    .unwrap();
            }
            expected += &format!("round {round}, round {round}\n");
            let used = if format == Format::Snappy { 0 } else { 2 };
            assert_eq!(contexts.allocated(), used, "{format:?}");
        }
        for (session, task, peer) in sessions {
            session.close();
            soon(task).await.unwrap();
            let inflated = format.inflate(&peer.output_bytes());
            assert_eq!(String::from_utf8(inflated).unwrap(), expected, "{format:?}");
        }
    }
}

// 11
#[tokio::test(start_paused = true)]
async fn a_session_keeps_its_window_while_the_pool_has_contexts() {
    for &format in FORMATS {
        if format == Format::Snappy {
            continue;
        }
        let (session, _task, peer) = open(format.layer(), SessionLayer::new()).await;
        let line = String::from_utf8_lossy(&noise(300)).replace('\n', " ");
        soon(session.send(line.clone())).await.unwrap();
        let first = peer.written();
        soon(session.send(line)).await.unwrap();
        assert!(peer.written() - first < first / 4, "{format:?}");
    }
}

// 12
#[tokio::test(start_paused = true)]
async fn statistics_count_plain_bytes_and_the_attribute_has_wire_bytes() {
    for &format in FORMATS {
        for pieces in [1, 1_000] {
            let (session, _task, peer) = open(format.layer(), SessionLayer::new()).await;
            let line = format!("{}\n", "x".repeat(9_999));
            let stream = format.compress(&[line.as_bytes()], false);
            peer.send_in_pieces(&stream, pieces);
            idle().await;
            let stats = session.stats();
            assert_eq!((stats.bytes_in, stats.bytes_out), (10_000, 10_000));
            let wire: CompressionStats = session.get().unwrap();
            assert_eq!(wire.wire_bytes_in(), stream.len() as u64);
            assert_eq!(wire.wire_bytes_out(), peer.written() as u64);
            assert!(peer.written() < 1_000);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn messages_arrive_for_every_split_of_the_stream() {
    for &format in FORMATS {
        let stream = format.compress(&[b"hello\n", b"hello again\n", b"\n", b"end\n"], false);
        for split in 1..stream.len() {
            let (_session, _task, peer) = open(format.layer(), SessionLayer::new()).await;
            peer.send(&stream[..split]);
            idle().await;
            peer.send(&stream[split..]);
            idle().await;
            let echoed = format.inflate(&peer.output_bytes());
            assert_eq!(echoed, b"hello\nhello again\n\nend\n", "{format:?} {split}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn replies_are_complete_for_every_split_of_a_write() {
    for &format in FORMATS {
        let text = format!("{}\n", "some text ".repeat(50));
        let stream = format.compress(&[text.as_bytes()], false);
        let (_session, _task, peer) = open(format.layer(), SessionLayer::new()).await;
        peer.send(&stream);
        idle().await;
        let length = peer.written();
        for split in 0..=length {
            let (_session, _task, peer) = open(format.layer(), SessionLayer::new()).await;
            peer.stall();
            peer.send(&stream);
            idle().await;
            peer.take(split);
            idle().await;
            peer.limit_writes(1 + split % 7);
            peer.take_all();
            idle().await;
            let echoed = format.inflate(&peer.output_bytes());
            assert!(echoed == text.as_bytes(), "{format:?} {split}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn raw_payloads_and_broadcasts_pass_through_the_compressor() {
    for &format in FORMATS {
        let (session, _task, peer) = open(format.layer(), SessionLayer::new()).await;
        let pieces: Vec<_> = (0..40_u8)
            .map(|n| Bytes::from(vec![n; 1 + usize::from(n) * 700]))
            .collect();
        soon(session.send_raw_vectored(pieces.clone()))
            .await
            .unwrap();
        soon(session.send_raw(Bytes::from_static(b"raw")))
            .await
            .unwrap();
        let inflated = format.inflate(&peer.output_bytes());
        assert!(
            inflated == [pieces.concat(), b"raw".to_vec()].concat(),
            "{format:?}"
        );
    }
}

/// Sessions of both roles over one stream each, with pushes and several messages in flight.
async fn both_roles(format: Format, messages: Vec<Vec<u8>>, pushes: usize, pieces: usize) {
    let (listener, connector) = getty::net::memory(pieces);
    let layer = match format {
        Format::Deflate => getty::compress::CompressionLayer::deflate(Level::BEST),
        Format::Zlib => getty::compress::CompressionLayer::zlib(Level::FAST),
        Format::Snappy => getty::compress::CompressionLayer::snappy(),
        #[cfg(feature = "zstd")]
        Format::Zstd => getty::compress::CompressionLayer::zstd(1),
    };
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(LengthDelimited::new()))
        .layer(SessionLayer::new().with_in_flight(4))
        .service_fn(move |request: Request<Bytes>| async move {
            for _ in 0..pushes {
                request.session().feed(Bytes::from_static(b"push")).await?;
            }
            tokio::task::yield_now().await;
            Ok::<_, BoxError>(request.into_message())
        });
    let server = tokio::spawn(getty::serve(listener, stack).into_future());
    let received = shared(Vec::new());
    let sink = std::sync::Arc::clone(&received);
    let connector = ServiceBuilder::new()
        .layer(format.layer())
        .service(connector);
    let (session, task) = getty::connect(connector, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(LengthDelimited::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<Bytes>| {
                sink.lock().unwrap().push(request.into_message());
                std::future::ready(Ok::<_, BoxError>(None::<Bytes>))
            })
    })
    .await
    .unwrap();
    for message in &messages {
        soon(session.feed(message.clone().into())).await.unwrap();
        if message.len() % 3 == 0 {
            soon(session.flush()).await.unwrap();
        }
    }
    soon(session.finish()).await.unwrap();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    let mut received = std::mem::take(&mut *received.lock().unwrap());
    assert_eq!(received.len(), messages.len() * (1 + pushes));
    received.retain(|message| message != "push");
    assert_eq!(received, messages);
    server.abort();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_messages_with_any_flushes_arrive_in_both_roles(
        messages in vec(
            prop_oneof![
                vec(prop_oneof![Just(7_u8), any::<u8>()], 0..200),
                (0_usize..40_000).prop_map(noise),
                (0_usize..60_000).prop_map(|length| vec![b'x'; length]),
            ],
            1..12,
        ),
        pushes in 0_usize..3,
        pieces in prop_oneof![Just(1_usize << 16), 1_usize..2_000],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        for &format in FORMATS {
            let mut messages = messages.clone();
            messages.retain(|message| message != b"push");
            prop_assume!(!messages.is_empty());
            runtime.block_on(both_roles(format, messages, pushes, pieces));
        }
    }

    #[test]
    fn any_bytes_end_in_a_typed_close(
        bytes in vec(any::<u8>(), 0..2_000), pieces in 1_usize..200, begun in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        for &format in FORMATS {
            runtime.block_on(async {
                let (session, task, peer) = open(format.layer(), SessionLayer::new()).await;
                let mut stream = if begun { format.compress(&[b"x\n"], false) } else { Vec::new() };
                stream.extend_from_slice(&bytes);
                peer.send_in_pieces(&stream, pieces);
                peer.finish();
                let closed = soon(task).await.unwrap();
                assert!(matches!(
                    closed.reason,
                    CloseReason::Decode | CloseReason::Io | CloseReason::PeerClosed
                ));
                assert!(session.stats().messages_in > 0 || !begun, "{format:?}");
            });
        }
    }
}
