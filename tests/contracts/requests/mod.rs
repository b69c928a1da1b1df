//! Requests in both directions. Each response must find its request. A request without a
//! response must fail with a cause.

mod ends;
mod in_order;
mod limits;

use std::time::Duration;

use futures_util::future::join_all;
use getty::{
    BoxError, CodecLayer, Request, Service, ServiceBuilder, Session, SessionLayer, SessionTask,
    Transport,
    hooks::HandleExt,
    layers::{
        Correlate, CorrelateLayer,
        correlate::{ById, Caller, Delivery, Matching, RequestError},
    },
    net, serve, service_fn,
};
use getty_test::{Peer, messages, stream};
use tokio::{
    task::JoinHandle,
    time::{Instant, advance},
};
use tokio_test::{assert_pending, task};

use crate::support::{Answer, connector, echo, idle, lines, open, soon, words::Words};

type ByWords = CorrelateLayer<ById<Words>>;

/// A session over `transport` that can send requests.
async fn asking<T, S, M>(
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
    .expect("the dial cannot fail")
}

/// A session whose peer is the test.
async fn asked(correlate: ByWords) -> (Session<String>, Peer, SessionTask) {
    let (transport, peer) = stream();
    let handler = service_fn(echo);
    let (session, task) = asking(transport, correlate, SessionLayer::new(), handler).await;
    (session, peer, task)
}

fn words() -> ByWords {
    CorrelateLayer::new(Words)
}

pub(crate) type Asked = JoinHandle<Result<String, RequestError<String>>>;

/// Sends a request on a separate task.
fn ask(session: &Session<String>, what: &str) -> Asked {
    tokio::spawn(session.request(what.to_owned()))
}

/// Returns the id and the text of the next request that the peer receives.
async fn question(peer: &Peer) -> (u64, String) {
    let line = soon(peer.line()).await;
    let (id, what) = line
        .strip_prefix("ask ")
        .and_then(|line| line.split_once(' '))
        .expect("the line is a request");
    (id.parse().unwrap(), what.to_owned())
}

fn left<T: std::fmt::Debug>(failed: Result<T, RequestError<String>>) -> Delivery {
    failed.unwrap_err().delivery()
}

#[tokio::test(start_paused = true)]
async fn response_finds_its_request_in_any_order() {
    let (session, peer, _task) = asked(words()).await;
    let (first, second) = (ask(&session, "first"), ask(&session, "second"));
    let (one, what) = question(&peer).await;
    assert_eq!(what, "first");
    let (two, what) = question(&peer).await;
    assert_eq!(what, "second", "requests must be sent in order");
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
    assert!(!session.awaits_responses());
}

#[tokio::test(start_paused = true)]
async fn handler_gets_messages_that_are_not_responses() {
    let (session, peer, _task) = asked(words()).await;
    let asked = ask(&session, "first");
    let (id, _) = question(&peer).await;
    peer.send(format!("a notice\nanswer {id}\nask 1 what\n"));
    assert_eq!(soon(peer.lines(2)).await, ["a notice", "ask 1 what"]);
    soon(asked).await.unwrap().unwrap();
}

/// Replies to requests. If the message asks for it, the handler first sends a request to its
/// own peer.
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
async fn handler_awaits_its_own_peer_with_one_in_flight() {
    let (transport, peer) = stream();
    let handler = service_fn(ask_back);
    let (_session, _task) = asking(transport, words(), SessionLayer::new(), handler).await;
    // Other requests come before the response. Half of one comes after it.
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
        "no message may be lost or reordered"
    );
    peer.send("ree\n");
    assert_eq!(soon(peer.line()).await, "answer 10 three");
}

#[tokio::test(start_paused = true)]
async fn handler_awaits_its_own_peer_on_a_message_transport() {
    let (transport, peer) = messages(getty::transport::Framing::Messages);
    let handler = service_fn(ask_back);
    let (_session, _task) = asking(transport, words(), SessionLayer::new(), handler).await;
    peer.send("ask 7 back\n");
    let asked = soon(peer.text()).await;
    let id = asked.split(' ').nth(1).unwrap();
    peer.send("ask 8 one\n");
    peer.send("ask 9 two\n");
    peer.send(format!("answer {id} forth\n"));
    for expected in [
        "answer 7 back-and-forth\n",
        "answer 8 one\n",
        "answer 9 two\n",
    ] {
        assert_eq!(soon(peer.text()).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn response_arrives_while_the_message_stack_is_not_ready() {
    let (transport, peer) = stream();
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
        "messages must stay in order"
    );
}

#[tokio::test(start_paused = true)]
async fn response_arrives_above_the_high_watermark() {
    let (transport, peer) = stream();
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
async fn deadline_ends_the_wait_for_a_response_beyond_the_read_ahead_bound() {
    const BOUND: usize = 1024;
    for (before, is_answered) in [(BOUND - 200, true), (2 * BOUND, false)] {
        let (transport, peer) = stream();
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
                        Err(RequestError::Deadline { delivery: left, .. }) => {
                            format!("deadline, {left:?}")
                        }
                        Err(error) => return Err(error.into()),
                    }))
                })
        })
        .await
        .unwrap();
        peer.send("go\n");
        let (id, _) = question(&peer).await;
        let start = Instant::now();
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
            assert_eq!(line, "deadline, Sent");
            assert!(start.elapsed() >= Duration::from_secs(5));
        }
        // All requests must have their responses.
        assert_eq!(soon(peer.lines(lines)).await, vec!["123456789"; lines]);
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_send_requests_at_once() {
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
    // Each of our requests makes the server send one. Its response will be behind more of our
    // requests.
    let caller: Caller<String> = Caller::of(&session).unwrap();
    let asked = join_all((0..100).map(|_| caller.request("back".to_owned())));
    for answer in soon(asked).await {
        let answer: String = answer.unwrap();
        assert!(answer.ends_with(" back-and-forth"), "{answer}");
    }
    assert_eq!(caller.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn request_without_the_layer_or_of_the_wrong_type_fails() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    assert!(Caller::<String>::of(&session).is_none());
    let error = soon(ask(&session, "what")).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("`CorrelateLayer`"), "{error}");
    assert_eq!(error.delivery(), Delivery::NotSent);
    assert_eq!(error.into_message().as_deref(), Some("what"));
    assert_eq!(peer.written(), 0);

    let (session, _peer, _task) = asked(words()).await;
    let wrong = soon(session.request::<u32>("what".to_owned())).await;
    assert!(matches!(wrong, Err(RequestError::NoLayer(_))));
}

#[tokio::test(start_paused = true)]
async fn refused_request_fails_at_once_and_the_session_continues() {
    use crate::sending::{Picky, Unspeakable};

    #[derive(Clone, Copy)]
    struct Unmarked;

    impl Correlate<String> for Unmarked {
        fn put(&self, _: u64, _: &mut String) {}
        fn response_id(&self, _: &String) -> Option<u64> {
            None
        }
    }

    let (transport, peer) = stream();
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
    let start = Instant::now();
    match soon(ask(&session, "bad")).await.unwrap() {
        Err(RequestError::Encode(source)) => assert!(source.is::<Unspeakable>()),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < Duration::from_secs(1));
    peer.send("hello\n");
    assert_eq!(soon(peer.line()).await, "hello");
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_correlator_leaves_nothing_behind() {
    #[derive(Clone, Copy)]
    struct Broken;

    impl Correlate<String> for Broken {
        fn put(&self, _: u64, message: &mut String) {
            assert!(message != "bad", "a bad message");
        }
        fn response_id(&self, message: &String) -> Option<u64> {
            Words.response_id(message)
        }
    }

    let (transport, _peer) = stream();
    let correlate = CorrelateLayer::new(Broken).with_in_flight(1);
    let (session, _task) =
        asking(transport, correlate, SessionLayer::new(), service_fn(echo)).await;
    assert!(ask(&session, "bad").await.unwrap_err().is_panic());
    assert!(!session.awaits_responses());
    let mut asked = task::spawn(session.request::<String>("good".to_owned()));
    assert_pending!(asked.poll(), "the queue has room");
}

#[tokio::test(start_paused = true)]
async fn responses_count_as_activity() {
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
