//! Compressed streams.

use std::io::{IoSlice, Read};

use bytes::BytesMut;
use getty::{
    BoxError, CloseReason, Connection, Layer, Transport,
    compress::{Compressed, CompressionLayer, InflateBomb, Level},
    transport::Received,
};
use tower::{ServiceExt, service_fn};

use crate::kit::{Ending, Input, Peer, Wire, block_on, inflate, same_for_all_pieces, send, wire};

/// Inflated bytes that are allowed in any case.
const FREE: usize = 1 << 20;

fn layer(format: usize, level: usize) -> CompressionLayer {
    let level = [Level::NONE, Level::FAST, Level::DEFAULT][level % 3];
    match format {
        0 => CompressionLayer::deflate(level),
        1 => CompressionLayer::zlib(level),
        2 => CompressionLayer::snappy(),
        _ => CompressionLayer::zstd(1),
    }
}

async fn open(layer: &CompressionLayer) -> (Compressed<Wire>, Peer) {
    let (io, peer) = wire();
    let inner = service_fn(|connection: Connection<Compressed<Wire>>| async move {
        Ok::<_, BoxError>(connection.into_parts().0)
    });
    let io = layer.layer(inner).oneshot(Connection::new(io)).await;
    (io.expect("it does not fail"), peer)
}

/// How a stream has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Truncated,
    Invalid,
    Bomb,
}

/// Reads to the end of the input, in reads of at most `limit` bytes.
async fn read_all(io: &mut Compressed<Wire>, limit: usize) -> (Vec<u8>, End) {
    let mut all = Vec::new();
    loop {
        let mut buf = BytesMut::with_capacity(limit);
        let received = std::future::poll_fn(|cx| io.poll_recv(cx, &mut buf, limit)).await;
        match received {
            Ok(Received::Data(n)) => assert!(n == buf.len() && (1..=limit).contains(&n)),
            Ok(Received::Control(_)) => assert!(buf.is_empty()),
            Ok(Received::End) => return (all, End::Whole),
            Ok(Received::Invalid) => {
                let cause = io.take_close_reason().expect("a reason");
                assert_eq!(cause.reason, CloseReason::Decode);
                let is_bomb = cause.source.is::<InflateBomb>();
                return (all, if is_bomb { End::Bomb } else { End::Invalid });
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
                return (all, End::Truncated);
            }
            other => panic!("{other:?}"),
        }
        all.extend_from_slice(&buf);
    }
}

/// Any bytes as a compressed stream. deflate and zlib are compared with another implementation.
pub(crate) fn compressed_stream(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let format = input.below(4);
    let limit = input.limit() + 1;
    let bytes = input.rest();
    let layer = layer(format, 1);
    let (plain, end) = same_for_all_pieces(bytes, seed, |pieces| {
        block_on(async {
            let (mut io, peer) = open(&layer).await;
            send(&peer, pieces);
            peer.finish();
            let (plain, end) = read_all(&mut io, limit).await;
            // The parts before a defect depend on the pieces only where the format is buffered.
            let kept = if end == End::Whole || end == End::Truncated {
                plain
            } else {
                Vec::new()
            };
            (kept, end)
        })
    });
    if format == 2 {
        compare_snappy(bytes, &plain, &end);
    }
    if format < 2 && !bytes.is_empty() {
        let (expected, ending) = inflate(bytes, format == 1, FREE);
        match end {
            End::Whole | End::Truncated => {
                // The reference may find a defect in a block that is not complete.
                let flushed = bytes.ends_with(&[0, 0, 0xff, 0xff]);
                let refuses = ending == Ending::Corrupt && end == End::Whole && !flushed;
                let is_whole = !matches!(ending, Ending::Done(read) if read < bytes.len());
                assert!(
                    !refuses && is_whole,
                    "getty reads what the reference refuses"
                );
                assert_eq!(plain, expected);
                // It may end behind its final block, or behind a flush.
                let may_end = ending == Ending::Done(bytes.len()) || flushed;
                assert_eq!(end == End::Whole, may_end, "{ending:?}");
            }
            End::Invalid => {
                let behind = matches!(ending, Ending::Done(read) if read < bytes.len());
                let refuses = ending == Ending::Corrupt || behind;
                assert!(refuses, "getty refuses what the reference reads");
            }
            End::Bomb => assert_eq!(ending, Ending::TooLong),
        }
    }
}

/// Compares a stream in the framing format of snappy with the reader of the crate `snap`.
fn compare_snappy(bytes: &[u8], plain: &[u8], end: &End) {
    let mut expected = Vec::new();
    let read = snap::read::FrameDecoder::new(bytes).read_to_end(&mut expected);
    match (end, read) {
        (End::Whole, read) => {
            read.expect("getty reads what the reference refuses");
            assert_eq!(plain, expected);
        }
        (End::Truncated, Err(_)) => assert_eq!(plain, expected),
        (End::Invalid, Err(_)) | (End::Bomb, _) => {}
        (end, Ok(_)) => panic!("{end:?}, but the reference reads all"),
    }
}

/// Messages through a compressed stream and back. Each flush makes all readable.
pub(crate) fn compressed_messages(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let (format, level) = (input.below(4), input.below(3));
    let write_limit = input.limit().max(1);
    let limit = input.limit() + 1;
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < 20 {
        let times = 1 + usize::from(input.byte() % 40);
        messages.push(input.part().repeat(times));
    }
    let layer = layer(format, level);
    let (wire_bytes, flushed) = block_on(async {
        let (mut io, peer) = open(&layer).await;
        peer.limit_writes(write_limit);
        let mut flushed = Vec::new();
        for (at, message) in messages.iter().enumerate() {
            let mut rest = &message[..];
            while !rest.is_empty() {
                let (one, two) = rest.split_at(rest.len() / 3);
                let several = [IoSlice::new(one), IoSlice::new(two)];
                let single = [IoSlice::new(rest)];
                let bufs: &[IoSlice<'_>] = if at % 2 == 0 { &single } else { &several };
                let n = std::future::poll_fn(|cx| io.poll_send(cx, bufs)).await;
                let n = n.expect("the transport takes it");
                assert!((1..=rest.len()).contains(&n));
                rest = &rest[n..];
            }
            let flush = std::future::poll_fn(|cx| Transport::poll_flush(&mut io, cx)).await;
            flush.expect("the transport takes it");
            flushed.push(peer.output_bytes().len());
        }
        let reason = CloseReason::PeerClosed;
        let closed = std::future::poll_fn(|cx| io.poll_close(cx, &reason)).await;
        closed.expect("the transport takes it");
        (peer.output_bytes(), flushed)
    });
    let plain = messages.concat();
    let back = same_for_all_pieces(&wire_bytes, seed, |pieces| {
        block_on(async {
            let (mut io, peer) = open(&layer.clone().with_max_ratio(1100, 1 << 20)).await;
            send(&peer, pieces);
            peer.finish();
            read_all(&mut io, limit).await
        })
    });
    assert_eq!(back, (plain, End::Whole));
    // Flushed bytes can be read without a later byte.
    let mut length = 0;
    for (message, flushed) in messages.iter().zip(flushed).take(3) {
        length += message.len();
        let read = block_on(async {
            let (mut io, peer) = open(&layer.clone().with_max_ratio(1100, 1 << 20)).await;
            peer.send(&wire_bytes[..flushed]);
            let mut all = BytesMut::new();
            while all.len() < length {
                let mut buf = BytesMut::with_capacity(4096);
                let read = std::future::poll_fn(|cx| io.poll_recv(cx, &mut buf, 4096));
                let read = tokio::time::timeout(std::time::Duration::from_secs(1), read).await;
                read.expect("all that was flushed is readable")
                    .expect("it is valid");
                all.extend_from_slice(&buf);
            }
            all.len()
        });
        assert_eq!(read, length);
    }
}
