//! A bus of two servers: one fails, and the messages of each topic are counted.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use getty_cluster::{BusResult, Cluster, ClusterTopics, State, bus};
use getty_core::{Connection, Session};

use crate::{
    numbered::{self, Numbered, TOPICS},
    proxy::{Mode, Proxy},
    server::{Kind, Server, until},
};

const NODES: usize = 3;

/// Messages of one publisher to one topic, as a node has seen them.
#[derive(Clone, Copy, Default)]
struct Account {
    received: u64,
    last: u64,
    /// Messages that were reported as missing.
    missed: u64,
}

type Accounts = Arc<Mutex<HashMap<(u64, u64), Account>>>;

/// A node with a member in each topic.
struct Node {
    cluster: Cluster,
    rooms: ClusterTopics<u64, Numbered>,
    publisher: u64,
    accounts: Accounts,
    /// Messages of each topic that the bus has refused.
    refused: Vec<AtomicU64>,
    _member: (Session<Numbered>, Connection<()>),
}

impl Node {
    async fn new(url: &str, publisher: u64, ids: Arc<Mutex<HashMap<u64, u64>>>) -> Self {
        let bus = bus::from_url(url).expect("the URLs are valid");
        let cluster = Cluster::of("test").over(bus).start();
        ids.lock().unwrap().insert(cluster.id().0, publisher);
        let accounts = Accounts::default();
        let (arrived, gaps) = (Arc::clone(&accounts), Arc::clone(&accounts));
        let form = numbered::form(move |[topic, publisher, number]| {
            let mut accounts = arrived.lock().unwrap();
            let account = accounts.entry((topic, publisher)).or_default();
            assert!(account.last < number, "{} before {number}", account.last);
            account.last = number;
            account.received += 1;
        });
        let builder = cluster.topics_builder("rooms", form);
        let rooms = builder.with_gap_hook(move |topic: &u64, gap| {
            let publisher = ids.lock().unwrap()[&gap.node.0];
            let mut accounts = gaps.lock().unwrap();
            accounts.entry((*topic, publisher)).or_default().missed += gap.missed;
        });
        let rooms = rooms.build();
        let member = numbered::join(&rooms).await;
        Self {
            cluster,
            rooms,
            publisher,
            accounts,
            refused: (0..TOPICS).map(|_| AtomicU64::new(0)).collect(),
            _member: member,
        }
    }

    /// Publishes a message to each topic.
    fn round(&self, number: u64) {
        for topic in 0..TOPICS {
            let message = [topic, self.publisher, number];
            let sent = self.rooms.broadcast(&topic, message).unwrap();
            let refused = u64::from(sent.bus != BusResult::Queued);
            let place = usize::try_from(topic).unwrap();
            self.refused[place].fetch_add(refused, Relaxed);
        }
    }

    fn shard(&self, topic: u64) -> usize {
        self.rooms.subject(&topic).shard(2)
    }

    /// Returns `true` if it has received this number from all other nodes in the topics of these
    /// shards.
    fn has_received(&self, number: u64, shards: &[usize]) -> bool {
        let accounts = self.accounts.lock().unwrap();
        (0..TOPICS)
            .filter(|topic| shards.contains(&self.shard(*topic)))
            .all(|topic| {
                let of_topic = accounts.iter().filter(|((of, _), _)| *of == topic);
                let complete = of_topic.filter(|(_, account)| account.last == number);
                complete.count() == NODES - 1
            })
    }
}

/// Returns the number of messages that are missing on all nodes in the topics of a shard. It is
/// the number that was reported, for each topic and publisher.
fn account(nodes: &[Node], sent: u64, shard: usize) -> u64 {
    let mut all = 0;
    for node in nodes {
        let accounts = node.accounts.lock().unwrap();
        for ((topic, publisher), account) in accounts.iter() {
            if node.shard(*topic) != shard {
                continue;
            }
            let missing = sent - account.received;
            assert_eq!(missing, account.missed, "{topic} of {publisher}");
            let place = usize::try_from(*topic).unwrap();
            let publisher = usize::try_from(*publisher).unwrap();
            let refused = nodes[publisher].refused[place].load(Relaxed);
            assert!(missing >= refused, "{missing}, {refused} were refused");
            all += missing;
        }
    }
    all
}

async fn other_shard_loses_nothing(kind: Kind, kills: bool) {
    let (stays, mut fails) = (Server::start(kind), Server::start(kind));
    let proxy = Proxy::start(fails.port());
    let urls = [stays.url(), kind.url(proxy.port())].join("|");
    let ids = Arc::<Mutex<HashMap<_, _>>>::default();
    let mut nodes = Vec::new();
    for publisher in 0..NODES {
        let ids = Arc::clone(&ids);
        nodes.push(Node::new(&urls, publisher as u64, ids).await);
    }
    for node in &nodes {
        node.cluster.up().await;
        until(|| node.cluster.nodes().len() == NODES - 1).await;
    }
    let mut sent = 0;
    let mut rounds = async |count: u64, shards: &[usize]| {
        for _ in 0..count {
            sent += 1;
            nodes.iter().for_each(|node| node.round(sent));
            // Each publisher waits for the others, so that no queue is full.
            until(|| nodes.iter().all(|node| node.has_received(sent, shards))).await;
        }
        sent
    };
    rounds(20, &[0, 1]).await;
    if kills {
        fails.kill();
    } else {
        proxy.set(Mode::HalfOpen);
    }
    // Messages of the first shard arrive, whether or not the outage of the second is noticed.
    let is_partial = |node: &Node| node.cluster.state() == State::Partial { away: 1 };
    while !nodes.iter().all(is_partial) {
        rounds(1, &[0]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rounds(50, &[0]).await;
    for node in &nodes {
        assert_eq!(node.cluster.nodes().len(), NODES - 1);
        let answers = node.rooms.ask(&7, Duration::from_secs(10)).await;
        assert_eq!(answers.missing, []);
    }
    if kills {
        fails.restart();
    }
    proxy.set(Mode::Pass);
    while !nodes.iter().all(|node| node.cluster.state().is_up()) {
        rounds(1, &[0]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sent = rounds(20, &[0, 1]).await;

    assert_eq!(account(&nodes, sent, 0), 0);
    let missing = account(&nodes, sent, 1);
    let on_second = (0..TOPICS).filter(|topic| nodes[0].shard(*topic) == 1);
    let least = 50 * on_second.count() * NODES * (NODES - 1);
    assert!(missing >= least as u64, "{missing} of the outage alone");
    for node in &nodes {
        for topic in (0..TOPICS).filter(|topic| node.shard(*topic) == 0) {
            let refused = &node.refused[usize::try_from(topic).unwrap()];
            assert_eq!(refused.load(Relaxed), 0);
        }
        let snapshot = node.cluster.snapshot();
        assert_eq!((snapshot.invalid, snapshot.unread), (0, 0));
        let disconnects: Vec<_> = node
            .cluster
            .shards()
            .iter()
            .map(|it| it.disconnects)
            .collect();
        assert_eq!((disconnects[0], disconnects[1] > 0), (0, true));
    }
    println!(
        "{kind:?}: {sent} rounds, {missing} missing and reported on one shard, 0 on the other"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn shard_of_redis_that_was_killed_harms_no_other() {
    other_shard_loses_nothing(Kind::Redis, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server and redis-server"]
async fn shard_of_nats_that_was_killed_harms_no_other() {
    other_shard_loses_nothing(Kind::Nats, true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long, needs nats-server and redis-server"]
async fn long_shard_of_redis_that_does_not_answer_harms_no_other() {
    other_shard_loses_nothing(Kind::Redis, false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long, needs nats-server and redis-server"]
async fn long_shard_of_nats_that_does_not_answer_harms_no_other() {
    other_shard_loses_nothing(Kind::Nats, false).await;
}
