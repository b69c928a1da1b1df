//! A chat server with rooms. People join over TCP with `nc`, or on a web page over WebSocket.
//!
//! ```text
//! cargo run --release --example chat
//! nc 127.0.0.1 7000                      # in one terminal per person; /help lists the commands
//! ```
//!
//! The web page is <http://127.0.0.1:7080/>. Its users are in the same rooms as the users of
//! `nc`. Their sessions run the same stack: a text message on the WebSocket is a line over
//! TCP.
//!
//! `chat ADDRESS` listens on another address, `--page ADDRESS` moves the page, and
//! `--idle SECONDS` sets how long a person may type nothing. Ctrl-c sends a notice to all
//! people, drains the sessions and prints how they ended.

mod page;
#[path = "../report.rs"]
mod report;
mod rooms;
mod text;

use std::{future::ready, num::NonZero, process::ExitCode, time::Duration};

use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, ServiceBuilder, Session, SessionLayer, State,
    Transport,
    codec::{Decoder, Encoder, Lines, Text},
    handle_with,
    layers::{IdleTimeoutLayer, OnOpenLayer},
    net::TcpListener,
};
use lexopt::prelude::*;

use self::{report::Report, rooms::Rooms, text::Line};

const HELP: &str = "\
Usage: chat [ADDRESS] [--page ADDRESS] [--idle SECONDS]

  ADDRESS           address for TCP; 127.0.0.1:7000 by default
  --page ADDRESS    address of the web page; 127.0.0.1:7080 by default
  --idle SECONDS    how long a person may type nothing; 300 by default";

/// Maximum length of a line, in bytes. A longer line closes the session.
///
/// The limit for what a person types is lower, see `text::MAX_TEXT`. So a line that is a
/// little too long is refused with a notice, and the sender's name fits in front of every
/// accepted line. The codec applies this limit to lines that it sends, too.
const MAX_LINE: usize = 8 * 1024;

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
            eprintln!("chat: {:?}", Report::from(error));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(options: &Options) -> Result<(), BoxError> {
    // Before anything is printed, so that a script may send a signal once it has read the address.
    let shutdown_signal = getty::shutdown_signal();
    let rooms = Rooms::default();
    let tcp = TcpListener::bind(&options.address).await?;
    let web = TcpListener::bind(&options.page).await?.into_inner();
    let (address, page) = (tcp.local_addr()?, web.local_addr()?);
    // The page is served until the program ends. It opens no more sessions once they drain.
    let (serve_page, sockets) = page::serve(web, address.port(), MAX_LINE);
    tokio::spawn(serve_page);
    println!("chat listens on {address}");
    println!("page on http://{page}/");
    println!(
        "join on the page, or with `nc {} {}`; /help lists the commands; Ctrl-c stops the chat",
        address.ip(),
        address.port()
    );

    let all_rooms = rooms.clone();
    let shutdown = async move {
        shutdown_signal.await;
        let people = all_rooms.announce_shutdown();
        println!("shutting down, {people} people are connected");
    };
    let lines = Lines::new().with_max_length(MAX_LINE);
    let text = Text::new().with_max_length(MAX_LINE);
    let drained = getty::serve(tcp, app(rooms.clone(), options.idle, lines))
        .and(getty::serve(
            sockets,
            app(rooms.clone(), options.idle, text),
        ))
        .with_graceful_shutdown(shutdown)
        .await?;
    println!("drained: {drained}");
    println!("sessions ended since the start: {}", rooms.close_counts());
    Ok(())
}

/// Returns the stack for any transport. `codec` finds the lines in its data.
fn app<T, C>(rooms: Rooms, idle: Duration, codec: C) -> impl Pipeline<T>
where
    T: Transport + Send + 'static,
    C: Decoder<Item = String, Error: Into<BoxError>>
        + Encoder<Line, Error: Into<BoxError>>
        + Clone
        + Send
        + 'static,
{
    let open_rooms = rooms.clone();
    ServiceBuilder::new()
        // called once per connection
        .concurrency_limit(10_000)
        .layer(CodecLayer::new(codec))
        .layer(
            IdleTimeoutLayer::activity(idle).with_hook(|session: &Session<Line>, _| {
                // If the queue is full, the person does not read either: skip the notice.
                let _ = session.try_send("* you have typed nothing for long: goodbye".into());
                session.close_with(CloseReason::IdleTimeout);
            }),
        )
        .layer(OnOpenLayer::new(move |session: Session<Line>| {
            open_rooms.enter(&session);
            ready(Ok::<_, BoxError>(()))
        }))
        .layer(SessionLayer::new())
        // called once per message
        .service(handle_with(
            rooms,
            |line: String, session: Session<Line>, State(rooms): State<Rooms>| {
                rooms.handle_line(&session, &line)
            },
        ))
}

struct Options {
    address: String,
    page: String,
    idle: Duration,
}

impl Options {
    /// Parses the command line. Returns `None` for `--help`.
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
