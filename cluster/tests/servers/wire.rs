//! The two ways of messages of topics to NATS: the bus's own codec, and the client library.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use async_nats::ConnectOptions;
use getty_cluster::{Cluster, ClusterTopics, State, bus::Nats, form::Plain};
use getty_core::{Connection, driver};

use crate::server::until;

type Rooms = ClusterTopics<String, String>;

/// A server of NATS with options.
struct Server {
    child: Child,
    port: u16,
    _files: tempfile::TempDir,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port is free")
            .port();
        let files = tempfile::tempdir().expect("a directory is made");
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--jetstream", "--port"]);
        command.arg(port.to_string()).args(options);
        command.arg("--store_dir").arg(files.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("the server is installed");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Self {
            child,
            port,
            _files: files,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("the server was running");
        self.child.wait().expect("the server has ended");
    }
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
    to.subscribed("tea").await;
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
    let server = Server::start(&["--user", "ada", "--pass", "p@ss"]);
    let url = format!("nats://ada:p%40ss@127.0.0.1:{}", server.port);
    messages_arrive([(); 2].map(|()| Nats::new(&*url))).await;

    let server = Server::start(&["--auth", "secret"]);
    let url = format!("nats://secret@127.0.0.1:{}", server.port);
    messages_arrive([(); 2].map(|()| Nats::new(&*url))).await;
}

#[tokio::test]
#[ignore = "needs nats-server"]
async fn node_with_wrong_credentials_stays_down() {
    let server = Server::start(&["--user", "ada", "--pass", "p@ss"]);
    for user in ["", "ada:wrong@", "token@"] {
        let (cluster, _rooms) = node(Nats::new(format!("nats://{user}127.0.0.1:{}", server.port)));
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(matches!(cluster.state(), State::Down { .. }), "{user}");
    }
}

/// The first server of a list does not exist.
#[tokio::test]
#[ignore = "needs nats-server"]
async fn another_server_is_tried() {
    let server = Server::start(&[]);
    let url = format!("nats://127.0.0.1:1,nats://127.0.0.1:{}", server.port);
    messages_arrive([(); 2].map(|()| Nats::new(&*url))).await;
}

/// A bus with options of the client library uses it for all messages, and nodes of both kinds
/// understand each other.
#[tokio::test]
#[ignore = "needs nats-server"]
async fn codec_and_client_library_exchange_messages() {
    let server = Server::start(&[]);
    let url = format!("nats://127.0.0.1:{}", server.port);
    let own = || Nats::new(&*url);
    let library = || own().with_options(ConnectOptions::new);
    messages_arrive([own(), library()]).await;
    messages_arrive([library(), own()]).await;
    messages_arrive([library(), library()]).await;
}
