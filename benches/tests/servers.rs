//! A figure is worth nothing unless the server does the work: every one of them echoes what it is sent.

use std::{thread, time::Duration};

use getty_benches::{
    load::{Load, Shape},
    server::Kind,
};

fn echoes(payload: usize, in_flight: u64) {
    // the codec that ws-getty has, `Raw`, makes no message of nothing
    let gives_empty = |kind: &Kind| payload > 0 || *kind != Kind::WsGetty;
    for kind in Kind::ALL.into_iter().filter(gives_empty) {
        let listener = kind.listen().unwrap();
        let address = listener.local_addr().unwrap();
        // The servers never end by themselves; their threads end with the test's process.
        thread::spawn(move || kind.run(listener));
        let shape = Shape {
            connections: 5,
            in_flight,
            payload,
        };
        let mut load = Load::open(address, kind.protocol(), shape).unwrap();
        load.echo_once(0)
            .unwrap_or_else(|error| panic!("{}: {error}", kind.name()));
        load.start(in_flight).unwrap();
        let mut messages = 0;
        while messages < 100 {
            // The load compares every byte with what it has sent.
            let echoed = load.run(Duration::from_millis(1));
            messages += echoed
                .unwrap_or_else(|error| panic!("{}: {error}", kind.name()))
                .messages;
        }
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
