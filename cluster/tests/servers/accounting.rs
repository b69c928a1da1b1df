use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use getty_cluster::{BusResult, Cluster, ClusterTopics};
use getty_core::{Connection, Session};

use crate::{
    numbered::{self, Numbered, TOPICS},
    server::{Kind, Server, until},
};

/// A node with a member in each topic.
struct Node {
    cluster: Cluster,
    rooms: ClusterTopics<u64, Numbered>,
    publisher: u64,
    sent: AtomicU64,
    refused: AtomicU64,
    /// Last number of each topic and publisher.
    received: Arc<Mutex<HashMap<(u64, u64), u64>>>,
    _member: (Session<Numbered>, Connection<()>),
}

impl Node {
    async fn new(cluster: Cluster, publisher: u64) -> Self {
        let received = Arc::default();
        let arrived: Arc<Mutex<HashMap<(u64, u64), u64>>> = Arc::clone(&received);
        let form = numbered::form(move |[topic, publisher, number]| {
            let last = arrived.lock().unwrap().insert((topic, publisher), number);
            assert!(last < Some(number), "{last:?} before {number}");
        });
        let rooms = cluster.topics("rooms", form);
        let member = numbered::join(&rooms).await;
        Self {
            cluster,
            rooms,
            publisher,
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            received,
            _member: member,
        }
    }

    /// Publishes a message to each topic.
    fn round(&self, number: u64) {
        for topic in 0..TOPICS {
            let message = [topic, self.publisher, number];
            let sent = self.rooms.broadcast(&topic, message).unwrap();
            self.sent.fetch_add(1, Relaxed);
            if sent.bus != BusResult::Queued {
                self.refused.fetch_add(1, Relaxed);
            }
        }
    }

    /// Returns `true` if it has received this number from all other nodes in all topics.
    fn has_received(&self, number: u64, nodes: u64) -> bool {
        let received = self.received.lock().unwrap();
        let complete = received.values().filter(|last| **last == number).count();
        complete as u64 == TOPICS * (nodes - 1)
    }
}

async fn nodes(server: &Server) -> Vec<Node> {
    let [one, two, three] = server.nodes().await;
    let mut nodes = Vec::new();
    for (publisher, cluster) in [one, two, three].into_iter().enumerate() {
        nodes.push(Node::new(cluster, publisher as u64).await);
    }
    nodes
}

/// Missing messages are those that were reported, exactly.
fn account(nodes: &[Node]) -> (u64, u64) {
    let sent: u64 = nodes.iter().map(|node| node.sent.load(Relaxed)).sum();
    let refused: u64 = nodes.iter().map(|node| node.refused.load(Relaxed)).sum();
    let (mut missing, mut reported) = (0, 0);
    for node in nodes {
        let snapshot = node.cluster.snapshot();
        let of_others = sent - node.sent.load(Relaxed);
        missing += of_others - snapshot.received;
        reported += snapshot.lost;
        assert_eq!(of_others, snapshot.received + snapshot.lost, "{snapshot:?}");
        assert_eq!((snapshot.invalid, snapshot.unread), (0, 0));
    }
    assert!(
        reported >= 2 * refused,
        "each refused message misses two nodes"
    );
    (missing, reported)
}

async fn nothing_is_lost(kind: Kind) {
    let server = Server::start(kind);
    let nodes = nodes(&server).await;
    for number in 1..=300 {
        nodes.iter().for_each(|node| node.round(number));
        // Each publisher waits for the others, so that no queue is full.
        until(|| nodes.iter().all(|node| node.has_received(number, 3))).await;
    }
    assert_eq!(account(&nodes), (0, 0));
}

async fn missing_messages_are_reported(kind: Kind) {
    let mut server = Server::start(kind);
    let nodes = nodes(&server).await;
    let mut number = 0;
    let mut rounds = |count: u64| {
        for _ in 0..count {
            number += 1;
            nodes.iter().for_each(|node| node.round(number));
        }
        number
    };
    let first = rounds(1);
    until(|| nodes.iter().all(|node| node.has_received(first, 3))).await;
    rounds(50);
    server.kill();
    for node in &nodes {
        node.cluster.down().await;
    }
    rounds(50);
    server.restart();
    for node in &nodes {
        node.cluster.up().await;
    }
    rounds(50);
    // Queues may have been full, so the last messages come when they are empty.
    let last = loop {
        let last = rounds(1);
        let is_complete = || nodes.iter().all(|node| node.has_received(last, 3));
        let waited = tokio::time::timeout(Duration::from_secs(5), until(is_complete));
        if waited.await.is_ok() {
            break last;
        }
    };
    let (missing, reported) = account(&nodes);
    assert!(
        missing >= 2 * 3 * 50 * TOPICS,
        "{missing} of the outage alone"
    );
    assert_eq!(missing, reported);
    println!("{kind:?}: {last} rounds, {missing} missing, {reported} reported");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn redis_loses_nothing_while_it_is_up() {
    nothing_is_lost(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn messages_missing_after_redis_was_killed_are_those_reported() {
    missing_messages_are_reported(Kind::Redis).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn nats_loses_nothing_while_it_is_up() {
    nothing_is_lost(Kind::Nats).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn messages_missing_after_nats_was_killed_are_those_reported() {
    missing_messages_are_reported(Kind::Nats).await;
}
