//! tower's rate limit. `SessionLayer::per_session` gives each session a separate limit.

use std::time::Duration;

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, ServiceBuilder, Session, SessionLayer,
    layers::{Registry, RegistryLayer},
    service_fn,
};
use getty_test::{Stream, stream};
use tokio::time::Instant;
use tower::{ServiceExt, util::BoxCloneService};

use crate::support::{echo, idle, lines, soon};

type Stack = BoxCloneService<Connection<Stream>, Closed, BoxError>;

/// Returns a stack that handles three messages per session and ten seconds.
fn stack(registry: &Registry<Session<String>>) -> Stack {
    let make = service_fn(|_: Session<String>| async {
        let stack = ServiceBuilder::new()
            .rate_limit(3, Duration::from_secs(10))
            .service(service_fn(echo));
        Ok::<_, BoxError>(stack)
    });
    ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(RegistryLayer::new(registry.clone()))
        .layer(SessionLayer::per_session())
        .service(make)
        .boxed_clone()
}

#[tokio::test(start_paused = true)]
async fn each_session_has_a_separate_limit_and_keeps_its_order() {
    let stack = stack(&Registry::new());
    let (busy, busy_end) = stream();
    let (other, other_end) = stream();
    tokio::spawn(stack.clone().oneshot(Connection::new(busy)));
    tokio::spawn(stack.oneshot(Connection::new(other)));
    let start = Instant::now();
    let messages: String = (0..10).map(|n| format!("{n}\n")).collect();
    busy_end.send(&messages);
    for n in 0..10 {
        assert_eq!(soon(busy_end.line()).await, n.to_string());
        assert_eq!(start.elapsed().as_secs(), n / 3 * 10);
        if n == 4 {
            // While the first session waits for its limit.
            other_end.send("hello\n");
            assert_eq!(soon(other_end.line()).await, "hello");
            assert_eq!(start.elapsed().as_secs(), 10);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn session_that_waits_for_the_limit_still_sends_and_closes_at_once() {
    let registry = Registry::new();
    let stack = stack(&registry);
    let (transport, end) = stream();
    let task = tokio::spawn(stack.oneshot(Connection::new(transport)));
    let start = Instant::now();
    end.send("1\n2\n3\n4\n5\n");
    soon(end.lines(3)).await;
    idle().await;
    let session = registry.all().remove(0);
    soon(session.send("push".to_owned())).await.unwrap();
    assert_eq!(soon(end.line()).await, "push");
    session.close_with(CloseReason::Shutdown);
    let closed = soon(task).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::Shutdown);
    assert_eq!(start.elapsed().as_secs(), 0);
    assert_eq!(end.output(), "1\n2\n3\npush\n");
}
