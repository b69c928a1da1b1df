//! UDP, with peers that are plain sockets.

mod blocked;
mod client;
mod crowd;
mod endpoint;
mod full;
mod limits;
mod listener;
mod sizes;
mod turns;

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

/// How long anything may take that happens at once.
const SOON: Duration = Duration::from_secs(20);

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

async fn soon<F: IntoFuture>(future: F) -> F::Output {
    timeout(SOON, future)
        .await
        .expect("it should have come by now")
}

/// Looks again and again until it is so.
async fn until(mut what: impl FnMut() -> bool) {
    soon(async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A datagram as it is, even if it is empty; one that begins with `bad` cannot be decoded.
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

/// Sends back what it is sent; a session that is told to stop does so.
async fn echo(request: Request<Bytes>) -> Result<Reply<Bytes>, BoxError> {
    Ok(match &request.message()[..] {
        b"stop" => Reply::close(),
        b"fail" => return Err("asked to".into()),
        _ => Reply::one(request.into_message()),
    })
}

/// An echo, which tells of each session that opens.
fn telling_echo() -> (
    impl Pipeline<UdpPeer> + Clone,
    mpsc::UnboundedReceiver<Session<Bytes>>,
) {
    let (opened, sessions) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(OnOpenLayer::new(move |session: Session<Bytes>| {
            let told = opened.send(session);
            async move { told.map_err(|_| BoxError::from("nobody listens")) }
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
            .expect("its stack is always ready");
    })
}

/// A peer of whatever is at `address`.
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

/// Sends `message` and takes the answer.
async fn ask(peer: &UdpSocket, message: impl AsRef<[u8]>) -> Bytes {
    peer.send(message.as_ref()).await.unwrap();
    receive(peer).await
}

/// Local addresses that one peer sends to.
const ASKED: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77)),
];

/// Has one socket ask an echo at each of the addresses in turn, before it takes any answer.
async fn assert_answers_from_where_asked(port: u16) {
    let peer = UdpSocket::bind(V4).await.unwrap();
    let mut asked = Vec::new();
    for n in 0..10 {
        for ip in ASKED {
            let message = format!("{n} {ip}");
            peer.send_to(message.as_bytes(), (ip, port)).await.unwrap();
            asked.push((message, SocketAddr::from((ip, port))));
        }
    }
    let mut answers = Vec::new();
    let mut buf = [0; 64];
    for _ in &asked {
        let (len, from) = soon(peer.recv_from(&mut buf)).await.unwrap();
        answers.push((String::from_utf8_lossy(&buf[..len]).into_owned(), from));
    }
    // of each address in order
    asked.sort_by_key(|(_, to)| *to);
    answers.sort_by_key(|(_, from)| *from);
    assert_eq!(answers, asked);
}
