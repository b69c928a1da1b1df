//! Sends back whatever arrives: the same handler behind any listener, codec and stack.
//!
//! ```text
//! cargo run --release --all-features --example echo -- --tcp 127.0.0.1:7007 --unix echo.sock --udp 127.0.0.1:7007
//! nc 127.0.0.1 7007
//! nc -U echo.sock
//! nc -u 127.0.0.1 7007
//! ```
//!
//! With `--tls` it makes a certificate of its own, unless it is given one:
//!
//! ```text
//! cargo run --release --all-features --example echo -- --tls 127.0.0.1:7443
//! openssl s_client -quiet -connect 127.0.0.1:7443
//! ```
//!
//! Over `--ws` and `--wss` messages come back in kind, text as text and binary as binary, unless `--codec` is given.
//!
//! `--help` lists the flags. SIGINT and SIGTERM end it with status 0, within five seconds.

mod stack;
mod tls;
mod whole;

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
    codec::{Frame, Frames, Length, Lines, Raw},
    net::{TcpListener, UdpListener, UnixListener},
    tls::TlsLayer,
    ws::{MessageCodec, Messages, WsLayer},
};
use lexopt::prelude::*;
use tokio::runtime;

use crate::{
    stack::{Echo, Kind, OverTls, OverWs, OverWss, Plain},
    whole::Whole,
};

const HELP: &str = "\
Usage: echo [--tcp ADDRESS]... [--unix PATH]... [--tls ADDRESS]...
            [--ws ADDRESS]... [--wss ADDRESS]... [--udp ADDRESS]... [settings]

  --tcp ADDRESS     listen on a TCP address, such as 127.0.0.1:7007; port 0 takes any free one
  --unix PATH       listen on a Unix socket
  --tls ADDRESS     listen on a TCP address for TLS
  --ws ADDRESS      listen on a TCP address for WebSocket, at any path
  --wss ADDRESS     the same over TLS
  --cert FILE       the certificate's chain for TLS, in PEM, and
  --key FILE        its key; without them, a self-signed certificate for localhost
  --udp ADDRESS     listen on a UDP address; a session for each peer, which ends after a minute's silence
  --codec CODEC     lines, length (4 bytes big-endian, up to 16 MiB), or raw; without it byte streams have
                    lines, WebSocket messages of up to 16 MiB come back in kind, and datagrams unchanged
  --stack STACK     bare (default): codec and session loop; tower: with tower's timeouts and limits;
                    full: with what a production server has, which tells an idle peer every minute
                    that it is there: an empty line or frame, and nothing where all bytes mean something
  --workers N       exactly N runtime threads; the number of cores by default";

/// The longest frame of `--codec length`, and the longest message over WebSocket.
const LONGEST: usize = 16 * 1024 * 1024;
/// Leaves time to spare of the five seconds in which SIGTERM ends it.
const DRAIN: Duration = Duration::from_secs(3);

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
            eprintln!("echo: {error}");
            let causes = std::iter::successors(error.source(), |&error| error.source());
            causes.for_each(|cause| eprintln!("  because: {cause}"));
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
    // on a task, so that the workers do all the work and this thread none
    runtime.block_on(runtime.spawn(echo(options)))?
}

async fn echo(options: Options) -> Result<(), BoxError> {
    // first, so that nobody is told that we listen before a signal ends us in order
    let shutdown = getty::shutdown_signal();
    let serve = match options.codec {
        None => {
            let lines = Echo::new(Lines::new(), Some(String::new()));
            let mut serve = options.streams(&lines).await?;
            let in_kind = Echo::new(MessageCodec::new(), None);
            serve.extend(options.websockets(&in_kind, Messages::Both).await?);
            serve.extend(options.datagrams(&Echo::new(Whole, None)).await?);
            serve
        }
        Some(Codec::Lines) => {
            let lines = Echo::new(Lines::new(), Some(String::new()));
            options.everywhere(&lines, Messages::Text).await?
        }
        Some(Codec::Length) => {
            let codec = Length::new().with_max_length(LONGEST);
            let frames = Echo::new(Frames::new(codec.clone()), Some(Frame::from("")));
            let mut serve = options.streams(&frames).await?;
            // there is nothing that messages which arrive one by one could share
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
        .with_drain_deadline(DRAIN)
        .await?;
    if options.stack == Kind::Full {
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
    udp: Vec<String>,
    files: tls::Files,
    codec: Option<Codec>,
    stack: Kind,
    workers: NonZero<usize>,
}

enum Codec {
    Lines,
    Length,
    Raw,
}

impl Options {
    /// `None` when help was asked for.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut options = Self {
            tcp: Vec::new(),
            unix: Vec::new(),
            tls: Vec::new(),
            ws: Vec::new(),
            wss: Vec::new(),
            udp: Vec::new(),
            files: tls::Files::default(),
            codec: None,
            stack: Kind::Bare,
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
                Long("udp") => options.udp.push(arguments.value()?.string()?),
                Long("cert") => options.files.cert = Some(arguments.value()?.into()),
                Long("key") => options.files.key = Some(arguments.value()?.into()),
                Long("codec") => {
                    options.codec = Some(match &*arguments.value()?.string()? {
                        "lines" => Codec::Lines,
                        "length" => Codec::Length,
                        "raw" => Codec::Raw,
                        other => return Err(format!("there is no codec '{other}'").into()),
                    });
                }
                Long("stack") => {
                    options.stack = match &*arguments.value()?.string()? {
                        "bare" => Kind::Bare,
                        "tower" => Kind::Tower,
                        "full" => Kind::Full,
                        other => return Err(format!("there is no stack '{other}'").into()),
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
        for address in &self.tcp {
            let listener = TcpListener::bind(address).await?;
            announce("tcp", &listener)?;
            serve.push(echo.serve(self.stack, Plain(listener)));
        }
        for path in &self.unix {
            let listener = UnixListener::bind(path)?;
            announce("unix", &listener)?;
            serve.push(echo.serve(self.stack, Plain(listener)));
        }
        if !self.tls.is_empty() {
            let tls = TlsLayer::new(self.files.load()?);
            for address in &self.tls {
                let listener = TcpListener::bind(address).await?;
                announce("tls", &listener)?;
                serve.push(echo.serve(self.stack, OverTls(listener, tls.clone())));
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
        let ws = WsLayer::new()
            .with_any_origin() // what it knows is what it was just told
            .with_messages(messages)
            .with_max_message(LONGEST);
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

/// For whoever waits for it: from now on connections are accepted here.
fn announce(kind: &str, listener: &impl Listener) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening {kind} {}", listener.local_addr()?)?;
    out.flush()
}
