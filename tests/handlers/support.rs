//! Shared helpers: a TCP server, a peer that sends and receives lines, and a codec of commands.

use getty::{
    BoxError, Pipeline,
    codec::{BytesMut, Decoder, Encoder, Lines},
    handler::{Keyed, NoCase},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Builds a stack of lines with a session layer and a message stack.
macro_rules! lines {
    ($messages:expr) => {
        lines!(getty::SessionLayer::new(), $messages)
    };
    ($session_layer:expr, $messages:expr) => {
        getty::ServiceBuilder::new()
            .layer(getty::CodecLayer::new(getty::codec::Lines::new()))
            .layer($session_layer)
            .service($messages)
    };
}
pub(crate) use lines;

/// Builds a stack of [`Command`]s with a message stack, whose errors are replies.
macro_rules! commands {
    ($messages:expr) => {
        getty::ServiceBuilder::new()
            .layer(getty::CodecLayer::new(crate::support::Commands::default()))
            .layer(getty::SessionLayer::new())
            .layer(getty::layers::HandleErrorLayer::new(|error| {
                format!("ERR {error}")
            }))
            .service($messages)
    };
}
pub(crate) use commands;

/// A server on a TCP port.
#[derive(Debug)]
pub(crate) struct Server(std::net::SocketAddr);

impl Server {
    pub(crate) async fn start(stack: impl Pipeline<TcpStream> + Clone) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(getty::serve(getty::net::TcpListener::from(listener), stack).into_future());
        Self(address)
    }

    pub(crate) async fn dial(&self) -> Peer {
        let io = TcpStream::connect(self.0).await.unwrap();
        Peer(BufReader::new(io))
    }
}

/// A client that sends and receives lines.
#[derive(Debug)]
pub(crate) struct Peer(BufReader<TcpStream>);

impl Peer {
    pub(crate) fn address(&self) -> String {
        self.0.get_ref().local_addr().unwrap().to_string()
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.0
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    /// Returns the next line, or `None` at the end.
    pub(crate) async fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).await.unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Sends a line and returns the next one.
    pub(crate) async fn ask(&mut self, line: &str) -> Option<String> {
        self.say(line).await;
        self.hear().await
    }
}

/// Sends lines to a new server. Returns all lines that it sends until it closes.
pub(crate) async fn talk(stack: impl Pipeline<TcpStream> + Clone, lines: &[&str]) -> Vec<String> {
    let mut peer = Server::start(stack).await.dial().await;
    for line in lines {
        peer.say(line).await;
    }
    peer.0.shutdown().await.unwrap();
    let mut heard = Vec::new();
    while let Some(line) = peer.hear().await {
        heard.push(line);
    }
    heard
}

/// `NAME argument`
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) name: NoCase,
    pub(crate) argument: String,
}

impl Keyed for Command {
    type Key = NoCase;

    fn key(&self) -> &NoCase {
        &self.name
    }
}

/// Decodes lines into commands, and encodes lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commands(Lines);

impl Decoder for Commands {
    type Item = Command;
    type Error = BoxError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Command>, BoxError> {
        let line = self.0.decode(input)?;
        Ok(line.map(|line| {
            let (name, argument) = line.split_once(' ').unwrap_or((&line, ""));
            Command {
                name: name.into(),
                argument: argument.to_owned(),
            }
        }))
    }
}

impl Encoder<String> for Commands {
    type Error = BoxError;

    fn encode(&mut self, line: String, output: &mut BytesMut) -> Result<(), BoxError> {
        Ok(self.0.encode(line, output)?)
    }
}
