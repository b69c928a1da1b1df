//! `AccessLayer`: connections are refused by the address of their peer.

use getty::{
    Address, BoxError, CloseReason, CodecLayer, Connection, Endpoints, Pipeline, ServiceBuilder,
    SessionLayer, TransportKind,
    codec::Lines,
    layers::{
        AccessLayer, Registry, RegistryLayer,
        access::{AccessDenied, AccessList, IpNet},
    },
    net::TcpListener,
    service_fn,
};
use getty_test::{Stream, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::ServiceExt;

use crate::support::{echo, soon};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn from(peer: &str, transport: Stream) -> Connection<Stream> {
    let peer = Address::Ip(peer.parse().unwrap());
    let endpoints = Endpoints::new(TransportKind::Tcp, Address::Unknown, peer);
    Connection::with_endpoints(transport, endpoints)
}

#[tokio::test(start_paused = true)]
async fn changed_rule_applies_to_new_connections_and_a_registry_can_close_the_others() {
    let list = AccessList::allow_all();
    let registry = Registry::new();
    let stack = ServiceBuilder::new()
        .layer(AccessLayer::new(list.clone()))
        .layer(CodecLayer::new(Lines::new()))
        .layer(RegistryLayer::new(registry.clone()))
        .layer(SessionLayer::new())
        .service(service_fn(echo));
    let mut peers = Vec::new();
    let mut tasks = Vec::new();
    for peer in ["192.0.2.1:1", "198.51.100.1:1"] {
        let (transport, end) = stream();
        tasks.push(tokio::spawn(stack.clone().oneshot(from(peer, transport))));
        end.send("hello\n");
        assert_eq!(soon(end.line()).await, "hello");
        peers.push(end);
    }

    list.deny(net("192.0.2.0/24"));
    let (transport, end) = stream();
    let refused = from("[::ffff:192.0.2.9]:1", transport);
    let handle = refused.handle().clone();
    let error = soon(stack.oneshot(refused)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "192.0.2.9 is denied by the rule for 192.0.2.0/24"
    );
    let closed = soon(handle.closed()).await;
    assert_eq!(closed.reason, CloseReason::Refused);
    assert!(closed.source.unwrap().is::<AccessDenied>());
    assert!(end.is_gone() && end.counts().reads == 0);

    // Open sessions continue. The application may close them through the registry.
    peers[0].send("still here\n");
    assert_eq!(soon(peers[0].line()).await, "still here");
    let denied = registry.close_where(CloseReason::Local, |session| {
        list.check(session.peer_addr()).is_err()
    });
    assert_eq!(denied, 1);
    let closed = soon(tasks.remove(0)).await.unwrap().unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    peers[1].send("allowed\n");
    assert_eq!(soon(peers[1].line()).await, "allowed");
    assert_eq!(registry.len(), 1);
}

#[tokio::test]
async fn server_continues_after_refusals_and_serves_allowed_peers() {
    fn app(list: AccessList) -> impl Pipeline<TcpStream> + Clone {
        ServiceBuilder::new()
            .concurrency_limit(1)
            .layer(AccessLayer::new(list))
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service_fn(echo)
    }

    let list = AccessList::deny_all();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = getty::Listener::local_addr(&listener)
        .unwrap()
        .socket_addr()
        .unwrap();
    tokio::spawn(getty::serve(listener, app(list.clone())).into_future());
    let mut output = String::new();
    for _ in 0..3 {
        let mut refused = TcpStream::connect(address).await.unwrap();
        refused.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "");
    }
    list.allow(address.ip());
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"hello\n").await.unwrap();
    client.shutdown().await.unwrap();
    client.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "hello\n");
}

#[test]
fn boxed_error_of_the_inner_stack_is_not_boxed_again() {
    fn check<S: tower::Service<Connection<Stream>, Error = BoxError>>(_: &S) {}
    let layer = AccessLayer::new(AccessList::allow_all());
    let stack = ServiceBuilder::new()
        .layer(layer)
        .service_fn(|_: Connection<Stream>| async { Err::<(), _>("an error") });
    check(&stack);
}
