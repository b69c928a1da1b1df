//! Limits that are shared: between sessions, and between listeners.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Pipeline, Request, Service, ServiceBuilder, SessionLayer,
    layers::HandleErrorLayer, net, serve, serve_all,
};
use tokio::{io::DuplexStream, sync::Semaphore};
use tokio_util::codec::LinesCodec;
use tower::{
    limit::GlobalConcurrencyLimitLayer,
    util::{BoxCloneService, BoxService},
};

use crate::support::{Clock, Heard, Peer, Server, line_sessions, open};

/// A stack of lines whose only limit is of connections, and its limit.
fn limited(connections: usize) -> (impl Pipeline<DuplexStream> + Clone, Arc<Semaphore>) {
    let slots = Arc::new(Semaphore::new(connections));
    let stack = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(slots.clone()))
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(
            |request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) },
        );
    (stack, slots)
}

async fn dial(connector: &net::MemoryConnector) -> Peer {
    Peer::new(connector.connect().await.unwrap().into_parts().0)
}

async fn is_answered(peer: &mut Peer) -> bool {
    peer.say("hello").await;
    peer.hear().await.as_deref() == Some("hello")
}

#[tokio::test(start_paused = true)]
async fn idle_listener_holds_no_permit_of_a_shared_limit() {
    let (stack, slots) = limited(1);
    let (idle, idle_connector) = net::memory(1024);
    let (busy, busy_connector) = net::memory(1024);
    // the idle one first: it is polled first, too
    tokio::spawn(async move { serve_all((idle, busy), stack).await });

    let mut peer = dial(&busy_connector).await;
    assert!(is_answered(&mut peer).await);
    assert_eq!(slots.available_permits(), 0);
    drop(peer);

    // and again, now that both have been awake
    let mut peer = dial(&busy_connector).await;
    assert!(is_answered(&mut peer).await);
    drop(peer);
    let mut peer = dial(&idle_connector).await;
    assert!(is_answered(&mut peer).await);
    drop(peer);
    while slots.available_permits() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_listeners_share_one_limit() {
    let (stack, _slots) = limited(1);
    let (one, one_connector) = net::memory(1024);
    let (other, other_connector) = net::memory(1024);
    let clock = Clock::start();
    tokio::spawn(async move { serve_all((one, other), stack).await });

    let mut first = dial(&one_connector).await;
    assert!(is_answered(&mut first).await);
    let mut second = dial(&other_connector).await;
    second.say("hello").await;
    assert_eq!(second.hear_until(clock.at(9)).await, Heard::Nothing);
    drop(first);
    assert_eq!(second.hear_until(clock.at(10)).await, Heard::line("hello"));
}

#[tokio::test(start_paused = true)]
async fn a_session_without_a_message_holds_no_permit() {
    let permits = Arc::new(Semaphore::new(1));
    let server = Server::start(line_sessions!(
        SessionLayer::new(),
        ServiceBuilder::new()
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
            .service_fn(|request: Request<String>| async move {
                Ok::<_, BoxError>(request.into_message())
            })
    ));
    let mut idle = server.dial().await;
    let mut busy = server.dial().await;
    for _ in 0..3 {
        assert!(is_answered(&mut busy).await);
        assert_eq!(permits.available_permits(), 1);
    }
    assert!(is_answered(&mut idle).await);
    assert_eq!(permits.available_permits(), 1);
    drop((idle, busy));
    server.stop().await;
}

/// tower's `LoadShed` polls the limit under it, answers "not now", and so leaves its place in the limit's queue taken. A
/// session that lives on with that clone, and is never sent a message again, would be given the next free permit and keep
/// it.
#[tokio::test(start_paused = true)]
async fn a_session_that_was_shed_and_then_idles_starves_nobody() {
    let permits = Arc::new(Semaphore::new(1));
    let mut stack = line_sessions!(
        SessionLayer::new(),
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
            .load_shed()
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
            .service_fn(|request: Request<String>| async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok::<_, BoxError>(request.into_message())
            })
    );
    let clock = Clock::start();
    let (mut busy, _busy_ended) = open(&mut stack).await;
    let (mut idle, _idle_ended) = open(&mut stack).await;
    busy.say("hello").await;
    assert_eq!(busy.hear_until(clock.at(1)).await, Heard::Nothing);
    idle.say("hello").await;
    assert_eq!(idle.hear().await.as_deref(), Some("ERR service overloaded"));
    assert_eq!(busy.hear().await.as_deref(), Some("hello"));

    // `idle` says nothing more, and the others have the permit to themselves
    for second in [6, 9] {
        assert!(is_answered(&mut busy).await);
        assert_eq!(clock.second(), second);
    }
    assert_eq!(permits.available_permits(), 1);
    // nor is it shut out itself
    assert!(is_answered(&mut idle).await);
}

#[tokio::test(start_paused = true)]
async fn box_service_serves_one_listener_and_box_clone_service_several() {
    let (stack, _slots) = limited(2);
    let (listener, connector) = net::memory(1024);
    let boxed = BoxService::new(stack.clone());
    tokio::spawn(async move { serve(listener, boxed).await });
    assert!(is_answered(&mut dial(&connector).await).await);

    let (one, one_connector) = net::memory(1024);
    let (other, other_connector) = net::memory(1024);
    let boxed = BoxCloneService::new(stack);
    tokio::spawn(async move { serve_all([one, other], boxed).await });
    assert!(is_answered(&mut dial(&one_connector).await).await);
    assert!(is_answered(&mut dial(&other_connector).await).await);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_whose_worker_has_ended_ends_serve() {
    let broken = getty::service_fn(|_: getty::Connection<DuplexStream>| async {
        Err::<getty::Closed, _>(BoxError::from("never called"))
    });
    let stack = ServiceBuilder::new().buffer(8).service(NeverReady(broken));
    let (listener, connector) = net::memory(1024);
    let serving = tokio::spawn(async move { serve(listener, stack).await });
    // what waits in the buffer when the worker ends is refused; whoever comes next finds the stack broken
    let first = dial(&connector).await;
    while !serving.is_finished() {
        tokio::task::yield_now().await;
        let _ = connector.connect().await;
    }
    drop(first);
    let error = serving.await.unwrap().unwrap_err();
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("worn out"),
        "{error:?}"
    );
}

/// Its readiness fails, which is final.
struct NeverReady<S>(S);

impl<S: Service<R, Error = BoxError>, R> Service<R> for NeverReady<S> {
    type Response = S::Response;
    type Error = BoxError;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Err("worn out".into()))
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}
