//! A server behind a load balancer that speaks the PROXY protocol, and a client that speaks it.
//!
//! ```text
//! cargo run --example proxied -- serve --trust 127.0.0.0/8          # 127.0.0.1:7060
//! cargo run --example proxied -- ask 127.0.0.1:7060 --source 192.0.2.7:50000
//! printf 'PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nhello\n' | nc -N 127.0.0.1 7060
//! ```
//!
//! The server answers each line with the real addresses, the addresses of the socket, and the
//! contents of the header. `serve` has these options:
//!
//! - `--listen ADDRESS`: the address of the TCP listener. The default is 127.0.0.1:7060.
//! - `--unix PATH`: listens at a Unix socket as well. Every proxy that may open it is trusted.
//! - `--trust NETWORK`: trusts proxies of this network. It may be repeated.
//! - `--direct`: serves other peers directly. Without it they are refused.
//! - `--debug`: logs why connections end.
//!
//! `ask ADDRESS` sends a header and a line, and prints the answer. Without `--source` the
//! header is the one of a health check. `--v1` sends version 1. `--destination ADDRESS`,
//! `--unique-id TEXT` and `--checksum` complete the header.
//!
//! docs/load-balancers.md has settings of HAProxy, nginx and load balancers of clouds.

mod report;

use std::net::SocketAddr;

use getty::{
    BoxError, CodecLayer, ConnectionHandle, NoReply, ServiceBuilder, Session, SessionLayer,
    codec::Lines,
    handle,
    layers::{
        PeerLimitLayer, TraceLayer,
        access::{Access, AccessList, IpNet},
    },
    net::{TcpConnector, TcpListener},
    proxy::{ProxyFor, ProxyInfo, ProxyProtocolConnectLayer, ProxyProtocolLayer, Untrusted},
};
use lexopt::prelude::*;
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;

use self::report::Report;

#[tokio::main]
async fn main() -> Result<(), Report> {
    let mut arguments = lexopt::Parser::from_env();
    match arguments.next()? {
        Some(Value(mode)) if mode == "serve" => Ok(serve(arguments).await?),
        Some(Value(mode)) if mode == "ask" => Ok(ask(arguments).await?),
        _ => Err("usage: proxied serve [OPTIONS], or: proxied ask ADDRESS [OPTIONS]".into()),
    }
}

async fn serve(mut arguments: lexopt::Parser) -> Result<(), BoxError> {
    let mut address = "127.0.0.1:7060".to_owned();
    let mut path = None;
    let proxies = AccessList::deny_all();
    let mut untrusted = Untrusted::Refuse;
    let mut level = LevelFilter::INFO;
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("listen") => address = arguments.value()?.string()?,
            Long("unix") => path = Some(arguments.value()?),
            Long("trust") => proxies.allow(arguments.value()?.parse::<IpNet>()?),
            Long("direct") => untrusted = Untrusted::Direct,
            Long("debug") => level = LevelFilter::DEBUG,
            other => return Err(other.unexpected().into()),
        }
    }
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .init();

    let proxied = ProxyProtocolLayer::from_sources(proxies)
        .with_untrusted(untrusted)
        // The permissions of the socket's file decide who may connect to it.
        .with_unaddressed(Access::Allow);
    let app = ServiceBuilder::new()
        .concurrency_limit(10_000)
        .layer(proxied)
        // From here on `peer_addr` is the client.
        .layer(TraceLayer::new())
        .layer(PeerLimitLayer::new(20))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service(handle(|_: String, session: Session<String>| {
            describe(&session)
        }));
    let tcp = TcpListener::bind(address).await?;
    println!("listening on {}", tcp.local_addr()?);
    match path {
        None => getty::serve(tcp, app).await?,
        #[cfg(unix)]
        Some(path) => {
            let unix = getty::net::UnixListener::bind(path)?;
            getty::serve_all((tcp, unix), app).await?
        }
        #[cfg(not(unix))]
        Some(_) => return Err("this system has no Unix sockets".into()),
    };
    Ok(())
}

/// Describes where the client's connection came from.
fn describe(handle: &ConnectionHandle) -> String {
    let mut text = format!(
        "peer={} local={} socket_peer={} socket_local={}",
        handle.peer_addr(),
        handle.local_addr(),
        handle.socket_peer_addr(),
        handle.socket_local_addr(),
    );
    let Some(header) = handle.get::<ProxyInfo>() else {
        return text + " header=none";
    };
    text += &format!(
        " header={:?} command={:?}",
        header.version(),
        header.command()
    );
    if let Some(name) = header.authority() {
        text += &format!(" authority={name}");
    }
    if let Some(id) = header.unique_id() {
        text += &format!(" unique_id={}", id.escape_ascii());
    }
    if let Some(alpn) = header.alpn() {
        text += &format!(" alpn={}", alpn.escape_ascii());
    }
    if let Some(ssl) = header.ssl() {
        let version = ssl.version().unwrap_or("none");
        text += &format!(" ssl={version} verified={}", ssl.is_verified());
        if let Some(name) = ssl.common_name() {
            text += &format!(" client={name}");
        }
    }
    let kinds: Vec<_> = header
        .tlvs()
        .map(|(kind, _)| format!("{kind:#04x}"))
        .collect();
    text + &format!(" tlvs={}", kinds.join(","))
}

async fn ask(mut arguments: lexopt::Parser) -> Result<(), BoxError> {
    let mut target = None;
    let (mut source, mut destination) = (None, None);
    let mut unique_id = None;
    let (mut v1, mut checksum) = (false, false);
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(address) if target.is_none() => target = Some(address.string()?),
            Long("source") => source = Some(arguments.value()?.parse::<SocketAddr>()?),
            Long("destination") => destination = Some(arguments.value()?.parse::<SocketAddr>()?),
            Long("unique-id") => unique_id = Some(arguments.value()?.string()?),
            Long("v1") => v1 = true,
            Long("checksum") => checksum = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let target = target.ok_or("ask needs the address of a server")?;
    let mut layer = if v1 {
        ProxyProtocolConnectLayer::v1()
    } else {
        ProxyProtocolConnectLayer::v2()
    };
    if checksum {
        layer = layer.with_checksum();
    }
    let connector = ServiceBuilder::new()
        .layer(layer)
        .service(TcpConnector::new());

    let (answers, mut answer) = mpsc::channel(1);
    let stack = |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(move |line: String| {
                let answers = answers.clone();
                async move {
                    answers.send(line).await?;
                    Ok::<_, BoxError>(NoReply)
                }
            }))
    };
    let (session, task) = match source {
        Some(source) => {
            let destination = destination.unwrap_or(source).into();
            let mut target = ProxyFor::new(target, source.into(), destination);
            if let Some(id) = unique_id {
                target = target.with_tlv(0x05, id);
            }
            getty::connect(connector, target, stack).await?
        }
        None => getty::connect(connector, target, stack).await?,
    };
    session.send("who am I?".to_owned()).await?;
    match answer.recv().await {
        Some(answer) => println!("{answer}"),
        None => return Err(format!("no answer: {}", task.await?.reason).into()),
    }
    Ok(())
}
