//! Tests that every server echoes. Otherwise its figures would mean nothing.

use std::{io, thread, time::Duration};

use getty_benches::{
    load::{Echoed, Shape, TcpLoad, UdpLoad},
    server::{Kind, udp},
};

fn echoes(payload: usize, in_flight: u64) {
    // The codec of ws-getty is `Raw`. It ignores empty messages.
    let gives_empty = |kind: &Kind| payload > 0 || *kind != Kind::WsGetty;
    for kind in Kind::ALL.into_iter().filter(gives_empty) {
        let listener = kind.listen().unwrap();
        let address = listener.local_addr().unwrap();
        // The servers will never return. Their threads end with the test process.
        thread::spawn(move || kind.run(listener));
        let shape = Shape {
            connections: 5,
            in_flight,
            payload,
        };
        let mut load = TcpLoad::open(address, kind.protocol(), shape).unwrap();
        load.echo_once(0)
            .unwrap_or_else(|error| panic!("{}: {error}", kind.name()));
        load.start(in_flight).unwrap();
        // The load compares each byte with the bytes that it sent.
        run_until_100_messages(kind.name(), |duration| load.run(duration));
    }
}

/// Runs a load until 100 messages have come back.
fn run_until_100_messages(server: &str, mut run: impl FnMut(Duration) -> io::Result<Echoed>) {
    let mut messages = 0;
    while messages < 100 {
        let echoed = run(Duration::from_millis(1));
        messages += echoed
            .unwrap_or_else(|error| panic!("{server}: {error}"))
            .messages;
    }
}

#[test]
fn every_server_echoes_empty_frames() {
    echoes(0, 16);
}

#[test]
fn every_server_echoes_small_frames() {
    echoes(64, 64);
}

#[test]
fn every_server_echoes_frames_larger_than_any_of_its_reads() {
    echoes(200_000, 16);
}

#[test]
fn every_udp_server_echoes_to_each_peer_in_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    for kind in udp::Kind::ALL {
        let address = runtime.block_on(kind.listen()).unwrap();
        let shape = Shape {
            connections: 5,
            in_flight: 4,
            payload: 64,
        };
        let mut load = UdpLoad::open(address, shape).unwrap();
        load.start(shape.in_flight).unwrap();
        // The load checks the peer, the order and the length of each answer.
        run_until_100_messages(kind.name(), |duration| load.run(duration));
    }
}
