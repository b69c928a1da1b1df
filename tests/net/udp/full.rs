//! Sockets with the smallest send buffer. It must fill if the network is slower than the
//! sender.
//!
//! Over loopback a datagram leaves the buffer as soon as it is sent, so the buffer cannot fill.
//! The kernel also sends datagrams of one length in one piece. Neither holds for a loopback
//! that is slow or has a small MTU. These tests may run over one, as root in a separate network
//! namespace:
//!
//! ```text
//! cargo test --all-features --test net --no-run
//! unshare -n sh -c 'ip link set lo up && tc qdisc add dev lo root tbf rate 1mbit burst 3kb limit 9mb && NET udp::full'
//! unshare -n sh -c 'ip link set lo up mtu 320 && NET udp::full'
//! ```
//!
//! `NET` stands for the program whose path the first command prints.

use std::fmt::Write as _;

use bytes::Bytes;
use getty::{
    BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer,
    net::{Datagram, UdpEndpoint, UdpListener},
};

use super::{V4, Whole, peer_of, receive, serve};

/// Number of datagrams that each peer is sent.
const ANSWERS: usize = 50;

/// Answers. Some consecutive answers have one length and may be sent in one piece.
fn answer(n: usize) -> String {
    let mut answer = format!("{n} ");
    let len = if n % 10 < 5 { 300 } else { 300 + n };
    while answer.len() < len {
        write!(answer, "{n}.").expect("a string accepts any text");
    }
    answer
}

fn answers() -> impl Iterator<Item = Bytes> {
    (0..ANSWERS).map(|n| answer(n).into())
}

#[tokio::test]
async fn full_send_buffer_delays_the_answers_of_all_peers_and_loses_none() {
    let listener = UdpListener::builder()
        .with_send_buffer_size(1)
        .bind(V4)
        .await
        .unwrap();
    let (address, monitor) = (listener.local_addr().unwrap(), listener.monitor());
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(|_: Request<Bytes>| async { Ok::<_, BoxError>(answers().collect::<Vec<_>>()) });
    let _server = serve(listener, stack);
    let mut peers = Vec::new();
    for _ in 0..4 {
        let peer = peer_of(address).await;
        peer.send(b"tell").await.unwrap();
        peers.push(peer);
    }
    for peer in peers {
        for n in 0..ANSWERS {
            assert_eq!(receive(&peer).await, answer(n));
        }
    }
    assert_eq!(monitor.stats().unsent, 0);
}

#[tokio::test]
async fn full_send_buffer_of_an_endpoint_loses_no_answer() {
    let socket = std::net::UdpSocket::bind(V4).unwrap();
    socket2::SockRef::from(&socket)
        .set_send_buffer_size(1)
        .unwrap();
    let endpoint = UdpEndpoint::try_from(socket).unwrap();
    let (address, monitor) = (endpoint.local_addr(), endpoint.monitor());
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Datagram<Bytes>>| async move {
            let question = request.into_message();
            let answers = answers().map(|answer| question.reply(answer));
            Ok::<_, BoxError>(answers.collect::<Vec<_>>())
        });
    let _server = serve(endpoint, stack);
    let (one, other) = (peer_of(address).await, peer_of(address).await);
    one.send(b"tell").await.unwrap();
    other.send(b"tell").await.unwrap();
    for peer in [one, other] {
        for n in 0..ANSWERS {
            assert_eq!(receive(&peer).await, answer(n));
        }
    }
    assert_eq!(monitor.stats().unsent, 0);
}
