//! tower's `load_shed` refuses when its inner service is pending. tokio's primitives are pending at
//! the end of a task's cooperative budget as well, which is no overload.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty::{
    BoxError, BoxPipeline, CodecLayer, Request, Service, ServiceBuilder, Session, SessionLayer,
    layers::HandleErrorLayer, net, serve, service_fn,
};
use tokio::task::coop;
use tokio_util::codec::LinesCodec;

use crate::support::{Peer, Server, line_sessions};

async fn echo(request: Request<String>) -> Result<String, BoxError> {
    Ok(request.into_message())
}

/// A service whose readiness takes `units` of the budget in each poll.
#[derive(Clone, Debug)]
struct Costs<S> {
    units: u32,
    inner: S,
    /// A field with drop glue, as in every service with a tokio resource.
    _resource: Arc<()>,
}

impl<S> Costs<S> {
    fn new(units: u32, inner: S) -> Self {
        Self {
            units,
            inner,
            _resource: Arc::default(),
        }
    }
}

impl<S: Service<R>, R> Service<R> for Costs<S> {
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

/// The answers to 256 messages that arrive at once.
async fn answers(stack: BoxPipeline) -> Vec<String> {
    let server = Server::start(stack);
    let mut peer = server.dial().await;
    peer.say(&vec!["x"; 256].join("\n")).await;
    peer.finish().await;
    let mut answers = Vec::new();
    while let Some(answer) = peer.hear().await {
        answers.push(answer);
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn a_buffer_with_room_refuses_no_message() {
    let stack = line_sessions!(
        SessionLayer::new().in_flight(256),
        ServiceBuilder::new()
            .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
            .load_shed()
            .buffer(256)
            .service_fn(echo)
    );
    assert_eq!(answers(stack).await, vec!["x"; 256]);
}

#[tokio::test(start_paused = true)]
async fn readiness_that_costs_more_than_the_budget_refuses_no_message() {
    for units in [1, 3, 50, 200] {
        let stack = line_sessions!(
            SessionLayer::new(),
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(|error| format!("ERR {error}")))
                .load_shed()
                .service(Costs::new(units, service_fn(echo)))
        );
        assert_eq!(answers(stack).await, vec!["x"; 256], "{units} units");
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_that_costs_more_than_the_budget_refuses_no_connection() {
    for units in [1, 3, 50, 200] {
        let (listener, connector) = net::memory(1024);
        let sessions = line_sessions!(SessionLayer::new(), service_fn(echo));
        let stack = ServiceBuilder::new()
            .load_shed()
            .service(Costs::new(units, sessions));
        // all connections wait before the first is accepted
        let dials = std::iter::repeat_with(|| connector.connect()).take(64);
        let dials = futures_util::future::join_all(dials);
        let (dialled, ()) = tokio::join!(dials, async {
            tokio::spawn(serve(listener, stack).into_future());
        });
        for connection in dialled {
            let mut peer = Peer::new(connection.unwrap().into_parts().0);
            peer.say("hello").await;
            let heard = peer.hear().await;
            assert_eq!(heard.as_deref(), Some("hello"), "{units} units");
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
            .service(Costs::new(200, make))
    );
    assert_eq!(answers(stack).await, vec!["x"; 256]);
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
            .service(Costs::new(200, sessions))
    })
    .await
    .unwrap();
    assert!(!session.is_closing());
}
