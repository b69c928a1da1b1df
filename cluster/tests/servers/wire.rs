//! The two ways of messages of topics to NATS: the bus's own codec, and the client library.

use std::time::Duration;

use async_nats::ConnectOptions;
use getty_cluster::{Cluster, ClusterTopics, State, bus::Nats, form::Plain};
use getty_core::{Connection, driver};

use crate::server::{Kind, Server, until};

type Rooms = ClusterTopics<String, String>;

/// Longest time until a topic is subscribed to.
const WAIT: Duration = Duration::from_secs(60);

/// Starts a server of NATS with options.
fn start(options: &[&str]) -> Server {
    let options = options.iter().map(|option| (*option).to_owned());
    Server::with_arguments(Kind::Nats, |_, _| options.collect())
}

fn nats(url: &str) -> Nats {
    Nats::new(url).expect("the URL is valid")
}

fn node(bus: Nats) -> (Cluster, Rooms) {
    let cluster = Cluster::of("test").over(bus).start();
    let rooms = cluster.topics("rooms", Plain);
    (cluster, rooms)
}

/// Sends messages of some lengths from one node to another one.
async fn messages_arrive([one, two]: [Nats; 2]) {
    let ((one, from), (two, to)) = (node(one), node(two));
    let connection = Connection::new(());
    let (member, _driver) = driver::pair(connection.handle().clone());
    to.join("tea".to_owned(), &member);
    assert!(to.subscribed("tea", WAIT).await);
    one.up().await;
    let lengths = [0, 1, 100, 40_000, 200_000];
    for len in lengths {
        from.broadcast("tea", "x".repeat(len)).unwrap();
    }
    until(|| two.snapshot().received == lengths.len() as u64).await;
    to.leave("tea", &member);
    let (one, two) = (one.snapshot(), two.snapshot());
    assert_eq!((one.published, one.disconnects), (5, 0));
    assert_eq!((two.lost, two.invalid, two.disconnects), (0, 0, 0));
}

#[tokio::test]
#[ignore = "needs nats-server"]
async fn messages_arrive_with_each_kind_of_credentials() {
    let server = start(&["--user", "ada", "--pass", "p@ss"]);
    let url = format!("nats://ada:p%40ss@127.0.0.1:{}", server.port());
    messages_arrive([(); 2].map(|()| nats(&url))).await;

    let server = start(&["--auth", "secret"]);
    let url = format!("nats://secret@127.0.0.1:{}", server.port());
    messages_arrive([(); 2].map(|()| nats(&url))).await;
}

#[tokio::test]
#[ignore = "needs nats-server"]
async fn node_with_wrong_credentials_stays_down() {
    let server = start(&["--user", "ada", "--pass", "p@ss"]);
    for user in ["", "ada:wrong@", "token@"] {
        let (cluster, _rooms) = node(nats(&format!("nats://{user}127.0.0.1:{}", server.port())));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(matches!(cluster.state(), State::Down { .. }), "{user}");
    }
}

/// The first server of a list does not exist.
#[tokio::test]
#[ignore = "needs nats-server"]
async fn another_server_is_tried() {
    let server = start(&[]);
    let url = format!("nats://127.0.0.1:1,nats://127.0.0.1:{}", server.port());
    messages_arrive([(); 2].map(|()| nats(&url))).await;
}

/// A bus with options of the client library uses it for all messages, and nodes of both kinds
/// understand each other.
#[tokio::test]
#[ignore = "needs nats-server"]
async fn codec_and_client_library_exchange_messages() {
    let server = start(&[]);
    let url = format!("nats://127.0.0.1:{}", server.port());
    let own = || nats(&url);
    let library = || own().with_options(ConnectOptions::new);
    messages_arrive([own(), library()]).await;
    messages_arrive([library(), own()]).await;
    messages_arrive([library(), library()]).await;
}
