//! A whole stack for each server name.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use getty::{
    BoxError, BoxPipeline, CloseReason, CodecLayer, Connection, ConnectionRouter, Request,
    RouteError, Service, ServiceBuilder, SessionLayer, TransportKind,
    codec::Lines,
    layers::HandshakeTimeoutLayer,
    net::memory,
    tls::{ServerTls, TlsConfig, TlsInfo, TlsLayer, TlsOrPlainLayer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep},
};
use tower::{Layer, ServiceExt, limit::ConcurrencyLimitLayer, util::BoxCloneSyncService};

use super::kit::{Authority, NAME, Server, app, trusting};

const SECOND: Duration = Duration::from_secs(1);
const ADMIN: &str = "admin.test";

fn named(name: &'static str) -> BoxPipeline {
    BoxPipeline::new(
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| async move {
                Ok::<_, BoxError>(format!("{name}: {}", request.message()))
            }),
    )
}

/// Returns the configuration for both names.
fn both(authority: &Authority) -> TlsConfig {
    let (main, admin) = (authority.issue(NAME), authority.issue(ADMIN));
    let settings = ServerTls::new(main.chain(), main.key());
    let settings = settings.with_certificate_for(ADMIN, admin.chain(), admin.key());
    settings.load().unwrap()
}

fn by_name() -> ConnectionRouter<String> {
    ConnectionRouter::new(|handle| Some(handle.get::<TlsInfo>()?.server_name()?.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn each_server_name_has_its_own_stack() {
    let authority = Authority::new();
    let router = by_name()
        .with_route(NAME.to_owned(), named("main"))
        .with_route(ADMIN.to_owned(), named("admin"));
    let stack = ServiceBuilder::new()
        .layer(TlsLayer::new(both(&authority)))
        .service(router);
    let server = Server::with_stack(stack);
    for (name, reply) in [(NAME, "main: hello"), (ADMIN, "admin: hello")] {
        let mut client = server
            .connect_for(name, trusting(&authority))
            .await
            .unwrap();
        assert_eq!(client.ask("hello").await, reply);
    }
}

#[tokio::test(start_paused = true)]
async fn tls_and_plain_peers_of_one_port_have_their_own_stacks() {
    let authority = Authority::new();
    let router = ConnectionRouter::new(|handle| Some(handle.transport()))
        .with_route(TransportKind::Tls, named("secure"))
        .with_fallback(named("plain"));
    let tls = TlsLayer::new(both(&authority));
    let stack = ServiceBuilder::new()
        .layer(TlsOrPlainLayer::new(tls))
        .service(router);
    let server = Server::with_stack(stack);
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "secure: hello");
    let mut peer = server.dial().await;
    peer.write_all(b"hello\n").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut reply = String::new();
    peer.read_to_string(&mut reply).await.unwrap();
    assert_eq!(reply, "plain: hello\n");
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_route_is_refused_with_the_end_of_its_protocol() {
    let authority = Authority::new();
    let stack = ServiceBuilder::new()
        .layer(TlsLayer::new(both(&authority)))
        .service(by_name().with_route(NAME.to_owned(), named("main")));
    let mut server = Server::with_stack(stack);
    let mut client = server
        .connect_for(ADMIN, trusting(&authority))
        .await
        .unwrap();
    // Without a `close_notify` the read would fail.
    assert_eq!(client.rest().await.unwrap(), "");
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    let source = closed.source.unwrap();
    assert_eq!(source.downcast_ref(), Some(&RouteError::NoRoute));
}

// Contract 6.
#[tokio::test(start_paused = true)]
async fn router_is_always_ready_and_the_chosen_clone_is_polled_under_the_deadline() {
    // Each route has one permit.
    let limited = |name| {
        let stack = ConcurrencyLimitLayer::new(1).layer(named(name));
        BoxPipeline::new(stack)
    };
    for (outer, inner) in [(3, 10), (20, 3)] {
        let routes = Arc::new(Mutex::new(["a", "a", "b", "a"].into_iter()));
        let router = ConnectionRouter::new(move |_| routes.lock().unwrap().next())
            .with_ready_timeout(inner * SECOND)
            .with_route("a", limited("a"))
            .with_route("b", limited("b"));
        let stack = ServiceBuilder::new()
            .layer(HandshakeTimeoutLayer::new(outer * SECOND))
            .service(router);
        let mut server = Server::with_stack(stack);
        let started = Instant::now();
        let mut first = server.dial().await;
        assert_eq!(ask(&mut first, "hello\n").await, "a: hello\n");
        // The second waits for the permit, and the accept loop does not.
        let mut waits = server.dial().await;
        waits.write_all(b"hello\n").await.unwrap();
        sleep(SECOND).await;
        let mut other = server.dial().await;
        assert_eq!(ask(&mut other, "hello\n").await, "b: hello\n");
        let closed = server.end().await;
        assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
        assert_eq!(started.elapsed(), 3 * SECOND);
        let error = closed.source.unwrap();
        let not_ready = Some(&RouteError::NotReady(3 * SECOND));
        assert_eq!(error.downcast_ref() == not_ready, outer > inner);

        // A permit that is given back serves the next.
        let mut next = server.dial().await;
        next.write_all(b"next\n").await.unwrap();
        sleep(SECOND).await;
        drop(first);
        let mut reply = [0; 8];
        next.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"a: next\n");
    }
}

async fn ask(peer: &mut DuplexStream, line: &str) -> String {
    peer.write_all(line.as_bytes()).await.unwrap();
    let mut reply = vec![0; line.len() + 3];
    peer.read_exact(&mut reply).await.unwrap();
    String::from_utf8(reply).unwrap()
}

#[tokio::test(start_paused = true)]
async fn connection_that_is_closed_while_it_waits_for_its_route_ends_at_once() {
    let (mut listener, connector) = memory(1024);
    let router = ConnectionRouter::new(|_| Some(()))
        .with_route((), ConcurrencyLimitLayer::new(0).layer(named("never")));
    let _peer = connector.connect().await.unwrap();
    let connection = super::super::accept(&mut listener).await;
    let handle = connection.handle().clone();
    let task = tokio::spawn(router.oneshot(connection));
    sleep(SECOND).await;
    handle.close_with(CloseReason::Shutdown);
    let error = task.await.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&RouteError::Cancelled));
    assert_eq!(handle.reason(), Some(CloseReason::Shutdown));
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_key_ends_only_its_connection() {
    let calls = Mutex::new(0);
    let router = ConnectionRouter::new(move |_| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        let second = *calls == 2;
        drop(calls);
        assert!(!second, "on purpose");
        Some(())
    });
    let mut server = Server::with_stack(router.with_route((), named("a")));
    let mut first = server.dial().await;
    assert_eq!(ask(&mut first, "hello\n").await, "a: hello\n");
    let _second = server.dial().await;
    assert_eq!(server.end().await.reason, CloseReason::Panicked);
    let mut third = server.dial().await;
    assert_eq!(ask(&mut third, "hello\n").await, "a: hello\n");
    assert_eq!(ask(&mut first, "hello\n").await, "a: hello\n");
}

#[tokio::test(start_paused = true)]
async fn routes_of_one_transport_need_not_box_it() {
    type Stack = BoxCloneSyncService<Connection<DuplexStream>, getty::Closed, BoxError>;
    let lines: Stack = BoxCloneSyncService::new(app().map_err(Into::into));
    let upper: Stack = BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service_fn(|request: Request<String>| async move {
                Ok::<_, BoxError>(request.message().to_uppercase())
            }),
    );
    let mut router = ConnectionRouter::new(|_| Some(1))
        .with_route(0, lines)
        .with_route(1, upper);
    let (mut listener, connector) = memory(1024);
    let mut peer = connector.connect().await.unwrap().into_parts().0;
    let connection = super::super::accept(&mut listener).await;
    let task = tokio::spawn(router.ready().await.unwrap().call(connection));
    peer.write_all(b"hello\n").await.unwrap();
    peer.shutdown().await.unwrap();
    let mut reply = String::new();
    peer.read_to_string(&mut reply).await.unwrap();
    assert_eq!(reply, "HELLO\n");
    task.await.unwrap().unwrap();
}
