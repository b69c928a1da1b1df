//! Calls with responses in order to a server that stops responding (design.md: Why does a
//! missed deadline close a session whose responses come in order?).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, PipelineClient, Request, Service, ServiceBuilder,
    Session, SessionLayer, Transport,
    client::Pick,
    codec::Lines,
    layers::{
        CorrelateLayer,
        correlate::{InOrder, NoPush, RequestError},
    },
    service_fn,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_test::{assert_pending, task};
use tower::{ServiceExt, balance::p2c::Balance, discover::ServiceList, load::Load};

use super::{Stack, client_stack, session};
use crate::support::{Host, echo, idle, ms, soon, without_jitter};

/// Returns a server's stack whose first `silent` sessions never reply. Later sessions echo.
fn echo_after<T: Transport + Send + 'static>(silent: usize) -> impl Pipeline<T> + Clone {
    let opened = Arc::new(AtomicUsize::new(0));
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::per_session())
        .service_fn(move |_: Session<String>| {
            let echoes = opened.fetch_add(1, SeqCst) >= silent;
            async move {
                Ok::<_, BoxError>(service_fn(move |request: Request<String>| async move {
                    Ok::<_, BoxError>(echoes.then(|| request.into_message()))
                }))
            }
        })
}

/// Matches responses in order. A missed deadline does not close the session.
fn without_close_at_deadline() -> CorrelateLayer<InOrder<NoPush>> {
    CorrelateLayer::in_order().with_close_at_deadline(false)
}

fn stack(
    correlate: CorrelateLayer<InOrder<NoPush>>,
) -> impl Fn(getty::LinkLayer<String>) -> Stack + Send + Sync + 'static {
    client_stack(correlate, mpsc::unbounded_channel().0)
}

/// Makes a call and abandons it.
async fn abandon_call(calls: &mut (impl Service<String, Error = RequestError<String>> + Send)) {
    let call = soon(calls.ready()).await.unwrap().call("hello".to_owned());
    assert!(
        timeout(ms(10), call).await.is_err(),
        "the server must not respond"
    );
}

#[tokio::test(start_paused = true)]
async fn missed_deadline_makes_the_client_call_on_a_new_session() {
    let host = Host::default();
    let _server = host.serve(echo_after(1));
    let correlate = CorrelateLayer::in_order().with_deadline(Duration::from_secs(5));
    let client = without_jitter().connect(host.connector(), (), stack(correlate));
    let calls = PipelineClient::<String, String, _>::new(client);
    let missed = soon(calls.clone().oneshot("1".to_owned())).await;
    assert!(missed.unwrap_err().is_deadline());
    let answered = soon(calls.clone().oneshot("2".to_owned())).await;
    assert_eq!(answered.unwrap(), "2");
    assert_eq!(host.dials(), 2);
}

/// Responses in order cannot be matched while abandoned requests fill the table
/// (design.md: Why does a table full of abandoned requests close the session?).
#[tokio::test(start_paused = true)]
async fn session_full_of_abandoned_calls_is_replaced() {
    let host = Host::default();
    let _server = host.serve(echo_after(1));
    let client = without_jitter().connect(
        host.connector(),
        (),
        stack(without_close_at_deadline().with_in_flight(3)),
    );
    let mut calls = PipelineClient::<String, String, _>::new(client.clone());
    let silent = soon(client.session()).await.unwrap();
    for load in 1..=3 {
        abandon_call(&mut calls).await;
        assert_eq!((calls.in_flight(), calls.load()), (0, load));
    }
    let refused = soon(calls.clone().oneshot("hello".to_owned())).await;
    assert!(matches!(refused, Err(RequestError::Full(_))));
    let closed = soon(silent.closed()).await;
    assert_eq!(closed.reason, CloseReason::AnswerMissed);
    assert_eq!(
        soon(calls.clone().oneshot("2".to_owned())).await.unwrap(),
        "2"
    );
    assert_eq!(calls.load(), 0);
}

#[tokio::test(start_paused = true)]
async fn balancer_does_not_prefer_an_unresponsive_server() {
    let (silent, good) = (Host::default(), Host::default());
    let _servers = (silent.serve(echo_after(1)), good.serve(echo()));
    let mut calls = Vec::new();
    let mut tasks = Vec::new();
    for host in [&silent, &good] {
        let (session, task) = session(host, stack(without_close_at_deadline())).await;
        calls.push(PipelineClient::<String>::new(session));
        tasks.push(task);
    }
    abandon_call(&mut calls[0]).await;
    let mut balance = Balance::new(ServiceList::new(calls));
    for n in 0..100 {
        let call = soon(balance.ready()).await.unwrap().call(n.to_string());
        let response = timeout(ms(10), call).await;
        let response = response.expect("the call goes to the responsive server");
        assert_eq!(response.unwrap(), n.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn unresponsive_session_is_not_the_least_loaded() {
    let host = Host::default();
    let _server = host.serve(echo_after(1));
    let client = without_jitter()
        .with_sessions(2)
        .with_pick(Pick::least_in_flight())
        .connect(host.connector(), (), stack(without_close_at_deadline()));
    while client.sessions().len() < 2 {
        idle().await;
    }
    let sessions = client.sessions();
    let (silent, good) = (&sessions[0], &sessions[1]);
    let mut request = task::spawn(silent.request::<String>("hello".to_owned()));
    assert_pending!(request.poll());
    idle().await;
    for _ in 0..10 {
        assert_eq!(client.pick().unwrap().id(), good.id());
    }
    drop(request);
    let mut calls = PipelineClient::<String, String, _>::new(client.clone());
    for n in 0..10 {
        assert_eq!(client.pick().unwrap().id(), good.id());
        let call = soon(calls.ready()).await.unwrap().call(n.to_string());
        assert_eq!(soon(call).await.unwrap(), n.to_string());
    }
    assert_eq!(calls.load(), 1);
}
