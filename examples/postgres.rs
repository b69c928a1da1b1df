//! A tiny Postgres server: TLS on request, any user, and a few queries.
//!
//! ```text
//! cargo run --example postgres --features postgres -- --listen 127.0.0.1:5433
//! psql 'host=127.0.0.1 port=5433 sslmode=require' -c 'select 1'
//! ```
//!
//! A client asks for TLS before its first message, in a form that no later message has. That is
//! the dialogue of an `OpeningLayer`: it answers with one byte and starts TLS. Bytes behind the
//! request are refused, so that a query cannot be injected before TLS (CVE-2021-23222). The
//! session then has a single type of message.
//!
//! It creates a self-signed certificate unless `--cert` and `--key` are given.

mod report;
#[path = "echo/tls.rs"]
mod tls;

use std::io;

use getty::{
    BoxError, CodecLayer, Connection, Reply, ServiceBuilder, SessionLayer,
    codec::{Buf, BufMut, Bytes, BytesMut, Decoder, Encoder},
    handle,
    net::TcpListener,
    tls::{TlsLayer, TlsStream},
    transport::ByteStream,
    upgrade::{Opening, OpeningLayer},
};
use lexopt::prelude::*;

use self::report::Report;

#[tokio::main]
async fn main() -> Result<(), Report> {
    tracing_subscriber::fmt::init();
    let (mut address, mut files) = ("127.0.0.1:5433".to_owned(), tls::Files::default());
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("listen") => address = arguments.value()?.string()?,
            Long("cert") => files.cert = Some(arguments.value()?.into()),
            Long("key") => files.key = Some(arguments.value()?.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    let tls = TlsLayer::new(files.load()?);
    let app = ServiceBuilder::new()
        .layer(OpeningLayer::new(
            Startup,
            move |dialogue: Opening<_, Startup>| open(dialogue, tls.clone()),
        ))
        .layer(CodecLayer::new(Messages))
        .layer(SessionLayer::new())
        .service(handle(answer));

    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    getty::serve(listener, app)
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    Ok(())
}

/// Codes of the packets before the session.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const VERSION_3: u32 = 3 << 16;

/// The dialogue: requests for encryption, and then the user's name.
async fn open<T: ByteStream>(
    mut dialogue: Opening<T, Startup>,
    tls: TlsLayer,
) -> Result<Connection<TlsStream<T>>, BoxError> {
    loop {
        match dialogue.receive().await?.ok_or("no startup packet")?.0 {
            SSL_REQUEST => {
                dialogue.write_all(b"S").await?;
                return start(dialogue.start_tls(&tls).await?).await;
            }
            GSS_REQUEST => dialogue.write_all(b"N").await?,
            _ => return Err(dialogue.refuse(fatal("28000", "use TLS"), "no TLS").await),
        }
    }
}

/// The dialogue over TLS.
async fn start<T: ByteStream>(
    mut dialogue: Opening<T, Startup>,
) -> Result<Connection<T>, BoxError> {
    let (code, parameters) = dialogue.receive().await?.ok_or("no startup packet")?;
    if code != VERSION_3 {
        return Err(dialogue
            .refuse(fatal("0A000", "unknown version"), "unknown version")
            .await);
    }
    let mut parameters = parameters.split(|byte| *byte == 0);
    let user = parameters
        .find(|name| name == b"user")
        .and(parameters.next())
        .ok_or("no user")?;
    let name = String::from_utf8_lossy(user);
    dialogue.handle().set_name(format!("postgres-{name}"));
    for message in [
        Message::new(b'R', &[0; 4]), // authenticated
        Message::new(b'S', b"server_version\x0015.0\0"),
        Message::new(b'S', b"client_encoding\0UTF8\0"),
        Message::READY,
    ] {
        dialogue.send(message).await?;
    }
    // A client waits for `READY` before it sends a query.
    Ok(dialogue.into_connection()?)
}

/// Answers a query.
fn answer(Message { kind, content }: Message) -> Result<Reply<Message>, BoxError> {
    match kind {
        b'Q' => {
            let query = content.strip_suffix(b"\0").ok_or("no end")?;
            let mut replies = match query.to_ascii_lowercase().trim_ascii() {
                b"select 1" | b"select 1;" => vec![
                    Message::new(b'T', COLUMN),
                    Message::new(b'D', b"\0\x01\0\0\0\x011"),
                    Message::new(b'C', b"SELECT 1\0"),
                ],
                _ => vec![error("ERROR", "42601", "this server knows `select 1` only")],
            };
            replies.push(Message::READY);
            Ok(Reply::many(replies))
        }
        b'X' => Ok(Reply::none().and_close()),
        _ => Ok(Reply::one(fatal("0A000", "only simple queries")).and_close()),
    }
}

/// One column of text with a number.
const COLUMN: &[u8] = b"\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";

/// A message after the startup: a kind, a length and a content.
#[derive(Clone, Debug)]
struct Message {
    kind: u8,
    content: Bytes,
}

impl Message {
    const READY: Self = Self {
        kind: b'Z',
        content: Bytes::from_static(b"I"),
    };

    const fn new(kind: u8, content: &'static [u8]) -> Self {
        Self {
            kind,
            content: Bytes::from_static(content),
        }
    }

    fn put(&self, dst: &mut BytesMut) -> io::Result<()> {
        let length = u32::try_from(self.content.len() + 4).map_err(io::Error::other)?;
        dst.put_u8(self.kind);
        dst.put_u32(length);
        dst.put_slice(&self.content);
        Ok(())
    }
}

fn fatal(code: &str, text: &str) -> Message {
    error("FATAL", code, text)
}

fn error(severity: &str, code: &str, text: &str) -> Message {
    Message {
        kind: b'E',
        content: format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0").into(),
    }
}

/// Maximum length of a packet or message, in bytes.
const MAX: usize = 16 * 1024;

/// Takes the content after a length that includes itself and `header` bytes before it.
fn take(src: &mut BytesMut, header: usize) -> io::Result<Option<Bytes>> {
    let Some(length) = src.get(header..header + 4) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if !(4..=MAX).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if src.len() < header + length {
        return Ok(None);
    }
    let mut packet = src.split_to(header + length).freeze();
    packet.advance(header + 4);
    Ok(Some(packet))
}

/// Codec of the packets before the session: a length, a code and parameters. It sends messages.
#[derive(Clone, Debug)]
struct Startup;

impl Decoder for Startup {
    type Item = (u32, Bytes);
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<(u32, Bytes)>> {
        match take(src, 0)? {
            Some(packet) if packet.len() < 4 => Err(io::ErrorKind::InvalidData.into()),
            Some(mut packet) => Ok(Some((packet.get_u32(), packet))),
            None => Ok(None),
        }
    }
}

impl Encoder<Message> for Startup {
    type Error = io::Error;

    fn encode(&mut self, message: Message, dst: &mut BytesMut) -> io::Result<()> {
        message.put(dst)
    }
}

/// Codec of the session.
#[derive(Clone, Debug)]
struct Messages;

impl Decoder for Messages {
    type Item = Message;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Message>> {
        let kind = src.first().copied().unwrap_or_default();
        Ok(take(src, 1)?.map(|content| Message { kind, content }))
    }
}

impl Encoder<Message> for Messages {
    type Error = io::Error;

    fn encode(&mut self, message: Message, dst: &mut BytesMut) -> io::Result<()> {
        message.put(dst)
    }
}
