//! Sockets whose send buffer is as small as there are, and full where the network is slower than we are.
//!
//! Over loopback a datagram leaves the buffer as soon as it is sent, so it never fills there, and the kernel sends datagrams
//! of one length in one piece. With a loopback that is slow, or narrower than the datagrams, these tests see both
//! otherwise; in a namespace of its own, as root:
//!
//! ```text
//! cargo test --all-features --test net --no-run
//! unshare -n sh -c 'ip link set lo up && tc qdisc add dev lo root tbf rate 1mbit burst 3kb limit 9mb && NET udp::full'
//! unshare -n sh -c 'ip link set lo up mtu 320 && NET udp::full'
//! ```
//!
//! where `NET` is the program that the first line names.

use std::fmt::Write as _;

use bytes::Bytes;
use getty::{
    BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer,
    net::{Datagram, UdpEndpoint, UdpListener},
};

use super::{V4, Whole, peer_of, receive, serve};

/// Datagrams that each peer is sent.
const ANSWERS: usize = 50;

/// Some have one length and leave in one piece, some have not.
fn answer(n: usize) -> String {
    let mut answer = format!("{n} ");
    let len = if n % 10 < 5 { 300 } else { 300 + n };
    while answer.len() < len {
        write!(answer, "{n}.").expect("it is a string");
    }
    answer
}

fn answers() -> impl Iterator<Item = Bytes> {
    (0..ANSWERS).map(|n| answer(n).into())
}

#[tokio::test]
async fn full_send_buffer_holds_back_the_answers_of_all_peers_and_loses_none() {
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
async fn full_send_buffer_of_an_endpoint_loses_nothing_either() {
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
