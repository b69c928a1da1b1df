//! Scripted proxies in memory, and small proxies that relay over TCP.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use getty::{
    Connection, Layer,
    net::{
        self, MemoryConnector, MemoryListener, TcpListener,
        proxy::{HttpConnectLayer, ProxyConnect, ProxyConnectError, ProxyKind, Socks5ConnectLayer},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, copy_bidirectional},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};
use tower::ServiceExt;

use crate::accept;

pub(super) const KINDS: [ProxyKind; 2] = [ProxyKind::Socks5, ProxyKind::Http];

/// Target of the scripted dialogues.
pub(super) const TARGET: &str = "example.com:7000";

/// Name that only the proxies of these tests resolve, to this machine.
pub(super) const PROXY_ONLY: &str = "only.proxy.test";

/// Request of a SOCKS client for [`TARGET`], and the reply.
pub(super) const SOCKS_REQUEST: &[u8] = b"\x05\x01\x00\x03\x0bexample.com\x1b\x58";
pub(super) const SOCKS_SUCCESS: &[u8] = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x1b\x58";

pub(super) const HTTP_REQUEST: &[u8] =
    b"CONNECT example.com:7000 HTTP/1.1\r\nHost: example.com:7000\r\n\r\n";

/// Steps of a scripted proxy: the bytes that it expects and those that it then sends.
pub(super) type Dialogue<'a> = &'a [(&'a [u8], &'a [u8])];

/// Returns the dialogue of a success for [`TARGET`].
pub(super) fn success(kind: ProxyKind) -> Dialogue<'static> {
    match kind {
        ProxyKind::Socks5 => &[
            (b"\x05\x01\x00", b"\x05\x00"),
            (SOCKS_REQUEST, SOCKS_SUCCESS),
        ],
        _ => &[(HTTP_REQUEST, b"HTTP/1.1 200 Connection established\r\n\r\n")],
    }
}

/// Returns the layer's connector over `inner`.
pub(super) fn over<C, P: Clone>(kind: ProxyKind, proxy: P, inner: C) -> ProxyConnect<C, P> {
    match kind {
        ProxyKind::Socks5 => Socks5ConnectLayer::new(proxy).layer(inner),
        _ => HttpConnectLayer::new(proxy).layer(inner),
    }
}

pub(super) type Dialed = Result<Connection<DuplexStream>, ProxyConnectError>;

/// Plays the proxy's part of `dialogue` and returns its end of the connection.
pub(super) async fn play(
    listener: &mut MemoryListener,
    dialogue: Dialogue<'_>,
) -> Connection<DuplexStream> {
    let mut connection = accept(listener).await;
    for (expected, reply) in dialogue {
        let mut received = vec![0; expected.len()];
        let io = connection.transport_mut();
        io.read_exact(&mut received).await.unwrap();
        assert_eq!(
            received.escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
        io.write_all(reply).await.unwrap();
    }
    connection
}

/// Dials `target` through a proxy that plays `dialogue`. Returns the proxy's end unless the
/// dial has failed before the dialogue was complete.
pub(super) async fn dial<A>(
    connect: impl FnOnce(MemoryConnector) -> ProxyConnect<MemoryConnector, ()>,
    target: A,
    dialogue: Dialogue<'_>,
) -> (Dialed, Option<Connection<DuplexStream>>)
where
    ProxyConnect<MemoryConnector, ()>:
        getty::Service<A, Response = Connection<DuplexStream>, Error = ProxyConnectError>,
{
    let (mut listener, connector) = net::memory(64 * 1024);
    let dial = connect(connector).oneshot(target);
    let play = play(&mut listener, dialogue);
    tokio::pin!(dial, play);
    tokio::select! {
        biased;
        peer = &mut play => (dial.await, Some(peer)),
        dialed = &mut dial => match dialed {
            Ok(connection) => (Ok(connection), Some(play.await)),
            Err(error) => (Err(error), None),
        },
    }
}

/// Dials [`TARGET`] through a proxy that plays `dialogue` up to `sent` bytes and then closes.
pub(super) async fn cut_off(
    kind: ProxyKind,
    dialogue: Dialogue<'_>,
    mut sent: usize,
) -> ProxyConnectError {
    let mut steps = Vec::new();
    for &(expected, reply) in dialogue {
        let part = &reply[..sent.min(reply.len())];
        steps.push((expected, part));
        if part.len() < reply.len() {
            break;
        }
        sent -= part.len();
    }
    let (mut listener, connector) = net::memory(64 * 1024);
    let play = async { drop(play(&mut listener, &steps).await) };
    let (dialed, ()) = tokio::join!(over(kind, (), connector).oneshot(TARGET), play);
    dialed.map(drop).unwrap_err()
}

/// Dials [`TARGET`] without a login and returns the error.
pub(super) async fn failure(kind: ProxyKind, dialogue: Dialogue<'_>) -> ProxyConnectError {
    let (dialed, _) = dial(|inner| over(kind, (), inner), TARGET, dialogue).await;
    dialed.map(drop).unwrap_err()
}

/// Proxy on a TCP port that connects to its targets. A drop stops it and closes all
/// connections.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(super) async fn start(kind: ProxyKind, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::with_listener(kind, listener)
    }

    fn with_listener(kind: ProxyKind, mut listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let targets = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut relays = JoinSet::new();
            loop {
                let connection = accept(&mut listener).await;
                let targets = Arc::clone(&targets);
                relays.spawn(async move { relay(kind, connection.into_parts().0, &targets).await });
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    /// Returns the targets of all requests, as they were requested.
    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Stops the proxy and waits until its connections are closed.
    pub(super) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one client of a proxy.
pub(super) async fn relay<T>(kind: ProxyKind, mut io: T, seen: &Mutex<Vec<String>>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (target, success): (_, &[u8]) = match kind {
        ProxyKind::Socks5 => (read_socks(&mut io).await, SOCKS_SUCCESS),
        _ => (
            read_connect(&mut io).await,
            b"HTTP/1.0 200 OK\r\nVia: test\r\n\r\n",
        ),
    };
    seen.lock().unwrap().push(target.clone());
    let Ok(mut dialed) = TcpStream::connect(target.replace(PROXY_ONLY, "127.0.0.1")).await else {
        let refusal: &[u8] = match kind {
            ProxyKind::Socks5 => b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00",
            _ => b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        };
        let _ = io.write_all(refusal).await;
        return;
    };
    // The server's first bytes are sent in the same segment as the reply.
    let mut reply = success.to_vec();
    let mut first = [0; 64];
    if let Some(Ok(n)) = futures_util::FutureExt::now_or_never(dialed.read(&mut first)) {
        reply.extend_from_slice(&first[..n]);
    }
    if io.write_all(&reply).await.is_ok() && io.flush().await.is_ok() {
        let _ = copy_bidirectional(&mut io, &mut dialed).await;
    }
}

async fn read_socks<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> String {
    let mut bytes = [0; 256];
    io.read_exact(&mut bytes[..2]).await.unwrap();
    let methods = usize::from(bytes[1]);
    io.read_exact(&mut bytes[..methods]).await.unwrap();
    io.write_all(b"\x05\x00").await.unwrap();
    io.flush().await.unwrap();
    io.read_exact(&mut bytes[..4]).await.unwrap();
    let host = match bytes[3] {
        1 => {
            let mut ip = [0; 4];
            io.read_exact(&mut ip).await.unwrap();
            std::net::Ipv4Addr::from(ip).to_string()
        }
        3 => {
            let length = usize::from(io.read_u8().await.unwrap());
            io.read_exact(&mut bytes[..length]).await.unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        }
        4 => {
            let mut ip = [0; 16];
            io.read_exact(&mut ip).await.unwrap();
            format!("[{}]", std::net::Ipv6Addr::from(ip))
        }
        other => panic!("unknown type of address {other}"),
    };
    format!("{host}:{}", io.read_u16().await.unwrap())
}

async fn read_connect<T: AsyncRead + Unpin>(io: &mut T) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").unwrap();
    target.split_once(' ').unwrap().0.to_owned()
}
