//! UDP listeners, endpoints and clients against plain sockets.

mod blocked;
mod client;
mod crowd;
mod endpoint;
mod full;
mod inline_polling;
mod limits;
mod listener;
mod sizes;

use std::{
    future::IntoFuture,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, CodecLayer, Listener, Pipeline, Reply, Request, ServiceBuilder, Session,
    SessionLayer,
    codec::{Decoder, Encoder},
    layers::OnOpenLayer,
    net::UdpPeer,
};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinHandle, time::timeout};

/// Time limit of each step of a test.
const SOON: Duration = Duration::from_secs(20);

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

async fn soon<F: IntoFuture>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("timed out")
}

/// Polls the condition until it is true.
async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A codec that passes datagrams through, even empty ones. Decoding fails if one starts with
/// `bad`.
#[derive(Clone, Copy, Debug)]
struct Whole;

impl Decoder for Whole {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok(None)
    }

    fn decode_eof(&mut self, datagram: &mut BytesMut) -> io::Result<Option<Bytes>> {
        if datagram.starts_with(b"bad") {
            return Err(io::ErrorKind::InvalidData.into());
        }
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

/// Returns the message. `stop` closes the session, and `fail` is an error.
async fn echo(request: Request<Bytes>) -> Result<Reply<Bytes>, BoxError> {
    Ok(match &request.message()[..] {
        b"stop" => Reply::close(),
        b"fail" => return Err("requested by the peer".into()),
        _ => Reply::one(request.into_message()),
    })
}

/// An echo and a channel. The channel receives each session when it opens.
fn reporting_echo() -> (
    impl Pipeline<UdpPeer> + Clone,
    mpsc::UnboundedReceiver<Session<Bytes>>,
) {
    let (opened, sessions) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(OnOpenLayer::new(move |session: Session<Bytes>| {
            let sent = opened.send(session);
            async move { sent.map_err(|_| BoxError::from("the receiver is gone")) }
        }))
        .layer(SessionLayer::new())
        .service_fn(echo);
    (stack, sessions)
}

/// Serves in the background.
fn serve<L: Listener, S: Pipeline<L::Io>>(listener: L, stack: S) -> JoinHandle<()> {
    tokio::spawn(async move {
        getty::serve(listener, stack)
            .await
            .expect("the stack is always ready");
    })
}

/// A socket that is connected to `address`.
async fn peer_of(address: SocketAddr) -> UdpSocket {
    let any = if address.is_ipv4() { V4 } else { V6 };
    let peer = UdpSocket::bind(any).await.unwrap();
    peer.connect(address).await.unwrap();
    peer
}

async fn receive(peer: &UdpSocket) -> Bytes {
    let mut buf = vec![0; 70_000];
    let len = soon(peer.recv(&mut buf)).await.unwrap();
    Bytes::copy_from_slice(&buf[..len])
}

/// Sends `message` and returns the answer.
async fn ask(peer: &UdpSocket, message: impl AsRef<[u8]>) -> Bytes {
    peer.send(message.as_ref()).await.unwrap();
    receive(peer).await
}

/// Local addresses that one peer sends to.
const DESTINATIONS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77)),
];

/// Sends from one socket to an echo at each of the addresses. The source of each answer must be
/// right.
async fn assert_answers_from_destination(port: u16) {
    let peer = UdpSocket::bind(V4).await.unwrap();
    let mut sent = Vec::new();
    for n in 0..10 {
        for ip in DESTINATIONS {
            let message = format!("{n} {ip}");
            peer.send_to(message.as_bytes(), (ip, port)).await.unwrap();
            sent.push((message, SocketAddr::from((ip, port))));
        }
    }
    let mut answers = Vec::new();
    let mut buf = [0; 64];
    for _ in &sent {
        let (len, from) = soon(peer.recv_from(&mut buf)).await.unwrap();
        answers.push((String::from_utf8_lossy(&buf[..len]).into_owned(), from));
    }
    // The order is kept per address.
    sent.sort_by_key(|(_, to)| *to);
    answers.sort_by_key(|(_, from)| *from);
    assert_eq!(answers, sent);
}
