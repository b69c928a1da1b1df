//! A message through a session over TLS and a datagram through a session over UDP.

use std::net::Ipv4Addr;

use tokio::net::UdpSocket;

use super::{
    PAYLOAD,
    Policy::{Checked, Reported},
    Scenario, each_at_once,
};
use crate::{
    server::udp,
    workload::{
        runtime,
        tls::{self, Cipher},
    },
};

/// Number of messages that the TLS client encrypts in every run.
const ENCRYPTED: u64 = 11_000;

pub(super) fn scenarios() -> impl Iterator<Item = Scenario> {
    over_tls().chain(over_udp())
}

/// Scenarios over TLS.
///
/// With a cipher, the figures are only reported: ring selects its code by the processor.
/// Without a cipher they must be checked. Then records, buffers and the session remain.
fn over_tls() -> impl Iterator<Item = Scenario> {
    let loops = [
        ("tls-by-hand", Reported, tls::Kind::ByHand, Cipher::Aes),
        ("tls-getty", Reported, tls::Kind::Getty, Cipher::Aes),
        (
            "tls-no-cipher-by-hand",
            Reported,
            tls::Kind::ByHand,
            Cipher::None,
        ),
        (
            "tls-no-cipher-getty",
            Checked,
            tls::Kind::Getty,
            Cipher::None,
        ),
    ];
    each_at_once(loops, |(name, policy, kind, cipher), at_once| {
        Scenario::new(format!("{name}-{at_once}"), policy, move |messages| {
            let frames = usize::try_from(at_once).expect("the number is small");
            let [times, encrypted] = [messages, ENCRYPTED].map(|messages| messages / at_once);
            tls::echo(
                (kind, cipher),
                &runtime(),
                (frames, PAYLOAD),
                times,
                encrypted,
            );
        })
    })
}

/// Scenarios over UDP on the loopback device.
///
/// `UdpListener` must be measured with sockets, although they are half of the work: it has no
/// other transport, and the kernel forms the batches. Instructions of the kernel are not
/// counted. The client is on the same thread and counted equally for all servers.
///
/// The figures are only reported. The reader's task polls sessions unless their polls take
/// long, and under Callgrind they do.
fn over_udp() -> impl Iterator<Item = Scenario> {
    let servers = [
        ("udp-by-hand", Reported, udp::Kind::Hand),
        ("udp-getty", Reported, udp::Kind::Getty),
        ("udp-getty-endpoint", Reported, udp::Kind::GettyEndpoint),
    ];
    each_at_once(servers, |(name, policy, kind), at_once| {
        Scenario::new(format!("{name}-{at_once}"), policy, move |datagrams| {
            runtime().block_on(exchange(kind, datagrams / at_once, at_once));
        })
    })
}

/// Sends a number of datagrams at once and receives the answers. Repeats this a number of
/// `times`.
async fn exchange(kind: udp::Kind, times: u64, at_once: u64) {
    let server = kind.listen().await.expect("a port is free");
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let client = client.expect("a port is free");
    client.connect(server).await.expect("the address is local");
    let mut answer = [0; PAYLOAD];
    for _ in 0..times {
        for _ in 0..at_once {
            let sent = client.send(&[b'a'; PAYLOAD]).await;
            sent.expect("the payload fits a datagram");
        }
        for _ in 0..at_once {
            let received = client.recv(&mut answer).await;
            assert_eq!(received.expect("the server answers"), PAYLOAD);
        }
    }
}
