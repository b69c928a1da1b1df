//! Limits that are shared between sessions and between listeners.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use getty::{
    BoxError, CodecLayer, Pipeline, Service, ServiceBuilder, SessionLayer,
    layers::HandleErrorLayer, net, serve, serve_all,
};
use tokio::{io::DuplexStream, sync::Semaphore};
use tokio_util::codec::LinesCodec;
use tower::{
    limit::GlobalConcurrencyLimitLayer,
    util::{BoxCloneService, BoxService},
};

use crate::support::{Clock, Peer, Received, Server, dial, echo, line_sessions, open, slow_echo};

/// Returns a stack with a limit of connections and the semaphore of the limit.
fn limited(connections: usize) -> (impl Pipeline<DuplexStream> + Clone, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(connections));
    let stack = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(echo);
    (stack, permits)
}

/// Sends a line. Returns `true` if the peer receives the reply.
async fn is_answered(peer: &mut Peer) -> bool {
    peer.say("hello").await;
    peer.receive().await.as_deref() == Some("hello")
}

#[tokio::test(start_paused = true)]
async fn idle_listener_holds_no_permit_of_a_shared_limit() {
    let (stack, permits) = limited(1);
    let (idle, idle_connector) = net::memory(1024);
    let (busy, busy_connector) = net::memory(1024);
    // The idle listener comes first. So it must be polled first.
    tokio::spawn(async move { serve_all((idle, busy), stack).await });

    let mut peer = dial(&busy_connector).await;
    assert!(is_answered(&mut peer).await);
    assert_eq!(permits.available_permits(), 0);
    drop(peer);

    // The same must hold after both listeners were polled.
    let mut peer = dial(&busy_connector).await;
    assert!(is_answered(&mut peer).await);
    drop(peer);
    let mut peer = dial(&idle_connector).await;
    assert!(is_answered(&mut peer).await);
    drop(peer);
    while permits.available_permits() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_listeners_share_one_limit() {
    let (stack, _permits) = limited(1);
    let (one, one_connector) = net::memory(1024);
    let (other, other_connector) = net::memory(1024);
    let clock = Clock::start();
    tokio::spawn(async move { serve_all((one, other), stack).await });

    let mut first = dial(&one_connector).await;
    assert!(is_answered(&mut first).await);
    let mut second = dial(&other_connector).await;
    second.say("hello").await;
    assert_eq!(second.receive_until(clock.at(9)).await, Received::Nothing);
    drop(first);
    assert_eq!(
        second.receive_until(clock.at(10)).await,
        Received::line("hello")
    );
}

#[tokio::test(start_paused = true)]
async fn idle_session_holds_no_permit() {
    let permits = Arc::new(Semaphore::new(1));
    let server = Server::start(line_sessions!(
        SessionLayer::new(),
        ServiceBuilder::new()
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
            .service_fn(echo)
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

/// When tower's `LoadShed` refuses, it has polled the limit inside. That poll stays in the
/// limit's queue. A session that kept this clone and received no further message would get the
/// next free permit. It would never release it (design.md: Why does the loop replace its clone
/// of the stack?).
#[tokio::test(start_paused = true)]
async fn idle_session_that_was_shed_does_not_starve_others() {
    let permits = Arc::new(Semaphore::new(1));
    let mut stack = line_sessions!(
        SessionLayer::new(),
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
            .load_shed()
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(permits.clone()))
            .service_fn(slow_echo)
    );
    let clock = Clock::start();
    let (mut busy, _busy_ended) = open(&mut stack).await;
    let (mut idle, _idle_ended) = open(&mut stack).await;
    busy.say("hello").await;
    assert_eq!(busy.receive_until(clock.at(1)).await, Received::Nothing);
    idle.say("hello").await;
    assert_eq!(
        idle.receive().await.as_deref(),
        Some("ERR service overloaded")
    );
    assert_eq!(busy.receive().await.as_deref(), Some("hello"));

    // `idle` sends nothing more. The permit is free for the others.
    for second in [6, 9] {
        assert!(is_answered(&mut busy).await);
        assert_eq!(clock.second(), second);
    }
    assert_eq!(permits.available_permits(), 1);
    // `idle` can still get the permit when it needs it.
    assert!(is_answered(&mut idle).await);
}

#[tokio::test(start_paused = true)]
async fn box_service_serves_one_listener_and_box_clone_service_several() {
    let (stack, _permits) = limited(2);
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
async fn serve_ends_when_the_worker_of_a_buffer_has_ended() {
    let broken = getty::service_fn(|_: getty::Connection<DuplexStream>| async {
        Err::<getty::Closed, _>(BoxError::from("never called"))
    });
    let stack = ServiceBuilder::new()
        .buffer(8)
        .service(FailingReadiness(broken));
    let (listener, connector) = net::memory(1024);
    let serving = tokio::spawn(async move { serve(listener, stack).await });
    // Connections in the buffer are refused when its worker ends. With the next connection `serve`
    // sees that the stack has failed.
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
            .contains("readiness failed"),
        "{error:?}"
    );
}

/// A service whose `poll_ready` fails.
struct FailingReadiness<S>(S);

impl<S: Service<R, Error = BoxError>, R> Service<R> for FailingReadiness<S> {
    type Response = S::Response;
    type Error = BoxError;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Err("readiness failed".into()))
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}
