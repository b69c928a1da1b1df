//! The PROXY protocol: the contracts, whole stacks, the client's side, and other parsers as
//! references.

mod connector;
mod contracts;
mod differential;
mod references;
mod stack;

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use getty::{
    Address, BoxError, Connection, ConnectionHandle, Endpoints, Layer, TransportKind,
    layers::access::{AccessList, IpNet},
    proxy::{HeaderError, ProxyError, ProxyInfo, ProxyProtocolLayer},
    service_fn,
};
use proptest::{collection::vec, prelude::*};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tower::ServiceExt;

/// Addresses of the socket between the proxy and the server.
const PROXY: &str = "10.0.0.2:4096";
const SERVER: &str = "10.0.0.1:7000";
/// Addresses of the connection between the client and the proxy.
const CLIENT: &str = "192.0.2.7:50000";
const SERVICE: &str = "198.51.100.1:443";

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n";
const BLOCK: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0x50, 1, 0xBB];
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn ip(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

/// Returns a header of version 2.
fn binary(version: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version, family], &length, block].concat()
}

/// Returns a header of version 2 for the client with these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    binary(0x21, 0x11, &[&BLOCK, tlvs].concat())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// Trusts `10.0.0.0/8`.
fn layer() -> ProxyProtocolLayer {
    let proxies = AccessList::deny_all().with_allowed(["10.0.0.0/8".parse::<IpNet>().unwrap()]);
    ProxyProtocolLayer::from_sources(proxies)
}

fn connection<T>(transport: T) -> Connection<T> {
    connection_from(PROXY, transport)
}

fn connection_from<T>(peer: &str, transport: T) -> Connection<T> {
    let endpoints = Endpoints::new(TransportKind::Tcp, ip(SERVER), ip(peer));
    Connection::with_endpoints(transport, endpoints)
}

/// Event after the last piece.
#[derive(Clone, Copy)]
enum After {
    End,
    Silence,
    Reset,
}

/// Input that arrives in pieces with a pause before each.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    after: After,
    paused: bool,
    reads: Arc<AtomicUsize>,
}

impl Pieces {
    fn new(pieces: impl IntoIterator<Item = Vec<u8>>, after: After) -> Self {
        Self {
            pieces: pieces.into_iter().collect(),
            after,
            paused: false,
            reads: Arc::default(),
        }
    }

    /// Splits `bytes` into pieces of these sizes repeatedly.
    fn split(bytes: &[u8], sizes: &[usize], after: After) -> Self {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        for size in sizes.iter().cycle() {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        Self::new(pieces.into_iter().filter(|piece| !piece.is_empty()), after)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.paused = !this.paused;
        if this.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.reads.fetch_add(1, SeqCst);
        match this.pieces.front_mut() {
            Some(piece) => {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(piece);
                *piece = rest;
                if piece.is_empty() {
                    this.pieces.pop_front();
                }
                Poll::Ready(Ok(()))
            }
            None => match this.after {
                After::End => Poll::Ready(Ok(())),
                After::Silence => Poll::Pending,
                After::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            },
        }
    }
}

/// Result of a connection through the layer.
struct Received {
    handle: ConnectionHandle,
    /// Bytes that the inner service has read to the end of the input.
    rest: Result<Vec<u8>, ProxyError>,
    /// Attribute that the inner service has found.
    info: Option<ProxyInfo>,
    /// Number of calls of the inner service.
    calls: usize,
}

impl Received {
    fn addresses(&self) -> (Address, Address) {
        let (local, peer) = (self.handle.local_addr(), self.handle.peer_addr());
        (peer.clone(), local.clone())
    }

    fn defect(&self) -> HeaderError {
        match &self.rest {
            Err(ProxyError::Header(defect)) => *defect,
            other => panic!("expected a defect of the header instead of {other:?}"),
        }
    }
}

async fn receive_over(layer: ProxyProtocolLayer, connection: Connection<Pieces>) -> Received {
    let handle = connection.handle().clone();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    // the transport inside is the one outside
    let inner = service_fn(move |mut connection: Connection<Pieces>| {
        counted.fetch_add(1, SeqCst);
        async move {
            let mut rest = Vec::new();
            let info = connection.handle().get::<ProxyInfo>();
            connection.transport_mut().read_to_end(&mut rest).await?;
            Ok::<_, BoxError>((rest, info))
        }
    });
    let result = layer.layer(inner).oneshot(connection).await;
    let calls = calls.load(SeqCst);
    let (rest, info) = match result {
        Ok((rest, info)) => (Ok(rest), info),
        Err(error) => (Err(*error.downcast().expect("an error of the layer")), None),
    };
    Received {
        handle,
        rest,
        info,
        calls,
    }
}

/// Receives `bytes` at once and then the end of the input.
async fn receive(bytes: &[u8]) -> Received {
    let pieces = Pieces::split(bytes, &[usize::MAX], After::End);
    receive_over(layer(), connection(pieces)).await
}

/// Runs a case of a property.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// Valid headers with the addresses of source and destination that they set.
fn valid_header() -> impl Strategy<Value = (Vec<u8>, Option<(Address, Address)>)> {
    let v4 = any::<([u8; 4], u16)>().prop_map(|(ip, port)| (IpAddr::from(ip), port));
    let v6 = any::<([u8; 16], u16)>().prop_map(|(ip, port)| (IpAddr::from(ip), port));
    let pair = prop_oneof![(v4.clone(), v4).boxed(), (v6.clone(), v6).boxed()];
    let pair = pair.prop_map(|(source, destination)| {
        (SocketAddr::from(source), SocketAddr::from(destination))
    });
    let tlvs = vec((4..0x20_u8, vec(any::<u8>(), 0..40)), 0..4);
    let tlvs = tlvs.prop_map(|tlvs| {
        let all = tlvs.iter().flat_map(|(kind, value)| tlv(*kind, value));
        all.collect::<Vec<u8>>()
    });
    let line = pair.clone().prop_map(|(source, destination)| {
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (ip, to) = (source.ip(), destination.ip());
        let (port, to_port) = (source.port(), destination.port());
        let line = format!("PROXY {family} {ip} {to} {port} {to_port}\r\n");
        (line.into_bytes(), Some((source.into(), destination.into())))
    });
    let unknown = "[ -~]{0,91}".prop_map(|rest| {
        let line = match rest.as_str() {
            "" => "PROXY UNKNOWN\r\n".to_owned(),
            rest => format!("PROXY UNKNOWN {rest}\r\n"),
        };
        (line.into_bytes(), None)
    });
    let addressed = (pair, tlvs.clone()).prop_map(|((source, destination), tlvs)| {
        let mut block = Vec::new();
        for ip in [source.ip(), destination.ip()] {
            match ip {
                IpAddr::V4(ip) => block.extend(ip.octets()),
                IpAddr::V6(ip) => block.extend(ip.octets()),
            }
        }
        block.extend(source.port().to_be_bytes());
        block.extend(destination.port().to_be_bytes());
        block.extend(tlvs);
        let family = if source.is_ipv4() { 0x11 } else { 0x21 };
        let header = binary(0x21, family, &block);
        (header, Some((source.into(), destination.into())))
    });
    let unspecified = tlvs.prop_map(|tlvs| (binary(0x21, 0, &tlvs), None));
    let local = (any::<u8>(), vec(any::<u8>(), 0..300))
        .prop_map(|(family, block)| (binary(0x20, family, &block), None));
    prop_oneof![line, unknown, addressed, unspecified, local]
}
