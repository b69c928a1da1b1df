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
use getty_test::{Stream, stream};
use tower::util::BoxCloneService;

use crate::{
    kit::{SECOND, run},
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
        let (transport, peer) = stream();
        let (handle, task) = run(transport, opens.clone());
        idle().await;
        assert_eq!(limit.pending(), 0);
        sessions.push((handle, task, peer));
    }
    for (handle, task, peer) in sessions {
        peer.send("hello\n");
        assert_eq!(soon(peer.line()).await, "hello");
        handle.close();
        soon(task).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn pending_connection_is_counted_until_it_ends_in_any_way() {
    let limit = PendingLimitLayer::new(1);
    let (silent, opens) = stacks(&limit);
    for is_aborted in [true, false] {
        let (transport, _peer) = stream();
        let (_, task) = run(transport, silent.clone());
        idle().await;
        assert_eq!(limit.pending(), 1);

        let (transport, refused) = stream();
        let (handle, second) = run(transport, opens.clone());
        let error = soon(second).await.unwrap().unwrap_err();
        assert_eq!(error.downcast_ref::<TooManyPending>().unwrap().limit(), 1);
        assert_eq!(handle.reason(), Some(CloseReason::Refused));
        assert!(refused.is_gone());

        if is_aborted {
            task.abort();
        }
        // Otherwise it ends at its deadline.
        let _ = soon(task).await;
        assert_eq!(limit.pending(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn oldest_pending_connection_makes_room_and_open_sessions_stay() {
    let limit = PendingLimitLayer::new(2).with_overflow(Overflow::DropOldest);
    let (silent, opens) = stacks(&limit);
    let (transport, open) = stream();
    let (handle, task) = run(transport, opens.clone());
    idle().await;
    let mut pending = Vec::new();
    for _ in 0..5 {
        let (transport, peer) = stream();
        pending.push((run(transport, silent.clone()), peer));
        idle().await;
    }
    assert_eq!(limit.pending(), 2);
    let closed = pending.iter().map(|((handle, _), _)| handle.reason());
    let refused = Some(CloseReason::Refused);
    let expected = [refused.clone(), refused.clone(), refused, None, None];
    assert_eq!(closed.collect::<Vec<_>>(), expected);
    assert!(pending[0].1.is_gone() && !pending[4].1.is_gone());

    open.send("hello\n");
    assert_eq!(soon(open.line()).await, "hello");
    handle.close();
    soon(task).await.unwrap().unwrap();
}
