//! Calls in order to a server that stops answering.

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

use super::{Stack, calling, session};
use crate::support::{Place, echo, even, idle, ms, soon};

/// Reads everything. The first sessions never answer, as many as `mute`; later ones echo.
fn echo_after<T: Transport + Send + 'static>(mute: usize) -> impl Pipeline<T> + Clone {
    let opened = Arc::new(AtomicUsize::new(0));
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::per_session())
        .service_fn(move |_: Session<String>| {
            let answers = opened.fetch_add(1, SeqCst) >= mute;
            async move {
                Ok::<_, BoxError>(service_fn(move |request: Request<String>| async move {
                    Ok::<_, BoxError>(answers.then(|| request.into_message()))
                }))
            }
        })
}

/// In order; missed answers do not close the session.
fn lenient() -> CorrelateLayer<InOrder<NoPush>> {
    CorrelateLayer::in_order().with_close_at_deadline(false)
}

fn stack(
    correlate: CorrelateLayer<InOrder<NoPush>>,
) -> impl Fn(getty::LinkLayer<String>) -> Stack + Send + Sync + 'static {
    calling(correlate, mpsc::unbounded_channel().0)
}

/// Makes a call and gives it up.
async fn give_up(calls: &mut (impl Service<String, Error = RequestError<String>> + Send)) {
    let call = soon(calls.ready()).await.unwrap().call("what".to_owned());
    assert!(timeout(ms(10), call).await.is_err(), "it is not answered");
}

#[tokio::test(start_paused = true)]
async fn a_missed_answer_has_a_client_call_on_a_new_session() {
    let place = Place::default();
    let _server = place.serve(echo_after(1));
    let correlate = CorrelateLayer::in_order().with_deadline(Duration::from_secs(5));
    let client = even().connect(place.connector(), (), stack(correlate));
    let calls = PipelineClient::<String, String, _>::new(client);
    let missed = soon(calls.clone().oneshot("1".to_owned())).await;
    assert!(missed.unwrap_err().is_deadline());
    let answered = soon(calls.clone().oneshot("2".to_owned())).await;
    assert_eq!(answered.unwrap(), "2");
    assert_eq!(place.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_full_of_calls_that_were_given_up_is_replaced() {
    let place = Place::default();
    let _server = place.serve(echo_after(1));
    let client = even().connect(place.connector(), (), stack(lenient().with_in_flight(3)));
    let mut calls = PipelineClient::<String, String, _>::new(client.clone());
    let silent = soon(client.session()).await.unwrap();
    for load in 1..=3 {
        give_up(&mut calls).await;
        assert_eq!((calls.in_flight(), calls.load()), (0, load));
    }
    let refused = soon(calls.clone().oneshot("what".to_owned())).await;
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
async fn a_balancer_does_not_prefer_a_server_that_has_stopped_answering() {
    let (silent, good) = (Place::default(), Place::default());
    let _servers = (silent.serve(echo_after(1)), good.serve(echo()));
    let mut calls = Vec::new();
    let mut tasks = Vec::new();
    for place in [&silent, &good] {
        let (session, task) = session(place, stack(lenient())).await;
        calls.push(PipelineClient::<String>::new(session));
        tasks.push(task);
    }
    give_up(&mut calls[0]).await;
    let mut balance = Balance::new(ServiceList::new(calls));
    for n in 0..100 {
        let call = soon(balance.ready()).await.unwrap().call(n.to_string());
        let answer = timeout(ms(10), call).await.expect("it goes to the other");
        assert_eq!(answer.unwrap(), n.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn the_least_loaded_session_is_not_one_that_does_not_answer() {
    let place = Place::default();
    let _server = place.serve(echo_after(1));
    let client = even()
        .with_sessions(2)
        .with_pick(Pick::least_in_flight())
        .connect(place.connector(), (), stack(lenient()));
    while client.sessions().len() < 2 {
        idle().await;
    }
    let sessions = client.sessions();
    let (silent, good) = (&sessions[0], &sessions[1]);
    let mut waits = task::spawn(silent.request::<String>("what".to_owned()));
    assert_pending!(waits.poll());
    idle().await;
    for _ in 0..10 {
        assert_eq!(client.pick().unwrap().id(), good.id());
    }
    drop(waits);
    let mut calls = PipelineClient::<String, String, _>::new(client.clone());
    for n in 0..10 {
        assert_eq!(client.pick().unwrap().id(), good.id());
        let call = soon(calls.ready()).await.unwrap().call(n.to_string());
        assert_eq!(soon(call).await.unwrap(), n.to_string());
    }
    assert_eq!(calls.load(), 1);
}
