//! A line client that comes back: what is typed is sent, what comes is printed, and when the server goes away it is
//! dialled until it is there again.
//!
//! ```sh
//! cargo run --release --example chat                      # in one terminal, or: nc -lk 7000
//! cargo run --release --example client                    # in another
//! cargo run --release --example client -- example.com:7000
//! ```
//!
//! Ctrl-d ends it once all that was typed has left, ctrl-c at once. What the client is doing is told on standard error.

use std::io::{self, Write};

use getty::{
    BoxError, Client, CloseReason, CodecLayer, Request, ServiceBuilder, SessionLayer,
    client::{Decision, Ended, State, StateWatch},
    codec::Lines,
    net::TcpConnector,
};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let target = std::env::args().nth(1);
    let target = target.unwrap_or_else(|| "127.0.0.1:7000".to_owned());

    let client = Client::builder()
        // a line that no server has taken yet goes to the next
        .with_reoffer(true)
        .with_decision(|ended| match ended {
            // nobody reads what is printed any more
            Ended::Closed(closed) if closed.reason == CloseReason::Handler => Decision::Stop,
            _ => Decision::Retry,
        })
        .connect(TcpConnector::new(), target.clone(), |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(|request: Request<String>| async move {
                    writeln!(io::stdout(), "{}", request.message())?;
                    Ok::<_, BoxError>(None)
                })
        });
    tokio::spawn(tell(client.watch(), target));

    tokio::select! {
        () = send(&client, typed()) => {}
        () = getty::shutdown_signal() => {}
        () = client.stopped() => {}
    }
    client.stop();
    client.stopped().await;
    Ok(())
}

/// Sends each line, one after another. A line that was typed while there is no server waits for one.
async fn send(client: &Client<String>, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        if let Err(error) = client.send(line).await {
            eprintln!("* not sent: {error}");
        }
    }
}

/// The lines of standard input. They are read on a thread of their own and not by the runtime, which would wait for the
/// next line before it ends.
fn typed() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(64);
    std::thread::spawn(move || {
        let typed = io::stdin().lines().map_while(Result::ok);
        for line in typed {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Says what the client is doing, whenever that changes.
async fn tell(mut watch: StateWatch, target: String) {
    while let Some(state) = watch.changed().await {
        match state {
            State::Open(1) => eprintln!("* connected to {target}"),
            State::Open(_) => eprintln!("* connected to {target} again"),
            State::Waiting(_) => eprintln!("* no connection to {target}: {state}"),
            State::Failed(why) => eprintln!("* {why}"),
            _ => {}
        }
    }
}
