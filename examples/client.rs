//! A line client that reconnects. It sends the lines that you type and prints the lines that it
//! receives.
//!
//! ```sh
//! cargo run --release --example chat                      # in one terminal, or: nc -lk 7000
//! cargo run --release --example client                    # in another
//! cargo run --release --example client -- example.com:7000
//! cargo run --release --example client -- --proxy socks5://localhost:1080 example.com:7000
//! ```
//!
//! Stop the server and start it again: the client prints `* no connection` and later
//! `* connected ... again` on standard error. Lines that you type in the meantime are sent
//! after the reconnect. Ctrl-d ends the client once all lines are sent. Ctrl-c ends it at once.
//!
//! A proxy is given as `socks5://host:port` or `http://host:port`. A login is in front of the
//! host: `user:secret@host:port`. The proxy resolves the server's name. The client ends if the
//! proxy does not accept the login.

mod report;

use std::io::{self, Write};

use getty::{
    BoxError, Client, CloseReason, CodecLayer, Connection, Layer, NoReply, OpenError, Service,
    ServiceBuilder, SessionLayer,
    client::{ClientState, Decision, Ended, StateWatch},
    codec::Lines,
    handle,
    net::{
        TcpConnector,
        proxy::{HttpConnectLayer, ProxyConnect, ProxyConnectError, Socks5ConnectLayer},
    },
};
use lexopt::prelude::*;
use tokio::{net::TcpStream, sync::mpsc};

use self::report::Report;

#[tokio::main]
async fn main() -> Result<(), Report> {
    let mut target = "127.0.0.1:7000".to_owned();
    let mut proxy = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("proxy") => proxy = Some(arguments.value()?.string()?),
            Value(value) => target = value.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let client = match proxy {
        Some(proxy) => start(through(&proxy)?, target.clone()),
        None => start(TcpConnector::new(), target.clone()),
    };
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

/// Starts a client. A proxy does not change the type of the connections.
fn start<C>(connector: C, target: String) -> Client<String>
where
    C: Service<String, Response = Connection<TcpStream>, Error: Into<BoxError>, Future: Send>,
    C: Clone + Send + 'static,
{
    Client::builder()
        // A line that was certainly not sent is sent again over the next session.
        .with_resend(true)
        .with_retry_policy(decide)
        .connect(connector, target, |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service(handle(|line: String| {
                    writeln!(io::stdout(), "{line}")?;
                    Ok::<_, BoxError>(NoReply)
                }))
        })
}

/// Stops the client when a retry cannot help.
fn decide(ended: &Ended) -> Decision {
    match ended {
        // The handler fails only if standard output is closed: the lines have no reader.
        Ended::Closed(closed) if closed.reason == CloseReason::Handler => Decision::Stop,
        Ended::Open(OpenError::Connect(error)) => match error.downcast_ref() {
            Some(
                error @ (ProxyConnectError::Target(_)
                | ProxyConnectError::InvalidLogin(_)
                | ProxyConnectError::AuthRequired
                | ProxyConnectError::LoginRejected),
            ) => {
                eprintln!("* {error}");
                Decision::Stop
            }
            _ => Decision::Retry,
        },
        _ => Decision::Retry,
    }
}

/// Returns a connector through a proxy with this URL. It has one type for both kinds.
fn through(url: &str) -> Result<ProxyConnect<TcpConnector, String>, BoxError> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let (login, proxy) = rest.rsplit_once('@').unwrap_or(("", rest));
    let login = login.split_once(':');
    let (tcp, proxy) = (TcpConnector::new(), proxy.to_owned());
    match scheme {
        "socks5" => {
            let layer = Socks5ConnectLayer::new(proxy);
            Ok(match login {
                Some((user, password)) => layer.with_login(user, password).layer(tcp),
                None => layer.layer(tcp),
            })
        }
        "http" => {
            let layer = HttpConnectLayer::new(proxy);
            Ok(match login {
                Some((user, password)) => layer.with_login(user, password).layer(tcp),
                None => layer.layer(tcp),
            })
        }
        _ => Err("the proxy must be socks5://host:port or http://host:port".into()),
    }
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
            ClientState::Open(1) => eprintln!("* connected to {target}"),
            ClientState::Open(_) => eprintln!("* connected to {target} again"),
            ClientState::Waiting(_) => eprintln!("* no connection to {target}: {state}"),
            ClientState::Failed(failure) => eprintln!("* {failure}"),
            _ => {}
        }
    }
}
