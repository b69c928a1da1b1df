//! An echo server: one handler behind any combination of listeners, codec and stack.
//!
//! ```text
//! cargo run --release --all-features --example echo -- \
//!     --tcp 127.0.0.1:7007 --unix echo.sock --udp 127.0.0.1:7007
//! nc 127.0.0.1 7007
//! nc -U echo.sock
//! nc -u 127.0.0.1 7007
//! ```
//!
//! It prints `listening KIND ADDRESS` for each listener. Every line that you type comes back.
//!
//! With `--tls` it creates a self-signed certificate, unless `--cert` and `--key` are given:
//!
//! ```text
//! cargo run --release --all-features --example echo -- --tls 127.0.0.1:7443
//! openssl s_client -quiet -connect 127.0.0.1:7443
//! ```
//!
//! With `--ws` and `--wss`, text comes back as text and binary as binary, unless `--codec` is
//! given. With `--ws-deflate` they are compressed, for clients that offer permessage-deflate.
//!
//! `--help` lists the flags. SIGINT and SIGTERM end it with status 0, within five seconds.

mod datagram;
#[path = "../report.rs"]
mod report;
mod stack;
mod tls;

use std::{
    io::{self, Write},
    num::NonZero,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::Ordering::Relaxed,
    thread::available_parallelism,
    time::Duration,
};

use bytes::Bytes;
use getty::{
    BoxError, Listener, Serve,
    codec::{Frame, Frames, LengthDelimited, Lines, Raw},
    compress::{CompressionLayer, Level},
    net::{TcpListener, UdpListener, UnixListener},
    tls::TlsLayer,
    ws::{Deflate, MessageCodec, Messages, WsLayer},
};
use lexopt::prelude::*;
use tokio::runtime;

use crate::{
    datagram::DatagramCodec,
    report::Report,
    stack::{Echo, OverTls, OverWs, OverWss, Plain, StackKind},
};

const HELP: &str = "\
Usage: echo [--tcp ADDRESS]... [--unix PATH]... [--tls ADDRESS]...
            [--ws ADDRESS]... [--wss ADDRESS]... [--udp ADDRESS]... [settings]

  --tcp ADDRESS     listen on a TCP address, such as 127.0.0.1:7007; port 0 takes any free port
  --unix PATH       listen on a Unix socket
  --tls ADDRESS     listen on a TCP address for TLS
  --ws ADDRESS      listen on a TCP address for WebSocket, at any path
  --wss ADDRESS     the same over TLS
  --ws-deflate[=THRESHOLD]
                    compress WebSocket messages of at least THRESHOLD bytes, 512 by default,
                    for clients that offer it
  --cert FILE       certificate chain for TLS, in PEM format
  --key FILE        key of the certificate; the default is a self-signed one for localhost
  --udp ADDRESS     listen on a UDP address; each peer has a session, which closes when the
                    peer is silent for a minute
  --codec CODEC     lines, length (4 bytes big-endian, up to 16 MiB) or raw; the default is
                    lines for byte streams, WebSocket messages of up to 16 MiB echoed in kind,
                    and datagrams unchanged
  --compress FORMAT compress byte streams: deflate, zlib, snappy or zstd
  --stack STACK     bare (default): codec and session loop
                    tower: also tower's timeouts and limits
                    full: also the layers of a production server; it sends an empty line or
                    frame to an idle peer each minute, where the codec has one
  --workers N       exactly N runtime threads; the default is the number of cores";

/// Maximum frame of `--codec length` and maximum WebSocket message, in bytes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Drain deadline. It must be shorter than the five seconds within which SIGTERM ends the
/// program.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("echo: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {:?}", Report::from(error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), BoxError> {
    let runtime = match options.workers.get() {
        1 => runtime::Builder::new_current_thread()
            .enable_all()
            .build()?,
        n => runtime::Builder::new_multi_thread()
            .worker_threads(n)
            .enable_all()
            .build()?,
    };
    // On a task, so that only the worker threads do the work and not this thread.
    runtime.block_on(runtime.spawn(echo(options)))?
}

async fn echo(options: Options) -> Result<(), BoxError> {
    // Before anything is printed, so that a script may send a signal once it has read an address.
    let shutdown = getty::shutdown_signal();
    let serve = match options.codec {
        None => {
            let lines = Echo::new(Lines::new(), Some(String::new()));
            let mut serve = options.streams(&lines).await?;
            let in_kind = Echo::new(MessageCodec::new(), None);
            serve.extend(options.websockets(&in_kind, Messages::Both).await?);
            let datagrams = Echo::new(DatagramCodec, None);
            serve.extend(options.datagrams(&datagrams).await?);
            serve
        }
        Some(Codec::Lines) => {
            let lines = Echo::new(Lines::new(), Some(String::new()));
            options.everywhere(&lines, Messages::Text).await?
        }
        Some(Codec::Length) => {
            let codec = LengthDelimited::new().max_frame_length(MAX_MESSAGE);
            let frames = Echo::new(Frames::with_header(codec.clone()), Some(Frame::from("")));
            let mut serve = options.streams(&frames).await?;
            // Without `Frames`: it lets frames share the buffer of one read, but a message or a
            // datagram is alone in its read.
            let bytes = Echo::new(codec, Some(Bytes::new()));
            serve.extend(options.websockets(&bytes, Messages::Binary).await?);
            serve.extend(options.datagrams(&bytes).await?);
            serve
        }
        Some(Codec::Raw) => {
            let bytes = Echo::new(Raw::new(), None);
            options.everywhere(&bytes, Messages::Binary).await?
        }
    };
    serve
        .into_iter()
        .reduce(Serve::and)
        .ok_or("nothing to listen on")?
        .with_graceful_shutdown(shutdown)
        .with_drain_deadline(DRAIN_DEADLINE)
        .await?;
    if options.stack == StackKind::Full {
        eprintln!("{} connections were served", stack::CLOSED.load(Relaxed));
    }
    Ok(())
}

struct Options {
    tcp: Vec<String>,
    unix: Vec<PathBuf>,
    tls: Vec<String>,
    ws: Vec<String>,
    wss: Vec<String>,
    ws_deflate: Option<Deflate>,
    udp: Vec<String>,
    files: tls::Files,
    codec: Option<Codec>,
    /// The layer of `--compress`, for byte streams.
    compress: Option<CompressionLayer>,
    stack: StackKind,
    workers: NonZero<usize>,
}

enum Codec {
    Lines,
    Length,
    Raw,
}

impl Options {
    /// Parses the command line. Returns `None` for `--help`.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut options = Self {
            tcp: Vec::new(),
            unix: Vec::new(),
            tls: Vec::new(),
            ws: Vec::new(),
            wss: Vec::new(),
            ws_deflate: None,
            udp: Vec::new(),
            files: tls::Files::default(),
            codec: None,
            compress: None,
            stack: StackKind::Bare,
            workers: available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("tcp") => options.tcp.push(arguments.value()?.string()?),
                Long("unix") => options.unix.push(arguments.value()?.into()),
                Long("tls") => options.tls.push(arguments.value()?.string()?),
                Long("ws") => options.ws.push(arguments.value()?.string()?),
                Long("wss") => options.wss.push(arguments.value()?.string()?),
                Long("ws-deflate") => {
                    let deflate = Deflate::new();
                    options.ws_deflate = Some(match arguments.optional_value() {
                        Some(threshold) => deflate.with_threshold(threshold.parse()?),
                        None => deflate,
                    });
                }
                Long("udp") => options.udp.push(arguments.value()?.string()?),
                Long("cert") => options.files.cert = Some(arguments.value()?.into()),
                Long("key") => options.files.key = Some(arguments.value()?.into()),
                Long("codec") => {
                    options.codec = Some(match &*arguments.value()?.string()? {
                        "lines" => Codec::Lines,
                        "length" => Codec::Length,
                        "raw" => Codec::Raw,
                        other => return Err(format!("unknown codec '{other}'").into()),
                    });
                }
                Long("compress") => {
                    options.compress = Some(match &*arguments.value()?.string()? {
                        // The Go library getty speaks it after `SetCompressType`.
                        "deflate" => CompressionLayer::deflate(Level::FAST),
                        "zlib" => CompressionLayer::zlib(Level::FAST),
                        "snappy" => CompressionLayer::snappy(),
                        "zstd" => CompressionLayer::zstd(0),
                        other => return Err(format!("unknown compression '{other}'").into()),
                    });
                }
                Long("stack") => {
                    options.stack = match &*arguments.value()?.string()? {
                        "bare" => StackKind::Bare,
                        "tower" => StackKind::Tower,
                        "full" => StackKind::Full,
                        other => return Err(format!("unknown stack '{other}'").into()),
                    }
                }
                Long("workers") => options.workers = arguments.value()?.parse()?,
                Long("help") | Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        let addresses = [
            &options.tcp,
            &options.tls,
            &options.ws,
            &options.wss,
            &options.udp,
        ];
        if options.unix.is_empty() && addresses.iter().all(|kind| kind.is_empty()) {
            return Err("nothing to listen on".into());
        }
        Ok(Some(options))
    }

    /// Binds all listeners.
    async fn everywhere<E: stack::Codec>(
        &self,
        echo: &Echo<E>,
        messages: Messages,
    ) -> Result<Vec<Serve>, BoxError> {
        let mut serve = self.streams(echo).await?;
        serve.extend(self.websockets(echo, messages).await?);
        serve.extend(self.datagrams(echo).await?);
        Ok(serve)
    }

    /// Binds the listeners for byte streams.
    async fn streams<E: stack::Codec>(&self, echo: &Echo<E>) -> Result<Vec<Serve>, BoxError> {
        let mut serve = Vec::new();
        let compression = self.compress.as_ref();
        for address in &self.tcp {
            let listener = TcpListener::bind(address).await?;
            announce("tcp", &listener)?;
            serve.push(echo.serve_stream(self.stack, Plain(listener), compression));
        }
        for path in &self.unix {
            let listener = UnixListener::bind(path)?;
            announce("unix", &listener)?;
            serve.push(echo.serve_stream(self.stack, Plain(listener), compression));
        }
        if !self.tls.is_empty() {
            let tls = TlsLayer::new(self.files.load()?);
            for address in &self.tls {
                let listener = TcpListener::bind(address).await?;
                announce("tls", &listener)?;
                let endpoint = OverTls(listener, tls.clone());
                serve.push(echo.serve_stream(self.stack, endpoint, compression));
            }
        }
        Ok(serve)
    }

    /// Binds the listeners for WebSocket.
    async fn websockets<E: stack::Codec>(
        &self,
        echo: &Echo<E>,
        messages: Messages,
    ) -> Result<Vec<Serve>, BoxError> {
        let mut ws = WsLayer::new()
            // An echo reveals nothing to a page of another origin.
            .with_any_origin()
            .with_messages(messages)
            .with_max_message(MAX_MESSAGE);
        if let Some(deflate) = &self.ws_deflate {
            ws = ws.with_deflate(deflate.clone());
        }
        let mut serve = Vec::new();
        for address in &self.ws {
            let listener = TcpListener::bind(address).await?;
            announce("ws", &listener)?;
            serve.push(echo.serve(self.stack, OverWs(listener, ws.clone())));
        }
        if !self.wss.is_empty() {
            let tls = TlsLayer::new(self.files.load()?);
            for address in &self.wss {
                let listener = TcpListener::bind(address).await?;
                announce("wss", &listener)?;
                serve.push(echo.serve(self.stack, OverWss(listener, tls.clone(), ws.clone())));
            }
        }
        Ok(serve)
    }

    /// Binds the listeners for datagrams.
    async fn datagrams<E: stack::Codec>(&self, echo: &Echo<E>) -> Result<Vec<Serve>, BoxError> {
        let mut serve = Vec::new();
        for address in &self.udp {
            let builder = UdpListener::builder().with_empty_datagrams(true);
            let listener = builder.bind(address).await?;
            announce("udp", &listener)?;
            serve.push(echo.serve(self.stack, Plain(listener)));
        }
        Ok(serve)
    }
}

/// Prints the address of a listener. From now on clients can connect.
fn announce(kind: &str, listener: &impl Listener) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening {kind} {}", listener.local_addr()?)?;
    out.flush()
}
