//! `HeartbeatLayer`: heartbeats are sent at the right times, and a session whose peer does not
//! answer is closed.

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
    Close, CloseReason, Connection, ConnectionHandle, Request, ServiceBuilder, Session,
    SessionLayer, Transport,
    hooks::HandleExt,
    layers::{
        CodecLayer, HeartbeatLayer,
        heartbeat::{Message, NoPong},
    },
    transport::{Framing, Received},
};
use getty_test::{Peer, Stream, TestSession, stream};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::{
    SECOND,
    support::{Answer, echo, echo_probe, idle, lines, soon},
};

type Open = (Session<String>, TestSession);
type Pings = HeartbeatLayer<String, Message<fn(&Session<String>) -> String>, NoPong>;

/// Sends `PING` every fifteen seconds without jitter.
fn pings() -> Pings {
    let ping: fn(&Session<String>) -> String = |_session| "PING".to_owned();
    HeartbeatLayer::new(15 * SECOND, ping).with_jitter(0.0)
}

async fn open(layer: Pings) -> Open {
    let session: Arc<Mutex<Option<Session<String>>>> = Arc::default();
    let slot = Arc::clone(&session);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(layer)
        .map_request(move |connection: Connection<_>| {
            use getty::HasSession;
            let framed: &getty::SessionIo<_, _, String> = connection.transport();
            *slot.lock().unwrap() = Some(framed.session().clone());
            connection
        })
        .layer(
            SessionLayer::new()
                .with_write_timeout(None)
                .with_watermarks(0, 1),
        )
        .service_fn(handle);
    let test = TestSession::stream(stack);
    assert!(soon(test.handle().opened()).await);
    let session = session.lock().unwrap().take().unwrap();
    (session, test)
}

/// Sends no reply. For the message `sleep N` it returns after N seconds.
async fn handle(request: Request<String>) -> Answer {
    if let Some(seconds) = request.message().strip_prefix("sleep ") {
        sleep(Duration::from_secs(seconds.parse()?)).await;
    }
    Ok(None)
}

/// Returns when the next `n` heartbeats arrive, in seconds since the open.
async fn times(peer: &Peer, handle: &ConnectionHandle, n: usize) -> Vec<u128> {
    let mut times = Vec::new();
    while times.len() < n {
        assert_eq!(soon(peer.line()).await, "PING");
        let at = handle.opened_at().elapsed().as_millis();
        assert_eq!(at % 1000, 0, "on time to the millisecond");
        times.push(at / 1000);
    }
    times
}

#[tokio::test(start_paused = true)]
async fn session_that_sends_nothing_sends_one_heartbeat_per_period() {
    let (session, peer) = open(pings()).await;
    assert_eq!(times(&peer, &session, 4).await, [15, 30, 45, 60]);
    assert_eq!(session.stats().messages_out, 4);
}

#[tokio::test(start_paused = true)]
async fn sent_message_postpones_the_heartbeat_and_a_received_one_does_not() {
    let (session, peer) = open(pings()).await;
    for _ in 0..10 {
        sleep(14 * SECOND).await;
        session.send("PING".to_owned()).await.unwrap();
    }
    peer.lines(10).await;
    assert_eq!(
        peer.written(),
        50,
        "ten messages and no heartbeat were sent"
    );
    peer.send("hello\n");
    assert_eq!(times(&peer, &session, 2).await, [155, 170]);
}

#[tokio::test(start_paused = true)]
async fn any_received_byte_answers_a_heartbeat() {
    let (session, peer) = open(pings().with_response_timeout(5 * SECOND)).await;
    for n in 1..=20 {
        assert_eq!(soon(peer.line()).await, "PING");
        match n % 3 {
            0 => peer.send("x"), // an incomplete frame is enough
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
async fn unanswered_heartbeat_closes_the_session() {
    let (_session, peer) = open(pings().with_response_timeout(5 * SECOND)).await;
    soon(peer.line()).await;
    peer.send("an answer\n");
    sleep(14 * SECOND).await;
    peer.send("not an answer: it comes before the heartbeat\n");
    let closed = peer.closed().await;
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(closed.lifetime, 35 * SECOND);
    assert_eq!(closed.stats.messages_out, 2);
    assert!(peer.is_shut(), "the close is graceful");
}

#[tokio::test(start_paused = true)]
async fn answer_timeout_counts_from_the_first_unanswered_heartbeat() {
    let (_session, peer) = open(pings().with_response_timeout(40 * SECOND)).await;
    let closed = peer.closed().await;
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(closed.lifetime, 55 * SECOND);
    assert_eq!(closed.stats.messages_out, 3);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_timeout_no_answer_is_required() {
    let (session, _peer) = open(pings()).await;
    sleep(100_000 * SECOND).await;
    assert!(!session.is_closing());
}

#[tokio::test(start_paused = true)]
async fn answer_timeout_pauses_while_the_session_does_not_read() {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()).with_max_frame(16))
        .layer(pings().with_response_timeout(5 * SECOND))
        .layer(SessionLayer::new())
        .service_fn(handle);
    let session = TestSession::stream(stack);
    // These messages fill the read-ahead limit. So an answer cannot be read.
    session.send("sleep 100\nand\nmore\nbehind\n");
    idle().await;
    assert_eq!(session.handle().silent_since(), None);
    sleep(99 * SECOND).await;
    assert!(!session.handle().is_closing());
    // Heartbeats are still sent. The answer timeout counts from the time reading resumes.
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(closed.lifetime, 105 * SECOND);
    assert_eq!(closed.stats.messages_out, 6);
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_read_gets_no_burst_of_heartbeats() {
    let (session, peer) = open(pings()).await;
    peer.stall();
    sleep(100 * SECOND).await;
    assert!(session.stalled_since().is_some());
    assert_eq!(session.queued(), 0, "no heartbeat is queued behind another");
    peer.take_all();
    // The heartbeat that was being written. The next ones must follow a period after it.
    assert_eq!(times(&peer, &session, 3).await, [100, 115, 130]);
}

#[tokio::test(start_paused = true)]
async fn peer_that_neither_reads_nor_sends_is_closed() {
    let (session, peer) = open(pings().with_response_timeout(5 * SECOND)).await;
    sleep(SECOND).await;
    peer.stall();
    session.try_send("never read".to_owned()).unwrap();
    soon(session.closing()).await;
    assert_eq!(session.opened_at().elapsed(), 20 * SECOND);
    assert_eq!(
        session.stats().messages_out,
        1,
        "no heartbeat behind the message"
    );
    // Otherwise the close waits for the flush until the drain deadline.
    peer.take_all();
    let closed = peer.closed().await;
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
}

#[tokio::test(start_paused = true)]
async fn answer_timeout_counts_from_the_last_byte_that_a_slow_reader_takes() {
    let (session, peer) = open(pings().with_response_timeout(20 * SECOND)).await;
    peer.stall();
    session.try_send("x".repeat(100)).unwrap();
    // A heartbeat is due one second before each byte that the peer takes. It is skipped.
    for _ in 0..5 {
        sleep(16 * SECOND).await;
        peer.take(1);
    }
    idle().await;
    assert!(!session.is_closing(), "{:?}", session.reason());
    let start = Instant::now();
    soon(session.closing()).await;
    assert_eq!(
        start.elapsed().as_secs(),
        19,
        "the close comes 20 s after the last byte"
    );
    let closed = peer.closed().await;
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
}

#[tokio::test(start_paused = true)]
async fn pongs_take_no_permit_and_never_reach_the_handler() {
    let handled = Arc::new(AtomicUsize::new(0));
    let (probe, control) = echo_probe();
    let count = Arc::clone(&handled);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(
            pings()
                .with_response_timeout(5 * SECOND)
                .with_pong(|message: &String| message == "PONG"),
        )
        .layer(SessionLayer::new())
        .map_request(move |request: Request<String>| {
            count.fetch_add(1, SeqCst);
            request
        })
        .service(probe);
    let session = TestSession::stream(stack);
    for _ in 0..10 {
        soon(session.line()).await;
        session.send("PONG\n");
    }
    idle().await;
    assert_eq!((control.polls(), handled.load(SeqCst)), (0, 0));
    assert_eq!(session.handle().stats().messages_in, 10);
    assert_eq!(session.handle().last_active(), session.handle().opened_at());

    session.send("PONG\none\nPONG\nPONG\ntwo\nPO");
    assert_eq!(soon(session.lines(2)).await, ["one", "two"]);
    session.send("NG\nthree");
    session.finish();
    assert_eq!(
        soon(session.handle().closed()).await.reason,
        CloseReason::PeerClosed
    );
    assert_eq!(handled.load(SeqCst), 3);
    assert!(session.output().ends_with("one\ntwo\nthree\n"));
    assert_eq!(session.handle().stats().messages_in, 17);
}

#[tokio::test(start_paused = true)]
async fn pongs_are_removed_on_message_transports_too() {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(pings().with_pong(|message: &String| message == "PONG"))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let session = TestSession::messages(stack);
    for message in ["PONG\n", "one\n", "PONG", "two"] {
        session.send(message);
    }
    assert_eq!(soon(session.text()).await, "one\n");
    assert_eq!(soon(session.text()).await, "two\n");
    assert_eq!(session.waiting(), 0);
    assert_eq!(session.stats().messages_in, 4);
}

#[tokio::test(start_paused = true)]
async fn heartbeat_may_be_skipped_by_its_closure() {
    let (transport, peer) = stream();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(
            HeartbeatLayer::optional(15 * SECOND, move |session| {
                let n = count.fetch_add(1, SeqCst) + 1;
                n.is_multiple_of(3)
                    .then(|| format!("ping {n} of {}", session.id()))
            })
            .with_jitter(0.0)
            .with_response_timeout(SECOND),
        )
        .layer(SessionLayer::new())
        .service_fn(echo);
    let connection = Connection::new(transport);
    let id = connection.handle().id();
    let closed = soon(stack.oneshot(connection)).await.unwrap();
    assert_eq!(closed.reason, CloseReason::HeartbeatMissed);
    assert_eq!(
        closed.lifetime,
        46 * SECOND,
        "a skipped heartbeat needs no answer"
    );
    assert_eq!(calls.load(SeqCst), 3);
    assert_eq!(peer.output(), format!("ping 3 of {id}\n"));
}

/// A byte stream with a built-in ping.
#[derive(Debug)]
struct PingTransport {
    inner: Stream,
    /// Times of the pings.
    pings: Arc<Mutex<Vec<Instant>>>,
    /// Number of pings that are answered.
    answers: usize,
    /// Number of pongs to receive.
    pongs: usize,
}

impl Transport for PingTransport {
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
async fn ping_of_the_transport_is_the_heartbeat_and_its_pong_the_answer() {
    let pings: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (inner, peer) = stream();
    let transport = PingTransport {
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
                .with_response_timeout(5 * SECOND),
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
async fn transport_without_a_ping_has_no_heartbeat_and_no_timeout() {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(HeartbeatLayer::ping(15 * SECOND).with_response_timeout(5 * SECOND))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let session = TestSession::stream(stack);
    sleep(1000 * SECOND).await;
    assert!(!session.handle().has_ping() && !session.handle().is_closing());
    assert_eq!(session.output(), "");
}

#[tokio::test(start_paused = true)]
async fn no_heartbeat_is_sent_while_the_session_closes() {
    let (session, peer) = open(pings()).await;
    peer.send("sleep 100\n");
    sleep(10 * SECOND).await;
    session.close_with(Close::new(CloseReason::Local).with_deadline(50 * SECOND));
    let closed = peer.closed().await;
    assert_eq!(closed.lifetime, 60 * SECOND);
    assert_eq!(peer.output(), "");
}

#[tokio::test(start_paused = true)]
async fn zero_and_maximum_periods_are_valid() {
    let layer = HeartbeatLayer::new(Duration::ZERO, |_session| "PING".to_owned());
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(layer.with_response_timeout(Duration::MAX))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let session = TestSession::stream(stack);
    sleep(Duration::from_millis(100)).await;
    assert!(
        (90..=101).contains(&(session.written() / 5)),
        "one heartbeat per millisecond"
    );
    session.abort();

    for maximum in [Duration::MAX, Duration::from_secs(u64::MAX / 4)] {
        let layer = HeartbeatLayer::new(maximum, |_session| "PING".to_owned());
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(layer.with_response_timeout(maximum))
            .layer(SessionLayer::new())
            .service_fn(echo);
        let session = TestSession::stream(stack);
        sleep(1_000_000 * SECOND).await;
        assert!(!session.handle().is_closing());
        assert_eq!(session.output(), "");
    }
}
