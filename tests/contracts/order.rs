//! Concurrency of handlers, and order of their replies and of the messages that they queue.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use getty::{BoxError, CloseReason, Reply, Request, SessionLayer, service_fn};
use getty_test::stream;
use tokio::sync::{Semaphore, oneshot};

use crate::support::{Answer, echo, idle, lines, open, soon};

/// Handlers that wait until the test lets one finish.
#[derive(Clone, Debug)]
struct Crowd {
    turns: Arc<Semaphore>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Crowd {
    fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(0)),
            now: Arc::default(),
            most: Arc::default(),
        }
    }

    async fn handle(self, request: Request<String>) -> Answer {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        self.turns.acquire().await?.forget();
        self.now.fetch_sub(1, SeqCst);
        echo(request).await
    }
}

async fn most_at_once(layer: SessionLayer) -> usize {
    let (transport, peer) = stream();
    let crowd = Crowd::new();
    let handler = crowd.clone();
    let (_session, _task) = open(
        transport,
        lines(),
        layer,
        service_fn(move |request| handler.clone().handle(request)),
    )
    .await;
    peer.send("1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    for left in (0..9).rev() {
        idle().await;
        let now = crowd.now.load(SeqCst);
        assert_eq!(
            now,
            crowd.most.load(SeqCst).min(left + 1),
            "no permit may stay unused"
        );
        crowd.turns.add_permits(1);
    }
    let mut answers = soon(peer.lines(9)).await;
    answers.sort();
    assert_eq!(answers.concat(), "123456789");
    crowd.most.load(SeqCst)
}

#[tokio::test(start_paused = true)]
async fn handlers_run_one_at_a_time_by_default() {
    assert_eq!(most_at_once(SessionLayer::new()).await, 1);
    assert_eq!(most_at_once(SessionLayer::new().with_in_flight(0)).await, 1);
    assert_eq!(most_at_once(SessionLayer::new().unordered()).await, 1);
}

#[tokio::test(start_paused = true)]
async fn as_many_handlers_run_at_once_as_are_set() {
    assert_eq!(most_at_once(SessionLayer::new().with_in_flight(4)).await, 4);
    let unordered = SessionLayer::new().with_in_flight(4).unordered();
    assert_eq!(most_at_once(unordered).await, 4);
}

/// A handler whose requests finish in the order in which the test names them.
#[derive(Clone, Debug, Default)]
struct Named(Arc<Mutex<Vec<Waiting>>>);

type Waiting = (String, oneshot::Sender<()>);

impl Named {
    async fn handle(self, request: Request<String>) -> Answer {
        let (finish, finished) = oneshot::channel();
        let name = request.message().clone();
        self.0.lock().unwrap().push((name, finish));
        finished.await?;
        echo(request).await
    }

    async fn finish(&self, name: &str) {
        idle().await;
        let mut waiting = self.0.lock().unwrap();
        let at = waiting.iter().position(|(waiting, _)| waiting == name);
        let (_, finish) = waiting.remove(at.expect("this handler runs"));
        finish.send(()).expect("the handler still waits");
    }
}

#[tokio::test(start_paused = true)]
async fn replies_are_sent_in_the_order_of_their_requests() {
    let (transport, peer) = stream();
    let named = Named::default();
    let handler = named.clone();
    let (_session, _task) = open(
        transport,
        lines(),
        SessionLayer::new().with_in_flight(3),
        service_fn(move |request| handler.clone().handle(request)),
    )
    .await;
    peer.send("a\nb\nc\nd\n");
    named.finish("c").await;
    named.finish("b").await;
    idle().await;
    assert_eq!(peer.output(), "", "the first request is not answered yet");
    named.finish("a").await;
    idle().await;
    assert_eq!(peer.output(), "a\nb\nc\n");
    named.finish("d").await;
    assert_eq!(soon(peer.lines(4)).await.concat(), "abcd");
}

#[tokio::test(start_paused = true)]
async fn unordered_replies_are_sent_as_handlers_finish() {
    let (transport, peer) = stream();
    let named = Named::default();
    let handler = named.clone();
    let (_session, _task) = open(
        transport,
        lines(),
        SessionLayer::new().with_in_flight(3).unordered(),
        service_fn(move |request| handler.clone().handle(request)),
    )
    .await;
    peer.send("a\nb\nc\nd\n");
    for name in ["c", "a", "d", "b"] {
        named.finish(name).await;
        assert_eq!(soon(peer.line()).await, name);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_a_handler_queues_are_sent_before_its_reply() {
    for layer in [
        SessionLayer::new(),
        SessionLayer::new().with_in_flight(2),
        SessionLayer::new().with_in_flight(2).unordered(),
    ] {
        let (transport, peer) = stream();
        let handler = service_fn(|request: Request<String>| async move {
            let session = request.session();
            session.try_send("tried".to_owned())?;
            session.feed("fed".to_owned()).await?;
            session.send("sent".to_owned()).await?;
            session.try_send("tried again".to_owned())?;
            echo(request).await
        });
        let (_session, _task) = open(transport, lines(), layer, handler).await;
        peer.send("1\n2\n");
        let kinds = ["tried", "fed", "sent", "tried again"];
        let mut answers = soon(peer.lines(10)).await;
        for n in ["1", "2"] {
            // Messages of two handlers may alternate, but each handler's messages come before its
            // reply.
            let own = answers.iter().position(|answer| answer == n).unwrap();
            for what in kinds {
                let at = answers.iter().position(|answer| answer == what);
                assert!(at.is_some_and(|at| at < own), "{what} of {n}: {answers:?}");
            }
            for what in kinds.into_iter().chain([n]) {
                let at = answers.iter().position(|answer| answer == what).unwrap();
                answers[at].clear();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_handler_that_never_waits_are_sent_before_its_reply() {
    for n in [1, 2] {
        let (transport, peer) = stream();
        let handler = service_fn(|request: Request<String>| {
            let queued = request
                .session()
                .try_send(format!("before {}", request.message()));
            async move {
                queued?;
                echo(request).await
            }
        });
        let layer = SessionLayer::new().with_in_flight(n);
        let (_session, _task) = open(transport, lines(), layer, handler).await;
        peer.send("1\n2\n");
        let received = soon(peer.lines(4)).await;
        for (before, reply) in [("before 1", "1"), ("before 2", "2")] {
            let place = |what| received.iter().position(|line| line == what);
            assert!(place(before) < place(reply), "{received:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn messages_of_one_reply_are_sent_together_and_in_order() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        let session = request.session().clone();
        tokio::spawn(async move { session.feed("other".to_owned()).await });
        tokio::task::yield_now().await;
        Ok::<_, BoxError>(vec!["1".to_owned(), "2".to_owned(), "3".to_owned()])
    });
    let (_session, _task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.send("go\ngo\ngo\n");
    let answers = soon(peer.lines(12)).await.concat();
    assert_eq!(answers.matches("123").count(), 3, "{answers}");
    assert_eq!(answers.matches("other").count(), 3, "{answers}");
}

#[tokio::test(start_paused = true)]
async fn handler_may_await_the_next_message_of_its_peer() {
    let (transport, peer) = stream();
    let asked: Arc<Mutex<Option<oneshot::Sender<String>>>> = Arc::default();
    let handler = service_fn(move |request: Request<String>| {
        let asked = Arc::clone(&asked);
        async move {
            if request.message() != "begin" {
                let asked = asked.lock().unwrap().take().ok_or("nothing was asked")?;
                asked.send(request.into_message()).map_err(|_| "gone")?;
                return Ok(None);
            }
            let (ask, answer) = oneshot::channel();
            *asked.lock().unwrap() = Some(ask);
            request.session().send("your name?".to_owned()).await?;
            Ok::<_, BoxError>(Some(format!("hello {}", answer.await?)))
        }
    });
    let layer = SessionLayer::new().with_in_flight(2);
    let (_session, _task) = open(transport, lines(), layer, handler).await;
    peer.send("begin\n");
    assert_eq!(soon(peer.line()).await, "your name?");
    peer.send("guest\n");
    assert_eq!(soon(peer.line()).await, "hello guest");
}

#[tokio::test(start_paused = true)]
async fn reply_that_closes_is_flushed_and_is_the_last() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        let reply = Reply::one(request.message().clone());
        Ok::<_, BoxError>(match request.message().as_str() {
            "bye" => reply.and_close_with(CloseReason::LifetimeExpired),
            _ => reply,
        })
    });
    let (_session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.send("hi\nbye\nmore\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::LifetimeExpired);
    assert_eq!(peer.output(), "hi\nbye\n");
    assert!(peer.is_shut());
}
