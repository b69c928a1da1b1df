//! Two sessions that are busy in both directions: they make progress unless both applications
//! refuse to read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, Session, SessionLayer, SessionTask,
    codec::LengthDelimited,
    layers::{CorrelateLayer, correlate::Caller},
    service_fn,
};
use getty_test::stream;
use proptest::prelude::*;
use tokio::{io::DuplexStream, sync::Notify, time::Instant};

use crate::support::{connector, idle, lines, open, soon, words::Words};

/// Messages that an end has handled.
#[derive(Clone, Debug, Default)]
struct Handled {
    messages: Arc<AtomicU64>,
    changed: Arc<Notify>,
}

impl Handled {
    fn count(&self) {
        self.messages.fetch_add(1, SeqCst);
        self.changed.notify_one();
    }

    async fn reach(&self, messages: u64) {
        while self.messages.load(SeqCst) < messages {
            self.changed.notified().await;
        }
    }
}

/// A session that counts messages and replies to none.
async fn counting(io: DuplexStream) -> (Session<Bytes>, SessionTask, Handled) {
    let handled = Handled::default();
    let count = handled.clone();
    let handler = service_fn(move |_: Request<Bytes>| {
        count.count();
        async { Ok::<_, BoxError>(None::<Bytes>) }
    });
    let (session, task) = open(io, LengthDelimited::new(), SessionLayer::new(), handler).await;
    (session, task, handled)
}

const LARGE: usize = 60_000;
/// Messages of `LARGE` bytes that make 64 MiB.
const MANY: u64 = 64 * 1024 * 1024 / LARGE as u64 + 1;

async fn push(session: Session<Bytes>, messages: u64) {
    let message = Bytes::from(vec![7; LARGE]);
    for _ in 0..messages {
        session.feed(message.clone()).await.unwrap();
    }
    session.flush().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_sessions_that_each_push_64_mib_over_a_small_pipe_receive_all_of_it() {
    let (one, other) = tokio::io::duplex(16 * 1024);
    let (one, _one_task, at_one) = counting(one).await;
    let (other, _other_task, at_other) = counting(other).await;
    soon(async {
        tokio::join!(
            push(one, MANY),
            push(other, MANY),
            at_one.reach(MANY),
            at_other.reach(MANY)
        )
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_feeds_64_mib_to_an_echo_server_is_answered() {
    let (client, server) = tokio::io::duplex(16 * 1024);
    let echo =
        service_fn(
            |request: Request<Bytes>| async move { Ok::<_, BoxError>(request.into_message()) },
        );
    let (_server, _server_task) =
        open(server, LengthDelimited::new(), SessionLayer::new(), echo).await;
    let (client, _client_task, answered) = counting(client).await;
    soon(async { tokio::join!(push(client, MANY), answered.reach(MANY)) }).await;
}

#[tokio::test(start_paused = true)]
async fn requests_in_both_directions_have_responses_within_a_second() {
    let (one, other) = tokio::io::duplex(4 * 1024);
    let mut sessions = Vec::new();
    for io in [one, other] {
        let answer = service_fn(|request: Request<String>| async move {
            let asked = request.into_message();
            Ok::<_, BoxError>(asked.replacen("ask", "answer", 1))
        });
        let session = getty::connect(connector(), io, |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(lines()))
                .layer(CorrelateLayer::new(Words))
                .layer(link)
                .layer(SessionLayer::new())
                .service(answer)
        })
        .await
        .unwrap();
        sessions.push(session);
    }
    let start = Instant::now();
    let asked = sessions.iter().flat_map(|(session, _)| {
        let caller: Caller<String> = Caller::of(session).unwrap();
        (0..32).map(move |_| {
            let caller = caller.clone();
            async move { caller.request("x".repeat(6000)).await }
        })
    });
    for answer in soon(join_all(asked)).await {
        answer.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_handler_precede_its_reply_under_backpressure() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        if request.message() == "own" {
            request.session().try_send("pushed".to_owned())?;
        }
        Ok::<_, BoxError>(Some(request.into_message()))
    });
    let layer = SessionLayer::new().with_watermarks(4, 1000);
    let (session, _task) = open(transport, lines(), layer, handler).await;
    peer.stall();
    // The replies exceed the low watermark in the same poll. So nothing may be taken from the
    // outbox.
    peer.send("first\nown\nlast\n");
    idle().await;
    assert!(
        session
            .try_send("refused".to_owned())
            .unwrap_err()
            .is_full()
    );
    peer.take_all();
    let received = soon(peer.lines(4)).await;
    assert_eq!(received, ["first", "pushed", "own", "last"]);
}

#[tokio::test(start_paused = true)]
async fn waiting_pushes_of_others_do_not_delay_replies() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 10);
    let echo = service_fn(crate::support::echo);
    let (session, _task) = open(transport, lines(), layer, echo).await;
    peer.stall();
    session.try_send("0123456789".to_owned()).unwrap();
    session.try_send("waits".to_owned()).unwrap();
    idle().await;
    peer.send("asked\n");
    idle().await;
    assert_eq!(session.stats().messages_in, 1);
    peer.take_all();
    let received = soon(peer.lines(3)).await;
    assert_eq!(received, ["0123456789", "asked", "waits"]);
}

#[tokio::test(start_paused = true)]
async fn write_timeout_ends_a_peer_that_never_reads_at_the_reply_limit() {
    let line = format!("{}\n", "x".repeat(999));
    // The second input makes the buffers large. Large buffers may gather up to 260 KiB of replies.
    for (piece, limit) in [(line.clone(), 256 * 1024), (line.repeat(300), 260 * 1024)] {
        let (transport, peer) = stream();
        let echo = service_fn(crate::support::echo);
        let (session, task) = open(transport, lines(), SessionLayer::new(), echo).await;
        peer.send(line.repeat(2000));
        soon(peer.lines(2000)).await;
        peer.stall();
        peer.send_endlessly(piece);
        idle().await;
        let held = session.pending_bytes();
        assert!((256 * 1024..=limit + 1000).contains(&held), "{held}");
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::WriteTimeout);
        assert_eq!(closed.unsent_bytes, held as u64);
    }
}

/// Actions of the two ends of one case.
#[derive(Clone, Debug)]
struct Busy {
    pipe: usize,
    low: usize,
    high: usize,
    in_flight: usize,
    queue: u32,
    /// Messages of each end: the length in bytes and the number of replies.
    pushes: [Vec<(usize, u8)>; 2],
}

fn busy() -> impl Strategy<Value = Busy> {
    let pushes = || prop::collection::vec((1..1500_usize, 0..6_u8), 1..120);
    (
        1024..4096_usize,
        0..1024_usize,
        0..2048_usize,
        prop::sample::select(vec![1_usize, 1, 2, 4]),
        1..64_u32,
        [pushes(), pushes()],
    )
        .prop_map(|(pipe, low, high, in_flight, queue, pushes)| Busy {
            pipe,
            low,
            high,
            in_flight,
            queue,
            pushes,
        })
}

/// Runs two sessions that push to each other and reply to each other's messages and replies.
async fn all_is_handled(case: Busy) {
    let (one, other) = tokio::io::duplex(case.pipe);
    let mut ends = Vec::new();
    for io in [one, other] {
        let handled = Handled::default();
        let count = handled.clone();
        let handler = service_fn(move |request: Request<Bytes>| {
            count.count();
            let mut message = BytesMut::from(&request.into_message()[..]);
            async move {
                tokio::task::yield_now().await;
                let answers = message[0] > 0;
                message[0] = message[0].saturating_sub(1);
                Ok::<_, BoxError>(answers.then(|| message.freeze()))
            }
        });
        let layer = SessionLayer::new()
            .with_in_flight(case.in_flight)
            .with_queue(case.queue)
            .with_reply_limit(0)
            .with_watermarks(case.low, case.high);
        let codec = LengthDelimited::new().max_frame_length(2048);
        let (session, task) = getty::connect(connector(), io, |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(codec).with_max_frame(2048))
                .layer(link)
                .layer(layer)
                .service(handler)
        })
        .await
        .unwrap();
        ends.push((session, task, handled));
    }
    let expected: [u64; 2] = std::array::from_fn(|end| {
        // A message is handled at the other end, its reply at this end, and so on.
        let at = |pushes: &[(usize, u8)], first: u64| -> u64 {
            pushes
                .iter()
                .map(|(_, answers)| (u64::from(*answers) + first) / 2)
                .sum()
        };
        at(&case.pushes[1 - end], 2) + at(&case.pushes[end], 1)
    });
    let pushing = case
        .pushes
        .iter()
        .zip(&ends)
        .map(|(pushes, (session, ..))| async move {
            for (len, answers) in pushes {
                let mut message = BytesMut::with_capacity(*len);
                message.put_u8(*answers);
                message.put_bytes(b'x', len - 1);
                session
                    .feed(message.freeze())
                    .await
                    .expect("neither end may give up");
            }
        });
    let reaching = ends
        .iter()
        .zip(expected)
        .map(|((.., handled), expected)| handled.reach(expected));
    let (pushed, handled) = (join_all(pushing), join_all(reaching));
    soon(async { tokio::join!(pushed, handled) }).await;
    for (session, ..) in &ends {
        assert!(!session.is_closing(), "{:?}", session.reason());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 48 } else { 512 }))]

    #[test]
    fn two_busy_sessions_always_make_progress(case in busy()) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(all_is_handled(case));
    }
}
