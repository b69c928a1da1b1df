//! Groups of real sessions with their codecs and transports.

use std::{
    convert::identity,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::BytesMut;
use getty::{
    BoxError, Connection, Request, ServiceBuilder, Session, SessionIo, SessionLayer, SessionTask,
    layers::{CodecLayer, Group},
    service_fn,
};
use getty_test::{Peer, Stream, stream};
use tokio_util::codec::{Decoder, Encoder};

use crate::support::{connector, echo, idle, lines, open, soon};

/// A message that the codec refuses.
const TOO_LONG: &str = "too long";

/// Lines that count their encodings.
#[derive(Clone, Debug)]
struct Counting(Arc<AtomicU32>);

impl Decoder for Counting {
    type Item = String;
    type Error = io::Error;

    fn decode(&mut self, buf: &mut BytesMut) -> io::Result<Option<String>> {
        lines().decode(buf).map_err(io::Error::other)
    }
}

impl Encoder<String> for Counting {
    type Error = io::Error;

    fn encode(&mut self, message: String, buf: &mut BytesMut) -> io::Result<()> {
        self.0.fetch_add(1, SeqCst);
        buf.extend_from_slice(message.as_bytes());
        if message == TOO_LONG {
            return Err(io::Error::other("the message is too long"));
        }
        buf.extend_from_slice(b"\n");
        Ok(())
    }
}

type Framing = SessionIo<Stream, Counting, String>;

/// Opens sessions of one stack. A layer of the stack may wrap the codec in another.
async fn crowd(
    codec: CodecLayer<Counting, String>,
    adapt: fn(Framing) -> Framing,
    n: usize,
) -> Vec<(Session<String>, SessionTask, Peer)> {
    let mut crowd = Vec::new();
    for _ in 0..n {
        let (transport, peer) = stream();
        let codec = codec.clone();
        let (session, task) = getty::connect(connector(), transport, |link| {
            ServiceBuilder::new()
                .layer(codec)
                .map_request(move |connection: Connection<Framing>| connection.map_transport(adapt))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(echo)
        })
        .await
        .unwrap();
        crowd.push((session, task, peer));
    }
    crowd
}

#[tokio::test(start_paused = true)]
async fn sessions_of_one_stack_encode_a_broadcast_once() {
    for (shared, per_stack) in [(true, 1), (false, 10)] {
        let encoded = Arc::new(AtomicU32::new(0));
        let codec =
            || CodecLayer::new(Counting(Arc::clone(&encoded))).with_shared_encodings(shared);
        let mut all = crowd(codec(), identity, 10).await;
        all.extend(crowd(codec(), identity, 10).await);
        let group = Group::new();
        for (session, ..) in &all {
            group.join(session);
        }
        for (n, text) in ["short".to_owned(), "long".repeat(10_000)]
            .into_iter()
            .enumerate()
        {
            assert_eq!(group.broadcast(text.clone()).delivered, 20);
            for (.., peer) in &all {
                assert_eq!(soon(peer.line()).await, text);
            }
            let expected = 2 * per_stack * (u32::try_from(n).unwrap() + 1);
            assert_eq!(encoded.load(SeqCst), expected);
        }
        // A list that is made for one message.
        let before = encoded.load(SeqCst);
        let sessions = all.iter().map(|(session, ..)| session);
        let report =
            Group::broadcast_to(sessions, "near".to_owned(), getty::SlowConsumer::DropNewest);
        assert_eq!(report.delivered, 20);
        for (.., peer) in &all {
            assert_eq!(soon(peer.line()).await, "near");
        }
        assert_eq!(encoded.load(SeqCst) - before, 2 * per_stack);
    }
}

#[tokio::test(start_paused = true)]
async fn broadcast_that_the_codec_refuses_is_dropped_and_closes_no_member() {
    for shared in [true, false] {
        let codec = CodecLayer::new(Counting(Arc::default())).with_shared_encodings(shared);
        let all = crowd(codec, identity, 3).await;
        let group = Group::new();
        for (session, ..) in &all {
            group.join(session);
        }
        assert_eq!(group.broadcast(TOO_LONG.to_owned()).delivered, 3);
        assert_eq!(group.broadcast("hello".to_owned()).delivered, 3);
        for (session, _, peer) in &all {
            assert_eq!(soon(peer.line()).await, "hello");
            assert_eq!(session.stats().dropped, 1);
            assert!(session.is_open());
        }
        // A message of one session that no task awaits must be sent, or the session must close.
        let (session, task, _) = all.into_iter().next().unwrap();
        session.try_send(TOO_LONG.to_owned()).unwrap();
        assert_eq!(soon(task).await.unwrap().reason, getty::CloseReason::Encode);
    }
}

#[tokio::test(start_paused = true)]
async fn each_session_encodes_behind_an_adapter_without_a_codec_id() {
    let decoder: fn(Framing) -> Framing = |framed| framed.map_decoder(identity);
    for (adapt, expected) in [(decoder, 1), (|framed| framed.map_codec(identity), 5)] {
        let encoded = Arc::new(AtomicU32::new(0));
        let codec = CodecLayer::new(Counting(Arc::clone(&encoded)));
        let all = crowd(codec, adapt, 5).await;
        let group = Group::new();
        for (session, ..) in &all {
            group.join(session);
        }
        assert_eq!(group.broadcast("hello".to_owned()).delivered, 5);
        for (.., peer) in &all {
            assert_eq!(soon(peer.line()).await, "hello");
        }
        assert_eq!(encoded.load(SeqCst), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn page_of_lines_reaches_readers_completely_with_any_queue() {
    // Each of several people sends a page at once. Their sessions share one thread.
    const PEOPLE: usize = 4;
    const LINES: usize = 2000;
    let group = Group::new();
    let lost = Arc::new(AtomicUsize::new(0));
    let mut sessions = Vec::new();
    for _ in 0..PEOPLE {
        let (transport, peer) = stream();
        let (all, lost) = (group.clone(), Arc::clone(&lost));
        let handler = service_fn(move |request: Request<String>| {
            let report = all.broadcast_except(request.session(), request.message().clone());
            lost.fetch_add(report.dropped, SeqCst);
            async { Ok::<Option<String>, BoxError>(None) }
        });
        let layer = SessionLayer::new().with_queue(1);
        let (session, task) = open(transport, lines(), layer, handler).await;
        group.join(&session);
        sessions.push((session, task, peer));
    }
    let page: String = (0..LINES).map(|n| format!("{n}\n")).collect();
    for (.., peer) in &sessions {
        peer.send(&page);
    }
    idle().await;
    assert_eq!(lost.load(SeqCst), 0);
    for (session, _, peer) in &sessions {
        assert_eq!(session.stats().messages_out, ((PEOPLE - 1) * LINES) as u64);
        assert_eq!(peer.output().lines().count(), (PEOPLE - 1) * LINES);
    }
}

#[tokio::test(start_paused = true)]
async fn session_holds_broadcasts_up_to_the_byte_bound_until_its_peer_reads() {
    const MESSAGES: usize = 3000;
    const LENGTH: usize = 1024;
    const PLACE: usize = 32;

    for (layer, bound) in [
        (SessionLayer::new(), 1024 * 1024),
        (SessionLayer::new().with_queue_bytes(100_000), 100_000),
    ] {
        let (transport, peer) = stream();
        let layer = layer.with_write_timeout(None);
        let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
        let group = Group::new();
        group.join(&session);
        peer.stall();
        let mut delivered = Vec::new();
        for n in 0..MESSAGES {
            let line = format!("{n:0>LENGTH$}");
            if group.broadcast(line.clone()).delivered == 1 {
                delivered.push(line);
            }
            if n % 100 == 0 {
                idle().await;
            }
        }
        assert_eq!(session.queued(), bound / (LENGTH + PLACE));
        let dropped = MESSAGES - delivered.len();
        assert_eq!(session.stats().dropped, dropped as u64);
        assert!(dropped > 0);

        peer.take_all();
        idle().await;
        assert!(peer.output().lines().eq(&delivered));
        assert_eq!(session.queued(), 0);
        assert_eq!(group.broadcast("again".to_owned()).delivered, 1);
    }
}
