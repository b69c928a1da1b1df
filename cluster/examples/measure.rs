//! Measurements of a cluster over real servers, which it starts, and their goals.
//!
//! ```text
//! cargo run --release -p getty-cluster --all-features --example measure -- gates
//! cargo run --release -p getty-cluster --all-features --example measure -- broadcast nats
//! cargo run --release -p getty-cluster --all-features --example measure -- publish nats
//! cargo run --release -p getty-cluster --all-features --example measure -- receive nats
//! cargo run --release -p getty-cluster --all-features --example measure -- memory nats
//! cargo run --release -p getty-cluster --all-features --example measure -- memory nats 4096
//! cargo run --release -p getty-cluster --all-features --example measure -- settle nats 100000
//! cargo run --release -p getty-cluster --all-features --example measure -- takeover nats
//! ```
//!
//! `gates` runs the first four over NATS and over Redis, and fails if a goal is missed. Instead
//! of `nats` it may be `redis`, and `library`: NATS with the client library for all messages.
//! For `broadcast` and `memory` it may be `memory`, and for the latter `none`: without a
//! cluster. The last word of `memory` is a number of buckets.
//!
//! CPU times are those of all threads of this process. The rounds of the cluster and of the
//! bare client take turns, and a ratio is that of the medians.

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

use bytes::{BufMut, Bytes};
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
const MESSAGES: u64 = 100_000;
const ROOMS: u64 = 100;
const ROUNDS: usize = 7;
/// Messages of a publisher between two pauses, when another node receives them.
const BURST: u64 = 64;
const PAUSE: Duration = Duration::from_millis(2);

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
        let mut command = if kind != "redis" {
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
    let nats = || Nats::new(&format!("nats://127.0.0.1:{port}"));
    let builder = match kind {
        "nats" => builder.over(nats()?),
        "library" => builder.over(nats()?.with_options(async_nats::ConnectOptions::new)),
        "redis" => builder.over(Redis::new(&format!("redis://127.0.0.1:{port}"))?),
        _ => builder.over(Memory::new()),
    };
    Ok(builder.start())
}

/// CPU time of all threads of this process.
fn cpu() -> Result<Duration, Box<dyn Error>> {
    let mut time = Duration::ZERO;
    for thread in fs::read_dir("/proc/self/task")? {
        // A thread may have ended meanwhile.
        let stat = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let nanoseconds = stat.split(' ').next().and_then(|field| field.parse().ok());
        time += Duration::from_nanos(nanoseconds.unwrap_or_default());
    }
    Ok(time)
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
fn nanoseconds(time: Duration, messages: u64) -> f64 {
    time.as_nanos() as f64 / messages as f64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Prints the ratio of a cluster to the bare client.
fn ratio(what: &str, bare: Vec<f64>, cluster: Vec<f64>, goal: f64) -> Anything {
    println!("{what}: rounds of the bare client {bare:.0?}, of the cluster {cluster:.0?}");
    let (bare, cluster) = (median(bare), median(cluster));
    println!("{what}: bare client {bare:.0} ns, cluster {cluster:.0} ns of CPU time a message");
    check(what, cluster / bare, goal, "times the bare client")
}

/// Prints a figure and its goal.
fn check(what: &str, figure: f64, goal: f64, unit: &str) -> Anything {
    let is_met = figure <= goal;
    let result = if is_met { "met" } else { "MISSED" };
    println!("GATE {what}: {figure:.2} {unit}, goal {goal}: {result}");
    if is_met {
        Ok(())
    } else {
        Err("a goal is missed".into())
    }
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
            member.driver.set_backpressure(false);
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
    for (what, times) in [("Topics", &of_local), ("ClusterTopics", &of_cluster)] {
        println!(
            "{what}: median {:?}, tenth {:?} a broadcast",
            times[2500], times[500]
        );
    }
    let more = of_cluster[2500].saturating_sub(of_local[2500]);
    let what = format!("broadcast to 10 members here and none elsewhere, {kind}");
    check(&what, nanoseconds(more, 1), 300.0, "ns more than Topics")
}

/// A client without a cluster.
enum Bare {
    Nats(async_nats::Client),
    Redis(redis::aio::MultiplexedConnection),
}

impl Bare {
    async fn connect(kind: &str, port: u16) -> Result<Self, Box<dyn Error>> {
        if kind == "redis" {
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
            return Ok(Self::Redis(
                client.get_multiplexed_async_connection().await?,
            ));
        }
        let client = async_nats::connect(format!("nats://127.0.0.1:{port}")).await?;
        Ok(Self::Nats(client))
    }

    /// Publishes messages, and with `pauses` not as fast as possible.
    async fn publish_all(&mut self, namespace: &str, from: u64, pauses: bool) -> Anything {
        let subject = |n: u64| format!("getty.{namespace}.t.rooms.{}", n % ROOMS);
        match self {
            Self::Nats(client) => {
                for n in from..from + MESSAGES {
                    client.publish(subject(n), frame(n)).await?;
                    if pauses && n.is_multiple_of(BURST) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                client.flush().await?;
            }
            Self::Redis(connection) => {
                let numbers: Vec<_> = (from..from + MESSAGES).collect();
                for numbers in numbers.chunks(if pauses { 64 } else { 128 }) {
                    let mut pipeline = redis::Pipeline::with_capacity(numbers.len());
                    for &n in numbers {
                        let publish = pipeline.cmd("PUBLISH").arg(subject(n));
                        publish.arg(&frame(n)[..]).ignore();
                    }
                    let () = pipeline.query_async(connection).await?;
                    if pauses {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Frame of another node; see `src/frame.rs`.
fn frame(n: u64) -> Bytes {
    let key = (n % ROOMS).to_string();
    let mut frame = bytes::BytesMut::with_capacity(29 + key.len() + LEN);
    frame.put_slice(&[1, 0, 0]);
    frame.put_u64(7);
    frame.put_u64(n + 1);
    frame.put_u64(n / ROOMS + 1);
    frame.put_u16(u16::try_from(key.len()).unwrap_or_default());
    frame.put_slice(key.as_bytes());
    frame.put_slice(&[b'x'; LEN]);
    frame.freeze()
}

/// Publishes all messages over a cluster.
async fn publish_all(cluster: &Cluster, rooms: &Rooms) {
    let message = Bytes::from_static(&[b'x'; LEN]);
    for n in 0..MESSAGES {
        loop {
            match rooms.broadcast(&(n % ROOMS), message.clone()) {
                Ok(sent) if sent.bus == BusResult::Queued => break,
                _ => tokio::time::sleep(Duration::from_micros(200)).await,
            }
        }
    }
    // It waits until the server has all.
    cluster.leave().await;
}

async fn publish(kind: &str, port: u16) -> Anything {
    let mut bare = Bare::connect(kind, port).await?;
    let cluster = node(kind, port)?;
    cluster.up().await;
    let rooms: Rooms = cluster.topics("rooms", Plain);
    let (mut of_bare, mut of_cluster) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = cpu()?;
        bare.publish_all("bare", 0, false).await?;
        of_bare.push(nanoseconds(cpu()? - before, MESSAGES));
        let before = cpu()?;
        publish_all(&cluster, &rooms).await;
        of_cluster.push(nanoseconds(cpu()? - before, MESSAGES));
    }
    ratio(&format!("publish, {kind}"), of_bare, of_cluster, 1.3)
}

/// Starts this program again as a publisher, of frames that a node publishes.
fn publisher(kind: &str, port: u16, namespace: &str, from: u64) -> Result<Child, Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    let arguments = ["publisher", kind, &port.to_string(), namespace];
    command.args(arguments).arg(from.to_string());
    Ok(command.spawn()?)
}

async fn receive(kind: &str, port: u16) -> Anything {
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
    let (mut of_bare, mut of_cluster) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for namespace in ["bare", "measure"] {
            let received = || match namespace {
                "bare" => count.load(Relaxed),
                _ => cluster.snapshot().received,
            };
            let (before, time) = (received(), cpu()?);
            let from = u64::try_from(round)? * MESSAGES;
            let mut child = publisher(kind, port, namespace, from)?;
            while child.try_wait()?.is_none() {
                member.driver.register(&Context::from_waker(Waker::noop()));
                while member.driver.next_outgoing().is_some() {}
                member.driver.set_backpressure(false);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let (messages, time) = (received() - before, cpu()? - time);
            if messages < MESSAGES * 99 / 100 {
                return Err(format!("only {messages} of {MESSAGES} have arrived").into());
            }
            let figure = nanoseconds(time, messages);
            match namespace {
                "bare" => of_bare.push(figure),
                _ => of_cluster.push(figure),
            }
        }
    }
    ratio(&format!("receive, {kind}"), of_bare, of_cluster, 1.5)
}

/// Subscribes to all rooms and counts the messages.
async fn receive_bare(kind: &str, port: u16) -> Result<Arc<AtomicU64>, Box<dyn Error>> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    if kind == "redis" {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/?protocol=resp3"))?;
        let config = redis::AsyncConnectionConfig::new().set_push_sender(move |_| {
            counted.fetch_add(1, Relaxed);
            Ok::<_, std::convert::Infallible>(())
        });
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connection.await?;
        for room in 0..ROOMS {
            connection
                .subscribe(format!("getty.bare.t.rooms.{room}"))
                .await?;
        }
        // It receives until the end of this program.
        std::mem::forget(connection);
    } else {
        let client = async_nats::connect(format!("nats://127.0.0.1:{port}")).await?;
        let mut all = Vec::new();
        for room in 0..ROOMS {
            let subject = format!("getty.bare.t.rooms.{room}");
            all.push(client.subscribe(subject).await?);
        }
        client.flush().await?;
        let mut all = futures_util::stream::select_all(all);
        tokio::spawn(async move {
            while all.next().await.is_some() {
                counted.fetch_add(1, Relaxed);
            }
        });
    }
    Ok(count)
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
    println!("{kind} {how}: {} B a topic", used / 100_000);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let mebibytes = used as f64 / 1024.0 / 1024.0;
    check(
        &format!("100,000 topics with a member each, {kind} {how}"),
        mebibytes,
        64.0,
        "MiB",
    )
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

/// Runs each measurement that has a goal in a process.
fn gates() -> Anything {
    let mut missed = 0;
    for kind in ["nats", "redis"] {
        for what in ["publish", "receive", "broadcast", "memory"] {
            let status = Command::new(env::current_exe()?)
                .args([what, kind])
                .status()?;
            missed += u32::from(!status.success());
        }
    }
    if missed > 0 {
        return Err(format!("{missed} goals are missed").into());
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Anything {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |place: usize| arguments.get(place).map_or("", String::as_str);
    let (what, kind) = (argument(0), argument(1));
    if what == "gates" {
        return gates();
    }
    if what == "publisher" {
        let mut bare = Bare::connect(kind, argument(2).parse()?).await?;
        return bare
            .publish_all(argument(3), argument(4).parse()?, true)
            .await;
    }
    let mut server = match kind {
        "nats" | "library" | "redis" => Some(Server::start(kind)?),
        _ => None,
    };
    let port = server.as_ref().map_or(0, |server| server.port);
    match (what, &mut server) {
        ("broadcast", _) => {
            // Sessions are tasks of the runtime, too.
            let kind = kind.to_owned();
            let broadcast = async move { broadcast(&kind, port).await.map_err(|e| e.to_string()) };
            Ok(tokio::spawn(broadcast).await??)
        }
        ("publish", _) => publish(kind, port).await,
        ("receive", _) => receive(kind, port).await,
        ("memory", _) => memory(kind, port, argument(2)).await,
        ("settle", Some(server)) => settle(server, argument(2).parse()?).await,
        ("takeover", _) => takeover(kind, port).await,
        _ => Err("see the first lines of this program".into()),
    }
}
