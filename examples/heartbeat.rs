//! Heartbeats both ways, and what becomes of a session one of whose sides stops answering.
//!
//! ```text
//! cargo run --example heartbeat                    # then: `stop client`, `stop server`, or a line for the server
//! cargo run --example heartbeat -- --stop client   # for scripts: this side stops after five seconds
//! ```
//!
//! A server and a client in one process, over TCP. Each says `PING` when it has sent nothing for two seconds, expects to
//! hear something within one second more, and answers the other's `PING` with `PONG`: until it is told to stop, and
//! then says nothing at all. The other side closes the session, with the reason `heartbeat not answered`; the side that
//! stopped sees it `closed by the peer`.

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

const PERIOD: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(1);
const UNTIL_STOP: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let begun = Instant::now();
    let server = Side::new("server", begun);
    let client = Side::new("client", begun);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("stop") => {
                let side = match &*arguments.value()?.string()? {
                    "server" => server.clone(),
                    "client" => client.clone(),
                    other => return Err(format!("there is no side '{other}'").into()),
                };
                tokio::spawn(async move {
                    sleep(UNTIL_STOP).await;
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
                // fails where the program has ended
                let _ = closed.send(record.clone());
            },
        ))
        .layer(CodecLayer::new(Lines::new()))
        .layer(
            HeartbeatLayer::new_if(PERIOD, server.beat())
                .with_answer_within(ANSWER)
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
                HeartbeatLayer::new_if(PERIOD, client.beat())
                    .with_answer_within(ANSWER)
                    .with_pong(|message: &String| message == "PONG"),
            )
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request| side.clone().handle(request))
    })
    .await?;

    let mut lines = lines();
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
    client.say(format_args!("session ended: {record}"));
    if let Some(record) = server_closed.recv().await {
        server.say(format_args!("session ended: {record}"));
    }
    Ok(())
}

/// The lines of the standard input, read on a thread of its own so that nothing waits for it at the end.
fn lines() -> mpsc::UnboundedReceiver<String> {
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
    begun: Instant,
    stopped: Arc<AtomicBool>,
}

impl Side {
    fn new(name: &'static str, begun: Instant) -> Self {
        Self {
            name,
            begun,
            stopped: Arc::default(),
        }
    }

    fn say(&self, what: impl std::fmt::Display) {
        let seconds = self.begun.elapsed().as_secs_f64();
        println!("{seconds:5.1} s  {}: {what}", self.name);
    }

    fn stop(&self) {
        self.say("stops answering");
        self.stopped.store(true, Relaxed);
    }

    /// What it says when it has said nothing for a while.
    fn beat(&self) -> impl Fn(&Session<String>) -> Option<String> + Clone + use<> {
        let side = self.clone();
        move |_session| {
            if side.stopped.load(Relaxed) {
                return None;
            }
            side.say("PING");
            Some("PING".to_owned())
        }
    }

    /// What it says to what it hears. Pongs never come here.
    async fn handle(self, request: Request<String>) -> Result<Reply<String>, BoxError> {
        if self.stopped.load(Relaxed) {
            return Ok(Reply::none());
        }
        if request.message() == "PING" {
            self.say("hears PING, says PONG");
            return Ok(Reply::one("PONG".to_owned()));
        }
        self.say(format_args!("hears '{}'", request.message()));
        Ok(Reply::none())
    }
}
