//! Random messages in random frames against another implementation of deflate.

use proptest::prelude::*;

use super::*;

/// A message of a peer: its bytes, whether it is text and compressed, the level and the flushes
/// of its compressor, and the lengths of its frames.
#[derive(Clone, Debug)]
struct Sent {
    message: Vec<u8>,
    is_text: bool,
    is_compressed: bool,
    level: u32,
    flushes: Vec<(usize, bool)>,
    frames: Vec<usize>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let message = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| (bytes, false)),
        (0..3000_usize).prop_map(|length| (json(length).into_bytes(), true)),
        "\\PC{0,200}".prop_map(|text| (text.into_bytes(), true)),
        (0..70_000_usize).prop_map(|length| (vec![b'z'; length], true)),
        (0..5000_usize).prop_map(|length| (noise(length), false)),
    ];
    (
        message,
        any::<bool>(),
        0..10_u32,
        prop::collection::vec((0..2000_usize, any::<bool>()), 0..4),
        prop::collection::vec(0..400_usize, 0..8),
    )
        .prop_map(
            |((message, is_text), is_compressed, level, flushes, frames)| Sent {
                message,
                is_text,
                is_compressed,
                level,
                flushes,
                frames,
            },
        )
}

impl Sent {
    /// Returns the payload of the message's frames together.
    fn payload(&self) -> Vec<u8> {
        if !self.is_compressed {
            return self.message.clone();
        }
        let mut stream = Compress::new(Compression::new(self.level), false);
        let mut bytes = Vec::with_capacity(2 * self.message.len() + 4096);
        let mut rest = &self.message[..];
        for (length, is_finish) in &self.flushes {
            let (part, after) = rest.split_at((*length).min(rest.len()));
            rest = after;
            let flush = if *is_finish {
                FlushCompress::Finish
            } else {
                FlushCompress::Sync
            };
            stream.compress_vec(part, &mut bytes, flush).unwrap();
            if *is_finish {
                stream.reset();
            }
        }
        let before = bytes.len();
        stream
            .compress_vec(rest, &mut bytes, FlushCompress::Sync)
            .unwrap();
        if bytes.len() == before {
            // Nothing was left to flush. The message must end with an empty block.
            bytes.push(0);
        } else {
            assert!(bytes.ends_with(&[0, 0, 0xff, 0xff]));
            bytes.truncate(bytes.len() - 4);
        }
        bytes
    }

    /// Returns the frames of the message with pings between them.
    fn wire(&self) -> (Vec<u8>, usize) {
        let kind = if self.is_text { TEXT } else { BINARY };
        let rsv1 = if self.is_compressed { RSV1 } else { 0 };
        let (mut wire, mut first, mut pings) = (Vec::new(), kind | rsv1, 0);
        let payload = self.payload();
        let mut rest = &payload[..];
        for length in &self.frames {
            let (part, after) = rest.split_at((*length).min(rest.len()));
            rest = after;
            wire.extend(frame(first, part));
            first = 0;
            if length % 3 == 0 {
                wire.extend(frame(FIN | PING, b"?"));
                pings += 1;
            }
        }
        wire.extend(frame(FIN | first, rest));
        (wire, pings)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_messages_in_any_frames_and_pieces_come_back(
        messages in prop::collection::vec(sent(), 1..6),
        pieces in prop::collection::vec(1..3000_usize, 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = Server::echo(layer().with_max_message(128 * 1024));
            let peer = server.open_deflate().await;
            let (mut wire, mut pings) = (Vec::new(), 0);
            for message in &messages {
                let (frames, sent) = message.wire();
                wire.extend(frames);
                pings += sent;
            }
            let (read, mut write) = tokio::io::split(peer.io);
            tokio::spawn(async move {
                let mut pieces = pieces.into_iter().cycle();
                let mut rest = &wire[..];
                while !rest.is_empty() {
                    let length = pieces.next().unwrap().min(rest.len());
                    let (piece, after) = rest.split_at(length);
                    write.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = after;
                }
                std::future::pending::<()>().await;
                drop(write);
            });
            let mut read = read;
            let mut expected = messages.iter();
            for _ in 0..messages.len() + pings {
                let (first, payload) = soon(frame_of(&mut read)).await;
                if first == FIN | PONG {
                    continue;
                }
                let sent = expected.next().unwrap();
                let kind = if sent.is_text { TEXT } else { BINARY };
                assert_eq!(first & !RSV1, FIN | kind);
                let message = match first & RSV1 {
                    0 => payload,
                    _ => inflate(&payload),
                };
                assert!(message == sent.message, "{sent:?}");
            }
            assert!(expected.next().is_none());
        });
    }

    #[test]
    fn any_compressed_bytes_are_a_message_or_a_typed_close(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        cut in 0..300_usize,
        valid in prop::option::of((0..2000_usize, any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        // Random bytes or a valid message with one other byte.
        let payload = match valid {
            Some((length, at, byte)) => {
                let mut payload = deflate(json(length).as_bytes());
                let at = at.index(payload.len());
                payload[at] = byte;
                payload
            }
            None => payload,
        };
        runtime.block_on(async {
            let mut server = Server::echo(layer().with_max_message(4096));
            let mut peer = server.open_deflate().await;
            let (one, other) = payload.split_at(cut.min(payload.len()));
            peer.send(RSV1 | BINARY, one).await;
            let _ = peer.io.write_all(&frame(FIN, other)).await;
            let (first, payload) = peer.frame().await.unwrap();
            if first == FIN | CLOSE {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                assert!(matches!(code, 1007 | 1009), "{code}");
                drop(peer);
                assert_eq!(protocol(&server.end().await), code);
            }
        });
    }
}

/// Reads a frame of a server. Returns its first byte and its payload.
async fn frame_of(read: &mut (impl AsyncReadExt + Unpin)) -> (u8, Vec<u8>) {
    let first = read.read_u8().await.unwrap();
    let length = match read.read_u8().await.unwrap() {
        length @ 0..126 => u64::from(length),
        126 => u64::from(read.read_u16().await.unwrap()),
        _ => read.read_u64().await.unwrap(),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    read.read_exact(&mut payload).await.unwrap();
    (first, payload)
}
