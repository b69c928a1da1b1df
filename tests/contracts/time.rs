//! The session loop for layers: deadlines on one timer, open guards, pings and timestamps.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::BytesMut;
use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, ConnectionHandle, ServiceBuilder,
    SessionLayer, hooks::HandleExt, service_fn, transport::Framing,
};
use getty_test::{Stream, messages, stream};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::codec::{Decoder, Encoder};
use tower::ServiceExt;

use crate::support::{echo, echo_by_turns, idle, lines, open, panic_message, soon};

const SECOND: Duration = Duration::from_secs(1);

/// Runs an echo over `transport`. `prepare` receives its handle before the session opens.
fn prepared<R>(
    transport: Stream,
    prepare: impl FnOnce(&ConnectionHandle) -> R,
) -> (ConnectionHandle, R, JoinHandle<Result<Closed, BoxError>>) {
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let prepared = prepare(&handle);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    (handle, prepared, tokio::spawn(stack.oneshot(connection)))
}

/// Returns a deadline function that records the seconds of each run and returns `again`.
fn note(
    log: &Arc<Mutex<Vec<u64>>>,
    mut again: impl FnMut(Instant) -> Option<Instant> + Send + 'static,
) -> impl FnMut(&ConnectionHandle, Instant) -> Option<Instant> + Send + 'static {
    let log = Arc::clone(log);
    move |connection, now| {
        let at = now - connection.opened_at();
        log.lock().unwrap().push(at.as_secs());
        again(now)
    }
}

#[tokio::test(start_paused = true)]
async fn deadlines_run_at_their_times_until_they_return_none() {
    let (transport, peer) = stream();
    let (thrice, for_ever) = <(Arc<Mutex<Vec<u64>>>, Arc<Mutex<Vec<u64>>>)>::default();
    let (handle, (), task) = prepared(transport, |handle| {
        let mut left = 3;
        handle.schedule(
            handle.opened_at() + 2 * SECOND,
            note(&thrice, move |now| {
                left -= 1;
                (left > 0).then(|| now + 5 * SECOND)
            }),
        );
    });
    sleep(SECOND).await;
    // A call from another task while the session sleeps.
    handle.schedule(
        handle.opened_at() + 4 * SECOND,
        note(&for_ever, |now| Some(now + 4 * SECOND)),
    );
    sleep(20 * SECOND).await;
    handle.close();
    soon(task).await.unwrap().unwrap();
    sleep(20 * SECOND).await;
    assert_eq!(*thrice.lock().unwrap(), [2, 7, 12]);
    assert_eq!(*for_ever.lock().unwrap(), [4, 8, 12, 16, 20]);
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn deadline_in_the_past_does_not_spin() {
    let (transport, _peer) = stream();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let (handle, (), _task) = prepared(transport, |handle| {
        handle.schedule(handle.opened_at(), move |connection, _| {
            counted.fetch_add(1, SeqCst);
            Some(connection.opened_at())
        });
    });
    sleep(Duration::from_millis(100)).await;
    assert!((10..=101).contains(&runs.load(SeqCst)), "{runs:?}");
    assert!(!handle.is_closing());
}

#[tokio::test(start_paused = true)]
async fn deadline_may_close_the_session() {
    let (transport, peer) = stream();
    let (_handle, (), task) = prepared(transport, |handle| {
        handle.schedule(handle.opened_at() + 3 * SECOND, |connection, now| {
            connection.close_with(CloseReason::IdleTimeout);
            Some(now)
        });
    });
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
    assert_eq!(closed.lifetime.as_secs(), 3);
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_deadline_ends_its_session() {
    let (transport, peer) = stream();
    let (_handle, (), task) = prepared(transport, |handle| {
        handle.schedule(handle.opened_at(), |_, _| panic!("a bad check"));
    });
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert_eq!(panic_message(closed.source.as_ref()), "a bad check");
    assert!(peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn delayed_session_writes_but_neither_reads_nor_opens() {
    let (transport, peer) = stream();
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let (first, second) = (handle.delay_open(), handle.delay_open());
    let (give, mut got) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .map_request(
            move |framed: Connection<getty::SessionIo<Stream, _, String>>| {
                let session = getty::HasSession::session(framed.transport()).clone();
                let _ = give.send(session);
                framed
            },
        )
        .layer(SessionLayer::new())
        .service_fn(echo);
    let _task = tokio::spawn(stack.oneshot(connection));
    let session = got.recv().await.unwrap();
    peer.send("request\n");
    soon(session.send("greeting".to_owned())).await.unwrap();
    idle().await;
    assert_eq!(peer.output(), "greeting\n");
    assert_eq!((peer.counts().reads, handle.is_open()), (0, false));

    drop(first);
    idle().await;
    assert!(!handle.is_open(), "the other guard still exists");
    drop(second);
    assert!(soon(handle.opened()).await);
    assert_eq!(soon(peer.lines(2)).await, ["greeting", "request"]);
}

#[tokio::test(start_paused = true)]
async fn delayed_session_may_be_closed() {
    let (transport, peer) = stream();
    let (handle, _hold, task) = prepared(transport, ConnectionHandle::delay_open);
    peer.send("request\n");
    idle().await;
    handle.close_with(CloseReason::HandshakeTimeout);
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
    assert_eq!(closed.stats.messages_in, 0);
    assert!(!soon(handle.opened()).await, "the session never opened");
    assert!(peer.is_gone());
}

#[tokio::test(start_paused = true)]
async fn write_timeout_of_a_layer_replaces_that_of_the_session_layer() {
    for (timeout, seconds) in [(Some(2 * SECOND), 2), (Some(50 * SECOND), 50)] {
        let (transport, peer) = stream();
        let (_handle, (), task) = prepared(transport, |handle| handle.set_write_timeout(timeout));
        peer.stall();
        peer.send("request\n");
        let closed = soon(task).await.unwrap().unwrap();
        assert_eq!(closed.reason, CloseReason::WriteTimeout);
        assert_eq!(closed.lifetime.as_secs(), seconds);
    }
    let (transport, peer) = stream();
    let (handle, (), _task) = prepared(transport, |handle| handle.set_write_timeout(None));
    peer.stall();
    peer.send("request\n");
    sleep(1000 * SECOND).await;
    assert!(!handle.is_closing());
}

/// Seconds since the open.
fn seconds(handle: &ConnectionHandle, mark: Option<Instant>) -> Option<u64> {
    mark.map(|mark| (mark - handle.opened_at()).as_secs())
}

#[tokio::test(start_paused = true)]
async fn silence_counts_only_while_the_session_reads() {
    let (transport, peer) = stream();
    let (turns, handler) = echo_by_turns();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), handler).await;
    let silent = || seconds(&session, session.silent_since());
    sleep(SECOND).await;
    assert_eq!(silent(), Some(0));
    peer.send("a");
    sleep(SECOND).await;
    assert_eq!(silent(), Some(1));

    // The handler cannot finish. Later messages must fill the read-ahead.
    peer.send("\n");
    peer.send(("x".repeat(999) + "\n").repeat(100));
    sleep(SECOND).await;
    assert_eq!(silent(), None, "the session does not read");
    turns.add_permits(101);
    soon(peer.lines(101)).await;
    idle().await;
    assert_eq!(silent(), Some(3));
    peer.send("b\n");
    peer.finish();
    idle().await;
    assert!(!session.is_closing());
    assert_eq!(silent(), None, "the peer has ended its direction");
}

#[tokio::test(start_paused = true)]
async fn frame_is_incomplete_from_its_first_byte_to_its_last() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let since = || seconds(&session, session.incomplete_since());
    assert_eq!(since(), None);
    for second in 0..3 {
        peer.send("x");
        idle().await;
        assert_eq!(since(), Some(0), "more of the frame arrives at {second}");
        sleep(SECOND).await;
    }
    peer.send("\nhalf of the ne");
    idle().await;
    assert_eq!(since(), Some(3), "another frame has started");
    sleep(SECOND).await;
    peer.send("xt\n");
    idle().await;
    assert_eq!(since(), None);
}

/// A codec for which each unit is one message, even an empty one.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Decoder for Raw {
    type Item = String;
    type Error = std::io::Error;

    fn decode(&mut self, buf: &mut BytesMut) -> std::io::Result<Option<String>> {
        Ok(Some(String::from_utf8_lossy(&buf.split()).into_owned()))
    }

    fn decode_eof(&mut self, buf: &mut BytesMut) -> std::io::Result<Option<String>> {
        self.decode(buf)
    }
}

impl Encoder<String> for Raw {
    type Error = std::io::Error;

    fn encode(&mut self, message: String, buf: &mut BytesMut) -> std::io::Result<()> {
        buf.extend_from_slice(message.as_bytes());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn control_frames_are_read_and_are_no_messages() {
    let (transport, peer) = messages(Framing::Messages);
    let (session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
    sleep(SECOND).await;
    peer.send_control(6);
    peer.send_control(0);
    idle().await;
    let stats = session.stats();
    assert_eq!((stats.bytes_in, stats.messages_in), (6, 0));
    assert_eq!(seconds(&session, Some(session.last_read())), Some(1));
    assert_eq!(seconds(&session, Some(session.last_active())), Some(0));
    assert_eq!(session.incomplete_since(), None);
    peer.send("message");
    assert_eq!(soon(peer.text()).await, "message");
    assert_eq!(peer.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn pings_are_sent_by_the_transport_until_its_close() {
    let (transport, peer) = messages(Framing::Messages);
    let (session, task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
    for n in 1..4 {
        session.ping();
        idle().await;
        assert_eq!(peer.pings(), n);
    }
    assert_eq!(session.stats().messages_out, 0);
    peer.hold_close();
    session.close();
    idle().await;
    assert!(peer.closed_with().is_some());
    session.ping();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Local);
    assert_eq!(peer.pings(), 3);

    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    session.ping();
    soon(session.send("after".to_owned())).await.unwrap();
    assert_eq!(peer.output(), "after\n", "a byte stream has no pings");
}
