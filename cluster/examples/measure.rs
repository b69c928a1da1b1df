//! Measurements of a cluster over real servers, which it starts.
//!
//! ```text
//! cargo run --release -p getty-cluster --all-features --example measure -- broadcast nats
//! cargo run --release -p getty-cluster --all-features --example measure -- publish nats
//! cargo run --release -p getty-cluster --all-features --example measure -- receive nats
//! cargo run --release -p getty-cluster --all-features --example measure -- memory nats subjects
//! cargo run --release -p getty-cluster --all-features --example measure -- memory nats 4096
//! cargo run --release -p getty-cluster --all-features --example measure -- settle nats 100000
//! cargo run --release -p getty-cluster --all-features --example measure -- takeover nats
//! ```
//!
//! Instead of `nats` it may be `redis`. For `broadcast` and `memory` it may be `memory`, and
//! for the latter `none`: without a cluster. CPU times are those of the whole process.

use std::{
    env,
    error::Error,
    fs,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt;
use getty_cluster::{
    BusResult, Cluster, ClusterTopics,
    bus::{Memory, Nats, Redis},
    form::Plain,
};
use getty_core::{
    Connection, Session,
    driver::{self, Driver},
};
use getty_layers::Topics;

type Anything = Result<(), Box<dyn Error>>;
type Rooms = ClusterTopics<u64, Bytes>;

/// Length of a message, in bytes.
const LEN: usize = 128;
/// Longest time until a topic is subscribed to.
const WAIT: Duration = Duration::from_secs(60);
const MESSAGES: u64 = 400_000;
const ROOMS: u64 = 100;

/// A server as a child process.
struct Server {
    kind: String,
    port: u16,
    child: Child,
}

impl Server {
    fn start(kind: &str) -> Result<Self, Box<dyn Error>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Self::spawn(kind, port)?;
        let kind = kind.to_owned();
        Ok(Self { kind, port, child })
    }

    fn spawn(kind: &str, port: u16) -> Result<Child, Box<dyn Error>> {
        let port_text = port.to_string();
        let mut command = if kind == "nats" {
            let mut command = Command::new("nats-server");
            let files = env::temp_dir().join(format!("getty-measure-{port}"));
            command.args(["--addr", "127.0.0.1", "--port", &port_text, "--jetstream"]);
            command.arg("--store_dir").arg(files);
            command
        } else {
            let mut command = Command::new("redis-server");
            command.args(["--port", &port_text, "--bind", "127.0.0.1", "--save", ""]);
            command
        };
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(child)
    }

    fn restart(&mut self) -> Anything {
        self.child = Self::spawn(&self.kind, self.port)?;
        Ok(())
    }

    fn kill(&mut self) -> Anything {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.kill();
        let _ = fs::remove_dir_all(env::temp_dir().join(format!("getty-measure-{}", self.port)));
    }
}

fn node(kind: &str, port: u16) -> Result<Cluster, Box<dyn Error>> {
    let builder = Cluster::of("measure");
    let builder = match kind {
        "nats" => builder.over(Nats::new(&format!("nats://127.0.0.1:{port}"))?),
        "redis" => builder.over(Redis::new(&format!("redis://127.0.0.1:{port}"))?),
        _ => builder.over(Memory::new()),
    };
    Ok(builder.start())
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Resident memory of this process, in bytes.
fn resident() -> i64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse::<i64>().ok());
    4096 * pages.unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_message(what: &str, time: Duration, messages: u64) {
    println!(
        "{what}: {:.0} ns a message",
        time.as_nanos() as f64 / messages as f64
    );
}

struct Member {
    session: Session<Bytes>,
    driver: Driver<Bytes>,
    _connection: Connection<()>,
}

fn member() -> Member {
    let connection = Connection::new(());
    let (session, driver) = driver::pair(connection.handle().clone());
    Member {
        session,
        driver,
        _connection: connection,
    }
}

/// A broadcast to ten members on this node, and none on others.
async fn broadcast(kind: &str, port: u16) -> Anything {
    let cluster = node(kind, port)?;
    cluster.up().await;
    let rooms: Rooms = cluster.topics("rooms", Plain);
    let local: Topics<u64, Bytes> = Topics::new();
    let mut members: Vec<_> = (0..10).map(|_| member()).collect();
    for member in &members {
        rooms.join(1, &member.session);
        local.join(1, &member.session);
    }
    rooms.subscribed(&1, WAIT).await;
    let message = Bytes::from_static(&[b'x'; LEN]);
    let mut batch = |with: bool| {
        let began = Instant::now();
        for _ in 0..20 {
            if with {
                let _ = rooms.broadcast(&1, message.clone());
            } else {
                local.broadcast(&1, message.clone());
            }
        }
        let time = began.elapsed() / 20;
        for member in &mut members {
            member.driver.register(&Context::from_waker(Waker::noop()));
            while member.driver.next_outgoing().is_some() {}
        }
        time
    };
    let (mut of_local, mut of_cluster) = (Vec::new(), Vec::new());
    for _ in 0..5000 {
        of_local.push(batch(false));
        of_cluster.push(batch(true));
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    of_local.sort();
    of_cluster.sort();
    for (what, times) in [("Topics", of_local), ("ClusterTopics", of_cluster)] {
        println!(
            "{what}: median {:?}, tenth {:?} a broadcast",
            times[2500], times[500]
        );
    }
    Ok(())
}

/// Publishes all messages over a cluster.
async fn publish_all(rooms: &Rooms, pause_each: u64) {
    let message = Bytes::from_static(&[b'x'; LEN]);
    for n in 0..MESSAGES {
        loop {
            match rooms.broadcast(&(n % ROOMS), message.clone()) {
                Ok(sent) if sent.bus == BusResult::Queued => break,
                _ => tokio::time::sleep(Duration::from_micros(200)).await,
            }
        }
        if pause_each > 0 && n % pause_each == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Publishes all messages over the bare client.
async fn publish_all_bare(kind: &str, port: u16, pause_each: u64) -> Anything {
    let message = Bytes::from_static(&[b'x'; LEN + 37]);
    if kind == "nats" {
        let client = async_nats::connect(format!("nats://127.0.0.1:{port}")).await?;
        for n in 0..MESSAGES {
            let subject = format!("getty.measure.t.rooms.{}", n % ROOMS);
            client.publish(subject, message.clone()).await?;
            if pause_each > 0 && n % pause_each == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        client.flush().await?;
        return Ok(());
    }
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut n = 0;
    while n < MESSAGES {
        let mut pipeline = redis::Pipeline::with_capacity(128);
        for _ in 0..128.min(MESSAGES - n) {
            let subject = format!("getty.measure.t.rooms.{}", n % ROOMS);
            pipeline
                .cmd("PUBLISH")
                .arg(subject)
                .arg(&message[..])
                .ignore();
            n += 1;
        }
        let () = pipeline.query_async(&mut connection).await?;
        if pause_each > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

async fn publish(kind: &str, port: u16) -> Anything {
    for _ in 0..3 {
        let before = cpu();
        publish_all_bare(kind, port, 0).await?;
        per_message("publish, bare client, CPU", cpu() - before, MESSAGES);
        let cluster = node(kind, port)?;
        cluster.up().await;
        let rooms: Rooms = cluster.topics("rooms", Plain);
        let before = cpu();
        publish_all(&rooms, 0).await;
        cluster.leave().await;
        per_message("publish, cluster, CPU", cpu() - before, MESSAGES);
    }
    Ok(())
}

/// Starts this program again as a publisher.
fn publisher(how: &str, kind: &str, port: u16) -> Result<Child, Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    Ok(command.args([how, kind, &port.to_string()]).spawn()?)
}

async fn receive(kind: &str, port: u16) -> Anything {
    for _ in 0..3 {
        let count = receive_bare(kind, port).await?;
        let cluster = node(kind, port)?;
        cluster.up().await;
        let rooms: Rooms = cluster.topics("rooms", Plain);
        let mut member = member();
        for room in 0..ROOMS {
            rooms.join(room, &member.session);
        }
        for room in 0..ROOMS {
            rooms.subscribed(&room, WAIT).await;
        }
        let before = cpu();
        let mut child = publisher("publisher", kind, port)?;
        while child.try_wait()?.is_none() {
            member.driver.register(&Context::from_waker(Waker::noop()));
            while member.driver.next_outgoing().is_some() {}
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let received = cluster.snapshot().received;
        per_message("receive, cluster, CPU", cpu() - before, received);
        println!(
            "    {count} and {received} received, {:?}",
            cluster.snapshot()
        );
    }
    Ok(())
}

async fn receive_bare(kind: &str, port: u16) -> Result<u64, Box<dyn Error>> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let mut keep = None;
    let mut task = None;
    if kind == "nats" {
        let client = async_nats::connect(format!("nats://127.0.0.1:{port}")).await?;
        let mut all = Vec::new();
        for room in 0..ROOMS {
            all.push(
                client
                    .subscribe(format!("getty.measure.t.rooms.{room}"))
                    .await?,
            );
        }
        client.flush().await?;
        let mut all = futures_util::stream::select_all(all);
        task = Some(tokio::spawn(async move {
            while all.next().await.is_some() {
                counted.fetch_add(1, Relaxed);
            }
        }));
    } else {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp3"))?;
        let config = redis::AsyncConnectionConfig::new().set_push_sender(move |_| {
            counted.fetch_add(1, Relaxed);
            Ok::<_, std::convert::Infallible>(())
        });
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await?;
        for room in 0..ROOMS {
            connection
                .subscribe(format!("getty.measure.t.rooms.{room}"))
                .await?;
        }
        keep = Some(connection);
    }
    let before = cpu();
    let mut child = publisher("bare-publisher", kind, port)?;
    while child.try_wait()?.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let received = count.load(Relaxed);
    per_message("receive, bare client, CPU", cpu() - before, received);
    drop(keep);
    if let Some(task) = task {
        task.abort();
    }
    Ok(received)
}

async fn memory(kind: &str, port: u16, how: &str) -> Anything {
    let topics: u64 = 100_000;
    let member = member();
    let before = resident();
    if kind == "none" {
        let local: Topics<u64, Bytes> = Topics::new();
        for topic in 0..topics {
            local.join(topic, &member.session);
        }
        let used = resident() - before;
        println!(
            "Topics alone: {} MiB, {} B a topic",
            used >> 20,
            used / 100_000
        );
        return Ok(());
    }
    let cluster = node(kind, port)?;
    cluster.up().await;
    let builder = cluster.topics_builder("rooms", Plain);
    let builder = match how.parse() {
        Ok(buckets) => builder.with_buckets(buckets),
        Err(_) => builder,
    };
    let rooms: Rooms = builder.build();
    for topic in 0..topics {
        rooms.join(topic, &member.session);
    }
    for topic in 0..topics {
        rooms.subscribed(&topic, WAIT).await;
    }
    let used = resident() - before;
    println!(
        "{kind} {how}: {} MiB, {} B a topic",
        used >> 20,
        used / 100_000
    );
    Ok(())
}

/// Time from a restart of the server until all subscriptions are in effect.
async fn settle(server: &mut Server, topics: u64) -> Anything {
    let cluster = node(&server.kind, server.port)?;
    cluster.up().await;
    let rooms: Rooms = cluster.topics("rooms", Plain);
    let member = member();
    for topic in 0..topics {
        rooms.join(topic, &member.session);
    }
    for topic in 0..topics {
        rooms.subscribed(&topic, WAIT).await;
    }
    for _ in 0..3 {
        server.kill()?;
        cluster.down().await;
        server.restart()?;
        let back = Instant::now();
        let mut connected = None;
        while !cluster.state().is_up() {
            let is_down = matches!(cluster.state(), getty_cluster::State::Down { .. });
            if !is_down && connected.is_none() {
                connected = Some(back.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let up = back.elapsed();
        let settling = up - connected.unwrap_or(up);
        println!(
            "{topics} topics: settled {settling:?} after the connection, {up:?} after the server"
        );
    }
    Ok(())
}

async fn takeover(kind: &str, port: u16) -> Anything {
    let nodes = [node(kind, port)?, node(kind, port)?];
    for node in &nodes {
        node.up().await;
        while node.nodes().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let claims = nodes.each_ref().map(|node| node.claims("users"));
    let mut last = Connection::new(());
    claims[0].take("ada", last.handle()).await?;
    let mut times = Vec::new();
    for n in 1..=2000 {
        let next = Connection::new(());
        let began = Instant::now();
        claims[n % 2].take("ada", next.handle()).await?;
        times.push(began.elapsed());
        last = next;
    }
    drop(last);
    times.sort();
    println!(
        "takeover: median {:?}, p99 {:?}, slowest {:?}",
        times[1000], times[1980], times[1999]
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Anything {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |place: usize| arguments.get(place).map_or("", String::as_str);
    let (what, kind) = (argument(0), argument(1));
    if let "publisher" | "bare-publisher" = what {
        let port = argument(2).parse()?;
        if what == "bare-publisher" {
            return publish_all_bare(kind, port, 64).await;
        }
        let cluster = node(kind, port)?;
        cluster.up().await;
        publish_all(&cluster.topics("rooms", Plain), 64).await;
        cluster.leave().await;
        return Ok(());
    }
    let mut server = match kind {
        "nats" | "redis" => Some(Server::start(kind)?),
        _ => None,
    };
    let port = server.as_ref().map_or(0, |server| server.port);
    match (what, &mut server) {
        ("broadcast", _) => broadcast(kind, port).await,
        ("publish", _) => publish(kind, port).await,
        ("receive", _) => receive(kind, port).await,
        ("memory", _) => memory(kind, port, argument(2)).await,
        ("settle", Some(server)) => settle(server, argument(2).parse()?).await,
        ("takeover", _) => takeover(kind, port).await,
        _ => Err("see the first lines of this program".into()),
    }
}
