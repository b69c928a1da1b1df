//! WebSocket sessions: byte by byte and with another implementation.

mod close;
#[cfg(feature = "compression")]
mod deflate;
mod detect;
mod dropped;
mod frames;
mod handshake;
#[cfg(feature = "tls")]
mod secure;
mod stream;
mod upgrade;

use std::{future::Future, time::Duration};

use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, Pipeline, Request, ServiceBuilder,
    Session, SessionLayer,
    net::{MemoryConnector, memory},
    ws::{Message, MessageCodec, Messages, WsLayer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::timeout,
};

/// Example from RFC 6455: a key and the answer to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Fails a test that would hang.
async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(3600), future)
        .await
        .expect("the future did not resolve within an hour")
}

/// Server in memory with its opened sessions and their close records.
struct Server {
    connector: MemoryConnector,
    ends: mpsc::UnboundedReceiver<Closed>,
    opened: mpsc::UnboundedReceiver<Session<Message>>,
}

impl Server {
    /// Creates a server that echoes messages with their kind behind `layer`.
    fn echo(layer: WsLayer) -> Self {
        Self::new(layer, SessionLayer::new(), |request| async move {
            Some(request.into_message())
        })
    }

    fn new<F, Fut>(layer: WsLayer, sessions: SessionLayer, handler: F) -> Self
    where
        F: Fn(Request<Message>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Option<Message>> + Send + 'static,
    {
        let (ended, ends) = mpsc::unbounded_channel();
        let (opening, opened) = mpsc::unbounded_channel();
        let stack = ServiceBuilder::new()
            .map_request(move |connection: Connection<DuplexStream>| {
                let ended = ended.clone();
                let report = move |closed: &Closed| drop(ended.send(closed.clone()));
                connection
                    .handle()
                    .add_close_callback("test", "end", report);
                connection
            })
            .layer(layer.with_messages(Messages::Both))
            .layer(CodecLayer::new(MessageCodec::new()))
            .layer(getty::layers::OnOpenLayer::new(
                move |session: Session<Message>| {
                    drop(opening.send(session));
                    async { Ok::<_, BoxError>(()) }
                },
            ))
            .layer(sessions)
            .service_fn(move |request: Request<Message>| {
                let reply = handler(request);
                async move { Ok::<_, BoxError>(reply.await) }
            });
        let (listener, connector) = memory(64 * 1024);
        Self::serve(listener, stack);
        Self {
            connector,
            ends,
            opened,
        }
    }

    fn serve(listener: getty::net::MemoryListener, stack: impl Pipeline<DuplexStream>) {
        tokio::spawn(async move { getty::serve(listener, stack).await });
    }

    async fn connect(&self) -> Peer {
        let io = self.connector.connect().await.unwrap().into_parts().0;
        Peer { io }
    }

    /// Returns a client after its handshake.
    async fn open(&self) -> Peer {
        let mut peer = self.connect().await;
        let head = peer.ask(&request("/", "")).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        peer
    }

    async fn end(&mut self) -> Closed {
        soon(self.ends.recv()).await.expect("the server listens")
    }

    async fn session(&mut self) -> Session<Message> {
        soon(self.opened.recv()).await.expect("the server listens")
    }
}

/// Returns an upgrade request with additional headers.
fn request(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// Client that writes arbitrary bytes.
struct Peer {
    io: DuplexStream,
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// Returns a masked frame with this first byte and payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    frame(
        FIN | CLOSE,
        &[&code.to_be_bytes()[..], reason.as_bytes()].concat(),
    )
}

impl Peer {
    async fn write(&mut self, bytes: &[u8]) {
        soon(self.io.write_all(bytes)).await.unwrap();
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        self.write(&frame(first, payload)).await;
    }

    /// Sends a request and returns the head of the response.
    async fn ask(&mut self, request: &str) -> String {
        self.write(request.as_bytes()).await;
        self.head().await
    }

    async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(soon(self.io.read_u8()).await.unwrap()));
        }
        head
    }

    /// Returns the first byte and the payload of the next frame. Returns `None` at the end.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = soon(self.io.read_u8()).await.ok()?;
        let length = match soon(self.io.read_u8()).await.unwrap() {
            length @ 0..126 => u64::from(length),
            126 => u64::from(soon(self.io.read_u16()).await.unwrap()),
            127 => soon(self.io.read_u64()).await.unwrap(),
            masked => panic!("a server must not mask: {masked:x}"),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        soon(self.io.read_exact(&mut payload)).await.unwrap();
        Some((first, payload))
    }

    /// Returns the code of the next frame, which must be a close frame.
    async fn closes(&mut self) -> u16 {
        let (first, payload) = self.frame().await.expect("the server sends a close frame");
        assert_eq!(first, FIN | CLOSE, "{payload:?}");
        u16::from_be_bytes(payload[..2].try_into().unwrap())
    }

    async fn ends(&mut self) {
        assert_eq!(self.frame().await, None);
    }
}

fn protocol(closed: &Closed) -> u16 {
    match closed.reason {
        CloseReason::Protocol { code, .. } => code,
        ref other => panic!("{other}"),
    }
}
