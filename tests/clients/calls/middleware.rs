//! Calls under tower's middleware.

use std::{
    convert::Infallible,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use getty::{
    MultiplexClient, Service, ServiceBuilder,
    layers::correlate::{Left, RequestError},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_test::{assert_pending, task};
use tower::{
    ServiceExt,
    balance::p2c::Balance,
    discover::{Change, ServiceList},
    retry::{Policy, RetryLayer},
};

use super::{Asked, answering, by_id};
use crate::support::{Place, Server, even, idle, soon};

/// Tries again what has not left.
#[derive(Clone)]
struct Again(Arc<AtomicUsize>);

impl Policy<String, String, RequestError<String>> for Again {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut String,
        result: &mut Result<String, RequestError<String>>,
    ) -> Option<Self::Future> {
        let error = result.as_ref().err()?;
        if error.left() != Left::No || !error.is_closed() {
            return None;
        }
        self.0.fetch_add(1, SeqCst);
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &String) -> Option<String> {
        Some(request.clone())
    }
}

/// A layer that coalesces calls gives one outcome to several callers.
#[tokio::test(start_paused = true)]
async fn calls_are_shared_with_their_errors() {
    let place = Place::default();
    let _server = place.serve(answering(Asked::default()));
    let client = even().connect(place.connector(), (), by_id());
    let mut calls = MultiplexClient::<String, String, _>::new(client.clone());
    let call = soon(calls.ready())
        .await
        .unwrap()
        .call("mute".to_owned())
        .shared();
    let other = tokio::spawn(call.clone());
    idle().await;
    client.pick().unwrap().close();
    let errors = [
        soon(call).await.unwrap_err(),
        soon(other).await.unwrap().unwrap_err(),
    ];
    assert!(errors.iter().all(RequestError::is_closed), "{errors:?}");
}

#[tokio::test(start_paused = true)]
async fn towers_middleware_works_on_calls() {
    let place = Place::default();
    let _server = place.serve(answering(Asked::default()));
    let client = even().connect(place.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client.clone()).with_in_flight(1);
    let retried = Arc::new(AtomicUsize::new(0));
    let stack = ServiceBuilder::new()
        .buffer::<String>(16)
        .timeout(Duration::from_secs(5))
        .layer(RetryLayer::new(Again(Arc::clone(&retried))))
        .service(calls.clone());
    assert!(
        soon(stack.clone().oneshot("what".to_owned()))
            .await
            .unwrap()
            .ends_with("what")
    );

    // `timeout` cancels a call, and its place is free
    let begun = Instant::now();
    let error = soon(stack.clone().oneshot("mute".to_owned()))
        .await
        .unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 5);
    soon(stack.clone().oneshot("what".to_owned()))
        .await
        .unwrap();

    // `retry` tries on the next session what did not get through the one that closed under it
    let mut ready = stack.clone();
    let ready = soon(ready.ready()).await.unwrap();
    let session = client.pick().unwrap();
    let call = ready.call("again".to_owned());
    session.close();
    assert!(soon(call).await.unwrap().ends_with("again"));

    // `load_shed` refuses what there is no place for
    let mut shed = ServiceBuilder::new().load_shed().service(calls.clone());
    let call = tokio::spawn(
        soon(calls.clone().ready())
            .await
            .unwrap()
            .call("mute".to_owned()),
    );
    idle().await;
    let error = shed.ready().await.unwrap().call("more".to_owned()).await;
    assert!(
        error
            .unwrap_err()
            .is::<tower::load_shed::error::Overloaded>()
    );
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn what_would_wait_for_a_session_is_shed_or_times_out_outside_of_a_buffer() {
    let place = Place::default(); // where nobody serves yet
    let client = even().connect(place.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client);
    let mut shed = ServiceBuilder::new().load_shed().service(calls.clone());
    let error = shed.ready().await.unwrap().call("what".to_owned()).await;
    assert!(
        error
            .unwrap_err()
            .is::<tower::load_shed::error::Overloaded>()
    );

    let late = ServiceBuilder::new()
        .timeout(Duration::from_secs(1))
        .buffer::<String>(16)
        .service(calls);
    let begun = Instant::now();
    let error = soon(late.clone().oneshot("what".to_owned()))
        .await
        .unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 1);

    let _server = place.serve(answering(Asked::default()));
    let mut answer = Err(error);
    for _ in 0..30 {
        answer = soon(late.clone().oneshot("what".to_owned())).await;
        if answer.is_ok() {
            break;
        }
    }
    assert!(answer.unwrap().ends_with("what"));
    let answer = soon(shed.ready().await.unwrap().call("what".to_owned())).await;
    assert!(answer.unwrap().ends_with("what"));
}

#[tokio::test(start_paused = true)]
async fn retry_tries_again_what_had_not_left_and_nothing_else() {
    let place = Place::default();
    let asked = Asked::default();
    let _server = place.serve(answering(asked.clone()));
    let client = even().connect(place.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client.clone());
    let retried = Arc::new(AtomicUsize::new(0));
    let mut stack = ServiceBuilder::new()
        .layer(RetryLayer::new(Again(Arc::clone(&retried))))
        .service(calls);
    // ready on a session that closes before the call
    let ready = soon(stack.ready()).await.unwrap();
    client.pick().unwrap().close();
    let call = ready.call("not left".to_owned());
    assert!(soon(call).await.unwrap().ends_with("not left"));
    assert_eq!(retried.load(SeqCst), 1);

    let call = tokio::spawn(soon(stack.ready()).await.unwrap().call("mute".to_owned()));
    idle().await;
    client.pick().unwrap().close();
    assert_eq!(soon(call).await.unwrap().unwrap_err().left(), Left::Yes);
    assert_eq!(retried.load(SeqCst), 1);
    assert_eq!(asked.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_balancer_fails_over_and_comes_back() {
    let places: [Place; 3] = Default::default();
    let asked: [Asked; 3] = Default::default();
    let serve = |n: usize| places[n].serve(answering(asked[n].clone()));
    let mut servers: Vec<Option<Server>> = (0..3).map(|n| Some(serve(n))).collect();
    let endpoints = places.each_ref().map(|place| {
        let client = even().connect(place.connector(), (), by_id());
        MultiplexClient::<String, String, _>::new(client)
    });
    let clients = endpoints.each_ref().map(|calls| calls.source().clone());
    let mut balance = Balance::new(ServiceList::new::<String>(endpoints));
    let mut call = async |times: usize| {
        let before = asked.each_ref().map(Asked::len);
        for _ in 0..times {
            soon(balance.ready())
                .await
                .unwrap()
                .call("what".to_owned())
                .await
                .unwrap();
        }
        [0, 1, 2].map(|n| asked[n].len() - before[n])
    };
    let all = call(300).await;
    assert!(all.iter().all(|calls| *calls > 30), "{all:?}");

    servers[1] = None;
    idle().await;
    let two = call(300).await;
    assert_eq!(two[1], 0, "{two:?}");

    servers[1] = Some(serve(1));
    soon(clients[1].session()).await.unwrap();
    let all = call(300).await;
    assert!(all.iter().all(|calls| *calls > 30), "{all:?}");

    // one that is gone for good is taken out, and the rest goes on
    clients[0].stop();
    let two = call(300).await;
    assert_eq!(two[0], 0, "{two:?}");
    assert!(two[1] > 30 && two[2] > 30, "{two:?}");
}

#[tokio::test(start_paused = true)]
async fn a_balancer_takes_endpoints_that_are_discovered() {
    let place = Place::default();
    let _server = place.serve(answering(Asked::default()));
    let client = even().connect(place.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client);
    let (changes, discovered) = mpsc::unbounded_channel();
    let discover = futures_util::stream::unfold(discovered, |mut discovered| async move {
        let change: Change<u8, _> = discovered.recv().await?;
        Some((Ok::<_, Infallible>(change), discovered))
    });
    let mut balance = Balance::new(Box::pin(discover));
    let mut waiting = task::spawn(());
    assert_pending!(waiting.enter(|cx, _| Service::<String>::poll_ready(&mut balance, cx)));
    changes.send(Change::Insert(1, calls)).ok().unwrap();
    let ready = soon(ServiceExt::<String>::ready(&mut balance)).await;
    soon(ready.unwrap().call("what".to_owned())).await.unwrap();
    changes.send(Change::Remove(1)).ok().unwrap();
    assert_pending!(waiting.enter(|cx, _| Service::<String>::poll_ready(&mut balance, cx)));
}
