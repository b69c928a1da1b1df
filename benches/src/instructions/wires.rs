//! A message through a session over TLS, and a datagram through one over UDP.

use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

use super::{
    PAYLOAD, Scenario,
    Standing::{Ours, Reference},
    each_at_once, runtime,
};
use crate::{
    tls::{self, Cipher},
    udp,
};

/// The client's side of TLS is the same whether so many messages are delivered or fewer.
const MOST: u64 = 11_000;

pub(super) fn scenarios() -> impl Iterator<Item = Scenario> {
    over_tls().chain(over_udp())
}

/// With a cipher it is told and not held: which instructions ring takes is chosen by what the processor has, and that is
/// not the same wherever this is counted. Without one the rest is held: records, buffers, the session.
fn over_tls() -> impl Iterator<Item = Scenario> {
    let loops = [
        ("tls-by-hand", Reference, tls::Kind::ByHand, Cipher::Aes),
        ("tls-getty", Reference, tls::Kind::Getty, Cipher::Aes),
        (
            "tls-no-cipher-by-hand",
            Reference,
            tls::Kind::ByHand,
            Cipher::None,
        ),
        ("tls-no-cipher-getty", Ours, tls::Kind::Getty, Cipher::None),
    ];
    each_at_once(loops, |(name, standing, kind, cipher), at_once| {
        Scenario::new(format!("{name}-{at_once}"), standing, move |messages| {
            let frames = usize::try_from(at_once).expect("a few");
            let [times, most] = [messages, MOST].map(|messages| messages / at_once);
            tls::echo((kind, cipher), &runtime(), (frames, PAYLOAD), times, most);
        })
    })
}

/// Over the loopback device, for what reads and writes a socket is half of the work: `UdpListener` knows no other
/// transport, and batches of datagrams are made by the kernel. What the kernel does is not counted. The client, on the same
/// thread, is: the same for all.
///
/// Told and not held: whether sessions have their turns on the reader's task is decided by how long they take, and under
/// callgrind they take long.
fn over_udp() -> impl Iterator<Item = Scenario> {
    let servers = [
        ("udp-by-hand", Reference, udp::Kind::Hand),
        ("udp-getty", Reference, udp::Kind::Getty),
        ("udp-getty-endpoint", Reference, udp::Kind::GettyEndpoint),
    ];
    each_at_once(servers, |(name, standing, kind), at_once| {
        Scenario::new(format!("{name}-{at_once}"), standing, move |datagrams| {
            runtime().block_on(exchange(kind, datagrams / at_once, at_once));
        })
    })
}

/// So many `times` so many datagrams and their answers.
async fn exchange(kind: udp::Kind, times: u64, at_once: u64) {
    let server = kind.listen().await.expect("there is a port");
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let client = client.expect("there is a port");
    client.connect(server).await.expect("it is of this host");
    let mut answer = [0; PAYLOAD];
    for _ in 0..times {
        for _ in 0..at_once {
            let sent = client.send(&[b'a'; PAYLOAD]).await;
            sent.expect("it fits a datagram");
        }
        for _ in 0..at_once {
            let received = client.recv(&mut answer).await;
            assert_eq!(received.expect("the server is there"), PAYLOAD);
        }
    }
}
