//! Rooms of people who type lines at each other over TCP.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7000                      # one such for each person; /help lists the commands
//! ```
//!
//! Another address is an argument, and `--idle SECONDS` tries out what happens to people who type nothing. Ctrl-c drains.

mod rooms;

use std::{future::ready, num::NonZero, process::ExitCode, time::Duration};

use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, Request, ServiceBuilder, Session, SessionLayer,
    codec::Lines,
    layers::{IdleTimeoutLayer, OnOpenLayer},
    net::TcpListener,
};
use lexopt::prelude::*;
use tokio::net::TcpStream;

use self::rooms::{Line, Rooms};

const HELP: &str = "\
Usage: chat [ADDRESS] [--idle SECONDS]

  ADDRESS           where to listen; 127.0.0.1:7000 by default
  --idle SECONDS    how long people may type nothing; 300 by default";

/// What people may type is shorter: whoever overdoes it a little is told, and only much longer lines end the session.
/// It leaves room for the name that is put in front as well, for the codec refuses to send what it would not receive.
const LONGEST_LINE: usize = 8 * 1024;

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("chat: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat: {error}");
            let causes = std::iter::successors(error.source(), |&error| error.source());
            causes.for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(options: &Options) -> Result<(), BoxError> {
    // first, so that nobody is told that we listen before a signal ends us in order
    let asked = getty::shutdown_signal();
    let rooms = Rooms::default();
    let listener = TcpListener::bind(&options.address).await?;
    println!("chat listens on {}", listener.local_addr()?);

    let everybody = rooms.clone();
    let shutdown = async move {
        asked.await;
        println!("shutting down, {} people are here", everybody.say_goodbye());
    };
    let drained = getty::serve(listener, app(rooms.clone(), options.idle))
        .with_graceful_shutdown(shutdown)
        .await?;
    println!("drained: {drained}");
    println!("sessions ended since the start: {}", rooms.endings());
    Ok(())
}

/// From a connection to its end.
fn app(rooms: Rooms, idle: Duration) -> impl Pipeline<TcpStream> {
    let entrance = rooms.clone();
    ServiceBuilder::new()
        // called once per connection
        .concurrency_limit(10_000)
        .layer(CodecLayer::new(Lines::new().with_max_length(LONGEST_LINE)))
        .layer(
            IdleTimeoutLayer::active(idle).with_hook(|session: &Session<Line>, _| {
                // no room for it means that the person does not read, either
                let _ = session.try_send("* you have typed nothing for long: goodbye".into());
                session.close_with(CloseReason::IdleTimeout);
            }),
        )
        .layer(OnOpenLayer::new(move |session: Session<Line>| {
            entrance.enter(&session);
            ready(Ok::<_, BoxError>(()))
        }))
        .layer(SessionLayer::new())
        // called once per message
        .service_fn(move |request: Request<String, Line>| {
            let reply = rooms.hear(request.session(), request.message());
            ready(Ok::<_, BoxError>(reply))
        })
}

struct Options {
    address: String,
    idle: Duration,
}

impl Options {
    /// `None` when help was asked for.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut address = None;
        let mut idle = Duration::from_secs(300);
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("idle") => {
                    let seconds: NonZero<u64> = arguments.value()?.parse()?;
                    idle = Duration::from_secs(seconds.get());
                }
                Long("help") | Short('h') => return Ok(None),
                Value(value) if address.is_none() => address = Some(value.string()?),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(Self {
            address: address.unwrap_or_else(|| "127.0.0.1:7000".to_owned()),
            idle,
        }))
    }
}
