//! The same tests over servers, all at once, each with a separate namespace.

use std::{collections::HashMap, pin::Pin, time::Instant};

use tokio::task::{JoinSet, LocalSet};

use crate::{
    claims,
    engine::Net,
    nodes,
    server::{Kind, Server},
    shards, topics, watches,
};

/// A test with its name.
pub(crate) type Case = (&'static str, fn(Net) -> Pin<Box<dyn Future<Output = ()>>>);

/// Runs all tests on one thread, as sessions without sockets need it. The buses have their own.
async fn run(kind: Kind, servers: usize, cases: impl IntoIterator<Item = &'static Case>) {
    LocalSet::new()
        .run_until(run_local(kind, servers, cases))
        .await;
}

async fn run_local(kind: Kind, servers: usize, cases: impl IntoIterator<Item = &'static Case>) {
    let servers: Vec<_> = (0..servers).map(|_| Server::start(kind)).collect();
    let ports: Vec<_> = servers.iter().map(Server::port).collect();
    let mut tests = JoinSet::new();
    let mut names = HashMap::new();
    for (name, test) in cases {
        let net = Net::servers(kind, ports.clone(), format!("test_{name}"));
        let handle = tests.spawn_local(async move {
            let began = Instant::now();
            test(net).await;
            began.elapsed()
        });
        names.insert(handle.id(), *name);
    }
    let mut failed = Vec::new();
    while let Some(result) = tests.join_next_with_id().await {
        match result {
            Ok((id, time)) => println!("{kind:?}: {} in {:.1?}", names[&id], time),
            Err(error) => failed.push(names[&error.id()]),
        }
    }
    assert!(failed.is_empty(), "{kind:?}: {failed:?}");
}

fn short() -> impl Iterator<Item = &'static Case> {
    let modules = [
        topics::SERVERS,
        claims::SERVERS,
        nodes::SERVERS,
        watches::SERVERS,
    ];
    modules.into_iter().flatten()
}

fn long() -> impl Iterator<Item = &'static Case> {
    let modules = [topics::LONG, claims::LONG, nodes::LONG, watches::LONG];
    modules.into_iter().flatten()
}

#[tokio::test]
#[ignore = "needs nats-server"]
async fn promises_hold_over_nats() {
    run(Kind::Nats, 1, short()).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn promises_hold_over_redis() {
    run(Kind::Redis, 1, short()).await;
}

#[tokio::test]
#[ignore = "needs nats-server"]
async fn shards_are_independent_over_nats() {
    run(Kind::Nats, 2, shards::SERVERS).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn shards_are_independent_over_redis() {
    run(Kind::Redis, 2, shards::SERVERS).await;
}

#[tokio::test]
#[ignore = "long, needs nats-server"]
async fn long_promises_hold_over_nats() {
    run(Kind::Nats, 1, long()).await;
}

#[tokio::test]
#[ignore = "long, needs redis-server"]
async fn long_promises_hold_over_redis() {
    run(Kind::Redis, 1, long()).await;
}

#[tokio::test]
#[ignore = "long, needs nats-server"]
async fn long_promises_hold_over_two_shards_of_nats() {
    run(Kind::Nats, 2, short().chain(long()).chain(shards::LONG)).await;
}

#[tokio::test]
#[ignore = "long, needs redis-server"]
async fn long_promises_hold_over_two_shards_of_redis() {
    run(Kind::Redis, 2, short().chain(long()).chain(shards::LONG)).await;
}
