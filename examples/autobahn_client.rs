//! Runs getty's WebSocket client against the test cases of an Autobahn fuzzing server.
//!
//! ```text
//! cargo run --release --all-features --example autobahn_client -- ws://127.0.0.1:9001
//! ```
//!
//! In each case the client echoes every message: text as text, binary as binary. It offers
//! permessage-deflate, which the cases of sections 12 and 13 accept. At the end it
//! prints the number of cases. The results of the cases are in the server's report.

mod report;

use std::{process::ExitCode, time::Duration};

use getty::{
    BoxError, Closed, CodecLayer, Layer, NoReply, ServiceBuilder, SessionLayer, handle,
    net::TcpConnector,
    ws::{Deflate, Message, MessageCodec, Messages, WsConnectLayer},
};
use tokio::{sync::mpsc, time::timeout};

use self::report::Report;

const AGENT: &str = "getty";
/// Maximum message in any case, in bytes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Time limit for one case. The largest cases of compression take most of a minute on a busy
/// machine.
const CASE_TIMEOUT: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> ExitCode {
    let Some(url) = std::env::args().nth(1) else {
        eprintln!("Usage: autobahn_client URL, such as ws://127.0.0.1:9001");
        return ExitCode::from(2);
    };
    match run(url.trim_end_matches('/')).await {
        Ok(cases) => {
            println!("{cases} cases were run");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("autobahn_client: {:?}", Report::from(error));
            ExitCode::FAILURE
        }
    }
}

async fn run(url: &str) -> Result<u32, BoxError> {
    let cases = case_count(url).await?;
    for case in 1..=cases {
        // A case may break the protocol on purpose, so an error need not be a failure. The server
        // decides whether a case passed.
        let url = format!("{url}/runCase?case={case}&agent={AGENT}");
        match timeout(CASE_TIMEOUT, echo(&url)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => eprintln!("case {case}: {error}"),
            Err(_) => eprintln!("case {case} did not end within {CASE_TIMEOUT:?}"),
        }
    }
    echo(&format!("{url}/updateReports?agent={AGENT}")).await?;
    Ok(cases)
}

fn connector() -> impl getty::Service<
    String,
    Response = getty::Connection<getty::ws::WsTransport<tokio::net::TcpStream>>,
    Error = getty::ws::WsConnectError,
    Future: Send,
> + Send {
    WsConnectLayer::new()
        .with_messages(Messages::Both)
        .with_max_message(MAX_MESSAGE)
        .with_deflate(Deflate::new().with_threshold(0))
        .layer(TcpConnector::new())
}

/// Returns the number of cases. The server sends it as a single message.
async fn case_count(url: &str) -> Result<u32, BoxError> {
    let (sender, mut messages) = mpsc::channel(1);
    let (_session, task) = getty::connect(connector(), format!("{url}/getCaseCount"), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(MessageCodec::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(async move |message: Message| {
                sender.send(message).await?;
                Ok::<_, BoxError>(NoReply)
            }))
    })
    .await?;
    let message = messages.recv().await.ok_or("the server sent no count")?;
    let _: Closed = task.await?;
    Ok(message
        .as_text()
        .ok_or("the count is not a text message")?
        .trim()
        .parse()?)
}

/// Sends every message back until the connection ends.
async fn echo(url: &str) -> Result<Closed, BoxError> {
    let (_session, task) = getty::connect(connector(), url.to_owned(), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(MessageCodec::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(|message: Message| message))
    })
    .await?;
    task.await
}
