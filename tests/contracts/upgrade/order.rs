//! Order and safety of the bytes around an upgrade.

use super::*;
use getty_test::{Stream, stream};

// 1

/// Codec of lines that counts its calls.
#[derive(Clone)]
struct Counted(LinesCodec, Arc<AtomicUsize>);

impl Decoder for Counted {
    type Item = String;
    type Error = BoxError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<String>, BoxError> {
        self.1.fetch_add(1, SeqCst);
        Ok(self.0.decode(buf)?)
    }
}

impl Encoder<String> for Counted {
    type Error = BoxError;

    fn encode(&mut self, line: String, buf: &mut BytesMut) -> Result<(), BoxError> {
        Ok(self.0.encode(line, buf)?)
    }
}

#[tokio::test(start_paused = true)]
async fn from_the_moment_the_reply_is_taken_nothing_is_decoded() {
    let (io, peer) = stream();
    let calls = Arc::new(AtomicUsize::new(0));
    let codec = Counted(lines(), Arc::clone(&calls));
    let (session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::new(shake::<Stream>))
            .layer(CodecLayer::new(codec))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(upgrade_or_echo))
    })
    .await
    .unwrap();
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let before = calls.load(SeqCst);
    peer.send("reset\n");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(closed.source.unwrap().to_string(), "r is no handshake");
    assert_eq!(
        (calls.load(SeqCst), peer.output().as_str()),
        (before, "ready\n")
    );
}

// 2

#[tokio::test(start_paused = true)]
async fn undecoded_bytes_refuse_the_upgrade_before_the_go_ahead() {
    for pieces in [vec!["upgrade\nreset\n"], vec!["upgrade\n", "reset\n"]] {
        let (session, peer, slow) = slow_session(SessionLayer::new()).await;
        for piece in pieces {
            peer.send(piece);
            idle().await;
        }
        slow.permits.add_permits(1);
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode);
        let BytesBeforeUpgrade {
            messages, bytes, ..
        } = error(&closed);
        assert_eq!((messages, bytes), (0, 6));
        assert_eq!(closed.unhandled_bytes, 6);
        assert_eq!(closed.unsent_messages, 1, "the go-ahead");
        assert_eq!((peer.output().as_str(), peer.is_shut()), ("", true));
        assert_eq!(slow.log(), ["upgrade"]);
        assert!(!session.upgraded().await);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_decoded_ahead_refuse_the_upgrade_even_where_bytes_are_carried() {
    for (sent, expected) in [("reset\n", (1, 0)), ("rese", (0, 4))] {
        let (io, peer) = stream();
        let slow = Slow::new();
        let handler = slow.clone();
        let session = open!(
            io,
            UpgradeLayer::carry(shake::<Prefixed<Stream>>),
            SessionLayer::new(),
            service_fn(move |request| handler.clone().call(request)),
            CorrelateLayer::new(Words)
        );
        peer.send("upgrade\n");
        idle().await;
        // A response may be behind other messages, so the session decodes ahead.
        let mut request = task::spawn(session.request::<String>("what".to_owned()));
        assert_pending!(request.poll());
        idle().await;
        peer.send(sent);
        idle().await;
        slow.permits.add_permits(1);
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode);
        let BytesBeforeUpgrade {
            messages, bytes, ..
        } = error(&closed);
        assert_eq!((messages, bytes), expected);
        assert_eq!(slow.log(), ["upgrade"]);
    }
}

#[tokio::test(start_paused = true)]
async fn message_that_the_codec_holds_refuses_the_upgrade() {
    let (io, peer) = stream();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let (session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::carry(shake::<Prefixed<Stream>>))
            .layer(CodecLayer::new(Frames::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(move |frame: Frame| {
                count.fetch_add(1, SeqCst);
                Reply::one(frame).and_upgrade()
            }))
    })
    .await
    .unwrap();
    // The codec takes both frames out of the buffer when it decodes the first.
    peer.send(b"\0\0\0\x01a\0\0\0\x01b");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Decode);
    let BytesBeforeUpgrade { messages, .. } = error(&closed);
    assert_eq!((messages, handled.load(SeqCst)), (1, 1));
    assert_eq!((closed.unhandled_messages, peer.written()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn carry_hands_undecoded_bytes_over() {
    let (io, peer) = stream();
    let _session = open!(
        io,
        UpgradeLayer::carry(shake::<Prefixed<Stream>>),
        SessionLayer::new(),
        handle(upgrade_or_echo)
    );
    peer.send("upgrade\n+HELLO\nWOR");
    peer.send("LD\n");
    assert_eq!(soon(peer.lines(3)).await, ["ready", "+HELLO", "WORLD"]);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_and_a_session_that_allows_several_refuse_the_upgrade() {
    let layer = SessionLayer::new().with_in_flight(2);
    let (session, peer, slow) = slow_session(layer.clone()).await;
    peer.send("upgrade\nupgrade\n");
    idle().await;
    session.try_send("queued".to_owned()).unwrap();
    idle().await;
    slow.permits.add_permits(1);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Decode);
    let BytesBeforeUpgrade {
        messages, bytes, ..
    } = error(&closed);
    assert_eq!((messages, bytes), (1, 0));
    assert_eq!(closed.unhandled_messages, 1, "the other call");
    assert_eq!(peer.output(), "queued\n");

    let (session, peer, slow) = slow_session(layer).await;
    peer.send("upgrade\n");
    slow.permits.add_permits(1);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(
        error::<UpgradeError>(&closed),
        UpgradeError::SeveralHandlers
    );
    assert_eq!(peer.output(), "");
}

// 3

#[tokio::test(start_paused = true)]
async fn all_queued_before_the_reply_leaves_before_the_first_byte_of_the_handshake() {
    let (io, peer) = stream();
    let started = Arc::new(AtomicUsize::new(0));
    let starts = Arc::clone(&started);
    let upgrade = move |io: Stream, handle| {
        starts.fetch_add(1, SeqCst);
        shake(io, handle)
    };
    let slow = Slow::new();
    let handler = slow.clone();
    let session = open!(
        io,
        UpgradeLayer::new(upgrade),
        SessionLayer::new().with_watermarks(1, 1),
        service_fn(move |request| handler.clone().call(request))
    );
    peer.stall();
    peer.send("upgrade\n");
    idle().await;
    let pushes: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    for push in &pushes {
        session.try_send(push.clone()).unwrap();
    }
    idle().await;
    assert!(session.queued() > 10, "the watermark stops the encoder");
    slow.permits.add_permits(1);
    idle().await;
    peer.send("+");
    let mut later = task::spawn(session.send("later".to_owned()));
    assert_pending!(later.poll());
    idle().await;
    assert_eq!((started.load(SeqCst), peer.written()), (0, 0));
    peer.take_all();
    assert_eq!(soon(peer.lines(20)).await, pushes);
    assert_eq!(soon(peer.line()).await, "ready");
    soon(later).await.unwrap();
    assert_eq!(soon(peer.line()).await, "+LATER");
    assert_eq!(started.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_that_the_handler_queues_leave_before_its_reply() {
    let (io, peer) = stream();
    let _session = open!(
        io,
        UpgradeLayer::new(shake::<Stream>),
        SessionLayer::new(),
        handle(|line: String, session: Session<String>| {
            session.try_send("own".to_owned()).unwrap();
            Reply::one(line).and_upgrade()
        })
    );
    peer.send("upgrade\n");
    assert_eq!(soon(peer.lines(2)).await, ["own", "upgrade"]);
}

#[tokio::test(start_paused = true)]
async fn handshake_begins_after_the_flush() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.hold_flush();
    peer.send("upgrade\n");
    idle().await;
    peer.send("+");
    idle().await;
    assert_eq!(peer.unread(), 1, "not read before the flush");
    peer.release_flush();
    assert!(soon(session.upgraded()).await);
}

// 4

#[tokio::test(start_paused = true)]
async fn messages_sent_after_the_reply_wait_and_leave_upgraded() {
    let (session, peer) = session(SessionLayer::new().with_queue(2)).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let mut sends: Vec<_> = ["a", "b", "c"]
        .map(|text| task::spawn(session.send(text.to_owned())))
        .into();
    for send in &mut sends {
        assert_pending!(send.poll());
        idle().await;
    }
    assert_eq!((peer.output().as_str(), session.queued()), ("ready\n", 2));
    peer.send("+");
    idle().await;
    for send in sends {
        soon(send).await.unwrap();
    }
    assert_eq!(peer.output(), "ready\n+A\nB\nC\n");
}

#[tokio::test(start_paused = true)]
async fn send_resolves_by_the_flush_of_the_upgraded_transport() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let mut send = task::spawn(session.send("a".to_owned()));
    assert_pending!(send.poll());
    peer.send("+");
    // The function flushes `+`, and the session its message.
    idle().await;
    assert_eq!(peer.output(), "ready\n+A\n");
    soon(send).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_plain_byte_follows_a_failed_upgrade() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    session.try_send("secret".to_owned()).unwrap();
    let mut send = task::spawn(session.send("other".to_owned()));
    assert_pending!(send.poll());
    peer.send("-");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(closed.unsent_messages, 2);
    soon(send).await.unwrap_err();
    assert_eq!(peer.output(), "ready\n");
    assert!(session.try_send("late".to_owned()).is_err());
}

#[tokio::test(start_paused = true)]
async fn no_plain_byte_follows_a_panic_of_the_upgrade() {
    let (io, peer) = stream();
    let session = open!(
        io,
        UpgradeLayer::new(|_: Stream, _| async {
            panic!("a bad function") as Result<Stream, BoxError>
        }),
        SessionLayer::new(),
        handle(move |line: String, session: Session<String>| {
            let late = session.clone();
            tokio::spawn(async move { late.send("secret".to_owned()).await });
            Reply::one(line).and_upgrade()
        })
    );
    peer.hold_flush();
    peer.send("upgrade\n");
    idle().await;
    peer.release_flush();
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert_eq!(panic_message(closed.source.as_ref()), "a bad function");
    assert_eq!(peer.output(), "upgrade\n");
}

/// Opens a session over `Frames` whose handler upgrades with each frame.
macro_rules! frames {
    ($io:expr, $layer:expr) => {
        getty::connect(connector(), $io, |link| {
            ServiceBuilder::new()
                .layer($layer)
                .layer(CodecLayer::new(Frames::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service(handle(|frame: Frame| match &*frame {
                    b"a" => Reply::one(frame).and_upgrade(),
                    _ => Reply::one(frame),
                }))
        })
        .await
        .unwrap()
        .0
    };
}

#[tokio::test(start_paused = true)]
async fn bytes_that_the_codec_keeps_behind_its_last_message_refuse_the_upgrade() {
    // The codec takes the begun frame out of the buffer together with the frame before.
    for begun in ["\0", "\0\0\0\x05", "\0\0\0\x05evil", "no header"] {
        let (io, peer) = stream();
        let session = frames!(io, UpgradeLayer::new(shake::<Stream>));
        peer.send([b"\0\0\0\x01a", begun.as_bytes()].concat());
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode);
        let BytesBeforeUpgrade {
            messages, bytes, ..
        } = error(&closed);
        assert_eq!((messages, bytes), (0, begun.len()));
        assert_eq!(closed.unhandled_bytes, begun.len() as u64);
        assert_eq!(peer.written(), 0, "the go-ahead");
    }
}

#[tokio::test(start_paused = true)]
async fn carry_hands_bytes_over_that_the_codec_keeps_behind_its_last_message() {
    let sent = b"\0\0\0\x01a+\0\0\0\x02HI";
    for first in 6..sent.len() {
        let (io, peer) = stream();
        let _session = frames!(io, UpgradeLayer::carry(shake::<Prefixed<Stream>>));
        // The first four bytes behind the request are no header of a frame.
        peer.send(&sent[..first]);
        peer.send(&sent[first..]);
        assert_eq!(soon(peer.bytes(sent.len())).await, sent);
    }
}
