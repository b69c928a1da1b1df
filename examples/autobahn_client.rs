//! Runs our WebSocket client through the cases of an Autobahn fuzzing server, echoing each message in kind.
//!
//! ```text
//! cargo run --release --all-features --example autobahn_client -- ws://127.0.0.1:9001
//! ```
//!
//! What became of the cases is in the server's report.

use std::{process::ExitCode, time::Duration};

use getty::{
    BoxError, Closed, CodecLayer, Layer, Request, ServiceBuilder, SessionLayer,
    net::TcpConnector,
    ws::{Message, MessageCodec, Messages, WsConnectLayer},
};
use tokio::{sync::mpsc, time::timeout};

const AGENT: &str = "getty";
/// The longest message of any case.
const LONGEST: usize = 16 * 1024 * 1024;
/// No case takes nearly as long.
const A_CASE: Duration = Duration::from_secs(60);

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
            eprintln!("autobahn_client: {error}");
            let causes = std::iter::successors(error.source(), |&error| error.source());
            causes.for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(url: &str) -> Result<u32, BoxError> {
    let cases = count(url).await?;
    for case in 1..=cases {
        // a case may end in any way, and what is to be made of that is the server's to say
        let url = format!("{url}/runCase?case={case}&agent={AGENT}");
        match timeout(A_CASE, echo(&url)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => eprintln!("case {case}: {error}"),
            Err(_) => eprintln!("case {case} was given up after {A_CASE:?}"),
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
        .with_max_message(LONGEST)
        .layer(TcpConnector::new())
}

/// How many cases there are: the one message that the server sends.
async fn count(url: &str) -> Result<u32, BoxError> {
    let (said, mut says) = mpsc::channel(1);
    let (_session, task) = getty::connect(connector(), format!("{url}/getCaseCount"), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(MessageCodec::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<Message>| {
                let said = said.clone();
                async move {
                    said.send(request.into_message()).await?;
                    Ok::<_, BoxError>(None)
                }
            })
    })
    .await?;
    let message = says.recv().await.ok_or("the server said no number")?;
    let _: Closed = task.await?;
    Ok(message
        .as_text()
        .ok_or("a number is text")?
        .trim()
        .parse()?)
}

/// Sends back what comes, until the connection ends.
async fn echo(url: &str) -> Result<Closed, BoxError> {
    let (_session, task) = getty::connect(connector(), url.to_owned(), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(MessageCodec::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(|request: Request<Message>| async move {
                Ok::<_, BoxError>(request.into_message())
            })
    })
    .await?;
    task.await
}
