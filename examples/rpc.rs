//! Balanced RPC: JSON calls over TCP and WebSocket to three servers. One server is stopped and
//! restarted.
//!
//! ```text
//! cargo run --features rpc --example rpc
//! ```
//!
//! The program makes 300 concurrent calls in each of four rounds and prints which server
//! answered how many. It ends by itself.
//!
//! A call is `{"id":1024,"call":{"method":"square","n":7}}`. Its response is
//! `{"id":1024,"result":{"by":"b","value":49}}`. Each is a line over TCP and a text message
//! over WebSocket. Many calls are in flight on each connection. Requests go in both
//! directions: the first call on a connection makes the server ask the client for its name.

mod report;

use std::{
    collections::BTreeMap,
    error::Error,
    fmt, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use getty::{
    BoxError, Client, CodecLayer, LinkLayer, MultiplexClient, Pipeline, ServiceBuilder, Session,
    SessionLayer, State, Transport,
    codec::{FrameCodec, Json, Lines, Text},
    handle, handle_with,
    layers::{
        Correlate, CorrelateLayer,
        correlate::{Delivery, RequestError},
    },
    net::{TcpConnector, TcpListener},
    ws::{Messages, WsConnectLayer, WsLayer},
};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinHandle, time::sleep};
use tower::{Layer, ServiceExt, balance::p2c::Balance, buffer::Buffer, discover::ServiceList};

use self::report::Report;

// ---- the protocol

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Message {
    id: u64,
    #[serde(flatten)]
    body: Body,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Call { method: Method, n: u64 },
    Result { by: String, value: u64 },
    Error { reason: String },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    Square,
    Name,
}

impl Message {
    /// Creates a call. `CorrelateLayer` sets its id when the call is sent.
    fn call(method: Method, n: u64) -> Self {
        let body = Body::Call { method, n };
        Self { id: 0, body }
    }
}

/// Reads and writes the id of a message.
#[derive(Clone, Copy, Debug)]
struct ById;

impl Correlate<Message> for ById {
    fn put(&self, id: u64, message: &mut Message) {
        message.id = id;
    }

    fn response_id(&self, message: &Message) -> Option<u64> {
        match message.body {
            Body::Call { .. } => None,
            Body::Result { .. } | Body::Error { .. } => Some(message.id),
        }
    }
}

/// A codec for text: lines on a byte stream, text messages on a WebSocket.
trait TextCodec: FrameCodec<Error: Error + Send + Sync> + Clone + Send + 'static {}

impl TextCodec for Lines {}
impl TextCodec for Text {}

// ---- a server

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Tcp,
    WebSocket,
}

/// Starts a server at `address`. It runs until the returned task is aborted.
async fn start_server(
    name: &'static str,
    protocol: Protocol,
    address: SocketAddr,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let served = match protocol {
            Protocol::Tcp => getty::serve(listener, server_stack(name, Lines::new())).await,
            Protocol::WebSocket => {
                let upgrade = WsLayer::new().with_messages(Messages::Text);
                let stack = upgrade.layer(server_stack(name, Text::new()));
                getty::serve(listener, stack).await
            }
        };
        if let Err(error) = served {
            eprintln!("server {name}: {error}");
        }
    });
    Ok((address, task))
}

/// Returns a server's stack. Only the text codec depends on the transport.
fn server_stack<T, C>(name: &'static str, text_codec: C) -> impl Pipeline<T> + Clone
where
    T: Transport + Send + 'static,
    C: TextCodec,
{
    ServiceBuilder::new()
        .layer(CodecLayer::new(Json::new(text_codec)))
        .layer(CorrelateLayer::new(ById))
        .layer(SessionLayer::new().with_in_flight(64).unordered())
        .service(handle_with(name, answer))
}

async fn answer(
    message: Message,
    session: Session<Message>,
    State(name): State<&'static str>,
) -> Result<Option<Message>, BoxError> {
    /// Attribute of a session whose client was asked for its name.
    #[derive(Clone)]
    struct Greeted;

    let Body::Call { method, n } = message.body else {
        return Ok(None);
    };
    if session.insert(Greeted).is_none() {
        // A handler may send a request to the same peer and await the response.
        let Message { body, .. } = session.request(Message::call(Method::Name, 0)).await?;
        if let Body::Result { by, .. } = body {
            println!("  server {name}: a new session from {by}");
        }
    }
    sleep(Duration::from_millis(n % 5)).await;
    let body = match method {
        Method::Square => match n.checked_mul(n) {
            Some(value) => Body::Result {
                by: name.to_owned(),
                value,
            },
            None => Body::Error {
                reason: format!("{n} is too large"),
            },
        },
        Method::Name => Body::Error {
            reason: "only clients have a name".to_owned(),
        },
    };
    Ok(Some(Message { body, ..message }))
}

// ---- the client

/// Returns a client for one server. It reconnects whenever the connection ends.
fn client(protocol: Protocol, address: SocketAddr) -> Client<Message> {
    match protocol {
        Protocol::Tcp => Client::new(TcpConnector::new(), address, |link| {
            client_stack(link, Lines::new())
        }),
        Protocol::WebSocket => {
            let connector = WsConnectLayer::new()
                .with_messages(Messages::Text)
                .layer(TcpConnector::new());
            Client::new(connector, format!("ws://{address}/"), |link| {
                client_stack(link, Text::new())
            })
        }
    }
}

/// Returns a client's stack. Its handler answers requests of the server.
fn client_stack<T, C>(link: LinkLayer<Message>, text_codec: C) -> impl Pipeline<T>
where
    T: Transport + Send + 'static,
    C: TextCodec,
{
    ServiceBuilder::new()
        .layer(CodecLayer::new(Json::new(text_codec)))
        .layer(CorrelateLayer::new(ById).with_deadline(Duration::from_secs(2)))
        .layer(link)
        .layer(SessionLayer::new())
        .service(handle(|message: Message| Message {
            id: message.id,
            body: Body::Result {
                by: "the balanced client".to_owned(),
                value: 0,
            },
        }))
}

/// Outcomes of one round of calls.
#[derive(Default)]
struct Outcomes {
    /// Number of correct responses for each server.
    answered: BTreeMap<String, usize>,
    /// Number of failed calls for each error.
    failed: BTreeMap<String, usize>,
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, calls) in &self.answered {
            write!(f, " {calls} by {name},")?;
        }
        for (error, calls) in &self.failed {
            write!(f, " {calls} failed ({error}),")?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Report> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let (a, _server_a) = start_server("a", Protocol::Tcp, any_port).await?;
    let (b, server_b) = start_server("b", Protocol::WebSocket, any_port).await?;
    let (c, _server_c) = start_server("c", Protocol::Tcp, any_port).await?;

    let servers = [
        (Protocol::Tcp, a),
        (Protocol::WebSocket, b),
        (Protocol::Tcp, c),
    ];
    let clients = servers.map(|(protocol, address)| client(protocol, address));
    let client_of_b: Client<Message> = clients[1].clone();
    let calls = clients.map(MultiplexClient::<Message, Message, _>::new);
    // `Balance` picks the less loaded of two ready clients. A client without a session is not
    // ready.
    let balance = Balance::new(ServiceList::new::<Message>(calls));
    let service = Buffer::new(balance, 64);

    let call = async |n: u64| {
        let response = service
            .clone()
            .oneshot(Message::call(Method::Square, n))
            .await;
        match response.map(|message| message.body) {
            Ok(Body::Result { by, value }) if value == n * n => Ok(by),
            Ok(other) => Err(format!("wrong response: {other:?}")),
            Err(error) => Err(match error.downcast_ref::<RequestError<Message>>() {
                Some(error) if error.delivery() == Delivery::NotSent => "not sent".to_owned(),
                Some(RequestError::Closed { .. }) => "closed before the response".to_owned(),
                _ => error.to_string(),
            }),
        }
    };
    let round = async |title: &str| {
        let start = Instant::now();
        let mut outcomes = Outcomes::default();
        for outcome in join_all((0..300).map(&call)).await {
            *match outcome {
                Ok(by) => outcomes.answered.entry(by).or_default(),
                Err(error) => outcomes.failed.entry(error).or_default(),
            } += 1;
        }
        println!("{title}:{outcomes} in {} ms", start.elapsed().as_millis());
        outcomes
    };

    round("three servers").await;

    let (outcomes, ()) = tokio::join!(round("b stops during the calls"), async {
        sleep(Duration::from_millis(5)).await;
        server_b.abort();
    });
    let answered = outcomes.answered.values().sum::<usize>();
    println!(
        "  each of 300 calls has an outcome: {answered} responses, {} errors",
        300 - answered
    );

    let outcomes = round("b is down").await;
    assert!(!outcomes.answered.contains_key("b") && outcomes.failed.is_empty());

    let (_, _server_b) = start_server("b", Protocol::WebSocket, b).await?;
    let session: Session<Message> = client_of_b.session().await?;
    println!("  b is back: {session}");
    let outcomes = round("three servers again").await;
    assert!(outcomes.answered.contains_key("b") && outcomes.failed.is_empty());
    Ok(())
}
