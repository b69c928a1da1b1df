//! Idle sessions and listeners hold no permit of a shared limit. It does not matter which layer
//! handled the refusal (design.md: Why does the loop replace its clone of the stack?).

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use getty::{
    BoxError, BoxPipeline, Request, Service, ServiceBuilder, Session, SessionLayer,
    layers::{ClonePerCallLayer, HandleErrorLayer},
    net, serve, serve_all, service_fn,
};
use getty_test::settle;
use tokio::sync::Semaphore;
use tower::{limit::GlobalConcurrencyLimitLayer, steer::Steer, util::BoxCloneSyncService};

use crate::support::{
    Clock, Peer, Received, dial, echo, echo_sessions, line_sessions, open, slow_echo,
};

/// Sends a line and returns the reply.
async fn reply(peer: &mut Peer) -> Option<String> {
    peer.say("hello").await;
    peer.receive().await
}

fn limit(permits: &Arc<Semaphore>) -> GlobalConcurrencyLimitLayer {
    GlobalConcurrencyLimitLayer::with_semaphore(permits.clone())
}

/// Returns a stack that refuses connections when no permit is free.
fn shed(permits: &Arc<Semaphore>) -> BoxPipeline {
    BoxPipeline::new(
        ServiceBuilder::new()
            .load_shed()
            .layer(limit(permits))
            .service(echo_sessions()),
    )
}

/// Asserts that both listeners can get the permit after the first has refused a connection.
async fn assert_permit_is_free_after_a_refusal(
    permits: Arc<Semaphore>,
    [one, other]: [net::MemoryConnector; 2],
) {
    let mut first = dial(&one).await;
    assert_eq!(reply(&mut first).await.as_deref(), Some("hello"));
    assert_eq!(reply(&mut dial(&one).await).await, None, "the limit is 1");
    drop(first);
    settle().await;
    assert_eq!(permits.available_permits(), 1);
    for connector in [&other, &one, &other] {
        let reply = reply(&mut dial(connector).await).await;
        assert_eq!(reply.as_deref(), Some("hello"));
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn listener_that_refused_a_connection_holds_no_permit() {
    let permits = Arc::new(Semaphore::new(1));
    let (one, to_one) = net::memory(1024);
    let (other, to_other) = net::memory(1024);
    let stack = shed(&permits);
    tokio::spawn(serve_all((one, other), stack).into_future());
    assert_permit_is_free_after_a_refusal(permits, [to_one, to_other]).await;
}

#[tokio::test(start_paused = true)]
async fn clone_per_call_releases_the_permits_of_joined_listeners() {
    let permits = Arc::new(Semaphore::new(1));
    let (one, to_one) = net::memory(1024);
    let (other, to_other) = net::memory(1024);
    let stack = ServiceBuilder::new()
        .layer(ClonePerCallLayer::new())
        .service(shed(&permits));
    let both = serve(one, stack.clone()).and(serve(other, stack));
    tokio::spawn(both.into_future());
    assert_permit_is_free_after_a_refusal(permits, [to_one, to_other]).await;
}

#[tokio::test(start_paused = true)]
async fn refused_client_that_awaits_its_stack_holds_no_permit() {
    let permits = Arc::new(Semaphore::new(1));
    let permit = permits.clone().acquire_owned().await.unwrap();
    let (listener, connector) = net::memory(1024);
    let connect = getty::connect(connector, (), |link| {
        ServiceBuilder::new()
            .then(|result: Result<getty::Closed, BoxError>| async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                result
            })
            .load_shed()
            .layer(limit(&permits))
            .layer(getty::CodecLayer::new(tokio_util::codec::LinesCodec::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(echo)
    });
    tokio::pin!(connect);
    assert!(futures_util::poll!(&mut connect).is_pending());
    settle().await;
    drop(permit);
    assert_eq!(permits.available_permits(), 1);
    drop(listener);
}

/// A third-party service that replies itself when the inner service fails.
#[derive(Clone, Debug)]
struct Fallback<S>(S);

impl<S> Service<Request<String>> for Fallback<S>
where
    S: Service<Request<String>, Response = String, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = String;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let call = self.0.call(request);
        Box::pin(async move { Ok(call.await.unwrap_or_else(|error| format!("ERR {error}"))) })
    }
}

/// Turns an error into a reply.
fn error_to_reply(result: Result<String, BoxError>) -> Result<String, BoxError> {
    Ok(result.unwrap_or_else(|error| format!("ERR {error}")))
}

/// The name of a case and its message stack. The stack must refuse a message when no permit is
/// free, and turn the refusal into a reply.
type Stack = (&'static str, fn(&Arc<Semaphore>) -> BoxPipeline);

const STACKS: &[Stack] = &[
    ("map_result", |permits| {
        line_sessions!(
            SessionLayer::new(),
            ServiceBuilder::new()
                .map_result(error_to_reply)
                .load_shed()
                .layer(limit(permits))
                .service_fn(slow_echo)
        )
    }),
    ("map_result, several in flight", |permits| {
        line_sessions!(
            SessionLayer::new().with_in_flight(8),
            ServiceBuilder::new()
                .map_result(error_to_reply)
                .load_shed()
                .layer(limit(permits))
                .service_fn(slow_echo)
        )
    }),
    ("a fallback layer", |permits| {
        line_sessions!(
            SessionLayer::new(),
            Fallback(
                ServiceBuilder::new()
                    .load_shed()
                    .layer(limit(permits))
                    .service_fn(slow_echo)
            )
        )
    }),
    ("HandleErrorLayer", |permits| {
        line_sessions!(
            SessionLayer::new(),
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
                .load_shed()
                .layer(limit(permits))
                .service_fn(slow_echo)
        )
    }),
    ("per_session", |permits| {
        let permits = permits.clone();
        line_sessions!(
            SessionLayer::per_session(),
            service_fn(move |_: Session<String>| {
                let messages = ServiceBuilder::new()
                    .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
                    .layer(ClonePerCallLayer::new())
                    .load_shed()
                    .layer(limit(&permits))
                    .service_fn(slow_echo);
                std::future::ready(Ok::<_, BoxError>(messages))
            })
        )
    }),
];

#[tokio::test(start_paused = true)]
async fn idle_session_that_was_shed_holds_no_permit_whichever_layer_replied() {
    for (name, stack) in STACKS {
        let permits = Arc::new(Semaphore::new(1));
        let mut stack = stack(&permits);
        let clock = Clock::start();
        let (mut busy, _busy_ended) = open(&mut stack).await;
        let (mut idle, _idle_ended) = open(&mut stack).await;
        busy.say("hello").await;
        assert_eq!(
            busy.receive_until(clock.at(1)).await,
            Received::Nothing,
            "{name}"
        );
        let refusal = reply(&mut idle).await;
        assert_eq!(refusal.as_deref(), Some("ERR service overloaded"), "{name}");
        assert_eq!(busy.receive().await.as_deref(), Some("hello"), "{name}");
        settle().await;
        assert_eq!(permits.available_permits(), 1, "{name}");
        for peer in [&mut busy, &mut idle] {
            assert_eq!(reply(peer).await.as_deref(), Some("hello"), "{name}");
        }
        settle().await;
        assert_eq!(permits.available_permits(), 1, "{name}");
    }
}

/// A service that is polled ready and not called keeps its permit. This may happen when a layer
/// replies itself. tower's `Steer` does it too: it polls all its services and calls one.
#[tokio::test(start_paused = true)]
async fn idle_session_holds_no_permit_that_its_last_message_did_not_use() {
    let permits = Arc::new(Semaphore::new(1));
    let limited = BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(limit(&permits))
            .service_fn(echo),
    );
    let free = BoxCloneSyncService::new(service_fn(echo));
    let steer = Steer::new(
        [limited.clone(), free],
        |request: &Request<String>, _: &[_]| usize::from(request.message() != "limited"),
    );
    let filter = ServiceBuilder::new()
        .map_result(error_to_reply)
        .filter(
            |request: Request<String>| match request.message().as_str() {
                "limited" => Ok(request),
                _ => Err(BoxError::from("not today")),
            },
        )
        .service(limited);
    for mut stack in [
        line_sessions!(SessionLayer::new(), steer),
        line_sessions!(SessionLayer::new(), filter),
    ] {
        let (mut one, _one_ended) = open(&mut stack).await;
        let (mut other, _other_ended) = open(&mut stack).await;
        assert!(reply(&mut one).await.is_some());
        settle().await;
        assert_eq!(permits.available_permits(), 1);
        other.say("limited").await;
        assert_eq!(other.receive().await.as_deref(), Some("limited"));
        settle().await;
        assert_eq!(permits.available_permits(), 1);
    }
}
