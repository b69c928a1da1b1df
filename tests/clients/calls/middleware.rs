//! Calls through tower's layers.

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
    layers::correlate::{Delivery, RequestError},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_test::{assert_pending, task};
use tower::{
    ServiceExt,
    balance::p2c::Balance,
    discover::{Change, ServiceList},
    retry::{Policy, RetryLayer},
};

use super::{RequestLog, by_id, server_by_id};
use crate::support::{Host, Server, idle, soon, without_jitter};

/// Retries calls that were certainly not sent. Counts the retries.
#[derive(Clone)]
struct RetryUnsent(Arc<AtomicUsize>);

impl Policy<String, String, RequestError<String>> for RetryUnsent {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut String,
        result: &mut Result<String, RequestError<String>>,
    ) -> Option<Self::Future> {
        let error = result.as_ref().err()?;
        if error.delivery() != Delivery::NotSent || !error.is_closed() {
            return None;
        }
        self.0.fetch_add(1, SeqCst);
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &String) -> Option<String> {
        Some(request.clone())
    }
}

/// A layer that merges equal calls returns one result to several callers.
#[tokio::test(start_paused = true)]
async fn call_future_can_be_shared_together_with_its_error() {
    let host = Host::default();
    let _server = host.serve(server_by_id(RequestLog::default()));
    let client = without_jitter().connect(host.connector(), (), by_id());
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
async fn tower_middleware_works_on_calls() {
    let host = Host::default();
    let _server = host.serve(server_by_id(RequestLog::default()));
    let client = without_jitter().connect(host.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client.clone()).with_in_flight(1);
    let retried = Arc::new(AtomicUsize::new(0));
    let stack = ServiceBuilder::new()
        .buffer::<String>(16)
        .timeout(Duration::from_secs(5))
        .layer(RetryLayer::new(RetryUnsent(Arc::clone(&retried))))
        .service(calls.clone());
    assert!(
        soon(stack.clone().oneshot("hello".to_owned()))
            .await
            .unwrap()
            .ends_with("hello")
    );

    // `timeout` cancels the call, so it must release its permit.
    let start = Instant::now();
    let error = soon(stack.clone().oneshot("mute".to_owned()))
        .await
        .unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    assert_eq!(start.elapsed().as_secs(), 5);
    soon(stack.clone().oneshot("hello".to_owned()))
        .await
        .unwrap();

    // `retry` must repeat the call on the next session: this one closes before the call is sent.
    let mut ready = stack.clone();
    let ready = soon(ready.ready()).await.unwrap();
    let session = client.pick().unwrap();
    let call = ready.call("again".to_owned());
    session.close();
    assert!(soon(call).await.unwrap().ends_with("again"));

    // `load_shed` refuses a call when no permit is free.
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
async fn call_without_a_session_is_shed_or_times_out_outside_a_buffer() {
    let host = Host::default(); // without a server
    let client = without_jitter().connect(host.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client);
    let mut shed = ServiceBuilder::new().load_shed().service(calls.clone());
    let error = shed.ready().await.unwrap().call("hello".to_owned()).await;
    assert!(
        error
            .unwrap_err()
            .is::<tower::load_shed::error::Overloaded>()
    );

    let late = ServiceBuilder::new()
        .timeout(Duration::from_secs(1))
        .buffer::<String>(16)
        .service(calls);
    let start = Instant::now();
    let error = soon(late.clone().oneshot("hello".to_owned()))
        .await
        .unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    assert_eq!(start.elapsed().as_secs(), 1);

    let _server = host.serve(server_by_id(RequestLog::default()));
    let mut response = Err(error);
    for _ in 0..30 {
        response = soon(late.clone().oneshot("hello".to_owned())).await;
        if response.is_ok() {
            break;
        }
    }
    assert!(response.unwrap().ends_with("hello"));
    let response = soon(shed.ready().await.unwrap().call("hello".to_owned())).await;
    assert!(response.unwrap().ends_with("hello"));
}

#[tokio::test(start_paused = true)]
async fn retry_repeats_only_calls_that_were_not_sent() {
    let host = Host::default();
    let log = RequestLog::default();
    let _server = host.serve(server_by_id(log.clone()));
    let client = without_jitter().connect(host.connector(), (), by_id());
    let calls = MultiplexClient::<String, String, _>::new(client.clone());
    let retried = Arc::new(AtomicUsize::new(0));
    let mut stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryUnsent(Arc::clone(&retried))))
        .service(calls);
    // The session closes after `ready` and before the call.
    let ready = soon(stack.ready()).await.unwrap();
    client.pick().unwrap().close();
    let call = ready.call("not sent".to_owned());
    assert!(soon(call).await.unwrap().ends_with("not sent"));
    assert_eq!(retried.load(SeqCst), 1);

    let call = tokio::spawn(soon(stack.ready()).await.unwrap().call("mute".to_owned()));
    idle().await;
    client.pick().unwrap().close();
    assert_eq!(
        soon(call).await.unwrap().unwrap_err().delivery(),
        Delivery::Sent
    );
    assert_eq!(retried.load(SeqCst), 1);
    assert_eq!(log.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn balancer_fails_over_and_returns_to_a_restarted_server() {
    let hosts: [Host; 3] = Default::default();
    let logs: [RequestLog; 3] = Default::default();
    let serve = |n: usize| hosts[n].serve(server_by_id(logs[n].clone()));
    let mut servers: Vec<Option<Server>> = (0..3).map(|n| Some(serve(n))).collect();
    let endpoints = hosts.each_ref().map(|host| {
        let client = without_jitter().connect(host.connector(), (), by_id());
        MultiplexClient::<String, String, _>::new(client)
    });
    let clients = endpoints.each_ref().map(|calls| calls.source().clone());
    let mut balance = Balance::new(ServiceList::new::<String>(endpoints));
    let mut call = async |times: usize| {
        let before = logs.each_ref().map(RequestLog::len);
        for _ in 0..times {
            soon(balance.ready())
                .await
                .unwrap()
                .call("hello".to_owned())
                .await
                .unwrap();
        }
        [0, 1, 2].map(|n| logs[n].len() - before[n])
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

    // `Balance` must remove a client that has stopped and continue with the others.
    clients[0].stop();
    let two = call(300).await;
    assert_eq!(two[0], 0, "{two:?}");
    assert!(two[1] > 30 && two[2] > 30, "{two:?}");
}

#[tokio::test(start_paused = true)]
async fn balancer_uses_discovered_endpoints() {
    let host = Host::default();
    let _server = host.serve(server_by_id(RequestLog::default()));
    let client = without_jitter().connect(host.connector(), (), by_id());
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
    soon(ready.unwrap().call("hello".to_owned())).await.unwrap();
    changes.send(Change::Remove(1)).ok().unwrap();
    assert_pending!(waiting.enter(|cx, _| Service::<String>::poll_ready(&mut balance, cx)));
}
