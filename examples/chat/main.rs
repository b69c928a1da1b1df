//! Rooms of people who type lines at each other, over TCP and on a web page.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7000                      # one such for each person; /help lists the commands
//! ```
//!
//! <http://127.0.0.1:7080/> is the page: its people are in the same rooms, and their sessions run the same stack over
//! WebSocket, where a text message is what a line is over TCP.
//!
//! Another address is an argument, `--page ADDRESS` is that of the page, and `--idle SECONDS` tries out what happens to
//! people who type nothing. Ctrl-c drains.

mod page;
mod rooms;

use std::{future::ready, num::NonZero, process::ExitCode, time::Duration};

use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, Request, ServiceBuilder, Session, SessionLayer,
    Transport,
    codec::{Decoder, Encoder, Lines, Text},
    layers::{IdleTimeoutLayer, OnOpenLayer},
    net::TcpListener,
};
use lexopt::prelude::*;

use self::rooms::{Line, Rooms};

const HELP: &str = "\
Usage: chat [ADDRESS] [--page ADDRESS] [--idle SECONDS]

  ADDRESS           where to listen; 127.0.0.1:7000 by default
  --page ADDRESS    where the web page is; 127.0.0.1:7080 by default
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
    let tcp = TcpListener::bind(&options.address).await?;
    let web = tokio::net::TcpListener::bind(&options.page)
        .await
        .map_err(|error| format!("no page on {}: {error}", options.page))?;
    let (address, page) = (tcp.local_addr()?, web.local_addr()?);
    // served to the end; once the sessions drain it opens no more of them
    let (serve_page, sockets) = page::serve(web, address.port(), LONGEST_LINE);
    tokio::spawn(serve_page);
    println!("chat listens on {address}");
    println!("page on http://{page}/");

    let everybody = rooms.clone();
    let shutdown = async move {
        asked.await;
        println!("shutting down, {} people are here", everybody.say_goodbye());
    };
    let lines = Lines::new().with_max_length(LONGEST_LINE);
    let text = Text::new().with_max_length(LONGEST_LINE);
    let drained = getty::serve(tcp, app(rooms.clone(), options.idle, lines))
        .and(getty::serve(
            sockets,
            app(rooms.clone(), options.idle, text),
        ))
        .with_graceful_shutdown(shutdown)
        .await?;
    println!("drained: {drained}");
    println!("sessions ended since the start: {}", rooms.endings());
    Ok(())
}

/// From a connection to its end, whatever its transport, with a codec that tells its lines apart.
fn app<T, C>(rooms: Rooms, idle: Duration, codec: C) -> impl Pipeline<T>
where
    T: Transport + Send + 'static,
    C: Decoder<Item = String, Error: Into<BoxError>>
        + Encoder<Line, Error: Into<BoxError>>
        + Clone
        + Send
        + 'static,
{
    let entrance = rooms.clone();
    ServiceBuilder::new()
        // called once per connection
        .concurrency_limit(10_000)
        .layer(CodecLayer::new(codec))
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
    page: String,
    idle: Duration,
}

impl Options {
    /// `None` when help was asked for.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut address = None;
        let mut page = None;
        let mut idle = Duration::from_secs(300);
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("idle") => {
                    let seconds: NonZero<u64> = arguments.value()?.parse()?;
                    idle = Duration::from_secs(seconds.get());
                }
                Long("page") => page = Some(arguments.value()?.string()?),
                Long("help") | Short('h') => return Ok(None),
                Value(value) if address.is_none() => address = Some(value.string()?),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(Self {
            address: address.unwrap_or_else(|| "127.0.0.1:7000".to_owned()),
            page: page.unwrap_or_else(|| "127.0.0.1:7080".to_owned()),
            idle,
        }))
    }
}
