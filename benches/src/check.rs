//! A figure is worth nothing unless the server does the work.

use std::{io, net::TcpListener, thread, time::Duration};

use crate::{
    child::Run,
    load::{Load, Shape},
    server::Protocol,
};

/// Has a server echo frames that are smaller and such that are larger than any of its reads.
///
/// # Panics
///
/// If it does not send back what it was sent, byte by byte.
pub fn echoes(name: &str, protocol: Protocol, run: Run) {
    for (payload, in_flight) in [(64, 64), (200_000, 16)] {
        echoes_frames(name, protocol, run, payload, in_flight);
    }
}

/// Has a server echo frames of `payload` bytes, some hundred, so many `in_flight` on each of a few connections.
///
/// # Panics
///
/// If it does not send back what it was sent, byte by byte.
pub fn echoes_frames(
    name: &str,
    protocol: Protocol,
    run: impl FnOnce(TcpListener) -> io::Result<()> + Send + 'static,
    payload: usize,
    in_flight: u64,
) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = listener.local_addr().expect("it is bound");
    // The servers never end by themselves; their threads end with the test's process.
    thread::spawn(move || run(listener));
    let shape = Shape {
        connections: 5,
        in_flight,
        payload,
    };
    let outcome = (|| {
        let mut load = Load::open(address, protocol, shape)?;
        load.echo_once(0)?;
        load.start(in_flight)?;
        let mut messages = 0;
        while messages < 100 {
            // The load compares every byte with what it has sent.
            messages += load.run(Duration::from_millis(1))?.messages;
        }
        Ok::<_, io::Error>(())
    })();
    outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
}
