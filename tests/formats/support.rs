//! A server of notes on a TCP port, and a client that writes frames byte by byte.

use std::net::SocketAddr;

use getty::{CloseReason, Closed, Connection, Pipeline};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// A message that every format can express.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
pub(crate) struct Note {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    #[prost(string, tag = "2")]
    pub(crate) text: String,
}

pub(crate) fn note(id: u32, text: &str) -> Note {
    let text = text.to_owned();
    Note { id, text }
}

/// Builds a stack that replies to a note with the next number, and to a malformed message with
/// a note that describes it.
macro_rules! tolerant_notes {
    ($codec:expr $(, $layer:expr)?) => {
        getty::ServiceBuilder::new()
            $(.layer($layer))?
            .layer(getty::CodecLayer::new($codec.tolerant()))
            .layer(getty::SessionLayer::new())
            .layer(getty::layers::HandleMalformedLayer::new(|malformed| {
                crate::support::note(0, &malformed.to_string())
            }))
            .service(getty::handle(crate::support::next))
    };
}
pub(crate) use tolerant_notes;

/// Builds the same stack for a codec whose malformed messages close the session.
macro_rules! strict_notes {
    ($codec:expr) => {
        getty::ServiceBuilder::new()
            .layer(getty::CodecLayer::new($codec))
            .layer(getty::SessionLayer::new())
            .service(getty::handle(crate::support::next))
    };
}
pub(crate) use strict_notes;

pub(crate) fn next(note: Note) -> Note {
    Note {
        id: note.id + 1,
        ..note
    }
}

/// A server, and the close records of its sessions.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    ends: mpsc::UnboundedReceiver<Closed>,
}

impl Server {
    pub(crate) async fn start(stack: impl Pipeline<TcpStream>) -> Self {
        let (ended, ends) = mpsc::unbounded_channel();
        let stack = getty::ServiceBuilder::new()
            .map_request(move |connection: Connection<TcpStream>| {
                let ended = ended.clone();
                let report = move |closed: &Closed| drop(ended.send(closed.clone()));
                connection
                    .handle()
                    .add_close_callback("test", "end", report);
                connection
            })
            .service(stack);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { getty::serve(listener, stack).await });
        Self { address, ends }
    }

    pub(crate) async fn dial(&self, frames: Frames) -> Peer {
        let io = TcpStream::connect(self.address).await.unwrap();
        io.set_nodelay(true).unwrap();
        let mut peer = Peer {
            io: BufReader::new(io),
            frames,
        };
        if frames == Frames::WebSocket {
            peer.upgrade().await;
        }
        peer
    }

    /// Waits for the end of a session.
    pub(crate) async fn end(&mut self) -> Closed {
        self.ends.recv().await.unwrap()
    }

    /// Waits for the end of a session, whose source must be an `E`.
    pub(crate) async fn failure<E: std::error::Error + 'static>(
        &mut self,
        reason: CloseReason,
        check: impl FnOnce(&E),
    ) {
        let closed = self.end().await;
        assert_eq!(closed.reason, reason);
        let source = closed.source.expect("a failure has a source");
        check(
            source
                .downcast_ref()
                .unwrap_or_else(|| panic!("{source:?}")),
        );
    }
}

/// Frames on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frames {
    Lines,
    /// With a length of four bytes.
    Length,
    Varint,
    WebSocket,
}

impl Frames {
    /// Returns a frame with a payload below 16 KiB, as a client sends it.
    pub(crate) fn frame(self, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap();
        let [high, low] = length.to_be_bytes();
        let seven = |shift: u16| u8::try_from(length >> shift & 0x7f).unwrap();
        let head = match self {
            Self::Lines => vec![],
            Self::Length => vec![0, 0, high, low],
            Self::Varint if length < 128 => vec![seven(0)],
            Self::Varint => vec![seven(0) | 0x80, seven(7)],
            // a binary message with a mask of zeros, which changes nothing
            Self::WebSocket if length < 126 => vec![0x82, 0x80 | low, 0, 0, 0, 0],
            Self::WebSocket => vec![0x82, 0xfe, high, low, 0, 0, 0, 0],
        };
        let end: &[u8] = if self == Self::Lines { b"\n" } else { b"" };
        [&head, payload, end].concat()
    }
}

/// A client.
#[derive(Debug)]
pub(crate) struct Peer {
    io: BufReader<TcpStream>,
    frames: Frames,
}

impl Peer {
    async fn upgrade(&mut self) {
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\n\r\n";
        self.send_bytes(request.as_bytes()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.io.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send(&mut self, payload: &[u8]) {
        self.send_bytes(&self.frames.frame(payload)).await;
    }

    /// Ends the client's direction.
    pub(crate) async fn finish(&mut self) {
        self.io.shutdown().await.unwrap();
    }

    /// Returns the payload of the next frame.
    pub(crate) async fn receive(&mut self) -> Vec<u8> {
        let length = match self.frames {
            Frames::Lines => {
                let mut line = Vec::new();
                loop {
                    match self.io.read_u8().await.unwrap() {
                        b'\n' => return line,
                        byte => line.push(byte),
                    }
                }
            }
            Frames::Length => self.io.read_u32().await.unwrap() as usize,
            Frames::Varint => {
                let (mut length, mut shift) = (0, 0);
                loop {
                    let byte = self.io.read_u8().await.unwrap();
                    length |= usize::from(byte & 0x7f) << shift;
                    shift += 7;
                    if byte < 0x80 {
                        break length;
                    }
                }
            }
            Frames::WebSocket => {
                let [_, length] = self.io.read_u16().await.unwrap().to_be_bytes();
                match length {
                    126 => self.io.read_u16().await.unwrap().into(),
                    length => length.into(),
                }
            }
        };
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.unwrap();
        payload
    }
}
