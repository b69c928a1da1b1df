//! A line client that reconnects. It sends the lines that you type and prints the lines that it
//! receives.
//!
//! ```sh
//! cargo run --release --example chat                      # in one terminal, or: nc -lk 7000
//! cargo run --release --example client                    # in another
//! cargo run --release --example client -- example.com:7000
//! ```
//!
//! Stop the server and start it again: the client prints `* no connection` and later
//! `* connected ... again` on standard error. Lines that you type in the meantime are sent
//! after the reconnect. Ctrl-d ends the client once all lines are sent. Ctrl-c ends it at once.

use std::io::{self, Write};

use getty::{
    BoxError, Client, CloseReason, CodecLayer, NoReply, ServiceBuilder, SessionLayer,
    client::{Decision, Ended, State, StateWatch},
    codec::Lines,
    handle,
    net::TcpConnector,
};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let target = std::env::args().nth(1);
    let target = target.unwrap_or_else(|| "127.0.0.1:7000".to_owned());

    let client = Client::builder()
        // A line that was certainly not sent is sent again over the next session.
        .with_resend(true)
        .with_retry_policy(|ended| match ended {
            // The handler fails only if standard output is closed: the lines have no reader.
            Ended::Closed(closed) if closed.reason == CloseReason::Handler => Decision::Stop,
            _ => Decision::Retry,
        })
        .connect(TcpConnector::new(), target.clone(), |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service(handle(|line: String| {
                    writeln!(io::stdout(), "{line}")?;
                    Ok::<_, BoxError>(NoReply)
                }))
        });
    tokio::spawn(print_states(client.watch(), target));

    tokio::select! {
        () = send_lines(&client, stdin_lines()) => {}
        () = getty::shutdown_signal() => {}
        () = client.stopped() => {}
    }
    client.stop();
    client.stopped().await;
    Ok(())
}

/// Sends the lines in order. While there is no session, `Client::send` waits for one.
async fn send_lines(client: &Client<String>, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        if let Err(error) = client.send(line).await {
            eprintln!("* not sent: {error}");
        }
    }
}

/// Returns the lines of standard input.
///
/// A separate thread reads them. With tokio's standard input the runtime could not shut down
/// before the next line.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(64);
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Prints each change of the client's state.
async fn print_states(mut watch: StateWatch, target: String) {
    while let Some(state) = watch.changed().await {
        match state {
            State::Open(1) => eprintln!("* connected to {target}"),
            State::Open(_) => eprintln!("* connected to {target} again"),
            State::Waiting(_) => eprintln!("* no connection to {target}: {state}"),
            State::Failed(failure) => eprintln!("* {failure}"),
            _ => {}
        }
    }
}
