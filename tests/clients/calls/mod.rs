//! Clients as tower services: calls over one session or over the sessions of a client that
//! reconnects.

mod middleware;
mod silent;

use std::{
    cell::Cell,
    future::{Future, pending, ready},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use getty::{
    BoxError, CloseReason, CodecLayer, Listener, MultiplexClient, Pipeline, PipelineClient,
    Request, Service, ServiceBuilder, Session, SessionLayer, SessionTask, Transport,
    call::SessionSource,
    client::Client,
    codec::Lines,
    layers::{
        CorrelateLayer,
        correlate::{Delivery, Matching, RequestError},
    },
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{ServiceExt, load::Load};

use crate::{
    shared::words::Words,
    support::{Host, echo, idle, ms, soon, without_jitter},
};

/// Returns the payload of a request or a response. It follows the id.
fn payload(line: &str) -> &str {
    line.splitn(3, ' ').last().unwrap_or_default()
}

/// Returns a server's stack that responds by id and out of order. It logs each request and
/// never responds to `mute`.
fn server_by_id<T: Transport + Send + 'static>(log: RequestLog) -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new().with_in_flight(64).unordered())
        .service_fn(move |request: Request<String>| {
            let message = request.into_message();
            log.0.lock().unwrap().push(payload(&message).to_owned());
            async move {
                let payload = payload(&message);
                if payload == "mute" {
                    pending::<()>().await;
                }
                sleep(ms(payload.len() as u64 % 7)).await;
                Ok::<_, BoxError>(Some(message.replacen("ask", "answer", 1)))
            }
        })
}

/// The payloads of all requests that a server received.
#[derive(Clone, Debug, Default)]
struct RequestLog(Arc<Mutex<Vec<String>>>);

impl RequestLog {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Returns a function that builds a client's stack with the layer `matching`. Unsolicited
/// messages go to `pushes`.
fn client_stack<M>(
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
    client_stack(CorrelateLayer::new(Words), mpsc::unbounded_channel().0)
}

fn in_order() -> impl Fn(getty::LinkLayer<String>) -> Stack + Send + Sync + 'static {
    client_stack(CorrelateLayer::in_order(), mpsc::unbounded_channel().0)
}

/// Opens one session to `host`.
async fn session(
    host: &Host,
    stack: impl FnOnce(getty::LinkLayer<String>) -> Stack,
) -> (Session<String>, SessionTask) {
    getty::connect(host.connector(), (), stack).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn concurrent_calls_get_their_own_responses_in_any_order() {
    let host = Host::default();
    let _server = host.serve(server_by_id(RequestLog::default()));
    let (session, _task) = session(&host, by_id()).await;
    let client: MultiplexClient<String> = MultiplexClient::new(session);
    let calls = (0..500).map(|n| {
        let client = client.clone();
        let payload = "x".repeat(n % 50 + 1);
        async move {
            let response = client.oneshot(payload.clone()).await.unwrap();
            assert!(response.ends_with(&payload));
        }
    });
    soon(join_all(calls)).await;
    assert_eq!(client.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn pipeline_gets_its_responses_in_order() {
    let host = Host::default();
    let _server = host.serve(echo());
    let (session, _task) = session(&host, in_order()).await;
    let client: PipelineClient<String> = PipelineClient::new(session);
    let calls = (0..500).map(|n| {
        let client = client.clone();
        async move { assert_eq!(client.oneshot(n.to_string()).await.unwrap(), n.to_string()) }
    });
    soon(join_all(calls)).await;
}

#[test]
fn clients_are_clone_send_and_sync() {
    const fn check<T: Clone + Send + Sync + 'static>() {}
    check::<MultiplexClient<String>>();
    check::<PipelineClient<String, String, Client<String>>>();
    // Messages need not be `Sync`.
    check::<MultiplexClient<Cell<u8>, Cell<u8>, Client<Cell<u8>>>>();
}

#[tokio::test(start_paused = true)]
async fn readiness_reserves_one_of_the_calls_in_flight() {
    let host = Host::default();
    let _server = host.serve(server_by_id(RequestLog::default()));
    let (session, _task) = session(&host, by_id()).await;
    let client = MultiplexClient::<String>::new(session).with_in_flight(2);
    let mut first = task::spawn(client.clone());
    let mut second = task::spawn(client.clone());
    let mut third = task::spawn(client.clone());
    assert_ready_ok!(first.enter(|cx, mut service| service.poll_ready(cx)));
    assert_ready_ok!(first.enter(|cx, mut service| service.poll_ready(cx)));
    assert_eq!(client.load(), 1, "a second poll reserves nothing more");
    assert_ready_ok!(second.enter(|cx, mut service| service.poll_ready(cx)));
    assert_pending!(third.enter(|cx, mut service| service.poll_ready(cx)));
    // A clone of a ready client is not ready.
    let mut clone = task::spawn((*second).clone());
    assert_pending!(clone.enter(|cx, mut service| service.poll_ready(cx)));
    drop(clone);

    // Dropping a ready client releases its permit.
    drop(second);
    assert!(third.is_woken());
    assert_ready_ok!(third.enter(|cx, mut service| service.poll_ready(cx)));

    // A call releases its permit when it completes or is dropped.
    let mut fourth = task::spawn(client.clone());
    let call = first.call("hello".to_owned());
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
async fn call_without_readiness_panics() {
    let host = Host::default();
    let _server = host.serve(echo());
    let (session, _task) = session(&host, in_order()).await;
    let mut client: PipelineClient<String> = PipelineClient::new(session);
    drop(client.call("hello".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn dropped_call_of_a_pipeline_does_not_shift_the_responses() {
    let host = Host::default();
    let _server = host.serve(echo());
    let (session, _task) = session(&host, in_order()).await;
    let mut client: PipelineClient<String> = PipelineClient::new(session.clone());
    for n in 0..50_u64 {
        let first = client.ready().await.unwrap().call(format!("first {n}"));
        let mut first = task::spawn(first);
        assert_pending!(first.poll());
        let dropped = client.ready().await.unwrap().call(format!("dropped {n}"));
        let mut dropped = task::spawn(dropped);
        assert_pending!(dropped.poll());
        drop(dropped);
        let last = client.ready().await.unwrap().call(format!("last {n}"));
        assert_eq!(soon(last).await.unwrap(), format!("last {n}"));
        assert_eq!(assert_ready_ok!(first.poll()), format!("first {n}"));
        assert_eq!(session.stats().late, n + 1);
    }
    assert_eq!(client.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn unsolicited_messages_go_to_the_handler() {
    let host = Host::default();
    let mut listener = host.listen();
    let (pushes, mut pushed) = mpsc::unbounded_channel();
    let matching =
        CorrelateLayer::in_order().with_push(|message: &String| message.starts_with('>'));
    let opening = session(&host, client_stack(matching, pushes));
    let accepting = async {
        let accept = std::future::poll_fn(|cx| listener.poll_accept(cx));
        let connection = accept.await.unwrap();
        let (stream, guard) = connection.into_parts();
        (tokio_util::codec::Framed::new(stream, Lines::new()), guard)
    };
    let ((session, _task), (mut server, _guard)) =
        soon(async { tokio::join!(opening, accepting) }).await;
    use futures_util::{SinkExt, StreamExt};
    let mut client: PipelineClient<String> = PipelineClient::new(session);
    server.send("welcome".to_owned()).await.unwrap();
    assert_eq!(soon(pushed.recv()).await.as_deref(), Some("welcome"));
    let call = tokio::spawn(client.ready().await.unwrap().call("hello".to_owned()));
    assert_eq!(soon(server.next()).await.unwrap().unwrap(), "hello");
    server.send("> push".to_owned()).await.unwrap();
    server.send("response".to_owned()).await.unwrap();
    assert_eq!(soon(call).await.unwrap().unwrap(), "response");
    assert_eq!(soon(pushed.recv()).await.as_deref(), Some("> push"));
}

#[tokio::test(start_paused = true)]
async fn close_of_the_session_fails_its_calls_and_readiness() {
    let host = Host::default();
    let _server = host.serve(server_by_id(RequestLog::default()));
    let (session, _task) = session(&host, by_id()).await;
    let client = MultiplexClient::<String>::new(session.clone()).with_in_flight(1);
    assert!(client.is_live());
    let call = tokio::spawn(client.clone().oneshot("mute".to_owned()));
    idle().await;
    let mut waiting = task::spawn(client.clone());
    assert_pending!(waiting.enter(|cx, mut service| service.poll_ready(cx)));

    session.close_with(CloseReason::Shutdown);
    let error = soon(call).await.unwrap().unwrap_err();
    assert_eq!(error.delivery(), Delivery::Sent);
    assert!(waiting.is_woken());
    let error = assert_ready_err!(waiting.enter(|cx, mut service| service.poll_ready(cx)));
    assert!(matches!(
        error,
        RequestError::Closed {
            message: None,
            delivery: Delivery::NotSent,
            reason: CloseReason::Shutdown,
        }
    ));
    assert!(!client.is_live());
    assert_eq!(client.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_wait_while_the_client_reconnects_and_fail_once_it_stops() {
    let host = Host::default();
    let server = host.serve(echo());
    let client = without_jitter().connect(host.connector(), (), in_order());
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
    assert_eq!(calls.load(), 0, "no permit is held without a session");

    let _server = host.serve(echo());
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
    assert_eq!(error.delivery(), Delivery::NotSent);
}

#[tokio::test(start_paused = true)]
async fn ready_client_whose_session_closes_returns_its_permit() {
    let host = Host::default();
    let server = host.serve(echo());
    let client = without_jitter().connect(host.connector(), (), in_order());
    let calls = PipelineClient::<String, String, _>::new(client.clone()).with_in_flight(1);
    let mut waiting = task::spawn(calls.clone());
    soon(client.session()).await.unwrap();
    assert_ready_ok!(waiting.enter(|cx, mut service| service.poll_ready(cx)));
    assert_eq!(calls.in_flight(), 1);
    drop(server);
    idle().await;
    assert_pending!(waiting.enter(|cx, mut service| service.poll_ready(cx)));
    assert_eq!(calls.in_flight(), 0);
    // A clone can use the permit, although the first client still waits.
    let _server = host.serve(echo());
    let call = soon(calls.clone().ready())
        .await
        .unwrap()
        .call("1".to_owned());
    assert_eq!(soon(call).await.unwrap(), "1");
}

/// A source that first returns a session that has closed since it was chosen.
#[derive(Clone)]
struct Stale(Arc<Mutex<Vec<Session<String>>>>);

impl SessionSource<String> for Stale {
    fn pick(&self) -> Option<Session<String>> {
        let mut sessions = self.0.lock().unwrap();
        match sessions.len() {
            2 => sessions.pop(),
            _ => sessions.last().cloned(),
        }
    }

    fn wait(
        &self,
    ) -> impl Future<Output = Result<Session<String>, RequestError<String>>> + Send + use<> + 'static
    {
        pending()
    }
}

#[tokio::test(start_paused = true)]
async fn client_whose_session_closes_as_it_is_chosen_looks_for_the_next() {
    let host = Host::default();
    let _server = host.serve(server_by_id(RequestLog::default()));
    let (next, _task) = session(&host, by_id()).await;
    let (closed, closing) = session(&host, by_id()).await;
    closed.close();
    soon(closing).await.unwrap();
    let source = Stale(Arc::new(Mutex::new(vec![next, closed])));
    let mut waiting = task::spawn(MultiplexClient::<String, String, _>::new(source));
    assert_pending!(waiting.enter(|cx, mut service| service.poll_ready(cx)));
    assert!(waiting.is_woken());
    assert_ready_ok!(waiting.enter(|cx, mut service| service.poll_ready(cx)));
}

#[tokio::test(start_paused = true)]
async fn wrong_kind_of_correlate_layer_is_named_in_the_error() {
    let host = Host::default();
    let _server = host.serve(echo());
    let (session, _task) = session(&host, in_order()).await;
    let mut wrong = MultiplexClient::<String>::new(session.clone());
    let error: BoxError = wrong.ready().await.unwrap_err().into();
    assert_eq!(error.to_string(), "no session can take the request"); // although one is open
    let source = error.source().unwrap().to_string();
    assert!(source.contains("`CorrelateLayer::new(…)`"), "{source}");
    let mut wrong = PipelineClient::<u32, String>::new(session);
    let error: BoxError = wrong.ready().await.unwrap_err().into();
    let source = error.source().unwrap().to_string();
    assert!(source.contains("`CorrelateLayer::in_order()`"), "{source}");
}

#[tokio::test(start_paused = true)]
async fn each_call_under_restarts_is_answered_once_or_fails() {
    let host = Host::default();
    let log = RequestLog::default();
    let mut server = host.serve(server_by_id(log.clone()));
    let client: Client<String> =
        Client::builder()
            .with_sessions(4)
            .connect(host.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client.clone());
    let (mut answered, mut failed) = (0, 0);
    let workers: Vec<_> = (0..16)
        .map(|worker| {
            let mut calls = calls.clone();
            tokio::spawn(async move {
                let (mut answered, mut failed) = (0, 0);
                for n in 0..200 {
                    let payload = format!("{worker}-{n}");
                    let call = calls.ready().await.unwrap().call(payload.clone());
                    match call.await {
                        Ok(response) => {
                            assert!(response.ends_with(&format!(" {payload}")), "{response}");
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
        server = host.serve(server_by_id(log.clone()));
        soon(client.session()).await.unwrap();
    }
    for worker in workers {
        let (answered_of_worker, failed_of_worker) = soon(worker).await.unwrap();
        answered += answered_of_worker;
        failed += failed_of_worker;
    }
    assert_eq!(answered + failed, 16 * 200);
    assert!(failed > 0 && answered > failed, "{answered} {failed}");
    // No request was sent twice.
    let mut payloads = log.0.lock().unwrap().clone();
    let count = payloads.len();
    payloads.sort();
    payloads.dedup();
    assert_eq!(payloads.len(), count);
    assert_eq!(calls.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_for_a_session_can_be_cancelled() {
    let host = Host::default();
    let client = without_jitter().connect(host.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client);
    let call = timeout(
        Duration::from_secs(60),
        calls.clone().oneshot("hello".to_owned()),
    );
    assert!(soon(call).await.is_err());
    assert_eq!(calls.load(), 0);
    let mut waiting = task::spawn(calls);
    assert_pending!(waiting.enter(|cx, mut service| service.poll_ready(cx)));
    let _server = host.serve(server_by_id(RequestLog::default()));
    soon(async {
        while !waiting.is_woken() {
            idle().await;
        }
    })
    .await;
    assert!(assert_ready!(waiting.enter(|cx, mut service| service.poll_ready(cx))).is_ok());
}
