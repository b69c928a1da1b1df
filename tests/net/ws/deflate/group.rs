//! Broadcasts to groups of sessions with compression.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use getty::{BoxPipeline, Group, ws::WsOrRawLayer};

use super::*;

/// Server of text whose sessions all join one group.
struct Room {
    group: Group<String>,
    connector: MemoryConnector,
    sessions: Arc<Mutex<Vec<Session<String>>>>,
}

impl Room {
    fn new(layer: WsLayer) -> Self {
        Self::with(|sessions| {
            ServiceBuilder::new()
                .layer(layer.with_messages(Messages::Text))
                .service(sessions)
        })
    }

    /// Creates a room whose transports are wrapped in a second one.
    fn wrapped(layer: WsLayer) -> Self {
        Self::with(|sessions| {
            ServiceBuilder::new()
                .layer(WsOrRawLayer::new(&layer.with_messages(Messages::Text)))
                .service(sessions)
        })
    }

    /// Creates a room. `around` adds the layers of the transport to the stack of sessions, which
    /// boxes each transport.
    fn with<P: Pipeline<DuplexStream>>(around: impl FnOnce(BoxPipeline) -> P) -> Self {
        let group = Group::new();
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let (joined, kept) = (group.clone(), Arc::clone(&sessions));
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(getty::codec::Text::new()))
            .layer(getty::layers::OnOpenLayer::new(
                move |session: Session<String>| {
                    joined.join(&session);
                    kept.lock().unwrap().push(session);
                    async { Ok::<_, BoxError>(()) }
                },
            ))
            .layer(SessionLayer::new())
            .service_fn(|request: Request<String>| async move {
                Ok::<_, BoxError>(request.into_message())
            });
        let (listener, connector) = memory(16 * 1024);
        Server::serve(listener, around(BoxPipeline::new(stack)));
        Self {
            group,
            connector,
            sessions,
        }
    }

    /// Opens a session whose client offers this.
    async fn open(&self, offer: &str) -> Peer {
        let io = self.connector.connect().await.unwrap().into_parts().0;
        let mut peer = Peer { io };
        let before = self.group.len();
        peer.ask(&request("/", offer)).await;
        while self.group.len() == before {
            tokio::task::yield_now().await;
        }
        peer
    }
}

/// Returns settings that count the messages that reach the compressor.
fn counted() -> (WsLayer, Arc<AtomicUsize>) {
    let compressions = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&compressions);
    let deflate = Deflate::new().with_filter(move |_| {
        count.fetch_add(1, Relaxed);
        true
    });
    (WsLayer::new().with_deflate(deflate), compressions)
}

/// Contract 10.
#[tokio::test]
async fn a_message_for_a_group_of_a_thousand_is_compressed_once() {
    let (layer, compressions) = counted();
    let room = Room::new(layer);
    let mut peers = Vec::new();
    for _ in 0..1000 {
        peers.push(room.open(OFFER).await);
    }
    let mut payloads = Vec::new();
    for n in 1..=3 {
        let text = format!("{n}{}", json(4000));
        room.group.broadcast(text.clone());
        for peer in &mut peers {
            let (first, payload) = peer.frame().await.unwrap();
            assert_eq!(first, FIN | RSV1 | TEXT);
            payloads.push(payload);
        }
        assert!(payloads.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(inflate(&payloads.pop().unwrap()), text.as_bytes());
        payloads.clear();
        assert_eq!(compressions.load(Relaxed), n);
    }
    for session in room.sessions.lock().unwrap().iter() {
        assert_eq!(session.stats().bytes_out, 3 * 4001, "plain bytes");
    }
}

#[tokio::test]
async fn wrapped_transports_share_one_compression_as_well() {
    let (layer, compressions) = counted();
    let room = Room::wrapped(layer);
    let mut peers = Vec::new();
    for _ in 0..5 {
        peers.push(room.open(OFFER).await);
    }
    let text = json(4000);
    room.group.broadcast(text.clone());
    for peer in &mut peers {
        let (first, payload) = peer.frame().await.unwrap();
        assert_eq!(
            (first, inflate(&payload)),
            (FIN | RSV1 | TEXT, text.clone().into())
        );
    }
    assert_eq!(compressions.load(Relaxed), 1);
}

#[tokio::test]
async fn members_with_other_windows_and_without_compression_get_the_same_message() {
    let (layer, compressions) = counted();
    let room = Room::new(layer);
    let narrow = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10\r\n";
    let mut peers = Vec::new();
    for offer in [OFFER, narrow, "", OFFER, narrow, ""] {
        peers.push((room.open(offer).await, offer.is_empty()));
    }
    let text = json(10_000);
    room.group.broadcast(text.clone());
    for (peer, is_plain) in &mut peers {
        let (first, payload) = peer.frame().await.unwrap();
        assert_eq!(first & RSV1 == 0, *is_plain);
        let message = if *is_plain {
            payload
        } else {
            inflate(&payload)
        };
        assert!(message == text.as_bytes());
    }
    assert_eq!(compressions.load(Relaxed), 2, "one for each window");
}

#[tokio::test]
async fn messages_that_wait_together_keep_their_order_and_their_form() {
    let (layer, compressions) = counted();
    let room = Room::new(layer);
    let mut peer = room.open(OFFER).await;
    let session = room.sessions.lock().unwrap()[0].clone();
    // Empty, long and incompressible messages with others of the session between them. All
    // wait before any is written.
    let noisy: String = noise(3000)
        .into_iter()
        .map(|byte| char::from(33 + byte % 90))
        .collect();
    let mut expected = Vec::new();
    for n in 0..40 {
        for text in [
            String::new(),
            format!("short {n}"),
            format!("{n} {}", json(1000 + n)),
            format!("{n}{noisy}"),
            format!("{n} {}", json(40_000)),
        ] {
            room.group.broadcast(text.clone());
            expected.push(text);
        }
        let own = format!("own {n} {}", json(700));
        session.try_send(own.clone()).unwrap();
        expected.push(own);
        if n % 10 == 9 {
            for text in std::mem::take(&mut expected) {
                let (first, payload) = peer.frame().await.unwrap();
                let message = match first {
                    0x81 => payload,
                    0xc1 => inflate(&payload),
                    other => panic!("{other:x}"),
                };
                assert!(
                    message == text.as_bytes(),
                    "{n}: {}",
                    &text[..text.len().min(20)]
                );
            }
        }
    }
    // Each round has three broadcasts and the session's own message.
    assert_eq!(compressions.load(Relaxed), 40 * 4);
}
