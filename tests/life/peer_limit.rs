//! `PeerLimitLayer` counts the connections of each peer from the call until the transport is
//! dropped.

use std::{future::pending, net::IpAddr};

use getty::{
    Address, BoxError, CloseReason, Closed, CodecLayer, Connection, Endpoints, Request,
    ServiceBuilder, Session, SessionLayer, TransportKind,
    layers::{PeerLimitLayer, peer_limit::TooManyConnections},
    service_fn,
};
use getty_test::{Peer, Stream, stream};
use tower::{ServiceExt, util::BoxCloneService};

use crate::support::{Answer, echo, idle, lines, soon};

type Stack = BoxCloneService<Connection<Stream>, Closed, BoxError>;
type Task = tokio::task::JoinHandle<Result<Closed, BoxError>>;
/// An action that ends a session.
type End = fn(&Task, &Peer);

fn peer() -> IpAddr {
    "192.0.2.1".parse().unwrap()
}

/// Adds a connection from the same peer.
fn connect(stack: &Stack) -> (Task, Peer) {
    let (transport, end) = stream();
    let peer = Address::Ip((peer(), 4096).into());
    let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer);
    let connection = Connection::with_endpoints(transport, endpoints);
    (tokio::spawn(stack.clone().oneshot(connection)), end)
}

async fn shaky(request: Request<String>) -> Answer {
    match request.message().as_str() {
        "panic" => panic!("a bad handler"),
        "fail" => Err("out of order".into()),
        _ => echo(request).await,
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_close_decrements_the_count() {
    let limit = PeerLimitLayer::new(1);
    let stack = ServiceBuilder::new()
        .layer(limit.clone())
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service(service_fn(shaky))
        .boxed_clone();
    let ends: [(&str, End); 6] = [
        ("peer", |_, end| end.finish()),
        ("reset", |_, end| end.reset()),
        ("panic", |_, end| end.send("panic\n")),
        ("error", |_, end| end.send("fail\n")),
        ("abort", |task, _| task.abort()),
        ("too long", |_, end| end.send([b'x'; 10_000])),
    ];
    for (name, end_it) in ends {
        let (task, end) = connect(&stack);
        end.send("hello\n");
        assert_eq!(soon(end.line()).await, "hello", "before the close: {name}");
        assert_eq!(limit.connections(peer()), 1);

        let (second, second_end) = connect(&stack);
        let error = soon(second).await.unwrap().unwrap_err();
        let error: &TooManyConnections = error.downcast_ref().unwrap();
        assert_eq!((error.peer(), error.limit()), (peer(), 1));
        assert!(second_end.is_gone());

        end_it(&task, &end);
        let _ = soon(task).await;
        assert_eq!(limit.peers(), 0, "after the close: {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_count_before_the_open_and_while_they_drain() {
    let limit = PeerLimitLayer::new(2);
    let make = service_fn(|_: Session<String>| async {
        pending::<()>().await;
        Ok::<_, BoxError>(service_fn(echo))
    });
    let pending_stack = ServiceBuilder::new()
        .layer(limit.clone())
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::per_session())
        .service(make)
        .boxed_clone();
    let draining_stack = ServiceBuilder::new()
        .layer(limit.clone())
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            request.session().close();
            pending::<Answer>().await
        })
        .boxed_clone();

    let (opening, _end) = connect(&pending_stack);
    let (draining, end) = connect(&draining_stack);
    end.send("close\n");
    idle().await;
    assert_eq!(limit.connections(peer()), 2);
    let (third, _end) = connect(&draining_stack);
    assert!(soon(third).await.unwrap().is_err());

    opening.abort();
    assert!(soon(opening).await.unwrap_err().is_cancelled());
    assert_eq!(limit.connections(peer()), 1);
    // The session drains until the drain deadline.
    let closed = soon(draining).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(limit.connections(peer()), 0);
}
