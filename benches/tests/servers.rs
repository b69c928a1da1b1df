//! A figure is worth nothing unless the server does the work: every one of them echoes what it is sent.

use getty_benches::{check, server::Kind};

fn echoes(payload: usize, in_flight: u64) {
    // the codec that ws-getty has, `Raw`, makes no message of nothing
    let gives_empty = |kind: &Kind| payload > 0 || *kind != Kind::WsGetty;
    for kind in Kind::ALL.into_iter().filter(gives_empty) {
        let run = move |listener| kind.run(listener);
        check::echoes_frames(kind.name(), kind.protocol(), run, payload, in_flight);
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
