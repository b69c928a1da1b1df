//! Sends back whatever arrives: the same handler behind any listener, codec and stack.
//!
//! ```text
//! cargo run --release --all-features --example echo -- --tcp 127.0.0.1:7007 --unix /tmp/echo.sock --udp 127.0.0.1:7007
//! nc 127.0.0.1 7007
//! nc -U /tmp/echo.sock
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
//! `--help` lists the flags. SIGINT and SIGTERM end it with status 0, within five seconds.

mod tls;

use std::{
    fmt,
    future::ready,
    io::{self, Write},
    num::NonZero,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread::available_parallelism,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, CodecLayer, Layer, Listener, Pipeline, Reply, Request, Serve, ServiceBuilder,
    SessionLayer,
    codec::{Decoder, Encoder, Length, Lines, Raw},
    layers::{
        ActiveLayer, CatchPanicLayer, CloseCallbackLayer, HandleErrorLayer, HeartbeatLayer,
        IdleTimeoutLayer, MetricsLayer, ReadTimeoutLayer, Registry, RegistryLayer, TraceLayer,
        WriteTimeoutLayer,
    },
    net::{TcpListener, UdpListener, UdpPeer, UnixListener},
    tls::{TlsLayer, TlsStream},
};
use lexopt::prelude::*;
use tokio::{
    net::{TcpStream, UnixStream},
    runtime,
};

const HELP: &str = "\
Usage: echo [--tcp ADDRESS]... [--unix PATH]... [--tls ADDRESS]... [--udp ADDRESS]... [settings]

  --tcp ADDRESS     listen on a TCP address, such as 127.0.0.1:7007; port 0 takes any free one
  --unix PATH       listen on a Unix socket
  --tls ADDRESS     listen on a TCP address for TLS
  --cert FILE       the certificate's chain for it, in PEM, and
  --key FILE        its key; without them, a self-signed certificate for localhost
  --udp ADDRESS     listen on a UDP address; a session for each peer, which ends after a minute's silence
  --codec CODEC     lines, length (4 bytes big-endian, up to 16 MiB), or raw; without it streams have
                    lines, and datagrams come back unchanged
  --stack STACK     bare (default): codec and session loop; tower: with tower's timeouts and limits;
                    full: with what a production server has, which tells an idle peer every minute
                    that it is there: an empty line or frame, and nothing where all bytes mean something
  --workers N       exactly N runtime threads; the number of cores by default";

/// The longest frame of `--codec length`.
const LONGEST: usize = 16 * 1024 * 1024;
/// Leaves time to spare of the five seconds in which SIGTERM ends it.
const DRAIN: Duration = Duration::from_secs(3);
/// How many connections of `--stack full` have closed.
static CLOSED: AtomicU64 = AtomicU64::new(0);

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
    let mut listeners = Vec::new();
    match options.codec {
        None => {
            let streams = Listeners::STREAMS;
            listeners.extend(
                options
                    .serve(streams, Lines::new(), Some(String::new()))
                    .await?,
            );
            let datagrams = Listeners::DATAGRAMS;
            listeners.extend(options.serve(datagrams, Whole, None).await?);
        }
        Some(Codec::Lines) => {
            let codec = Lines::new();
            listeners.extend(
                options
                    .serve(Listeners::ALL, codec, Some(String::new()))
                    .await?,
            );
        }
        Some(Codec::Length) => {
            let codec = Length::new().with_max_length(LONGEST);
            listeners.extend(
                options
                    .serve(Listeners::ALL, codec, Some(Bytes::new()))
                    .await?,
            );
        }
        Some(Codec::Raw) => {
            listeners.extend(options.serve(Listeners::ALL, Raw::new(), None).await?);
        }
    }
    let serve = listeners.into_iter().reduce(Serve::and);
    serve
        .ok_or("nothing to listen on")?
        .with_graceful_shutdown(shutdown)
        .with_drain_deadline(DRAIN)
        .await?;
    if matches!(options.stack, Stack::Full) {
        eprintln!("{} connections were served", CLOSED.load(Relaxed));
    }
    Ok(())
}

struct Options {
    tcp: Vec<String>,
    unix: Vec<PathBuf>,
    tls: Vec<String>,
    files: tls::Files,
    udp: Vec<String>,
    codec: Option<Codec>,
    stack: Stack,
    workers: NonZero<usize>,
}

enum Codec {
    Lines,
    Length,
    Raw,
}

/// Which listeners a codec is for.
#[derive(Clone, Copy)]
struct Listeners {
    streams: bool,
    datagrams: bool,
}

impl Listeners {
    const ALL: Self = Self {
        streams: true,
        datagrams: true,
    };
    const STREAMS: Self = Self {
        datagrams: false,
        ..Self::ALL
    };
    const DATAGRAMS: Self = Self {
        streams: false,
        ..Self::ALL
    };
}

/// A datagram as it is, even if it is empty.
#[derive(Clone)]
struct Whole;

impl Decoder for Whole {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok(None)
    }

    fn decode_eof(&mut self, datagram: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok(Some(datagram.split().freeze()))
    }
}

impl Encoder<Bytes> for Whole {
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, datagram: &mut BytesMut) -> io::Result<()> {
        datagram.extend_from_slice(&message);
        Ok(())
    }
}

enum Stack {
    Bare,
    Tower,
    Full,
}

impl Options {
    /// `None` when help was asked for.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut options = Self {
            tcp: Vec::new(),
            unix: Vec::new(),
            tls: Vec::new(),
            files: tls::Files::default(),
            udp: Vec::new(),
            codec: None,
            stack: Stack::Bare,
            workers: available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("tcp") => options.tcp.push(arguments.value()?.string()?),
                Long("unix") => options.unix.push(arguments.value()?.into()),
                Long("udp") => options.udp.push(arguments.value()?.string()?),
                Long("tls") => options.tls.push(arguments.value()?.string()?),
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
                        "bare" => Stack::Bare,
                        "tower" => Stack::Tower,
                        "full" => Stack::Full,
                        other => return Err(format!("there is no stack '{other}'").into()),
                    }
                }
                Long("workers") => options.workers = arguments.value()?.parse()?,
                Long("help") | Short('h') => return Ok(None),
                Long(flag @ ("ws" | "wss")) => {
                    return Err(later(format_args!("--{flag}")));
                }
                other => return Err(other.unexpected()),
            }
        }
        if [&options.tcp, &options.tls, &options.udp]
            .iter()
            .all(|kind| kind.is_empty())
            && options.unix.is_empty()
        {
            return Err("nothing to listen on: give --tcp, --unix, --tls or --udp".into());
        }
        Ok(Some(options))
    }

    /// Binds the listeners, and puts the echo behind them. `beat` is a message that means nothing, if there is one.
    async fn serve<C, M>(
        &self,
        listeners: Listeners,
        codec: C,
        beat: Option<M>,
    ) -> Result<Vec<Serve>, BoxError>
    where
        C: Decoder<Item = M, Error: Into<BoxError>> + Encoder<M, Error: Into<BoxError>>,
        C: Clone + Send + 'static,
        M: Clone + PartialEq + Send + Sync + 'static,
    {
        // ready at once, so that a message never leaves its session's loop
        let echo =
            |request: Request<M>| ready(Ok::<_, BoxError>(Reply::one(request.into_message())));
        match self.stack {
            Stack::Bare => {
                self.listen(
                    listeners,
                    ServiceBuilder::new()
                        .layer(CodecLayer::new(codec))
                        .layer(SessionLayer::new())
                        .service_fn(echo),
                )
                .await
            }
            Stack::Tower => {
                self.listen(
                    listeners,
                    ServiceBuilder::new()
                        .concurrency_limit(100_000)
                        .layer(CodecLayer::new(codec))
                        .layer(SessionLayer::new())
                        .timeout(Duration::from_secs(30))
                        .load_shed()
                        .concurrency_limit(1024)
                        .service_fn(echo),
                )
                .await
            }
            Stack::Full => {
                let sent = beat.clone();
                self.listen(
                    listeners,
                    ServiceBuilder::new()
                        .layer(TraceLayer::new())
                        .layer(MetricsLayer::new())
                        .concurrency_limit(100_000)
                        .layer(CatchPanicLayer::new())
                        .layer(WriteTimeoutLayer::new(Duration::from_secs(30)))
                        .layer(ReadTimeoutLayer::new(Duration::from_secs(30)))
                        // not of all bytes: our own beats are some
                        .layer(IdleTimeoutLayer::read(Duration::from_secs(300)))
                        .layer(CodecLayer::new(codec))
                        .layer(RegistryLayer::new(Registry::new()))
                        .layer(HeartbeatLayer::new_if(
                            Duration::from_secs(60),
                            move |_session| sent.clone(),
                        ))
                        .layer(CloseCallbackLayer::new("echo", "closed", |_closed| {
                            CLOSED.fetch_add(1, Relaxed);
                        }))
                        .layer(SessionLayer::new())
                        .layer(HandleErrorLayer::new(|_error| None))
                        .layer(ActiveLayer::new(move |message| {
                            beat.as_ref() != Some(message)
                        }))
                        .service_fn(echo),
                )
                .await
            }
        }
    }

    async fn listen<S>(&self, listeners: Listeners, stack: S) -> Result<Vec<Serve>, BoxError>
    where
        S: Pipeline<TcpStream> + Pipeline<UnixStream> + Pipeline<TlsStream<TcpStream>>,
        S: Pipeline<UdpPeer> + Clone,
    {
        let mut served = Vec::new();
        if listeners.streams {
            for address in &self.tcp {
                let listener = TcpListener::bind(address).await?;
                announce("tcp", &listener)?;
                served.push(getty::serve(listener, stack.clone()));
            }
            for path in &self.unix {
                let listener = UnixListener::bind(path)?;
                announce("unix", &listener)?;
                served.push(getty::serve(listener, stack.clone()));
            }
            if !self.tls.is_empty() {
                let tls = TlsLayer::new(self.files.load()?);
                for address in &self.tls {
                    let listener = TcpListener::bind(address).await?;
                    announce("tls", &listener)?;
                    served.push(getty::serve(listener, tls.layer(stack.clone())));
                }
            }
        }
        if listeners.datagrams {
            for address in &self.udp {
                let builder = UdpListener::builder().with_empty_datagrams(true);
                let listener = builder.bind(address).await?;
                announce("udp", &listener)?;
                served.push(getty::serve(listener, stack.clone()));
            }
        }
        Ok(served)
    }
}

fn later(what: impl fmt::Display) -> lexopt::Error {
    format!("{what} is not there yet").into()
}

/// For whoever waits for it: from now on connections are accepted here.
fn announce(kind: &str, listener: &impl Listener) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening {kind} {}", listener.local_addr()?)?;
    out.flush()
}
