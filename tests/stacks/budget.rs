//! tower's `load_shed` under tokio's cooperative budget.
//!
//! `load_shed` refuses a request when its inner service is pending. tokio's primitives are
//! pending too once the budget of a task is used up. That must not count as overload
//! (design.md: Why is readiness polled without the cooperative budget?).

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty::{
    BoxError, BoxPipeline, CodecLayer, Service, ServiceBuilder, Session, SessionLayer,
    layers::HandleErrorLayer, net, serve, service_fn,
};
use tokio::task::coop;
use tokio_util::codec::LinesCodec;

use crate::support::{Peer, Server, echo, echo_sessions, line_sessions};

/// A service whose `poll_ready` takes `units` of the cooperative budget.
#[derive(Clone, Debug)]
struct ReadinessCost<S> {
    units: u32,
    inner: S,
    /// A field with drop glue. Every service with a tokio resource has one.
    _resource: Arc<()>,
}

impl<S> ReadinessCost<S> {
    fn new(units: u32, inner: S) -> Self {
        Self {
            units,
            inner,
            _resource: Arc::default(),
        }
    }
}

impl<S: Service<R>, R> Service<R> for ReadinessCost<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        for _ in 0..self.units {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.inner.call(request)
    }
}

/// Sends 256 messages at once and returns the replies.
async fn replies(stack: BoxPipeline) -> Vec<String> {
    let server = Server::start(stack);
    let mut peer = server.dial().await;
    peer.say(&vec!["x"; 256].join("\n")).await;
    peer.finish().await;
    let mut replies = Vec::new();
    while let Some(reply) = peer.receive().await {
        replies.push(reply);
    }
    replies
}

#[tokio::test(start_paused = true)]
async fn buffer_with_free_capacity_refuses_no_message() {
    let stack = line_sessions!(
        SessionLayer::new().with_in_flight(256),
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
            .load_shed()
            .buffer(256)
            .service_fn(echo)
    );
    assert_eq!(replies(stack).await, vec!["x"; 256]);
}

#[tokio::test(start_paused = true)]
async fn readiness_that_costs_more_than_the_budget_refuses_no_message() {
    for units in [1, 3, 50, 200] {
        let stack = line_sessions!(
            SessionLayer::new(),
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
                .load_shed()
                .service(ReadinessCost::new(units, service_fn(echo)))
        );
        assert_eq!(replies(stack).await, vec!["x"; 256], "{units} units");
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_that_costs_more_than_the_budget_refuses_no_connection() {
    for units in [1, 3, 50, 200] {
        let (listener, connector) = net::memory(1024);
        let stack = ServiceBuilder::new()
            .load_shed()
            .service(ReadinessCost::new(units, echo_sessions()));
        // All connections are queued before the first is accepted.
        let connects = std::iter::repeat_with(|| connector.connect()).take(64);
        let connects = futures_util::future::join_all(connects);
        let (connections, ()) = tokio::join!(connects, async {
            tokio::spawn(serve(listener, stack).into_future());
        });
        for connection in connections {
            let mut peer = Peer::new(connection.unwrap().into_parts().0);
            peer.say("hello").await;
            let reply = peer.receive().await;
            assert_eq!(reply.as_deref(), Some("hello"), "{units} units");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_of_a_make_service_that_costs_more_than_the_budget_refuses_no_connection() {
    let make = service_fn(|_: Session<String>| async { Ok::<_, BoxError>(service_fn(echo)) });
    let stack = line_sessions!(
        SessionLayer::per_session(),
        ServiceBuilder::new()
            .load_shed()
            .service(ReadinessCost::new(200, make))
    );
    assert_eq!(replies(stack).await, vec!["x"; 256]);
}

#[tokio::test(start_paused = true)]
async fn client_readiness_that_costs_more_than_the_budget_refuses_no_connection() {
    let (_listener, connector) = net::memory(1024);
    let (session, _task) = getty::connect(connector, (), |link| {
        let sessions = ServiceBuilder::new()
            .layer(CodecLayer::new(LinesCodec::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(echo);
        ServiceBuilder::new()
            .load_shed()
            .service(ReadinessCost::new(200, sessions))
    })
    .await
    .unwrap();
    assert!(!session.is_closing());
}
