//! Messages that refer to earlier ones of the sender.

use getty::compress::Contexts;

use super::*;

fn takeover(contexts: &Contexts) -> WsLayer {
    let deflate = Deflate::new().with_threshold(0);
    WsLayer::new()
        .with_max_message(1 << 20)
        .with_deflate(deflate.with_sender_takeover(contexts.clone()))
}

/// Peer that keeps its inflater between messages, as browsers do.
struct Browser {
    peer: Peer,
    inflater: Decompress,
}

impl Browser {
    async fn open(server: &Server) -> Self {
        Self {
            peer: server.open_deflate().await,
            inflater: Decompress::new(false),
        }
    }

    /// Returns the echo of a plain message, and its length on the wire.
    async fn echo(&mut self, message: &[u8]) -> (Vec<u8>, usize) {
        self.peer.send(FIN | BINARY, message).await;
        let (first, payload) = self.peer.frame().await.unwrap();
        let length = payload.len();
        if first & RSV1 == 0 {
            return (payload, length);
        }
        let input = [&payload[..], &[0, 0, 0xff, 0xff]].concat();
        let mut back = Vec::with_capacity(message.len() + 64);
        let before = self.inflater.total_in();
        self.inflater
            .decompress_vec(&input, &mut back, FlushDecompress::Sync)
            .unwrap();
        assert_eq!(self.inflater.total_in() - before, input.len() as u64);
        (back, length)
    }
}

/// Returns similar messages.
fn tick(n: usize) -> Vec<u8> {
    format!(
        r#"{{"type":"tick","symbol":"GETTY","price":{},"size":100}}"#,
        1000 + n
    )
    .into_bytes()
}

/// Contract 9.
#[tokio::test]
async fn similar_messages_refer_to_earlier_ones_and_no_session_keeps_a_context() {
    let contexts = Contexts::new(4);
    let server = Server::echo(takeover(&contexts));
    let mut browser = Browser::open(&server).await;
    let mut lengths = Vec::new();
    for n in 0..100 {
        let (back, length) = browser.echo(&tick(n)).await;
        assert_eq!(back, tick(n));
        lengths.push(length);
    }
    assert!(lengths[0] > 50, "{lengths:?}");
    assert!(
        lengths[10..].iter().all(|length| *length < 20),
        "{lengths:?}"
    );
    assert_eq!(contexts.allocated(), 1);
}

#[tokio::test]
async fn sessions_that_share_too_few_contexts_begin_anew_and_lose_nothing() {
    for max in [0, 1, 2] {
        let contexts = Contexts::new(max);
        let server = Server::echo(takeover(&contexts));
        let mut browsers = Vec::new();
        for _ in 0..3 {
            browsers.push(Browser::open(&server).await);
        }
        for n in 0..60 {
            let at = n * 7 % 3;
            assert_eq!(browsers[at].echo(&tick(n)).await.0, tick(n));
        }
        assert!(contexts.allocated() <= max);
    }
}

/// Contract 8.
#[tokio::test]
async fn message_that_is_sent_plain_does_not_disturb_the_window() {
    let contexts = Contexts::new(4);
    let server = Server::echo(takeover(&contexts));
    let mut browser = Browser::open(&server).await;
    for n in 0..40 {
        let noise = noise(n * 501);
        assert!(browser.echo(&noise).await.0 == noise);
        let text = json(n * 300);
        assert!(browser.echo(text.as_bytes()).await.0 == text.as_bytes());
        assert_eq!(browser.echo(&tick(n)).await.0, tick(n));
    }
}

#[tokio::test]
async fn client_that_offers_no_context_takeover_gets_each_message_alone() {
    let contexts = Contexts::new(4);
    let server = Server::echo(takeover(&contexts));
    let mut peer = server.connect().await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
    let head = peer.ask(&request("/", offer)).await;
    assert!(head.contains("server_no_context_takeover"), "{head}");
    for _ in 0..5 {
        let text = json(3000);
        peer.send(FIN | TEXT, text.as_bytes()).await;
        let (first, payload) = peer.frame().await.unwrap();
        assert_eq!(first, FIN | RSV1 | TEXT);
        assert!(inflate(&payload) == text.as_bytes());
    }
    assert_eq!(contexts.allocated(), 0);
}

#[tokio::test]
async fn session_that_ends_gives_its_context_to_others() {
    let contexts = Contexts::new(1);
    let server = Server::echo(takeover(&contexts));
    for n in 0..20 {
        let mut browser = Browser::open(&server).await;
        for m in 0..3 {
            assert_eq!(browser.echo(&tick(n + m)).await.0, tick(n + m));
        }
    }
    assert_eq!(contexts.allocated(), 1);
}
