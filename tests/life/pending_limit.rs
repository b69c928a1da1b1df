//! `PendingLimitLayer` counts connections from the call until their session opens or they end.

use std::future::pending;

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, ServiceBuilder, SessionLayer,
    layers::{
        HandshakeTimeoutLayer, PendingLimitLayer,
        pending_limit::{Overflow, TooManyPending},
    },
    service_fn,
};
use getty_test::{Stream, TestSession};
use tower::util::BoxCloneService;

use crate::{
    SECOND,
    support::{echo, idle, lines, soon},
};

type Stack = BoxCloneService<Connection<Stream>, Closed, BoxError>;

/// Returns a stack whose peers are silent in a handshake, and one whose sessions open at once.
fn stacks(limit: &PendingLimitLayer) -> (Stack, Stack) {
    let silent = ServiceBuilder::new()
        .boxed_clone()
        .layer(HandshakeTimeoutLayer::new(3 * SECOND))
        .layer(limit.clone())
        .service(service_fn(|connection: Connection<Stream>| async {
            let never = pending::<Result<Closed, BoxError>>().await;
            drop(connection);
            never
        }));
    let opens = ServiceBuilder::new()
        .boxed_clone()
        .layer(limit.clone())
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service(service_fn(echo));
    (silent, opens)
}

#[tokio::test(start_paused = true)]
async fn open_session_is_not_counted() {
    let limit = PendingLimitLayer::new(1);
    let (_, opens) = stacks(&limit);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let session = TestSession::stream(opens.clone());
        idle().await;
        assert_eq!(limit.pending(), 0);
        sessions.push(session);
    }
    for session in sessions {
        session.send("hello\n");
        assert_eq!(soon(session.line()).await, "hello");
        session.close();
        session.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn pending_connection_is_counted_until_it_ends_in_any_way() {
    let limit = PendingLimitLayer::new(1);
    let (silent, opens) = stacks(&limit);
    for is_aborted in [true, false] {
        let mut pending = TestSession::stream(silent.clone());
        idle().await;
        assert_eq!(limit.pending(), 1);

        let mut refused = TestSession::stream(opens.clone());
        let error = refused.result().await.unwrap_err();
        assert_eq!(error.downcast_ref::<TooManyPending>().unwrap().limit(), 1);
        assert_eq!(refused.reason(), Some(CloseReason::Refused));
        assert!(refused.is_gone());

        if is_aborted {
            pending.abort();
            pending.closed().await;
        } else {
            assert!(pending.result().await.is_err(), "it ends at its deadline");
        }
        assert_eq!(limit.pending(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn oldest_pending_connection_makes_room_and_open_sessions_stay() {
    let limit = PendingLimitLayer::new(2).with_overflow(Overflow::DropOldest);
    let (silent, opens) = stacks(&limit);
    let open = TestSession::stream(opens.clone());
    idle().await;
    let mut pending = Vec::new();
    for _ in 0..5 {
        pending.push(TestSession::stream(silent.clone()));
        idle().await;
    }
    assert_eq!(limit.pending(), 2);
    let closed = pending.iter().map(TestSession::reason);
    let refused = Some(CloseReason::Refused);
    let expected = [refused.clone(), refused.clone(), refused, None, None];
    assert_eq!(closed.collect::<Vec<_>>(), expected);
    assert!(pending[0].is_gone() && !pending[4].is_gone());

    open.send("hello\n");
    assert_eq!(soon(open.line()).await, "hello");
    open.close();
    open.closed().await;
}
