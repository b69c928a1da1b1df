//! A check that a server does its work. Figures without it would mean nothing.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::{
    Protocol,
    child::{self, Run},
    frames::Frames,
    websocket,
};

/// Checks that a server echoes frames on several connections at once. Some frames are larger
/// than any read.
///
/// # Panics
///
/// If an answer differs from the sent bytes.
pub fn echoes(name: &str, protocol: Protocol, run: Run) {
    let listener = child::listen(false).expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound");
    // A server will never return. Its threads end with the test process.
    thread::spawn(move || run(listener));
    let clients: Vec<_> = [(1, 64), (500, 64), (20, 200_000), (500, 1024)]
        .into_iter()
        .map(|(count, payload)| thread::spawn(move || echo(address, protocol, count, payload)))
        .collect();
    for client in clients {
        let outcome = client.join().expect("the client does not panic");
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn echo(address: SocketAddr, protocol: Protocol, count: usize, payload: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let (out, back) = protocol.forms();
    if protocol == Protocol::WebSocket {
        websocket::open(&stream)?;
    }
    // Long enough for any machine.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut writer = stream.try_clone()?;
    let sent = Frames::in_form(out, payload).concatenated(count);
    let writing = thread::spawn(move || writer.write_all(&sent));
    let expected = Frames::in_form(back, payload).concatenated(count);
    let mut came = vec![0; expected.len()];
    stream.read_exact(&mut came)?;
    writing.join().expect("a write does not panic")?;
    if came == expected {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}
