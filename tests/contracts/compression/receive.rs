//! Received bytes: inflating, limits and ends.

use super::*;
use getty_test::stream;

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

/// Two empty blocks of deflate with codes of up to 15 bits. Their tables take longer than text
/// of this length.
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
    let (io, peer) = stream();
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

    let (io, peer) = stream();
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
async fn the_maximum_of_the_codec_applies_as_well() {
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
