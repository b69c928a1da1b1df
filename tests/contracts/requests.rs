//! Requests both ways: each answer finds its request, whatever else is going on, and a request without one says why.

use std::{io, time::Duration};

use futures_util::{StreamExt, future::join_all, stream::FuturesOrdered};
use getty::{
    BoxError, CloseReason, CodecLayer, OpenError, Request, Service, ServiceBuilder, Session,
    SessionLayer, SessionTask, Transport,
    layers::{
        Correlate, CorrelateLayer,
        correlate::{ById, Caller, Left, Matching, RequestError},
    },
    net, serve, service_fn,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, advance, timeout},
};
use tokio_test::{assert_pending, assert_ready, task};

use crate::support::{
    Answer, connector, echo, idle, lines, open, soon, stream, stream::Peer, units, words::Words,
};

type ByWords = CorrelateLayer<ById<Words>>;

/// A session over `transport` that can ask.
pub(crate) async fn asking<T, S, M>(
    transport: T,
    correlate: CorrelateLayer<M>,
    layer: SessionLayer,
    handler: S,
) -> (Session<String>, SessionTask)
where
    T: Transport + Send + 'static,
    M: Matching<String, String> + Clone,
    S: Service<Request<String>, Future: Send, Response = Option<String>, Error = BoxError>
        + Clone
        + Send
        + 'static,
{
    getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(correlate)
            .layer(link)
            .layer(layer)
            .service(handler)
    })
    .await
    .expect("a transport that is there already connects")
}

/// One whose peer the test plays.
async fn asked(correlate: ByWords) -> (Session<String>, Peer, SessionTask) {
    let (transport, peer) = stream::pair();
    let handler = service_fn(echo);
    let (session, task) = asking(transport, correlate, SessionLayer::new(), handler).await;
    (session, peer, task)
}

fn words() -> ByWords {
    CorrelateLayer::new(Words)
}

pub(crate) type Asked = JoinHandle<Result<String, RequestError<String>>>;

/// Asks on a task of its own.
pub(crate) fn ask(session: &Session<String>, what: &str) -> Asked {
    tokio::spawn(session.request(what.to_owned()))
}

/// The id of the next request that the peer gets, and what is asked.
async fn question(peer: &Peer) -> (u64, String) {
    let line = soon(peer.line()).await;
    let (id, what) = line
        .strip_prefix("ask ")
        .and_then(|line| line.split_once(' '))
        .expect("it is a request");
    (id.parse().unwrap(), what.to_owned())
}

fn left<T: std::fmt::Debug>(failed: Result<T, RequestError<String>>) -> Left {
    failed.unwrap_err().left()
}

#[tokio::test(start_paused = true)]
async fn an_answer_finds_its_request_in_whatever_order_they_come() {
    let (session, peer, _task) = asked(words()).await;
    let (first, second) = (ask(&session, "first"), ask(&session, "second"));
    let (one, what) = question(&peer).await;
    assert_eq!(what, "first");
    let (two, what) = question(&peer).await;
    assert_eq!(what, "second", "requests leave in their order");
    assert!(one != two && one != 0 && two != 0);

    peer.send(format!("answer {two} to the second\n"));
    assert_eq!(
        soon(second).await.unwrap().unwrap(),
        format!("answer {two} to the second")
    );
    assert!(!first.is_finished());
    peer.send(format!("answer {one} to the first\n"));
    assert_eq!(
        soon(first).await.unwrap().unwrap(),
        format!("answer {one} to the first")
    );
    assert_eq!(session.stats().messages_in, 2);
    assert_eq!(session.stats().late, 0);
    assert!(!session.awaits_answers());
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_the_handlers() {
    let (session, peer, _task) = asked(words()).await;
    let asked = ask(&session, "first");
    let (id, _) = question(&peer).await;
    peer.send(format!("a notice\nanswer {id}\nask 1 what\n"));
    assert_eq!(soon(peer.lines(2)).await, ["a notice", "ask 1 what"]);
    soon(asked).await.unwrap().unwrap();
}

/// Answers what it is asked; told to ask, it asks its own peer first.
async fn ask_back(request: Request<String>) -> Answer {
    let (message, session) = request.into_parts();
    let mut words = message.splitn(3, ' ');
    Ok(match (words.next(), words.next(), words.next()) {
        (Some("ask"), Some(id), Some("back")) => {
            let answer: String = session.request("forth".to_owned()).await?;
            let (_, answer) = answer.rsplit_once(' ').ok_or("no answer")?;
            Some(format!("answer {id} back-and-{answer}"))
        }
        (Some("ask"), Some(id), Some(what)) => Some(format!("answer {id} {what}")),
        _ => None,
    })
}

#[tokio::test(start_paused = true)]
async fn a_handler_awaits_its_own_peer_one_at_a_time() {
    let (transport, peer) = stream::pair();
    let handler = service_fn(ask_back);
    let (_session, _task) = asking(transport, words(), SessionLayer::new(), handler).await;
    // other requests lie before the answer, and half of one after it
    peer.send("ask 7 back\n");
    let (id, what) = question(&peer).await;
    assert_eq!(what, "forth");
    peer.send(format!(
        "ask 8 one\nask 9 two\nanswer {id} forth\nask 10 th"
    ));
    assert_eq!(soon(peer.line()).await, "answer 7 back-and-forth");
    assert_eq!(
        soon(peer.lines(2)).await,
        ["answer 8 one", "answer 9 two"],
        "nothing is lost, and in order"
    );
    peer.send("ree\n");
    assert_eq!(soon(peer.line()).await, "answer 10 three");
}

#[tokio::test(start_paused = true)]
async fn a_handler_awaits_its_own_peer_over_messages_too() {
    let (transport, peer) = units::pair(getty::transport::Framing::Messages);
    let handler = service_fn(ask_back);
    let (_session, _task) = asking(transport, words(), SessionLayer::new(), handler).await;
    peer.send("ask 7 back\n");
    let asked = soon(peer.message()).await;
    let id = asked.split(' ').nth(1).unwrap();
    peer.send("ask 8 one\n");
    peer.send("ask 9 two\n");
    peer.send(format!("answer {id} forth\n"));
    for expected in [
        "answer 7 back-and-forth\n",
        "answer 8 one\n",
        "answer 9 two\n",
    ] {
        assert_eq!(soon(peer.message()).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_taken_while_the_message_stack_is_not_ready() {
    let (transport, peer) = stream::pair();
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let limit = tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(permits.clone());
    let handler = ServiceBuilder::new().layer(limit).service_fn(echo);
    let (session, _task) = asking(transport, words(), SessionLayer::new(), handler).await;
    peer.send("one\ntwo\nthree\n");
    idle().await;
    let asked = ask(&session, "what");
    let (id, _) = question(&peer).await;
    peer.send(format!("answer {id} that\nfour\n"));
    soon(asked).await.unwrap().unwrap();
    assert_eq!(peer.written(), format!("ask {id} what\n").len());
    permits.add_permits(1);
    assert_eq!(
        soon(peer.lines(4)).await,
        ["one", "two", "three", "four"],
        "in order"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_taken_above_the_high_watermark() {
    let (transport, peer) = stream::pair();
    let layer = SessionLayer::new().with_watermarks(0, 10);
    let (session, _task) = asking(transport, words(), layer, service_fn(echo)).await;
    let asked = ask(&session, "what");
    let (id, _) = question(&peer).await;
    peer.stall();
    peer.send(format!(
        "a line above the watermark\nanother\nanswer {id} that\n"
    ));
    soon(asked).await.unwrap().unwrap();
    peer.take_all();
    assert_eq!(
        soon(peer.lines(2)).await,
        ["a line above the watermark", "another"]
    );
}

#[tokio::test(start_paused = true)]
async fn with_more_than_the_read_ahead_bound_before_the_answer_the_deadline_ends_the_wait() {
    const BOUND: usize = 1024;
    for (before, is_answered) in [(BOUND - 200, true), (2 * BOUND, false)] {
        let (transport, peer) = stream::pair();
        let correlate = words().with_deadline(Duration::from_secs(5));
        let (_session, _task) = getty::connect(connector(), transport, |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(lines()).with_max_frame(BOUND))
                .layer(correlate)
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(|request: Request<String>| async move {
                    let (message, session) = request.into_parts();
                    if message != "go" {
                        return Ok(Some(message));
                    }
                    let asked: Result<String, _> = session.request("what".to_owned()).await;
                    Ok::<_, BoxError>(Some(match asked {
                        Ok(answer) => answer,
                        Err(RequestError::Deadline { left, .. }) => format!("deadline, {left:?}"),
                        Err(error) => return Err(error.into()),
                    }))
                })
        })
        .await
        .unwrap();
        peer.send("go\n");
        let (id, _) = question(&peer).await;
        let begun = Instant::now();
        let lines = before / 10;
        peer.send("123456789\n".repeat(lines));
        peer.send(format!("answer {id}\n"));
        idle().await;
        assert_eq!(
            peer.unread() == 0,
            is_answered,
            "reading stops at the bound"
        );
        let line = soon(peer.line()).await;
        if is_answered {
            assert_eq!(line, format!("answer {id}"));
        } else {
            assert_eq!(line, "deadline, Yes");
            assert!(begun.elapsed() >= Duration::from_secs(5));
        }
        // and all of them are answered
        assert_eq!(soon(peer.lines(lines)).await, vec!["123456789"; lines]);
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_ask_each_other_at_once() {
    let (listener, dialer) = net::memory(16);
    let server = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(words())
        .layer(SessionLayer::new())
        .service_fn(ask_back);
    tokio::spawn(serve(listener, server).into_future());
    let (session, _task) = getty::connect(dialer, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(words())
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(ask_back)
    })
    .await
    .unwrap();
    // each of ours has the server ask us while others of ours lie before our answer
    let caller: Caller<String> = Caller::of(&session).unwrap();
    let asked = join_all((0..100).map(|_| caller.request("back".to_owned())));
    for answer in soon(asked).await {
        let answer: String = answer.unwrap();
        assert!(answer.ends_with(" back-and-forth"), "{answer}");
    }
    assert_eq!(caller.in_flight(), 0);
}

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
        // the last first
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
async fn no_more_are_in_flight_than_may() {
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
async fn a_deadline_ends_a_wait_and_the_late_answer_is_dropped_and_counted() {
    let (session, peer, _task) = asked(words().with_deadline(Duration::from_secs(5))).await;
    let begun = Instant::now();
    let asked = ask(&session, "what");
    let (id, _) = question(&peer).await;
    let error = soon(asked).await.unwrap().unwrap_err();
    assert!(error.is_deadline());
    assert_eq!(error.left(), Left::Yes);
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_secs(5) && waited < Duration::from_millis(5100),
        "{waited:?}"
    );
    assert_eq!(session.stats().late, 0);
    peer.send(format!("answer {id} that\nnotice\n"));
    assert_eq!(soon(peer.line()).await, "notice", "the session goes on");
    assert_eq!(session.stats().late, 1);
    assert_eq!(session.stats().messages_in, 2);
    assert!(session.stats().to_string().ends_with("; 1 answers late"));
}

#[tokio::test(start_paused = true)]
async fn each_request_may_have_a_deadline_of_its_own() {
    let (session, _peer, _task) = asked(words().with_deadline(Duration::from_secs(60))).await;
    let begun = Instant::now();
    let seconds = [10, 3, 7, 3, 1, 20];
    let asked = seconds.map(|seconds| {
        let asked = session
            .request::<String>(format!("{seconds}"))
            .within(Duration::from_secs(seconds));
        async move {
            assert!(asked.await.unwrap_err().is_deadline());
            (seconds, begun.elapsed().as_secs())
        }
    });
    for (deadline, waited) in soon(join_all(asked)).await {
        assert_eq!(deadline, waited);
    }
    // the layer's own, and none
    let layers = ask(&session, "layers");
    let never = session.request::<String>("never".to_owned()).within(None);
    timeout(Duration::from_secs(600), never).await.unwrap_err();
    assert!(soon(layers).await.unwrap().unwrap_err().is_deadline());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_frees_its_place_and_its_answer_is_counted() {
    let (session, peer, _task) = asked(words().with_in_flight(1)).await;
    for n in 1..=100 {
        let asked = ask(&session, "what");
        let (id, _) = question(&peer).await;
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        peer.send(format!("answer {id} that\n"));
        idle().await;
        assert_eq!(session.stats().late, n);
        assert!(!session.awaits_answers());
    }
    let asked = ask(&session, "what");
    let (id, _) = question(&peer).await;
    peer.send(format!("answer {id} that\n"));
    soon(asked).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_before_there_was_room_is_never_sent() {
    let (transport, peer) = stream::pair();
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
async fn answers_with_ids_that_nobody_has_are_dropped_and_counted() {
    let (session, peer, _task) = asked(words()).await;
    peer.send("answer 0 x\nanswer 1 x\nanswer 1024 x\n");
    peer.send(format!("answer {} x\n", u64::MAX));
    idle().await;
    assert_eq!(session.stats().late, 4, "before anything was asked");

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
    // twice
    peer.send(format!("answer {first} a\nanswer {first} b\n"));
    assert_eq!(
        soon(asked).await.unwrap().unwrap(),
        format!("answer {first} a")
    );
    assert_eq!(session.stats().late, 10);

    // a stale one does not find the request that came after it
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
    assert_eq!(ids.len(), 64, "as many as there are beside the slot's");
}

#[tokio::test(start_paused = true)]
async fn a_close_in_mid_request_says_whether_it_had_left() {
    let (transport, peer) = stream::pair();
    let layer = SessionLayer::new().with_queue(2).with_watermarks(0, 8);
    let (session, task) = asking(transport, words(), layer, service_fn(echo)).await;
    let gone = ask(&session, "gone");
    question(&peer).await;
    // taken by the encoder and then not by the transport
    peer.stall();
    let begun = ask(&session, "encoded");
    idle().await;
    let waits = ask(&session, "waits");
    idle().await;
    session.close_with(CloseReason::Shutdown);
    for (asked, expected, message) in [
        (gone, Left::Yes, None),
        (waits, Left::No, Some("ask 3074 waits")),
        (begun, Left::Perhaps, None),
    ] {
        match soon(asked).await.unwrap().unwrap_err() {
            RequestError::Closed {
                message: back,
                left,
                reason,
            } => {
                assert_eq!(left, expected);
                assert_eq!(back.as_deref(), message);
                assert_eq!(reason, CloseReason::Shutdown);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Shutdown);
    // and from then on
    let refused = soon(ask(&session, "late")).await.unwrap().unwrap_err();
    assert!(refused.is_closed());
    assert_eq!(refused.into_message().as_deref(), Some("late"));
}

#[tokio::test(start_paused = true)]
async fn what_was_queued_is_still_flushed_at_a_close_and_the_requester_learns_it() {
    let (session, peer, task) = asked(words()).await;
    let mut asked = task::spawn(session.request::<String>("what".to_owned()));
    assert_pending!(asked.poll());
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(question(&peer).await.1, "what");
    assert!(asked.is_woken());
    assert_eq!(left(assert_ready!(asked.poll())), Left::Yes);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_waits_for_an_answer_does_not_hold_up_the_close() {
    let (transport, peer) = stream::pair();
    let handler = service_fn(ask_back);
    let (session, task) = asking(transport, words(), SessionLayer::new(), handler).await;
    peer.send("ask 7 back\n");
    question(&peer).await;
    let begun = Instant::now();
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.is_none(), "nothing was cut off");
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_peers_end_fails_what_it_has_not_answered() {
    let (transport, peer) = stream::pair();
    let handler = service_fn(|request: Request<String>| async move {
        let (message, session) = request.into_parts();
        let asked: Result<String, _> = session.request(message).await;
        Ok::<_, BoxError>(Some(match asked {
            Ok(answer) => answer,
            Err(error) => error.to_string(),
        }))
    });
    let (session, task) = asking(transport, words(), SessionLayer::new(), handler).await;
    peer.send("one\n");
    let (id, _) = question(&peer).await;
    let asked = ask(&session, "from outside");
    question(&peer).await;
    // the answer to the first comes behind another message, and then the end
    peer.send(format!("two\nanswer {id} that\n"));
    peer.finish();
    let begun = Instant::now();
    match soon(asked).await.unwrap().unwrap_err() {
        RequestError::Closed { left, reason, .. } => {
            assert_eq!((left, reason), (Left::Yes, CloseReason::PeerClosed));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(soon(peer.line()).await, format!("answer {id} that"));
    assert_eq!(
        soon(peer.line()).await,
        "the session is closed: closed by the peer; the request had not left"
    );
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert!(begun.elapsed() < Duration::from_secs(1), "no deadline");
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_fails_and_a_session_that_is_aborted_fail_requests() {
    let (session, peer, task) = asked(words()).await;
    let asked = ask(&session, "what");
    question(&peer).await;
    peer.reset();
    let error = soon(asked).await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        RequestError::Closed {
            reason: CloseReason::Io,
            left: Left::Yes,
            ..
        }
    ));
    soon(task).await.unwrap();

    let (session, peer, task) = self::asked(words()).await;
    let asked = ask(&session, "what");
    question(&peer).await;
    task.abort();
    let error = soon(asked).await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        RequestError::Closed {
            reason: CloseReason::Dropped,
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_stack_without_the_layer_is_told_so_and_so_is_the_wrong_type() {
    let (transport, peer) = stream::pair();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    assert!(Caller::<String>::of(&session).is_none());
    let error = soon(ask(&session, "what")).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("`CorrelateLayer`"), "{error}");
    assert_eq!(error.left(), Left::No);
    assert_eq!(error.into_message().as_deref(), Some("what"));
    assert_eq!(peer.written(), 0);

    let (session, _peer, _task) = asked(words()).await;
    let wrong = soon(session.request::<u32>("what".to_owned())).await;
    assert!(matches!(wrong, Err(RequestError::NoLayer(_))));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_codec_refuses_says_so_at_once_and_the_session_goes_on() {
    use crate::sending::{Picky, Unspeakable};

    #[derive(Clone, Copy)]
    struct Unmarked;

    impl Correlate<String> for Unmarked {
        fn put(&self, _: u64, _: &mut String) {}
        fn answers(&self, _: &String) -> Option<u64> {
            None
        }
    }

    let (transport, peer) = stream::pair();
    let (session, _task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Picky))
            .layer(CorrelateLayer::new(Unmarked))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(echo)
    })
    .await
    .unwrap();
    let begun = Instant::now();
    match soon(ask(&session, "bad")).await.unwrap() {
        Err(RequestError::Encode(source)) => assert!(source.is::<Unspeakable>()),
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    peer.send("hello\n");
    assert_eq!(soon(peer.line()).await, "hello");
}

#[tokio::test(start_paused = true)]
async fn a_correlator_that_panics_leaves_nothing_behind() {
    #[derive(Clone, Copy)]
    struct Broken;

    impl Correlate<String> for Broken {
        fn put(&self, _: u64, message: &mut String) {
            assert!(message != "bad", "it is");
        }
        fn answers(&self, message: &String) -> Option<u64> {
            Words.answers(message)
        }
    }

    let (transport, _peer) = stream::pair();
    let correlate = CorrelateLayer::new(Broken).with_in_flight(1);
    let (session, _task) =
        asking(transport, correlate, SessionLayer::new(), service_fn(echo)).await;
    assert!(ask(&session, "bad").await.unwrap_err().is_panic());
    assert!(!session.awaits_answers());
    let mut asked = task::spawn(session.request::<String>("good".to_owned()));
    assert_pending!(asked.poll(), "there is room for it");
}

#[tokio::test(start_paused = true)]
async fn in_order_answers_need_no_ids() {
    let (transport, peer) = stream::pair();
    let correlate = CorrelateLayer::in_order().with_push(|message: &String| message == "push");
    let (session, _task) =
        asking(transport, correlate, SessionLayer::new(), service_fn(echo)).await;
    peer.send("welcome\n");
    assert_eq!(soon(peer.line()).await, "welcome", "nobody had asked");
    let asked = ["one", "two", "three"].map(|what| ask(&session, what));
    assert_eq!(soon(peer.lines(3)).await, ["one", "two", "three"]);
    // one that is given up gets its answer all the same
    asked[1].abort();
    idle().await;
    peer.send("1\npush\n2\n3\n");
    let [first, _, third] = asked;
    assert_eq!(soon(first).await.unwrap().unwrap(), "1");
    assert_eq!(soon(third).await.unwrap().unwrap(), "3");
    assert_eq!(session.stats().late, 1);
    assert_eq!(soon(peer.line()).await, "push", "which is echoed");
}

/// A request that the codec refuses, be its future there still or not, is not among those that the peer answers.
#[tokio::test(start_paused = true)]
async fn a_request_in_order_that_the_codec_refuses_takes_no_answer_from_others() {
    use crate::sending::{Picky, Unspeakable};

    let (transport, peer) = stream::pair();
    let (session, _task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Picky))
            .layer(CorrelateLayer::in_order().with_in_flight(4))
            .layer(link)
            .layer(SessionLayer::new().with_watermarks(0, 0))
            .service_fn(echo)
    })
    .await
    .unwrap();
    for _ in 0..3 {
        // so that all of them wait in the queue, and the requester has not looked when the answers come
        peer.stall();
        let first = ask(&session, "first");
        idle().await;
        let [given_up, refused, second] = ["bad", "bad", "second"].map(|what| ask(&session, what));
        idle().await;
        given_up.abort();
        idle().await;
        peer.take_all();
        assert_eq!(soon(peer.lines(2)).await, ["first", "second"]);
        peer.send("1\n2\n");
        assert_eq!(soon(first).await.unwrap().unwrap(), "1");
        match soon(refused).await.unwrap() {
            Err(RequestError::Encode(source)) => assert!(source.is::<Unspeakable>()),
            other => panic!("{other:?}"),
        }
        let second = soon(second).await.unwrap();
        assert_eq!(second.expect("nobody else has its answer"), "2");
    }
    assert_eq!(session.stats().late, 0);
    assert!(!session.awaits_answers());
}

#[tokio::test(start_paused = true)]
async fn in_order_answers_find_requests_of_many_tasks() {
    let (listener, dialer) = net::memory(16);
    let server = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    tokio::spawn(serve(listener, server).into_future());
    let (session, _task) = getty::connect(dialer, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(CorrelateLayer::in_order())
            .layer(link)
            .layer(SessionLayer::new().with_queue(4))
            .service_fn(|_: Request<String>| async { Ok::<Option<String>, BoxError>(None) })
    })
    .await
    .unwrap();
    let tasks = (0..20).map(|task| {
        let session = session.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let what = format!("{task}-{n}");
                let asked = session.request::<String>(what.clone());
                if n % 7 == 3 {
                    // given up in the middle of everything
                    let _ = timeout(Duration::ZERO, asked).await;
                } else {
                    assert_eq!(asked.await.unwrap(), what);
                }
            }
        })
    });
    for task in soon(join_all(tasks)).await {
        task.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn answers_count_as_activity() {
    let (session, peer, _task) = asked(words()).await;
    advance(Duration::from_secs(10)).await;
    let asked = ask(&session, "what");
    let (id, _) = question(&peer).await;
    let before = session.last_active();
    peer.send(format!("answer {id}\n"));
    soon(asked).await.unwrap().unwrap();
    idle().await;
    assert!(session.last_active() > before);
}

#[tokio::test(start_paused = true)]
async fn a_session_refused_while_it_opens_fails_requests() {
    let (transport, _peer) = stream::pair();
    let opening = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(words())
            .layer(link)
            .layer(getty::layers::OnOpenLayer::new(
                |session: Session<String>| async move {
                    let asked = session.request::<String>("what".to_owned());
                    let error = asked.within(Duration::from_secs(1)).await.unwrap_err();
                    assert!(error.is_deadline(), "nothing is received as yet");
                    Err::<(), _>(io::Error::other("refused"))
                },
            ))
            .layer(SessionLayer::new())
            .service_fn(echo)
    });
    assert!(matches!(soon(opening).await, Err(OpenError::Open(_))));
}
