//! Calls of JSON over TCP and WebSocket, many at once on each connection, balanced over three servers, of which one is
//! killed and comes back.
//!
//! ```text
//! cargo run --example rpc
//! ```
//!
//! It ends by itself, and says what it saw. A call is `{"id":1024,"call":{"method":"square","n":7}}`, its answer
//! `{"id":1024,"result":{"by":"b","value":49}}`: a line over TCP, and a text message over WebSocket. Each connection begins
//! with a call of the server's own, which asks the client for its name: requests go both ways.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::future::join_all;
use getty::{
    BoxError, Client, CodecLayer, LinkLayer, MultiplexClient, Pipeline, Request, ServiceBuilder,
    Session, SessionLayer, Transport,
    codec::{Decoder, Encoder, Lines, Text},
    layers::{
        Correlate, CorrelateLayer,
        correlate::{Left, RequestError},
    },
    net::{TcpConnector, TcpListener},
    ws::{Messages, WsConnectLayer, WsLayer},
};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinHandle, time::sleep};
use tower::{Layer, ServiceExt, balance::p2c::Balance, buffer::Buffer, discover::ServiceList};

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
    Error { what: String },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    Square,
    Name,
}

impl Message {
    /// A call, which gets its id when it is made.
    fn call(method: Method, n: u64) -> Self {
        let body = Body::Call { method, n };
        Self { id: 0, body }
    }
}

/// Where the id is.
#[derive(Clone, Copy, Debug)]
struct ById;

impl Correlate<Message> for ById {
    fn put(&self, id: u64, message: &mut Message) {
        message.id = id;
    }

    fn answers(&self, message: &Message) -> Option<u64> {
        match message.body {
            Body::Call { .. } => None,
            Body::Result { .. } | Body::Error { .. } => Some(message.id),
        }
    }
}

/// JSON in the texts of another codec: lines on a byte stream, messages where the transport has them.
#[derive(Clone, Debug)]
struct Json<C>(C);

impl<C: Decoder<Item = String, Error: Into<BoxError>>> Decoder for Json<C> {
    type Item = Message;
    type Error = BoxError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Message>, BoxError> {
        parsed(self.0.decode(buf).map_err(Into::into)?)
    }

    fn decode_eof(&mut self, buf: &mut BytesMut) -> Result<Option<Message>, BoxError> {
        parsed(self.0.decode_eof(buf).map_err(Into::into)?)
    }
}

fn parsed(text: Option<String>) -> Result<Option<Message>, BoxError> {
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

impl<C: Encoder<String, Error: Into<BoxError>>> Encoder<Message> for Json<C> {
    type Error = BoxError;

    fn encode(&mut self, message: Message, buf: &mut BytesMut) -> Result<(), BoxError> {
        let text = serde_json::to_string(&message)?;
        self.0.encode(text, buf).map_err(Into::into)
    }
}

/// What carries texts, in both directions.
trait Texts:
    Decoder<Item = String, Error: Into<BoxError>>
    + Encoder<String, Error: Into<BoxError>>
    + Clone
    + Send
    + 'static
{
}

impl Texts for Lines {}
impl Texts for Text {}

// ---- a server

#[derive(Clone, Copy, Debug)]
enum Over {
    Tcp,
    WebSocket,
}

/// Serves at `address` until the task is aborted.
async fn serve(
    name: &'static str,
    over: Over,
    address: SocketAddr,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let served = match over {
            Over::Tcp => getty::serve(listener, app(name, Lines::new())).await,
            Over::WebSocket => {
                let upgrade = WsLayer::new().with_messages(Messages::Text);
                getty::serve(listener, upgrade.layer(app(name, Text::new()))).await
            }
        };
        if let Err(error) = served {
            eprintln!("server {name}: {error}");
        }
    });
    Ok((address, task))
}

/// The same over every transport, but for how one text is told from the next.
fn app<T, C>(name: &'static str, texts: C) -> impl Pipeline<T> + Clone
where
    T: Transport + Send + 'static,
    C: Texts,
{
    ServiceBuilder::new()
        .layer(CodecLayer::new(Json(texts)))
        .layer(CorrelateLayer::new(ById))
        .layer(SessionLayer::new().in_flight(64).unordered())
        .service_fn(move |request: Request<Message>| handle(name, request))
}

async fn handle(
    name: &'static str,
    request: Request<Message>,
) -> Result<Option<Message>, BoxError> {
    #[derive(Clone)]
    struct Greeted;

    let (message, session) = request.into_parts();
    let Body::Call { method, n } = message.body else {
        return Ok(None);
    };
    if session.insert(Greeted).is_none() {
        // the handler awaits its own peer
        let Message { body, .. } = session.request(Message::call(Method::Name, 0)).await?;
        if let Body::Result { by, .. } = body {
            println!("  server {name}: {by} has come");
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
                what: format!("{n} is too large"),
            },
        },
        Method::Name => Body::Error {
            what: "ask the client".to_owned(),
        },
    };
    Ok(Some(Message { body, ..message }))
}

// ---- the client

/// A connection to one server that is always made anew.
fn endpoint(over: Over, address: SocketAddr) -> Client<Message> {
    match over {
        Over::Tcp => Client::new(TcpConnector::new(), address, |link| {
            answering(link, Lines::new())
        }),
        Over::WebSocket => {
            let connector = WsConnectLayer::new()
                .with_messages(Messages::Text)
                .layer(TcpConnector::new());
            Client::new(connector, format!("ws://{address}/"), |link| {
                answering(link, Text::new())
            })
        }
    }
}

/// A client's stack, which answers what the server asks.
fn answering<T, C>(link: LinkLayer<Message>, texts: C) -> impl Pipeline<T>
where
    T: Transport + Send + 'static,
    C: Texts,
{
    ServiceBuilder::new()
        .layer(CodecLayer::new(Json(texts)))
        .layer(CorrelateLayer::new(ById).with_deadline(Duration::from_secs(2)))
        .layer(link)
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Message>| async move {
            let message = request.into_message();
            Ok::<_, BoxError>(Some(Message {
                id: message.id,
                body: Body::Result {
                    by: "the balanced client".to_owned(),
                    value: 0,
                },
            }))
        })
}

/// What became of a number of calls.
#[derive(Default)]
struct Tally {
    by: BTreeMap<String, usize>,
    failed: BTreeMap<String, usize>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, calls) in &self.by {
            write!(f, " {calls} by {name},")?;
        }
        for (why, calls) in &self.failed {
            write!(f, " {calls} failed ({why}),")?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (a, _serving_a) = serve("a", Over::Tcp, any).await?;
    let (b, serving_b) = serve("b", Over::WebSocket, any).await?;
    let (c, _serving_c) = serve("c", Over::Tcp, any).await?;

    let clients =
        [(Over::Tcp, a), (Over::WebSocket, b), (Over::Tcp, c)].map(|(over, to)| endpoint(over, to));
    let to_b: Client<Message> = clients[1].clone();
    let calls = clients.map(MultiplexClient::<Message, Message, _>::new);
    // the least loaded of those that are ready; one whose server is away is not
    let balance = Balance::new(ServiceList::new::<Message>(calls));
    let service = Buffer::new(balance, 64);

    let call = async |n: u64| {
        let answer = service
            .clone()
            .oneshot(Message::call(Method::Square, n))
            .await;
        match answer.map(|message| message.body) {
            Ok(Body::Result { by, value }) if value == n * n => Ok(by),
            Ok(other) => Err(format!("wrong: {other:?}")),
            Err(error) => Err(match error.downcast_ref::<RequestError<Message>>() {
                Some(error) if error.left() == Left::No => "had not left".to_owned(),
                Some(RequestError::Closed { .. }) => "closed in mid-call".to_owned(),
                _ => error.to_string(),
            }),
        }
    };
    let round = async |what: &str| {
        let begun = Instant::now();
        let mut tally = Tally::default();
        for outcome in join_all((0..300).map(&call)).await {
            *match outcome {
                Ok(by) => tally.by.entry(by).or_default(),
                Err(why) => tally.failed.entry(why).or_default(),
            } += 1;
        }
        println!("{what}:{tally} in {} ms", begun.elapsed().as_millis());
        tally
    };

    round("three servers").await;

    let (tally, ()) = tokio::join!(round("b is killed in the midst"), async {
        sleep(Duration::from_millis(5)).await;
        serving_b.abort();
    });
    let survived = tally.by.values().sum::<usize>();
    println!(
        "  each of 300 calls has an end: {survived} answers, {} errors",
        300 - survived
    );

    let tally = round("b is away").await;
    assert!(!tally.by.contains_key("b") && tally.failed.is_empty());

    let (_, _serving_b) = serve("b", Over::WebSocket, b).await?;
    let session: Session<Message> = to_b.session().await?;
    println!("  b is back: {session}");
    let tally = round("three servers again").await;
    assert!(tally.by.contains_key("b") && tally.failed.is_empty());
    Ok(())
}
