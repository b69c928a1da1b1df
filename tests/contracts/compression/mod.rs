//! Compressed byte streams. Each numbered contract of the layer has a test.

mod formats;

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
use proptest::{collection::vec, prelude::*};
use tokio::time::Instant;

use self::formats::{FORMATS, Format, compressed, dial, noise, shared};
use crate::support::{
    connector, echo, idle, soon,
    stream::{self, Peer, Stream},
};

const KIB: usize = 1024;
const SYNC_MARKER: [u8; 4] = [0, 0, 0xff, 0xff];

/// Opens a session of lines over `layer`.
async fn open(
    layer: CompressionConnectLayer,
    session: SessionLayer,
) -> (Session<String>, SessionTask, Peer) {
    let (io, peer) = stream::pair();
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
    let (io, peer) = stream::pair();
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

// 4
#[tokio::test(start_paused = true)]
async fn a_receive_inflates_at_most_its_limit_and_holds_at_most_64_kib_of_input() {
    for &format in FORMATS {
        let text = b"compressed ".repeat(10_000);
        for limit in [1, 100, 5_000, 70_000] {
            let (connection, peer) = compressed(format.layer()).await;
            let (mut io, _rest) = connection.take_transport();
            peer.send(format.compress(&[&text], false));
            let mut all = BytesMut::new();
            while all.len() < text.len() {
                let mut buf = BytesMut::with_capacity(limit);
                match recv(&mut io, &mut buf, limit).await {
                    Received::Data(n) => assert!(n == buf.len() && (1..=limit).contains(&n)),
                    Received::Control(_) => {}
                    other => panic!("{other:?}"),
                }
                all.extend_from_slice(&buf);
            }
            assert!(all == text, "{format:?} {limit}");
        }

        let (connection, peer) = compressed(format.layer()).await;
        let (mut io, _rest) = connection.take_transport();
        peer.send(format.compress(&[&noise(1 << 20)], false));
        let mut buf = BytesMut::new();
        while buf.is_empty() {
            let before = peer.unread();
            recv(&mut io, &mut buf, 1).await;
            assert!(before - peer.unread() <= 76_508, "{format:?}");
        }
        if format != Format::Snappy {
            let stats = io.stats().wire_bytes_in();
            assert!(stats <= 65_536 + 65_536, "{format:?}: {stats}");
        }
    }
}

// 5
#[tokio::test]
async fn a_unit_of_the_cooperative_budget_is_taken_every_32_kib() {
    // A task has 128 units: 4 MiB.
    let most = 128 * 32 * KIB;
    for &format in FORMATS {
        let (connection, peer) = compressed(format.layer().with_max_ratio(0, 1 << 30)).await;
        let (mut io, _rest) = connection.take_transport();
        peer.forget_output();
        peer.send(format.compress(&[&vec![0; 16 << 20]], false));
        let (received, sent) = tokio::spawn(async move {
            let mut received = 0;
            poll_fn(|cx| {
                let mut buf = BytesMut::with_capacity(64 * KIB);
                while let Poll::Ready(read) = io.poll_recv(cx, &mut buf, 64 * KIB) {
                    if let Received::Data(n) = read.unwrap() {
                        received += n;
                    }
                    buf.clear();
                }
                Poll::Ready(())
            })
            .await;
            tokio::task::yield_now().await;
            let mut sent = 0;
            poll_fn(|cx| {
                let zeros = vec![0; 64 * KIB];
                while let Poll::Ready(n) = io.poll_send(cx, &[IoSlice::new(&zeros)]) {
                    sent += n.unwrap();
                }
                Poll::Ready(())
            })
            .await;
            (received, sent)
        })
        .await
        .unwrap();
        for moved in [received, sent] {
            assert!(
                (most - 64 * KIB..most + 128 * KIB).contains(&moved),
                "{format:?}: {moved}"
            );
        }
    }
}

/// Two empty blocks of deflate with codes of up to 15 bits. Their tables take longer than text of
/// this length.
const BLOCKS_OF_TABLES: [u8; 59] = [
    4, 253, 1, 130, 36, 73, 146, 36, 73, 34, 177, 168, 121, 100, 245, 236, 221, 255, 159, 11, 128,
    196, 162, 230, 145, 213, 179, 119, 63, 64, 208, 31, 32, 72, 146, 36, 73, 146, 36, 18, 139, 154,
    71, 86, 207, 222, 253, 255, 185, 0, 72, 44, 106, 30, 89, 61, 123, 247, 3,
];

// 5
#[tokio::test]
async fn blocks_without_content_take_the_budget_of_their_work() {
    for format in [Format::Deflate, Format::Zlib] {
        let (connection, peer) = compressed(format.layer()).await;
        let (mut io, _rest) = connection.take_transport();
        let mut sent = format.compress(&[b"x"], false);
        sent.extend(BLOCKS_OF_TABLES.repeat(64 * KIB));
        let length = sent.len();
        peer.send(sent);
        let consumed = tokio::spawn(async move {
            poll_fn(|cx| {
                let mut buf = BytesMut::with_capacity(KIB);
                while let Poll::Ready(read) = io.poll_recv(cx, &mut buf, KIB) {
                    assert!(!matches!(read.unwrap(), Received::Invalid | Received::End));
                }
                Poll::Ready(())
            })
            .await;
            length - peer.unread()
        });
        let consumed = consumed.await.unwrap();
        // a unit for 4 KiB, and what is held
        assert!(
            consumed <= 128 * 4 * KIB + 128 * KIB,
            "{format:?}: {consumed}"
        );
    }
}

#[tokio::test]
async fn compressed_frames_take_the_budget_of_their_work() {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    let frames = || LengthDelimited::new().max_frame_length(1 << 20);
    let mut sent = BytesMut::new();
    for _ in 0..1_000 {
        let zeros = Bytes::from(vec![0; 64 * KIB]);
        tokio_util::codec::Encoder::encode(&mut Deflated::new(frames()), zeros, &mut sent).unwrap();
    }
    let (io, peer) = stream::pair();
    let (session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Deflated::new(frames())))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(|_: Request<Bytes>| async { Ok::<_, BoxError>(None::<Bytes>) })
    })
    .await
    .unwrap();
    peer.send(&sent);
    let runs = shared(AtomicUsize::new(0));
    let others = runs.clone();
    let other = tokio::spawn(async move {
        loop {
            others.lock().unwrap().fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
        }
    });
    while session.stats().messages_in < 1_000 {
        tokio::task::yield_now().await;
    }
    other.abort();
    // 2,000 units, and a poll has 128.
    assert!(runs.lock().unwrap().load(Relaxed) >= 12, "{runs:?}");
}

// 6
#[tokio::test(start_paused = true)]
async fn input_without_output_is_control_after_64_kib_and_is_no_activity() {
    let empty_blocks = [0, 0, 0, 0xff, 0xff].repeat(100 * KIB);
    let (connection, peer) = compressed(Format::Deflate.layer()).await;
    let (mut io, _rest) = connection.take_transport();
    peer.send(&empty_blocks);
    let mut buf = BytesMut::new();
    let mut calls = 0;
    while peer.unread() > 0 {
        let before = peer.unread();
        assert_eq!(recv(&mut io, &mut buf, KIB).await, Received::Control(0));
        assert!(before - peer.unread() <= 64 * KIB);
        calls += 1;
    }
    assert!(buf.is_empty() && calls >= 8);

    let (io, peer) = stream::pair();
    let layer = CompressionConnectLayer::deflate(Level::FAST);
    let (_session, task) = getty::connect(dial(&layer), io, |link| {
        ServiceBuilder::new()
            .layer(IdleTimeoutLayer::activity(Duration::from_secs(60)))
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(service_fn(echo))
    })
    .await
    .unwrap();
    let opened = Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(11)).await;
        peer.send([0, 0, 0, 0xff, 0xff]);
    }
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::IdleTimeout);
    assert_eq!(opened.elapsed(), Duration::from_secs(60));
}

// 7
#[tokio::test(start_paused = true)]
async fn has_more_is_false_although_input_is_held() {
    let (connection, peer) = compressed(Format::Deflate.layer()).await;
    let (mut io, _rest) = connection.take_transport();
    assert_eq!(io.framing(), Framing::Stream);
    peer.send(Format::Deflate.compress(&[b"hello"], false));
    let mut buf = BytesMut::new();
    assert_eq!(recv(&mut io, &mut buf, 1).await, Received::Data(1));
    assert!(!io.has_more());
    assert_eq!(recv(&mut io, &mut buf, 9).await, Received::Data(4));
    assert_eq!(buf, "hello");
}

// 8
#[tokio::test(start_paused = true)]
async fn input_above_the_ratio_closes_the_session_as_decode_with_an_inflate_bomb() {
    for &format in FORMATS {
        // Snappy reaches a ratio of 21.
        let (ratio, free) = if format == Format::Snappy {
            (10, 1 << 20)
        } else {
            (250, 1 << 20)
        };
        let layer = format.layer().with_max_ratio(ratio, free);
        let (session, task, peer) = open(layer, SessionLayer::new()).await;
        let mut lines = vec![0; 16 << 20];
        for line in lines.chunks_mut(10_000) {
            line[0] = b'\n';
        }
        peer.send(format.compress(&[b"before\n", &lines], false));
        peer.forget_output();
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Decode, "{format:?}");
        let bomb: InflateBomb = source(&closed);
        assert!(bomb.plain > free + u64::from(ratio) * bomb.compressed);
        assert!(bomb.plain <= free + u64::from(ratio) * bomb.compressed + 64 * KIB as u64);
        // Messages before the bomb are handled.
        assert!(session.stats().messages_in > 100, "{format:?}");
        assert!(session.stats().bytes_in < bomb.plain);
    }
}

// 8
#[tokio::test(start_paused = true)]
async fn the_maximum_of_the_codec_holds_besides() {
    for &format in FORMATS {
        let (_session, task, peer) = open(format.layer(), SessionLayer::new()).await;
        peer.send(format.compress(&[&vec![b'x'; 100 * KIB]], false));
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Decode, "{format:?}");
        assert!(
            closed
                .source
                .unwrap()
                .to_string()
                .contains("exceeds the maximum")
        );
    }
}

// 8
#[cfg(feature = "zstd")]
#[tokio::test(start_paused = true)]
async fn zstd_with_a_window_above_1_mib_is_refused() {
    use std::io::Write;
    for (window, is_refused) in [(20, false), (21, true)] {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window).unwrap();
        encoder.write_all(b"hello\n").unwrap();
        let (_session, task, peer) = open(Format::Zstd.layer(), SessionLayer::new()).await;
        peer.send({
            encoder.flush().unwrap();
            let begun = encoder.get_ref().clone();
            let whole = encoder.finish().unwrap();
            assert!(whole.starts_with(&begun));
            whole
        });
        peer.finish();
        let closed = soon(task).await.unwrap();
        if is_refused {
            let expected = InflateError::TooLarge { format: "zstd" };
            assert_eq!(source::<InflateError>(&closed), expected);
        } else {
            assert_eq!(closed.reason, CloseReason::PeerClosed);
        }
    }
}

// 9
#[tokio::test(start_paused = true)]
async fn the_end_is_clean_after_a_flush_or_a_final_block_and_unexpected_elsewhere() {
    for &format in FORMATS {
        for finished in [false, true] {
            let stream = format.compress(&[b"hello\n", b"world\n"], finished);
            // The boundaries that a peer can recognize.
            let flushed: Vec<_> = match format {
                Format::Deflate | Format::Zlib => (4..=stream.len())
                    .filter(|end| stream[..*end].ends_with(&SYNC_MARKER))
                    .chain([0])
                    .chain(finished.then_some(stream.len()))
                    .collect(),
                Format::Snappy => {
                    let mut ends = vec![0];
                    let mut at = 0;
                    while let Some(&[_, a, b, c]) = stream[at..].first_chunk() {
                        at += 4 + u32::from_le_bytes([a, b, c, 0]) as usize;
                        ends.push(at);
                    }
                    ends
                }
                #[cfg(feature = "zstd")]
                Format::Zstd if !finished => vec![0],
                #[cfg(feature = "zstd")]
                Format::Zstd => vec![0, stream.len()],
            };
            for end in 0..=stream.len() {
                let (connection, peer) = compressed(format.layer()).await;
                let (mut io, _rest) = connection.take_transport();
                peer.send(&stream[..end]);
                peer.finish();
                let (all, ended) = recv_all(&mut io).await;
                assert!(b"hello\nworld\n".starts_with(&all));
                match ended {
                    Ok(Received::End) => assert!(flushed.contains(&end), "{format:?} {end}"),
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                        assert!(!flushed.contains(&end), "{format:?} {end} of {flushed:?}");
                    }
                    Ok(other) => panic!("{other:?}"),
                }
            }
        }
    }
}

// 9
#[tokio::test(start_paused = true)]
async fn bytes_after_a_final_block_close_the_session_as_decode() {
    for format in [Format::Deflate, Format::Zlib] {
        for pieces in [1, 1_000] {
            let (_session, task, peer) = open(format.layer(), SessionLayer::new()).await;
            let mut stream = format.compress(&[b"hello\n"], true);
            stream.push(0);
            peer.send_in_pieces(&stream, pieces);
            let closed = soon(task).await.unwrap();
            assert_eq!(closed.reason, CloseReason::Decode);
            assert_eq!(source::<InflateError>(&closed), InflateError::AfterEnd);
            assert_eq!(format.inflate_begun(&peer.output_bytes()), b"hello\n");
        }
    }
}

// 9
#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_in_the_format_close_the_session_as_decode_after_earlier_messages() {
    for &format in FORMATS {
        let mut stream = format.compress(&[b"hello\n"], false);
        stream.extend_from_slice(match format {
            Format::Deflate | Format::Zlib => b"\xff\xff\xff",
            _ => b"\x7f\xff\xff\xff\xff\xff",
        });
        let (_session, task, peer) = open(format.layer(), SessionLayer::new()).await;
        // A closed session must read on: unread input would reset the connection.
        peer.stay_open();
        peer.send(&stream);
        peer.send(noise(100_000));
        idle().await;
        assert_eq!(peer.unread(), 0);
        peer.finish();
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Decode, "{format:?}");
        let expected = InflateError::Corrupt {
            format: match format {
                Format::Deflate => "deflate",
                Format::Zlib => "zlib",
                Format::Snappy => "snappy",
                #[cfg(feature = "zstd")]
                Format::Zstd => "zstd",
            },
        };
        assert_eq!(source::<InflateError>(&closed), expected);
        assert_eq!(format.inflate_begun(&peer.output_bytes()), b"hello\n");
    }
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
