//! Whatever the messages, the splits, the limits and the pauses: every request is answered, in order and whole.

use std::time::Duration;

use getty::{BoxError, CloseReason, Request, SessionLayer, codec, service_fn};
use proptest::{collection::vec, prelude::*};
use tokio::time::sleep;

use crate::support::{lines, open, soon, stream};

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
    let (transport, peer) = stream::pair();
    let layer = SessionLayer::new()
        .in_flight(case.in_flight)
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

/// Feeds `bytes` to a session with `codec` until it ends, and tells why.
async fn end_of(bytes: Vec<u8>, piece: usize, length: bool) -> CloseReason {
    let (transport, peer) = stream::pair();
    peer.send_in_pieces(bytes, piece);
    peer.finish();
    let layer = SessionLayer::new();
    let task = if length {
        let echo = service_fn(|request: Request<bytes::Bytes>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
        open(transport, codec::Length::new(), layer, echo).await.1
    } else {
        let echo = service_fn(crate::support::echo);
        open(transport, codec::Lines::new(), layer, echo).await.1
    };
    soon(task).await.unwrap().reason
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
    fn every_request_is_answered_in_order_and_whole(case in case()) {
        paused(answers(case));
    }

    #[test]
    fn garbage_ends_a_session_in_an_orderly_way(
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
