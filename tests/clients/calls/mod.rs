//! Clients that are services: calls, under tower's middleware, over sessions that come and go.

mod middleware;
mod silent;

use std::{
    cell::Cell,
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use getty::{
    BoxError, CloseReason, CodecLayer, Listener, MultiplexClient, Pipeline, PipelineClient,
    Request, Service, ServiceBuilder, Session, SessionLayer, SessionTask, Transport,
    client::Client,
    codec::Lines,
    layers::{
        CorrelateLayer,
        correlate::{Left, Matching, RequestError},
    },
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{ServiceExt, load::Load};

use crate::{
    support::{Place, echo, even, idle, ms, soon},
    words::Words,
};

/// What was asked, or answered.
fn what(line: &str) -> &str {
    line.splitn(3, ' ').last().unwrap_or_default()
}

/// Answers by id, out of order, and notes what it was asked; `mute` is never answered.
fn answering<T: Transport + Send + 'static>(asked: Asked) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new().in_flight(64).unordered())
        .service_fn(move |request: Request<String>| {
            let message = request.into_message();
            asked.0.lock().unwrap().push(what(&message).to_owned());
            async move {
                let what = what(&message);
                if what == "mute" {
                    std::future::pending::<()>().await;
                }
                sleep(ms(what.len() as u64 % 7)).await;
                Ok::<_, BoxError>(Some(message.replacen("ask", "answer", 1)))
            }
        })
}

#[derive(Clone, Debug, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// A client's stack around a correlating layer; what is no answer goes to `pushes`.
fn calling<M>(
    matching: CorrelateLayer<M>,
    pushes: mpsc::UnboundedSender<String>,
) -> impl Fn(getty::LinkLayer<String>) -> Stack + Send + Sync + 'static
where
    M: Matching<String, String> + Clone,
{
    move |link| {
        let pushes = pushes.clone();
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(matching.clone())
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                let _ = pushes.send(request.into_message());
                ready(Ok::<Option<String>, BoxError>(None))
            });
        getty::BoxPipeline::new(stack)
    }
}

type Stack = getty::BoxPipeline;

fn by_id() -> impl Fn(getty::LinkLayer<String>) -> Stack + Send + Sync + 'static {
    calling(CorrelateLayer::new(Words), mpsc::unbounded_channel().0)
}

fn in_order() -> impl Fn(getty::LinkLayer<String>) -> Stack + Send + Sync + 'static {
    calling(CorrelateLayer::in_order(), mpsc::unbounded_channel().0)
}

/// One session to `place`.
async fn session(
    place: &Place,
    stack: impl FnOnce(getty::LinkLayer<String>) -> Stack,
) -> (Session<String>, SessionTask) {
    getty::connect(place.connector(), (), stack).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn calls_are_answered_whoever_makes_them_and_in_whatever_order() {
    let place = Place::default();
    let _server = place.serve(answering(Asked::default()));
    let (session, _task) = session(&place, by_id()).await;
    let client: MultiplexClient<String> = MultiplexClient::new(session);
    let calls = (0..500).map(|n| {
        let client = client.clone();
        let what = "x".repeat(n % 50 + 1);
        async move { assert!(client.oneshot(what.clone()).await.unwrap().ends_with(&what)) }
    });
    soon(join_all(calls)).await;
    assert_eq!(client.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_is_answered_in_order() {
    let place = Place::default();
    let _server = place.serve(echo());
    let (session, _task) = session(&place, in_order()).await;
    let client: PipelineClient<String> = PipelineClient::new(session);
    let calls = (0..500).map(|n| {
        let client = client.clone();
        async move { assert_eq!(client.oneshot(n.to_string()).await.unwrap(), n.to_string()) }
    });
    soon(join_all(calls)).await;
}

#[test]
fn clients_can_be_kept_where_many_threads_see_them() {
    const fn anywhere<T: Clone + Send + Sync + 'static>() {}
    anywhere::<MultiplexClient<String>>();
    anywhere::<PipelineClient<String, String, Client<String>>>();
    // messages need not be shared to be sent
    anywhere::<MultiplexClient<Cell<u8>, Cell<u8>, Client<Cell<u8>>>>();
}

#[tokio::test(start_paused = true)]
async fn readiness_is_a_place_among_the_calls_in_flight() {
    let place = Place::default();
    let _server = place.serve(answering(Asked::default()));
    let (session, _task) = session(&place, by_id()).await;
    let client = MultiplexClient::<String>::new(session).with_in_flight(2);
    let mut first = task::spawn(client.clone());
    let mut second = task::spawn(client.clone());
    let mut third = task::spawn(client.clone());
    assert_ready_ok!(first.enter(|cx, mut service| service.poll_ready(cx)));
    assert_ready_ok!(first.enter(|cx, mut service| service.poll_ready(cx)));
    assert_eq!(client.load(), 1, "one place, however often it is asked for");
    assert_ready_ok!(second.enter(|cx, mut service| service.poll_ready(cx)));
    assert_pending!(third.enter(|cx, mut service| service.poll_ready(cx)));
    // a clone of one that is ready is not
    let mut clone = task::spawn((*second).clone());
    assert_pending!(clone.enter(|cx, mut service| service.poll_ready(cx)));
    drop(clone);

    // one that is dropped gives its place back
    drop(second);
    assert!(third.is_woken());
    assert_ready_ok!(third.enter(|cx, mut service| service.poll_ready(cx)));

    // and so does a call, when it is answered or dropped
    let mut fourth = task::spawn(client.clone());
    let call = first.call("what".to_owned());
    assert_pending!(fourth.enter(|cx, mut service| service.poll_ready(cx)));
    soon(call).await.unwrap();
    assert!(fourth.is_woken());
    assert_ready_ok!(fourth.enter(|cx, mut service| service.poll_ready(cx)));
    let mut call = task::spawn(third.call("mute".to_owned()));
    assert_pending!(call.poll());
    let mut fifth = task::spawn(client.clone());
    assert_pending!(fifth.enter(|cx, mut service| service.poll_ready(cx)));
    drop(call);
    assert!(fifth.is_woken());
    assert_ready_ok!(fifth.enter(|cx, mut service| service.poll_ready(cx)));
    assert_eq!(client.load(), 2);
    drop((fourth, fifth));
    assert_eq!(client.load(), 0);
}

#[tokio::test]
#[should_panic(expected = "polled ready before")]
async fn a_call_without_readiness_is_a_mistake() {
    let place = Place::default();
    let _server = place.serve(echo());
    let (session, _task) = session(&place, in_order()).await;
    let mut client: PipelineClient<String> = PipelineClient::new(session);
    drop(client.call("what".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_of_a_pipeline_does_not_shift_the_answers() {
    let place = Place::default();
    let _server = place.serve(echo());
    let (session, _task) = session(&place, in_order()).await;
    let mut client: PipelineClient<String> = PipelineClient::new(session.clone());
    for n in 0..50_u64 {
        let kept = client.ready().await.unwrap().call(format!("kept {n}"));
        let mut kept = task::spawn(kept);
        assert_pending!(kept.poll());
        let dropped = client.ready().await.unwrap().call(format!("dropped {n}"));
        let mut dropped = task::spawn(dropped);
        assert_pending!(dropped.poll());
        drop(dropped);
        let last = client.ready().await.unwrap().call(format!("last {n}"));
        assert_eq!(soon(last).await.unwrap(), format!("last {n}"));
        assert_eq!(assert_ready_ok!(kept.poll()), format!("kept {n}"));
        assert_eq!(session.stats().late, n + 1);
    }
    assert_eq!(client.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_of_its_own_accord_is_the_handlers() {
    let place = Place::default();
    let mut listener = place.listen();
    let (pushes, mut pushed) = mpsc::unbounded_channel();
    let matching =
        CorrelateLayer::in_order().with_push(|message: &String| message.starts_with('>'));
    let opening = session(&place, calling(matching, pushes));
    let accepting = async {
        let accept = std::future::poll_fn(|cx| listener.poll_accept(cx));
        let connection = accept.await.unwrap();
        let (stream, lease) = connection.into_parts();
        (tokio_util::codec::Framed::new(stream, Lines::new()), lease)
    };
    let ((session, _task), (mut server, _lease)) =
        soon(async { tokio::join!(opening, accepting) }).await;
    use futures_util::{SinkExt, StreamExt};
    let mut client: PipelineClient<String> = PipelineClient::new(session);
    server.send("welcome".to_owned()).await.unwrap();
    assert_eq!(soon(pushed.recv()).await.as_deref(), Some("welcome"));
    let call = tokio::spawn(client.ready().await.unwrap().call("what".to_owned()));
    assert_eq!(soon(server.next()).await.unwrap().unwrap(), "what");
    server.send("> news".to_owned()).await.unwrap();
    server.send("that".to_owned()).await.unwrap();
    assert_eq!(soon(call).await.unwrap().unwrap(), "that");
    assert_eq!(soon(pushed.recv()).await.as_deref(), Some("> news"));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_closes_fails_its_calls_and_the_readiness() {
    let place = Place::default();
    let _server = place.serve(answering(Asked::default()));
    let (session, _task) = session(&place, by_id()).await;
    let client = MultiplexClient::<String>::new(session.clone()).with_in_flight(1);
    assert!(client.is_live());
    let call = tokio::spawn(client.clone().oneshot("mute".to_owned()));
    idle().await;
    let mut waits = task::spawn(client.clone());
    assert_pending!(waits.enter(|cx, mut service| service.poll_ready(cx)));

    session.close_with(CloseReason::Shutdown);
    let error = soon(call).await.unwrap().unwrap_err();
    assert_eq!(error.left(), Left::Yes);
    assert!(waits.is_woken());
    let error = assert_ready_err!(waits.enter(|cx, mut service| service.poll_ready(cx)));
    assert!(matches!(
        error,
        RequestError::Closed {
            message: None,
            left: Left::No,
            reason: CloseReason::Shutdown,
        }
    ));
    assert!(!client.is_live());
    assert_eq!(client.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn while_a_client_reconnects_calls_wait_and_when_it_stops_they_fail() {
    let place = Place::default();
    let server = place.serve(echo());
    let client = even().connect(place.connector(), (), in_order());
    let mut calls = PipelineClient::<String, String, _>::new(client.clone());
    assert_eq!(
        soon(calls.ready())
            .await
            .unwrap()
            .call("1".to_owned())
            .await
            .unwrap(),
        "1"
    );
    drop(server);
    idle().await;
    assert!(!calls.is_live());
    let mut waiting = task::spawn(calls.clone());
    assert_pending!(waiting.enter(|cx, mut service| service.poll_ready(cx)));
    assert_eq!(calls.load(), 0, "it has no place while there is no session");

    let _server = place.serve(echo());
    assert_eq!(
        soon(calls.ready())
            .await
            .unwrap()
            .call("2".to_owned())
            .await
            .unwrap(),
        "2"
    );
    assert!(waiting.is_woken());
    assert_ready_ok!(waiting.enter(|cx, mut service| service.poll_ready(cx)));

    client.stop();
    let error = soon(calls.ready()).await.unwrap_err();
    assert!(matches!(error, RequestError::Unavailable(_)), "{error}");
    assert_eq!(error.left(), Left::No);
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_the_wrong_kind_is_told_so() {
    let place = Place::default();
    let _server = place.serve(echo());
    let (session, _task) = session(&place, in_order()).await;
    let mut wrong = MultiplexClient::<String>::new(session.clone());
    let error: BoxError = wrong.ready().await.unwrap_err().into();
    let source = error.source().unwrap().to_string();
    assert!(source.contains("`CorrelateLayer::new(…)`"), "{source}");
    let mut wrong = PipelineClient::<u32, String>::new(session);
    let error: BoxError = wrong.ready().await.unwrap_err().into();
    let source = error.source().unwrap().to_string();
    assert!(source.contains("`CorrelateLayer::in_order()`"), "{source}");
}

#[tokio::test(start_paused = true)]
async fn a_server_restarted_under_load_answers_each_call_once_or_the_call_says_why_not() {
    let place = Place::default();
    let asked = Asked::default();
    let mut server = place.serve(answering(asked.clone()));
    let client: Client<String> =
        Client::builder()
            .with_sessions(4)
            .connect(place.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client.clone());
    let (mut answered, mut failed) = (0, 0);
    let workers: Vec<_> = (0..16)
        .map(|worker| {
            let mut calls = calls.clone();
            tokio::spawn(async move {
                let (mut answered, mut failed) = (0, 0);
                for n in 0..200 {
                    let what = format!("{worker}-{n}");
                    let call = calls.ready().await.unwrap().call(what.clone());
                    match call.await {
                        Ok(answer) => {
                            assert!(answer.ends_with(&format!(" {what}")), "{answer}");
                            answered += 1;
                        }
                        Err(RequestError::Closed { .. }) => failed += 1,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                (answered, failed)
            })
        })
        .collect();
    for _ in 0..50 {
        sleep(ms(17)).await;
        drop(server);
        sleep(ms(40)).await;
        server = place.serve(answering(asked.clone()));
        soon(client.session()).await.unwrap();
    }
    for worker in workers {
        let (a, f) = soon(worker).await.unwrap();
        answered += a;
        failed += f;
    }
    assert_eq!(answered + failed, 16 * 200);
    assert!(failed > 0 && answered > failed, "{answered} {failed}");
    // nothing was asked twice
    let mut asked = asked.0.lock().unwrap().clone();
    let all = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), all);
    assert_eq!(calls.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_session_can_be_given_up() {
    let place = Place::default();
    let client = even().connect(place.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client);
    let call = timeout(
        Duration::from_secs(60),
        calls.clone().oneshot("what".to_owned()),
    );
    assert!(soon(call).await.is_err());
    assert_eq!(calls.load(), 0);
    let mut once = task::spawn(calls);
    assert_pending!(once.enter(|cx, mut service| service.poll_ready(cx)));
    let _server = place.serve(answering(Asked::default()));
    soon(async {
        while !once.is_woken() {
            idle().await;
        }
    })
    .await;
    assert!(assert_ready!(once.enter(|cx, mut service| service.poll_ready(cx))).is_ok());
}
