//! Heartbeats in both directions, and the close of a session when one side stops answering.
//!
//! ```text
//! cargo run --example heartbeat                    # then type `stop client` or `stop server`
//! cargo run --example heartbeat -- --stop client   # stops the client after five seconds
//! ```
//!
//! A server and a client run in one process and talk over TCP. Any other line that you type
//! is sent to the server.
//!
//! A side sends `PING` when it has sent nothing for two seconds. It must then receive
//! something within one second. It answers each `PING` of the other side with `PONG`. A
//! stopped side sends nothing. You see that the other side closes the session with the reason
//! `heartbeat not answered`, and that the stopped side sees `closed by the peer`.

mod report;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use getty::{
    BoxError, Closed, CodecLayer, Reply, Request, ServiceBuilder, Session, SessionLayer,
    codec::Lines,
    layers::{CloseCallbackLayer, HeartbeatLayer},
    net::{TcpConnector, TcpListener},
};
use lexopt::prelude::*;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use self::report::Report;

/// Time without output after which a side sends `PING`.
const PERIOD: Duration = Duration::from_secs(2);
/// Time within which a side must receive something after its `PING`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which `--stop` stops a side.
const STOP_AFTER: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Report> {
    let start = Instant::now();
    let server = Side::new("server", start);
    let client = Side::new("client", start);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("stop") => {
                let side = match &*arguments.value()?.string()? {
                    "server" => server.clone(),
                    "client" => client.clone(),
                    other => return Err(format!("no side is named '{other}'").into()),
                };
                tokio::spawn(async move {
                    sleep(STOP_AFTER).await;
                    side.stop();
                });
            }
            other => return Err(other.unexpected().into()),
        }
    }

    let (closed, mut server_closed) = mpsc::unbounded_channel();
    let side = server.clone();
    let app = ServiceBuilder::new()
        .layer(CloseCallbackLayer::new(
            "example",
            (),
            move |record: &Closed| {
                // The send may fail, because `main` can return before this call.
                let _ = closed.send(record.clone());
            },
        ))
        .layer(CodecLayer::new(Lines::new()))
        .layer(
            HeartbeatLayer::optional(PERIOD, server.ping())
                .with_response_timeout(ANSWER_TIMEOUT)
                .with_pong(|message: &String| message == "PONG"),
        )
        .layer(SessionLayer::new())
        .service_fn(move |request| side.clone().handle(request));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(getty::serve(listener, app).into_future());

    let side = client.clone();
    let (session, mut client_closed) = getty::connect(TcpConnector::new(), address, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(
                HeartbeatLayer::optional(PERIOD, client.ping())
                    .with_response_timeout(ANSWER_TIMEOUT)
                    .with_pong(|message: &String| message == "PONG"),
            )
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request| side.clone().handle(request))
    })
    .await?;

    let mut lines = stdin_lines();
    let record = loop {
        tokio::select! {
            record = &mut client_closed => break record?,
            Some(line) = lines.recv() => match &*line {
                "stop client" => client.stop(),
                "stop server" => server.stop(),
                _ => session.feed(line).await?,
            },
        }
    };
    client.log(format_args!("session ended: {record}"));
    if let Some(record) = server_closed.recv().await {
        server.log(format_args!("session ended: {record}"));
    }
    Ok(())
}

/// Returns the lines of standard input.
///
/// A separate thread reads them. With tokio's standard input the runtime could not shut down
/// before the next line.
fn stdin_lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// One side of the connection.
#[derive(Clone)]
struct Side {
    name: &'static str,
    start: Instant,
    stopped: Arc<AtomicBool>,
}

impl Side {
    fn new(name: &'static str, start: Instant) -> Self {
        Self {
            name,
            start,
            stopped: Arc::default(),
        }
    }

    /// Prints an event of this side, with the time since the start of the program.
    fn log(&self, event: impl std::fmt::Display) {
        let seconds = self.start.elapsed().as_secs_f64();
        println!("{seconds:5.1} s  {}: {event}", self.name);
    }

    fn stop(&self) {
        self.log("stops answering");
        self.stopped.store(true, Relaxed);
    }

    /// Returns the closure that creates each ping. A stopped side sends none.
    fn ping(&self) -> impl Fn(&Session<String>) -> Option<String> + Clone + use<> {
        let side = self.clone();
        move |_session| {
            if side.stopped.load(Relaxed) {
                return None;
            }
            side.log("sends PING");
            Some("PING".to_owned())
        }
    }

    /// Handles each message but the pongs, which `HeartbeatLayer` removes.
    async fn handle(self, request: Request<String>) -> Result<Reply<String>, BoxError> {
        if self.stopped.load(Relaxed) {
            return Ok(Reply::none());
        }
        if request.message() == "PING" {
            self.log("receives PING, sends PONG");
            return Ok(Reply::one("PONG".to_owned()));
        }
        self.log(format_args!("receives '{}'", request.message()));
        Ok(Reply::none())
    }
}
