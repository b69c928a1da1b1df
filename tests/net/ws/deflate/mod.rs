//! permessage-deflate. The peer compresses and inflates with another implementation, byte by
//! byte.

mod client;
mod group;
mod properties;
mod receive;
mod send;
mod takeover;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use getty::ws::{Deflate, WsDeflate};

use super::*;

/// Bit of a compressed message in the first byte of its first frame.
const RSV1: u8 = 0x40;
/// The offer of a browser.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// A layer that compresses every message which becomes shorter.
fn layer() -> WsLayer {
    WsLayer::new().with_deflate(Deflate::new().with_threshold(0))
}

impl Server {
    /// Returns a client after a handshake in which compression was agreed.
    async fn open_deflate(&self) -> Peer {
        let mut peer = self.connect().await;
        let head = peer.ask(&request("/", OFFER)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("permessage-deflate"), "{head}");
        peer
    }
}

/// Returns the payload of a compressed message.
fn deflate(message: &[u8]) -> Vec<u8> {
    let mut bytes = flushed(message, FlushCompress::Sync);
    assert!(bytes.ends_with(&[0, 0, 0xff, 0xff]));
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// Returns a message as raw deflate that ends with a flush.
fn flushed(message: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + message.len() / 8 + 64);
    let mut stream = Compress::new(Compression::default(), false);
    stream.compress_vec(message, &mut bytes, flush).unwrap();
    assert_eq!(stream.total_in(), message.len() as u64);
    bytes
}

/// Returns the message in a compressed payload.
fn inflate(payload: &[u8]) -> Vec<u8> {
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut stream = Decompress::new(false);
    let mut message = Vec::new();
    loop {
        message.reserve(64 * 1024);
        let rest = &input[usize::try_from(stream.total_in()).unwrap()..];
        let before = message.len();
        stream
            .decompress_vec(rest, &mut message, FlushDecompress::Sync)
            .unwrap();
        if rest.is_empty() && message.len() == before {
            return message;
        }
    }
}

/// Returns text that compresses well.
fn json(bytes: usize) -> String {
    let lines = (0..).map(|n| format!("{{\"id\":{n},\"name\":\"user {n}\",\"active\":true}},"));
    let mut text = String::new();
    for line in lines {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&line);
    }
    text.truncate(bytes);
    text
}

/// Returns bytes that do not compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[3]
    };
    (0..bytes).map(|_| next()).collect()
}

#[tokio::test]
async fn the_layer_agrees_only_if_it_was_configured_and_the_client_offers() {
    for (layer, more, agreed) in [
        (WsLayer::new(), OFFER, false),
        (layer(), "", false),
        (layer(), OFFER, true),
        (
            layer(),
            "Sec-WebSocket-Extensions: permessage-deflate; nonsense=1\r\n",
            false,
        ),
    ] {
        let mut server = Server::echo(layer);
        let mut peer = server.connect().await;
        let head = peer.ask(&request("/", more)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(head.contains("sec-websocket-extensions"), agreed, "{head}");
        let attribute: Option<WsDeflate> = server.session().await.get();
        assert_eq!(attribute.is_some(), agreed);
        peer.send(FIN | TEXT, b"plain").await;
        assert_eq!(peer.frame().await.unwrap(), (FIN | TEXT, b"plain".into()));
    }
}

/// Contract 2.
#[tokio::test]
async fn a_server_always_answers_client_no_context_takeover_and_the_servers_only_if_offered() {
    let server = Server::echo(layer());
    for (offer, answered) in [("", false), ("; server_no_context_takeover", true)] {
        let mut peer = server.connect().await;
        let more = format!("Sec-WebSocket-Extensions: permessage-deflate{offer}\r\n");
        let head = peer.ask(&request("/", &more)).await;
        assert!(head.contains("client_no_context_takeover"), "{head}");
        assert_eq!(
            head.contains("server_no_context_takeover"),
            answered,
            "{head}"
        );
        assert!(!head.contains("client_max_window_bits"), "{head}");
        // The compressor is reset either way: each message can be inflated alone.
        for _ in 0..2 {
            let text = json(2000);
            peer.send(FIN | RSV1 | TEXT, &deflate(text.as_bytes()))
                .await;
            let (first, payload) = peer.frame().await.unwrap();
            assert_eq!(first, FIN | RSV1 | TEXT);
            assert_eq!(inflate(&payload), text.as_bytes());
        }
    }
}
