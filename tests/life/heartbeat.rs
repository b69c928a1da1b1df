//! Heartbeats: when they beat, when they do not, and what happens without an answer.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use getty::{
    CloseReason, Closed, Connection, ConnectionHandle, Request, ServiceBuilder, Session,
    SessionLayer, Transport,
    layers::{
        CodecLayer, HeartbeatLayer,
        heartbeat::{Message, NoPong},
    },
    transport::{Framing, Received},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::ServiceExt;

use crate::support::{Answer, echo, idle, lines, soon, stream, units};

const SECOND: Duration = Duration::from_secs(1);

type Open = (Session<String>, stream::Peer, JoinHandle<Closed>);
type Pings = HeartbeatLayer<String, Message<fn(&Session<String>) -> String>, NoPong>;

/// Beats every fifteen seconds, to the tick.
fn pings() -> Pings {
    let ping: fn(&Session<String>) -> String = |_session| "PING".to_owned();
    HeartbeatLayer::new(15 * SECOND, ping).with_jitter(0.0)
}

async fn open(layer: Pings) -> Open {
    let (transport, peer) = stream::pair();
    let session: Arc<Mutex<Option<Session<String>>>> = Arc::default();
    let slot = Arc::clone(&session);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(layer)
        .map_request(move |connection: Connection<_>| {
            use getty::HasSession;
            let framed: &getty::Framed<_, _, String> = connection.transport();
            *slot.lock().unwrap() = Some(framed.session().clone());
            connection
        })
        .layer(
            SessionLayer::new()
                .with_write_timeout(None)
                .with_watermarks(0, 1),
        )
        .service_fn(handle);
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let task = tokio::spawn(async { stack.oneshot(connection).await.unwrap() });
    assert!(soon(handle.opened()).await);
    let session = session.lock().unwrap().take().unwrap();
    (session, peer, task)
}

/// Answers after so many seconds, or not at all.
async fn handle(request: Request<String>) -> Answer {
    if let Some(seconds) = request.message().strip_prefix("sleep ") {
        sleep(Duration::from_secs(seconds.parse()?)).await;
    }
    Ok(None)
}

/// Notes when each of `n` lines comes, in seconds.
async fn times(peer: &stream::Peer, handle: &ConnectionHandle, n: usize) -> Vec<u128> {
    let mut times = Vec::new();
    while times.len() < n {
        assert_eq!(soon(peer.line()).await, "PING");
        let at = handle.opened_at().elapsed().as_millis();
        assert_eq!(at % 1000, 0, "to the tick");
        times.push(at / 1000);
    }
    times
}

#[tokio::test(start_paused = true)]
async fn a_session_that_sends_nothing_beats_once_a_period() {
    let (session, peer, _task) = open(pings()).await;
    assert_eq!(times(&peer, &session, 4).await, [15, 30, 45, 60]);
    assert_eq!(session.stats().messages_out, 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_takes_the_place_of_a_beat_and_what_is_received_does_not() {
    let (session, peer, _task) = open(pings()).await;
    for _ in 0..10 {
        sleep(14 * SECOND).await;
        session.send("PING".to_owned()).await.unwrap();
    }
    peer.lines(10).await;
    assert_eq!(peer.written(), 50, "ten lines of ours, and no beat");
    peer.send("hello\n");
    assert_eq!(times(&peer, &session, 2).await, [155, 170]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_any_kind_keeps_the_session_alive() {
    let (session, peer, _task) = open(pings().with_answer_within(5 * SECOND)).await;
    for beat in 1..=20 {
        assert_eq!(soon(peer.line()).await, "PING");
        match beat % 3 {
            0 => peer.send("x"), // bytes, if only of a frame
            1 => peer.send("\n"),
            _ => {
                sleep(5 * SECOND - Duration::from_millis(1)).await;
                peer.send("a late answer\n");
            }
        }
    }
    assert!(!session.is_closing());
    peer.line().await;
    assert_eq!(session.opened_at().elapsed(), 21 * 15 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_beat_without_an_answer_closes_the_session() {
    let (_session, peer, task) = open(pings().with_answer_within(5 * SECOND)).await;
    soon(peer.line()).await;
    peer.send("an answer\n");
    sleep(14 * SECOND).await;
    peer.send("what comes before a beat is no answer to it\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(closed.lifetime, 35 * SECOND);
    assert_eq!(closed.stats.messages_out, 2);
    assert!(peer.is_shut(), "the close is graceful");
}

#[tokio::test(start_paused = true)]
async fn of_several_beats_without_an_answer_the_first_counts() {
    let (_session, _peer, task) = open(pings().with_answer_within(40 * SECOND)).await;
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(closed.lifetime, 55 * SECOND);
    assert_eq!(closed.stats.messages_out, 3);
}

#[tokio::test(start_paused = true)]
async fn without_a_time_for_it_no_answer_is_needed() {
    let (session, _peer, _task) = open(pings()).await;
    sleep(100_000 * SECOND).await;
    assert!(!session.is_closing());
}

#[tokio::test(start_paused = true)]
async fn while_we_do_not_read_no_answer_is_late() {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()).with_max_frame(16))
        .layer(pings().with_answer_within(5 * SECOND))
        .layer(SessionLayer::new())
        .service_fn(handle);
    let connection = Connection::new(transport);
    let session = connection.handle().clone();
    let task = tokio::spawn(stack.oneshot(connection));
    // as much behind it as is read ahead, so that an answer would not be seen
    peer.send("sleep 100\nand\nmore\nbehind\n");
    idle().await;
    assert_eq!(session.silent_since(), None);
    sleep(99 * SECOND).await;
    assert!(!session.is_closing());
    // its beats go on meanwhile; silence counts from when we read again
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(closed.lifetime, 105 * SECOND);
    assert_eq!(closed.stats.messages_out, 6);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_gets_no_burst_of_beats() {
    let (session, peer, _task) = open(pings()).await;
    peer.stall();
    sleep(100 * SECOND).await;
    assert!(session.stalled_since().is_some());
    assert_eq!(session.queued(), 0, "none stands in line behind the first");
    peer.take_all();
    // the one that was under way, and then one a period after that
    assert_eq!(times(&peer, &session, 3).await, [100, 115, 130]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_neither_reads_nor_sends_is_not_there() {
    let (session, peer, task) = open(pings().with_answer_within(5 * SECOND)).await;
    sleep(SECOND).await;
    peer.stall();
    session.try_send("never read".to_owned()).unwrap();
    tokio::spawn(async move {
        soon(session.closing()).await;
        // or the close would wait for the flush until the drain deadline
        assert_eq!(session.opened_at().elapsed(), 20 * SECOND);
        assert_eq!(session.stats().messages_out, 1, "no beat behind it");
        peer.take_all();
    });
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_slowly_has_the_answer_time_from_the_last_progress_on() {
    let (session, peer, task) = open(pings().with_answer_within(20 * SECOND)).await;
    peer.stall();
    session.try_send("x".repeat(100)).unwrap();
    // a beat is due, and skipped, a second before each byte that the peer takes
    for _ in 0..5 {
        sleep(16 * SECOND).await;
        peer.take(1);
    }
    idle().await;
    assert!(!session.is_closing(), "{:?}", session.reason());
    let begun = Instant::now();
    soon(session.closing()).await;
    assert_eq!(begun.elapsed().as_secs(), 19, "20 s after the last byte");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
}

#[tokio::test(start_paused = true)]
async fn pongs_take_no_permit_and_never_reach_the_handler() {
    let (transport, peer) = stream::pair();
    let handled = Arc::new(AtomicUsize::new(0));
    let (probe, control) = crate::support::probe::probe();
    let count = Arc::clone(&handled);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(
            pings()
                .with_answer_within(5 * SECOND)
                .with_pong(|message: &String| message == "PONG"),
        )
        .layer(SessionLayer::new())
        .map_request(move |request: Request<String>| {
            count.fetch_add(1, SeqCst);
            request
        })
        .service(probe);
    let connection = Connection::new(transport);
    let session = connection.handle().clone();
    let _task = tokio::spawn(stack.oneshot(connection));
    for _ in 0..10 {
        soon(peer.line()).await;
        peer.send("PONG\n");
    }
    idle().await;
    assert_eq!((control.polls(), handled.load(SeqCst)), (0, 0));
    assert_eq!(session.stats().messages_in, 10);
    assert_eq!(session.last_active(), session.opened_at());

    peer.send("PONG\none\nPONG\nPONG\ntwo\nPO");
    assert_eq!(soon(peer.lines(2)).await, ["one", "two"]);
    peer.send("NG\nthree");
    peer.finish();
    assert_eq!(soon(session.closed()).await.reason, CloseReason::PeerClosed);
    assert_eq!(handled.load(SeqCst), 3);
    assert!(peer.output().ends_with("one\ntwo\nthree\n"));
    assert_eq!(session.stats().messages_in, 17);
}

#[tokio::test(start_paused = true)]
async fn pongs_are_taken_out_of_message_transports_too() {
    let (transport, peer) = units::pair(Framing::Messages);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(pings().with_pong(|message: &String| message == "PONG"))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let session = connection.handle().clone();
    let _task = tokio::spawn(stack.oneshot(connection));
    for message in ["PONG\n", "one\n", "PONG", "two"] {
        peer.send(message);
    }
    assert_eq!(soon(peer.message()).await, "one\n");
    assert_eq!(soon(peer.message()).await, "two\n");
    assert_eq!(peer.waiting(), 0);
    assert_eq!(session.stats().messages_in, 4);
}

#[tokio::test(start_paused = true)]
async fn a_beat_may_have_nothing_to_say() {
    let (transport, peer) = stream::pair();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(
            HeartbeatLayer::new_if(15 * SECOND, move |session| {
                let n = count.fetch_add(1, SeqCst) + 1;
                n.is_multiple_of(3)
                    .then(|| format!("{n}. of {}", session.id()))
            })
            .with_jitter(0.0)
            .with_answer_within(SECOND),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let id = connection.handle().id();
    let closed = soon(stack.oneshot(connection)).await.unwrap();
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(closed.lifetime, 46 * SECOND, "no beat, no answer");
    assert_eq!(asked.load(SeqCst), 3);
    assert_eq!(peer.output(), format!("3. of {id}\n"));
}

/// A byte stream with a ping of its own, answered as its peer likes.
#[derive(Debug)]
struct Pinging {
    inner: stream::Stream,
    pings: Arc<Mutex<Vec<Instant>>>,
    answers: usize,
    pongs: usize,
}

impl Transport for Pinging {
    fn framing(&self) -> Framing {
        self.inner.framing()
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        if self.pongs > 0 {
            self.pongs -= 1;
            return Poll::Ready(Ok(Received::Control(2)));
        }
        self.inner.poll_recv(cx, buf, limit)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.inner.poll_send(cx, bufs)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Transport::poll_flush(&mut self.inner, cx)
    }

    fn has_ping(&self) -> bool {
        true
    }

    fn poll_ping(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pings = self.pings.lock().unwrap();
        pings.push(Instant::now());
        if pings.len() <= self.answers {
            self.pongs += 1;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        self.inner.poll_close(cx, reason)
    }
}

#[tokio::test(start_paused = true)]
async fn a_transports_own_ping_beats_and_its_pong_is_an_answer() {
    let pings: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (inner, peer) = stream::pair();
    let transport = Pinging {
        inner,
        pings: Arc::clone(&pings),
        answers: 3,
        pongs: 0,
    };
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(
            HeartbeatLayer::ping(15 * SECOND)
                .with_jitter(0.0)
                .with_answer_within(5 * SECOND),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);
    let closed = soon(stack.oneshot(Connection::new(transport)))
        .await
        .unwrap();
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(closed.lifetime, 65 * SECOND);
    let pings = pings.lock().unwrap();
    assert_eq!(pings.len(), 4);
    assert!(pings.windows(2).all(|two| two[1] - two[0] == 15 * SECOND));
    assert_eq!(peer.output(), "");
}

#[tokio::test(start_paused = true)]
async fn a_transport_without_a_ping_is_left_alone() {
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(HeartbeatLayer::ping(15 * SECOND).with_answer_within(5 * SECOND))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let session = connection.handle().clone();
    let _task = tokio::spawn(stack.oneshot(connection));
    sleep(1000 * SECOND).await;
    assert!(!session.has_ping() && !session.is_closing());
    assert_eq!(peer.output(), "");
}

#[tokio::test(start_paused = true)]
async fn there_are_no_beats_while_the_session_closes() {
    let (session, peer, task) = open(pings()).await;
    peer.send("sleep 100\n");
    sleep(10 * SECOND).await;
    session.close_within(CloseReason::Local, 50 * SECOND);
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.lifetime, 60 * SECOND);
    assert_eq!(peer.output(), "");
}

#[tokio::test(start_paused = true)]
async fn periods_of_no_time_and_of_endless_time_are_harmless() {
    let layer = HeartbeatLayer::new(Duration::ZERO, |_session| "PING".to_owned());
    let (transport, peer) = stream::pair();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(layer.with_answer_within(Duration::MAX))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let task = tokio::spawn(stack.oneshot(Connection::new(transport)));
    sleep(Duration::from_millis(100)).await;
    assert!((90..=101).contains(&(peer.written() / 5)), "one a tick");
    task.abort();

    for endless in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let (transport, peer) = stream::pair();
        let layer = HeartbeatLayer::new(endless, |_session| "PING".to_owned());
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(layer.with_answer_within(endless))
            .layer(SessionLayer::new())
            .service_fn(echo);
        let connection = Connection::new(transport);
        let session = connection.handle().clone();
        let _task = tokio::spawn(stack.oneshot(connection));
        sleep(1_000_000 * SECOND).await;
        assert!(!session.is_closing());
        assert_eq!(peer.output(), "");
    }
}
