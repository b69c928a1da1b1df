//! A proxy between a node and its server that does harm.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// What the proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Bytes arrive later.
    Delay(Duration),
    /// Connections are closed, and no new one opens.
    Reset,
    /// Connections stay, and no byte arrives.
    HalfOpen,
    /// No byte arrives at the server.
    CutToServer,
    /// No byte arrives at the client.
    CutToClient,
}

/// A running proxy.
pub(crate) struct Proxy {
    port: u16,
    mode: Arc<Mutex<Mode>>,
}

impl Proxy {
    pub(crate) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let mode = Arc::new(Mutex::new(Mode::Pass));
        let of_threads = Arc::clone(&mode);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let refuses = *of_threads.lock().unwrap() == Mode::Reset;
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                if refuses {
                    continue;
                }
                let streams = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let modes = (Arc::clone(&of_threads), Arc::clone(&of_threads));
                thread::spawn(move || copy(client, server, &modes.0, Mode::CutToServer));
                thread::spawn(move || copy(streams.1, streams.0, &modes.1, Mode::CutToClient));
            }
        });
        Self { port, mode }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }
}

/// Copies in one direction. What arrives while it is cut is lost with its connection.
fn copy(mut from: TcpStream, mut to: TcpStream, mode: &Mutex<Mode>, cut: Mode) {
    let mut buffer = vec![0; 64 * 1024];
    let mut was_cut = false;
    // It notices a reset without a byte.
    let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
    loop {
        let read = from.read(&mut buffer);
        let mode = *mode.lock().unwrap();
        let read = match read {
            _ if mode == Mode::Reset => 0,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => 0,
        };
        was_cut |= read > 0 && (mode == cut || mode == Mode::HalfOpen);
        if let Mode::Delay(time) = mode {
            thread::sleep(time);
        }
        if read == 0 || (!was_cut && to.write_all(&buffer[..read]).is_err()) {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}
