//! Limits of requests in flight, their deadlines, and late responses.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all, stream::FuturesOrdered};
use getty::{
    SessionLayer,
    hooks::HandleExt,
    layers::correlate::{Caller, Delivery, RequestError},
    service_fn,
};
use getty_test::stream;
use tokio::time::{Instant, timeout};
use tokio_test::{assert_pending, task};

use super::{ask, asked, asking, question, words};
use crate::support::{echo, idle, soon};

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_are_in_flight_at_once() {
    let (session, peer, _task) = asked(words()).await;
    let mut asked = (0..1000)
        .map(|n| session.request::<String>(format!("{n}")))
        .collect::<FuturesOrdered<_>>();
    let peer_answers = async {
        let mut questions = Vec::new();
        for _ in 0..1000 {
            questions.push(question(&peer).await);
        }
        // The peer responds to the last request first.
        for (id, what) in questions.into_iter().rev() {
            peer.send(format!("answer {id} {what}\n"));
        }
    };
    let all_answered = async {
        for n in 0..1000 {
            let answer = asked.next().await.unwrap().unwrap();
            assert!(answer.ends_with(&format!(" {n}")), "{answer}");
        }
    };
    soon(async { tokio::join!(peer_answers, all_answered) }).await;
    assert_eq!(session.stats().late, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_limited() {
    let (session, peer, _task) = asked(words().with_in_flight(2)).await;
    let first = ask(&session, "first");
    let second = ask(&session, "second");
    let (id, _) = question(&peer).await;
    question(&peer).await;
    match soon(ask(&session, "third")).await.unwrap() {
        Err(RequestError::Full(message)) => assert_eq!(message, "third"),
        other => panic!("{other:?}"),
    }
    peer.send(format!("answer {id} that\n"));
    soon(first).await.unwrap().unwrap();
    let third = ask(&session, "third");
    let (id, what) = question(&peer).await;
    assert_eq!(what, "third");
    peer.send(format!("answer {id} that\n"));
    soon(third).await.unwrap().unwrap();
    assert!(!second.is_finished());
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_a_wait_and_the_late_response_is_counted() {
    let (session, peer, _task) = asked(words().with_deadline(Duration::from_secs(5))).await;
    let start = Instant::now();
    let asked = ask(&session, "what");
    let (id, _) = question(&peer).await;
    let error = soon(asked).await.unwrap().unwrap_err();
    assert!(error.is_deadline());
    assert_eq!(error.delivery(), Delivery::Sent);
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(5) && waited < Duration::from_millis(5100),
        "{waited:?}"
    );
    assert_eq!(session.stats().late, 0);
    peer.send(format!("answer {id} that\nnotice\n"));
    assert_eq!(
        soon(peer.line()).await,
        "notice",
        "the session must continue"
    );
    assert_eq!(session.stats().late, 1);
    assert_eq!(session.stats().messages_in, 2);
    assert!(session.stats().to_string().ends_with("; 1 late responses"));
}

#[tokio::test(start_paused = true)]
async fn each_request_may_have_a_separate_deadline() {
    let (session, _peer, _task) = asked(words().with_deadline(Duration::from_secs(60))).await;
    let start = Instant::now();
    let seconds = [10, 3, 7, 3, 1, 20];
    let asked = seconds.map(|seconds| {
        let asked = session
            .request::<String>(format!("{seconds}"))
            .within(Duration::from_secs(seconds));
        async move {
            assert!(asked.await.unwrap_err().is_deadline());
            (seconds, start.elapsed().as_secs())
        }
    });
    for (deadline, waited) in soon(join_all(asked)).await {
        assert_eq!(deadline, waited);
    }
    // The first has the layer's deadline. The second has none.
    let layers = ask(&session, "layers");
    let never = session.request::<String>("never".to_owned()).within(None);
    timeout(Duration::from_secs(600), never).await.unwrap_err();
    assert!(soon(layers).await.unwrap().unwrap_err().is_deadline());
}

#[tokio::test(start_paused = true)]
async fn dropped_request_frees_its_slot_and_its_response_is_counted() {
    let (session, peer, _task) = asked(words().with_in_flight(1)).await;
    for n in 1..=100 {
        let asked = ask(&session, "what");
        let (id, _) = question(&peer).await;
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        peer.send(format!("answer {id} that\n"));
        idle().await;
        assert_eq!(session.stats().late, n);
        assert!(!session.awaits_responses());
    }
    let asked = ask(&session, "what");
    let (id, _) = question(&peer).await;
    peer.send(format!("answer {id} that\n"));
    soon(asked).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn request_that_is_dropped_before_there_is_room_is_never_sent() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_queue(1).with_watermarks(0, 4);
    let (session, _task) = asking(transport, words(), layer, service_fn(echo)).await;
    peer.stall();
    session.try_send("fills it".to_owned()).unwrap();
    idle().await;
    session.try_send("is queued".to_owned()).unwrap_err();
    let mut asked = task::spawn(session.request::<String>("never".to_owned()));
    assert_pending!(asked.poll());
    drop(asked);
    let asked = ask(&session, "asked");
    idle().await;
    peer.take_all();
    assert_eq!(soon(peer.line()).await, "fills it");
    assert_eq!(question(&peer).await.1, "asked");
    asked.abort();
}

#[tokio::test(start_paused = true)]
async fn responses_with_unknown_ids_are_dropped_and_counted() {
    let (session, peer, _task) = asked(words()).await;
    peer.send("answer 0 x\nanswer 1 x\nanswer 1024 x\n");
    peer.send(format!("answer {} x\n", u64::MAX));
    idle().await;
    assert_eq!(session.stats().late, 4, "no request was sent yet");

    let asked = ask(&session, "first");
    let (first, _) = question(&peer).await;
    for wrong in [
        first + 1,
        first - 1,
        first + 1024,
        first + (1 << 40),
        u64::MAX,
    ] {
        peer.send(format!("answer {wrong} x\n"));
    }
    idle().await;
    assert_eq!(session.stats().late, 9);
    assert!(!asked.is_finished());
    // The peer sends the same response twice.
    peer.send(format!("answer {first} a\nanswer {first} b\n"));
    assert_eq!(
        soon(asked).await.unwrap().unwrap(),
        format!("answer {first} a")
    );
    assert_eq!(session.stats().late, 10);

    // A stale response must not match the next request in the slot.
    let asked = ask(&session, "second");
    let (second, _) = question(&peer).await;
    assert_ne!(first, second);
    peer.send(format!("answer {first} c\n"));
    idle().await;
    assert_eq!(session.stats().late, 11);
    assert!(!asked.is_finished());
    peer.send(format!("answer {second} d\n"));
    soon(asked).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn ids_stay_within_their_bits() {
    let (session, peer, _task) = asked(words().with_id_bits(16)).await;
    let mut ids = std::collections::HashSet::new();
    for _ in 0..200 {
        let asked = ask(&session, "what");
        let (id, _) = question(&peer).await;
        assert!(id <= u64::from(u16::MAX));
        ids.insert(id);
        peer.send(format!("answer {id} that\n"));
        soon(asked).await.unwrap().unwrap();
    }
    assert_eq!(ids.len(), 64, "every other slot was used");
}

/// The peer may omit responses by id, unlike responses in order.
#[tokio::test(start_paused = true)]
async fn abandoned_requests_by_id_take_no_slot_and_close_nothing() {
    let correlate = words().with_in_flight(2);
    let (session, peer, _task) = asked(correlate.with_deadline(Duration::from_secs(5))).await;
    let caller: Caller<String> = Caller::of(&session).unwrap();
    for _ in 0..20 {
        let missed = ["one", "two"].map(|what| ask(&session, what));
        for what in ["one", "two"] {
            assert_eq!(question(&peer).await.1, what);
        }
        assert_eq!(session.unanswered_requests(), 2);
        let [dropped, expires] = missed;
        dropped.abort();
        assert!(soon(expires).await.unwrap().unwrap_err().is_deadline());
        idle().await;
        assert_eq!((session.abandoned_requests(), caller.in_flight()), (0, 0));
    }
    let answered = ask(&session, "what");
    let (id, _) = question(&peer).await;
    peer.send(format!("answer {id} that\n"));
    soon(answered).await.unwrap().unwrap();
}
