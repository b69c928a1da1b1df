//! Random messages, splits, limits and pauses. Every request must have its reply, in order and
//! complete.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{BoxError, CloseReason, Request, SessionLayer, codec, service_fn};
use getty_test::stream;
use proptest::{collection::vec, prelude::*};
use tokio::time::sleep;

use crate::support::{lines, open, soon};

#[derive(Clone, Debug)]
struct Case {
    messages: Vec<String>,
    pieces: Vec<usize>,
    in_flight: usize,
    queue: u32,
    low: usize,
    high: usize,
    write_limit: usize,
    stalls: bool,
    delays: Vec<u64>,
}

fn case() -> impl Strategy<Value = Case> {
    let limits = (1..6_usize, 1..5_u32, 0..40_usize, 0..200_usize, 1..50_usize);
    let texts = vec("[a-z]{0,30}", 0..60);
    (
        texts,
        vec(1..40_usize, 1..20),
        limits,
        any::<bool>(),
        vec(0..4_u64, 1..10),
    )
        .prop_map(
            |(messages, pieces, (in_flight, queue, low, high, write_limit), stalls, delays)| Case {
                messages,
                pieces,
                in_flight,
                queue,
                low,
                high,
                write_limit,
                stalls,
                delays,
            },
        )
}

async fn answers(case: Case) -> String {
    let (transport, peer) = stream();
    let layer = SessionLayer::new()
        .with_in_flight(case.in_flight)
        .with_queue(case.queue)
        .with_watermarks(case.low, case.high);
    let delays = case.delays;
    let mut n = 0;
    let handler = service_fn(move |request: Request<String>| {
        let delay = delays[n % delays.len()];
        n += 1;
        async move {
            match delay {
                0 => {}
                1 => tokio::task::yield_now().await,
                ms => sleep(Duration::from_millis(ms)).await,
            }
            Ok::<_, BoxError>(request.into_message())
        }
    });
    peer.limit_writes(case.write_limit);
    let (session, task) = open(transport, lines(), layer, handler).await;
    let input: String = case
        .messages
        .iter()
        .map(|text| text.clone() + "\n")
        .collect();
    let mut rest = input.as_str();
    for piece in case.pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(rest.len().min(*piece));
        peer.send(now);
        rest = later;
        if case.stalls {
            peer.stall();
            sleep(Duration::from_millis(2)).await;
            peer.take(7);
        }
    }
    peer.take_all();
    peer.finish();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert!(closed.source.is_none());
    let count = case.messages.len() as u64;
    assert_eq!(
        (closed.stats.messages_in, closed.stats.messages_out),
        (count, count)
    );
    assert_eq!(closed.stats.bytes_in, input.len() as u64);
    assert_eq!(closed.stats.bytes_out, input.len() as u64);
    assert_eq!(session.queued(), 0);
    assert_eq!(peer.output(), input);
    peer.output()
}

/// Feeds `bytes` to a session with `codec` until it ends. Returns the close reason.
async fn end_of(bytes: Vec<u8>, piece: usize, length: bool) -> CloseReason {
    let (transport, peer) = stream();
    peer.send_in_pieces(bytes, piece);
    peer.finish();
    let layer = SessionLayer::new();
    let task = if length {
        let echo = service_fn(|request: Request<bytes::Bytes>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
        open(transport, codec::LengthDelimited::new(), layer, echo)
            .await
            .1
    } else {
        let echo = service_fn(crate::support::echo);
        open(transport, codec::Lines::new(), layer, echo).await.1
    };
    soon(task).await.unwrap().reason
}

/// One action on a session.
#[derive(Clone, Copy, Debug)]
enum Act {
    Send,
    Feed,
    TrySend,
    Request,
    Stall,
    Take(usize),
    TakeAll,
    HoldFlush,
    ReleaseFlush,
    Settle,
    Close,
    Reset,
    Abort,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Send),
        2 => Just(Act::Feed),
        2 => Just(Act::TrySend),
        3 => Just(Act::Request),
        1 => Just(Act::Stall),
        2 => (1..20_usize).prop_map(Act::Take),
        1 => Just(Act::TakeAll),
        1 => Just(Act::HoldFlush),
        1 => Just(Act::ReleaseFlush),
        4 => Just(Act::Settle),
    ]
}

fn end() -> impl Strategy<Value = Act> {
    prop_oneof![2 => Just(Act::Close), 1 => Just(Act::Reset), 1 => Just(Act::Abort)]
}

/// Outcome of a message as reported to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Left,
    HandedBack,
    Unknown,
}

async fn fates(acts: Vec<Act>, in_flight: usize, queue: u32, high: usize) {
    let (transport, peer) = stream();
    let layer = SessionLayer::new()
        .with_in_flight(in_flight)
        .with_queue(queue)
        .with_watermarks(high / 2, high);
    let echo = service_fn(crate::support::echo);
    let (session, task) = open(transport, lines(), layer, echo).await;
    let ends = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ends);
    session.add_close_callback("test", 0, move |_| {
        counted.fetch_add(1, SeqCst);
    });
    let mut outcomes = Vec::new();
    for (n, act) in acts.into_iter().enumerate() {
        let message = format!("{n:04}");
        match act {
            Act::Send | Act::Feed => {
                let session = session.clone();
                let attended = matches!(act, Act::Send);
                let outcome = tokio::spawn(async move {
                    let outcome = if attended {
                        session.send(message).await.map(|_| Fate::Left)
                    } else {
                        session.feed(message).await.map(|()| Fate::Unknown)
                    };
                    outcome.unwrap_or_else(|error| match error.into_message() {
                        Some(_) => Fate::HandedBack,
                        None => Fate::Unknown,
                    })
                });
                tokio::task::yield_now().await;
                outcomes.push((n, outcome));
            }
            Act::TrySend => {
                let fate = match session.try_send(message) {
                    Ok(()) => Fate::Unknown,
                    Err(_) => Fate::HandedBack,
                };
                outcomes.push((n, tokio::spawn(async move { fate })));
            }
            Act::Request => peer.send(format!("r{n:03}\n")),
            Act::Stall => peer.stall(),
            Act::Take(bytes) => peer.take(bytes),
            Act::TakeAll => peer.take_all(),
            Act::HoldFlush => peer.hold_flush(),
            Act::ReleaseFlush => peer.release_flush(),
            Act::Settle => sleep(Duration::from_millis(1)).await,
            Act::Close => session.close(),
            Act::Reset => peer.reset(),
            Act::Abort => task.abort(),
        }
    }
    soon(session.closed()).await;
    assert_eq!(ends.load(SeqCst), 1);
    assert!(peer.is_gone());

    let output = peer.output();
    let (whole, part) = output.rsplit_once('\n').unwrap_or(("", &output));
    let received: Vec<&str> = whole.lines().collect();
    let ours = received.iter().filter(|line| !line.starts_with('r'));
    assert!(
        ours.is_sorted(),
        "sent messages must leave in order: {received:?}"
    );
    let replies = received.iter().filter(|line| line.starts_with('r'));
    assert!(
        replies.is_sorted(),
        "replies must leave in order: {received:?}"
    );
    for (n, outcome) in outcomes {
        let message = format!("{n:04}");
        let left = received.contains(&message.as_str());
        match soon(outcome).await.unwrap() {
            Fate::Left => assert!(left, "{message} was not sent"),
            Fate::HandedBack => {
                assert!(!left && part != message, "{message} was returned and sent");
            }
            Fate::Unknown => {}
        }
    }
}

fn paused<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_request_has_its_reply_in_order_and_complete(case in case()) {
        paused(answers(case));
    }

    #[test]
    fn senders_get_correct_outcomes_for_every_end_of_a_session(
        acts in vec(act(), 0..60),
        end in end(),
        late in vec(act(), 0..5),
        in_flight in 1..4_usize,
        queue in 1..5_u32,
        high in 0..30_usize,
    ) {
        let acts = acts.into_iter().chain([end]).chain(late).collect();
        paused(fates(acts, in_flight, queue, high));
    }

    #[test]
    fn garbage_ends_a_session_with_a_reason(
        bytes in vec(any::<u8>(), 0..2000),
        piece in 1..500_usize,
        length in any::<bool>(),
    ) {
        let reason = paused(end_of(bytes, piece, length));
        prop_assert!(
            matches!(reason, CloseReason::PeerClosed | CloseReason::Decode),
            "{reason}"
        );
    }
}
