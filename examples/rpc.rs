//! Calls of JSON over TCP, many at once on each connection, balanced over three servers; one is killed and comes back.
//!
//! ```text
//! cargo run --example rpc
//! ```
//!
//! It ends by itself, and says what it saw. A call is a line such as `{"id":1024,"call":{"method":"square","n":7}}`, its
//! answer `{"id":1024,"result":{"by":"b","value":49}}`. Each connection begins with a call of the server's own, which asks
//! the client for its name: requests go both ways.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures_util::future::join_all;
use getty::{
    BoxError, Client, CodecLayer, MultiplexClient, Request, ServiceBuilder, Session, SessionLayer,
    codec::Lines,
    layers::{
        Correlate, CorrelateLayer,
        correlate::{Left, RequestError},
    },
    net::{TcpConnector, TcpListener},
};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::codec::{Decoder, Encoder};
use tower::{ServiceExt, balance::p2c::Balance, buffer::Buffer, discover::ServiceList};

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

/// A line of JSON for each message. Over WebSocket each would be a text message.
#[derive(Clone, Debug)]
struct Json(Lines);

impl Decoder for Json {
    type Item = Message;
    type Error = BoxError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Message>, BoxError> {
        let line = self.0.decode(buf)?;
        Ok(line.map(|line| serde_json::from_str(&line)).transpose()?)
    }
}

impl Encoder<Message> for Json {
    type Error = BoxError;

    fn encode(&mut self, message: Message, buf: &mut BytesMut) -> Result<(), BoxError> {
        Ok(self.0.encode(serde_json::to_string(&message)?, buf)?)
    }
}

// ---- a server

/// Serves at `address` until the task is aborted.
async fn serve(
    name: &'static str,
    address: SocketAddr,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let app = ServiceBuilder::new()
        // a place for `TlsLayer` and `WsLayer`: nothing below changes with them
        .layer(CodecLayer::new(Json(Lines::new())))
        .layer(CorrelateLayer::new(ById))
        .layer(SessionLayer::new().in_flight(64).unordered())
        .service_fn(move |request: Request<Message>| handle(name, request));
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        if let Err(error) = getty::serve(listener, app).await {
            eprintln!("server {name}: {error}");
        }
    });
    Ok((address, task))
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

/// A connection to one server that is always made anew, and answers what the server asks.
fn endpoint(address: SocketAddr) -> Client<Message> {
    Client::new(TcpConnector::new(), address.to_string(), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Json(Lines::new())))
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
    let (a, _serving_a) = serve("a", any).await?;
    let (b, serving_b) = serve("b", any).await?;
    let (c, _serving_c) = serve("c", any).await?;

    let clients = [a, b, c].map(endpoint);
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

    let (_, _serving_b) = serve("b", b).await?;
    let session: Session<Message> = to_b.session().await?;
    println!("  b is back: {session}");
    let tally = round("three servers again").await;
    assert!(tally.by.contains_key("b") && tally.failed.is_empty());
    Ok(())
}
