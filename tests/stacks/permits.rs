//! Sessions and listeners that are idle give back permits of a shared limit, whichever layer hides
//! the refusal.

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
use tokio::sync::Semaphore;
use tower::{limit::GlobalConcurrencyLimitLayer, steer::Steer, util::BoxCloneSyncService};

use crate::support::{Clock, Heard, Peer, line_sessions, open};

async fn dial(connector: &net::MemoryConnector) -> Peer {
    Peer::new(connector.connect().await.unwrap().into_parts().0)
}

async fn answer(peer: &mut Peer) -> Option<String> {
    peer.say("hello").await;
    peer.hear().await
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn echo(request: Request<String>) -> Result<String, BoxError> {
    Ok(request.into_message())
}

/// Takes three seconds for each message.
async fn slowly(request: Request<String>) -> Result<String, BoxError> {
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(request.into_message())
}

fn limit(permits: &Arc<Semaphore>) -> GlobalConcurrencyLimitLayer {
    GlobalConcurrencyLimitLayer::with_semaphore(permits.clone())
}

/// Refuses connections above `permits`.
fn shed(permits: &Arc<Semaphore>, sessions: BoxPipeline) -> BoxPipeline {
    BoxPipeline::new(
        ServiceBuilder::new()
            .load_shed()
            .layer(limit(permits))
            .service(sessions),
    )
}

/// The first of two listeners has refused a connection, and both are idle.
async fn assert_refusals_leave_the_permit_to_all(
    permits: Arc<Semaphore>,
    [one, other]: [net::MemoryConnector; 2],
) {
    let mut first = dial(&one).await;
    assert_eq!(answer(&mut first).await.as_deref(), Some("hello"));
    assert_eq!(answer(&mut dial(&one).await).await, None, "the limit is 1");
    drop(first);
    settle().await;
    assert_eq!(permits.available_permits(), 1);
    for connector in [&other, &one, &other] {
        let answer = answer(&mut dial(connector).await).await;
        assert_eq!(answer.as_deref(), Some("hello"));
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_refused_leaves_the_permit_to_the_others() {
    let permits = Arc::new(Semaphore::new(1));
    let (one, to_one) = net::memory(1024);
    let (other, to_other) = net::memory(1024);
    let stack = shed(
        &permits,
        line_sessions!(SessionLayer::new(), service_fn(echo)),
    );
    tokio::spawn(serve_all((one, other), stack).into_future());
    assert_refusals_leave_the_permit_to_all(permits, [to_one, to_other]).await;
}

#[tokio::test(start_paused = true)]
async fn clone_per_call_does_the_same_for_listeners_that_are_joined() {
    let permits = Arc::new(Semaphore::new(1));
    let (one, to_one) = net::memory(1024);
    let (other, to_other) = net::memory(1024);
    let stack = ServiceBuilder::new()
        .layer(ClonePerCallLayer::new())
        .service(shed(
            &permits,
            line_sessions!(SessionLayer::new(), service_fn(echo)),
        ));
    let both = serve(one, stack.clone()).and(serve(other, stack));
    tokio::spawn(both.into_future());
    assert_refusals_leave_the_permit_to_all(permits, [to_one, to_other]).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_refused_and_waits_for_its_session_holds_no_permit() {
    let permits = Arc::new(Semaphore::new(1));
    let taken = permits.clone().acquire_owned().await.unwrap();
    let (listener, connector) = net::memory(1024);
    let refusing = getty::connect(connector, (), |link| {
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
    tokio::pin!(refusing);
    assert!(futures_util::poll!(&mut refusing).is_pending());
    settle().await;
    drop(taken);
    assert_eq!(permits.available_permits(), 1);
    drop(listener);
}

/// A third party's layer: it answers in place of the inner service when that fails.
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
        let answer = self.0.call(request);
        Box::pin(async move { Ok(answer.await.unwrap_or_else(|error| format!("ERR {error}"))) })
    }
}

fn hide(result: Result<String, BoxError>) -> Result<String, BoxError> {
    Ok(result.unwrap_or_else(|error| format!("ERR {error}")))
}

/// A message stack that refuses above `permits` and answers the refusal itself.
type Stack = (&'static str, fn(&Arc<Semaphore>) -> BoxPipeline);

const STACKS: &[Stack] = &[
    ("map_result", |permits| {
        line_sessions!(
            SessionLayer::new(),
            ServiceBuilder::new()
                .map_result(hide)
                .load_shed()
                .layer(limit(permits))
                .service_fn(slowly)
        )
    }),
    ("map_result, several in flight", |permits| {
        line_sessions!(
            SessionLayer::new().in_flight(8),
            ServiceBuilder::new()
                .map_result(hide)
                .load_shed()
                .layer(limit(permits))
                .service_fn(slowly)
        )
    }),
    ("a fallback layer", |permits| {
        line_sessions!(
            SessionLayer::new(),
            Fallback(
                ServiceBuilder::new()
                    .load_shed()
                    .layer(limit(permits))
                    .service_fn(slowly)
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
                .service_fn(slowly)
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
                    .service_fn(slowly);
                std::future::ready(Ok::<_, BoxError>(messages))
            })
        )
    }),
];

#[tokio::test(start_paused = true)]
async fn a_session_that_was_shed_and_then_idles_holds_no_permit_whichever_layer_answered() {
    for (name, stack) in STACKS {
        let permits = Arc::new(Semaphore::new(1));
        let mut stack = stack(&permits);
        let clock = Clock::start();
        let (mut busy, _busy_ended) = open(&mut stack).await;
        let (mut idle, _idle_ended) = open(&mut stack).await;
        busy.say("hello").await;
        assert_eq!(busy.hear_until(clock.at(1)).await, Heard::Nothing, "{name}");
        let refusal = answer(&mut idle).await;
        assert_eq!(refusal.as_deref(), Some("ERR service overloaded"), "{name}");
        assert_eq!(busy.hear().await.as_deref(), Some("hello"), "{name}");
        settle().await;
        assert_eq!(permits.available_permits(), 1, "{name}");
        for peer in [&mut busy, &mut idle] {
            assert_eq!(answer(peer).await.as_deref(), Some("hello"), "{name}");
        }
        settle().await;
        assert_eq!(permits.available_permits(), 1, "{name}");
    }
}

/// A service that is polled ready and not called keeps its permit: a layer may answer by itself,
/// and tower's `Steer` calls one of the services that it has polled.
#[tokio::test(start_paused = true)]
async fn an_idle_session_holds_no_permit_that_its_last_message_did_not_use() {
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
        .map_result(hide)
        .filter(
            |request: Request<String>| match request.message().as_str() {
                "limited" => Ok(request),
                _ => Err(BoxError::from("no")),
            },
        )
        .service(limited);
    for mut stack in [
        line_sessions!(SessionLayer::new(), steer),
        line_sessions!(SessionLayer::new(), filter),
    ] {
        let (mut one, _one_ended) = open(&mut stack).await;
        let (mut other, _other_ended) = open(&mut stack).await;
        assert!(answer(&mut one).await.is_some());
        settle().await;
        assert_eq!(permits.available_permits(), 1);
        other.say("limited").await;
        assert_eq!(other.hear().await.as_deref(), Some("limited"));
        settle().await;
        assert_eq!(permits.available_permits(), 1);
    }
}
