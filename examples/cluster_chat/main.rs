//! The chat of the example `chat` on several machines, without its web page.
//!
//! Three nodes over NATS, here on one machine. The server needs JetStream. Debian's package
//! starts one without it on port 4222, so this one has port 4223:
//!
//! ```text
//! sudo apt-get install nats-server
//! nats-server --addr 127.0.0.1 --port 4223 --jetstream --store_dir /tmp/nats
//!
//! # in three other terminals
//! run="cargo run --release --features cluster_chat --example cluster_chat --"
//! $run --bus nats://127.0.0.1:4223 --node one --tcp 127.0.0.1:7001
//! $run --bus nats://127.0.0.1:4223 --node two --tcp 127.0.0.1:7002
//! $run --bus nats://127.0.0.1:4223 --node three --tcp 127.0.0.1:7003
//!
//! # in one terminal per person, on any node; /help lists the commands
//! nc 127.0.0.1 7001
//! ```
//!
//! Over Redis the bus is `--bus redis://127.0.0.1:6380`:
//!
//! ```text
//! sudo apt-get install redis-server
//! redis-server --bind 127.0.0.1 --port 6380
//! ```
//!
//! With TLS it is `tls://` or `rediss://`. Without `--bus` the node is alone and needs no
//! server.
//!
//! Rooms, names and `/who` are those of the whole cluster. While the bus is away, each node
//! goes on as a chat of its people and refuses new names. Lines that did not arrive are
//! counted, and the next line shows their number. Ctrl-c sends a notice to the people of the
//! node, drains their sessions and leaves the cluster. If a node crashes, its names are free
//! after some 10 s. Until then `/who` shows that it does not answer. `docs/clusters.md` has
//! more.

#[path = "../report.rs"]
mod report;
mod rooms;
#[path = "../chat/text.rs"]
mod text;

use std::{io::stderr, process::ExitCode, time::Duration};

use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, ServiceBuilder, Session, SessionLayer, State,
    Transport,
    codec::Lines,
    handle_with,
    layers::{IdleTimeoutLayer, OnOpenLayer},
    net::TcpListener,
};
use getty_cluster::{Cluster, bus};
use lexopt::prelude::*;

use self::{report::Report, rooms::Rooms, text::Line};

const HELP: &str = "\
Usage: cluster_chat [--tcp ADDRESS] [--node NAME] [--bus URL]

  --tcp ADDRESS     address for TCP; 127.0.0.1:7000 by default
  --node NAME       name of this node, which no other has; the process id by default
  --bus URL         nats://HOST:PORT, redis://HOST:PORT, or memory: by default";

/// Maximum length of a line, in bytes. A longer line closes the session.
///
/// The limit for what a person types is lower, see `text::MAX_TEXT`. So a line that is a
/// little too long is refused with a notice, and the sender's name fits in front of every
/// accepted line. The codec applies this limit to lines that it sends, too.
const MAX_LINE: usize = 8 * 1024;

/// Maximum time in which a person may type nothing.
const IDLE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("cluster_chat: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    // The cluster logs when nodes come and go, and when the bus is away.
    tracing_subscriber::fmt().with_writer(stderr).init();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster_chat: {:?}", Report::from(error));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(options: &Options) -> Result<(), BoxError> {
    // Before anything is printed, so that a script may send a signal once it has read the address.
    let shutdown_signal = getty::shutdown_signal();
    let bus = bus::from_url(&options.bus)?;
    let cluster = Cluster::of("chat").named(&options.node).over(bus).start();
    let rooms = Rooms::new(&cluster);
    // Without the bus, this node is a chat of the people who are connected to it.
    let _ = tokio::time::timeout(Duration::from_secs(5), cluster.up()).await;
    let tcp = TcpListener::bind(&options.tcp).await?;
    println!("listening tcp {}", tcp.local_addr()?);

    let all_rooms = rooms.clone();
    let shutdown = async move {
        shutdown_signal.await;
        let people = all_rooms.announce_shutdown();
        println!("shutting down, {people} people are connected");
    };
    let drained = getty::serve(tcp, app(rooms.clone()))
        .with_graceful_shutdown(shutdown)
        .await?;
    cluster.leave().await;
    println!("drained: {drained}");
    println!("sessions ended since the start: {}", rooms.close_counts());
    Ok(())
}

/// Returns the stack.
fn app<T: Transport + Send + 'static>(rooms: Rooms) -> impl Pipeline<T> {
    let open_rooms = rooms.clone();
    ServiceBuilder::new()
        // called once per connection
        .concurrency_limit(10_000)
        .layer(CodecLayer::new(Lines::new().with_max_length(MAX_LINE)))
        .layer(
            IdleTimeoutLayer::activity(IDLE).with_hook(|session: &Session<Line>, _| {
                // If the queue is full, the person does not read either: skip the notice.
                let _ = session.try_send("* you have typed nothing for long: goodbye".into());
                session.close_with(CloseReason::IdleTimeout);
            }),
        )
        .layer(OnOpenLayer::new(move |session| {
            open_rooms.clone().enter(session)
        }))
        .layer(SessionLayer::new())
        // called once per message
        .service(handle_with(
            rooms,
            async |line: String, session: Session<Line>, State(rooms): State<Rooms>| {
                rooms.handle_line(&session, &line).await
            },
        ))
}

struct Options {
    tcp: String,
    node: String,
    bus: String,
}

impl Options {
    /// Parses the command line. Returns `None` for `--help`.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut options = Self {
            tcp: "127.0.0.1:7000".to_owned(),
            node: std::process::id().to_string(),
            bus: "memory:".to_owned(),
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("tcp") => options.tcp = arguments.value()?.string()?,
                Long("node") => options.node = arguments.value()?.string()?,
                Long("bus") => options.bus = arguments.value()?.string()?,
                Long("help") | Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(options))
    }
}
