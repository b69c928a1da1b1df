//! A session with all that `serve` keeps, after one message over a socket.

use std::{
    io::{Read, Write},
    net::{self, SocketAddr},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use getty::{Pipeline, codec::Raw, net::UdpListener, serve, service_fn};
use getty_benches::{
    frames::{Form, Frames},
    server::{getty as stacks, ws},
    tls, websocket,
};
use stats_alloc::Region;
use tokio::{net::TcpStream, sync::oneshot};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, Stream, pki_types::ServerName};

use crate::{ALLOCATOR, Held, PAYLOAD, SESSIONS, echo, runtime, settle};

/// What a session may hold: the bare stack, the full one, and the bare one over WebSocket, over TLS and of a UDP peer. The
/// runtime aligns tasks to 128 bytes: a future that grows beyond what is spare in its task is seen here.
const BOUNDS: [(&str, f64); 5] = [
    ("bare", 1_450.0),
    ("full", 2_600.0),
    ("WebSocket", 2_400.0),
    ("TLS", 10_000.0),
    ("UDP", 2_000.0),
];
/// What a session with the bare stack holds.
pub(crate) struct Totals {
    pub(crate) bare: Held,
    pub(crate) tls: Held,
    pub(crate) udp: Held,
}

pub(crate) fn print() -> Totals {
    let frames = || asking([Form::Length, Form::Length]);
    let (server, client) = tls::configurations(tls::Cipher::Aes).unwrap();
    let totals = [
        total(stacks::bare(), frames()),
        total(stacks::full(), frames()),
        total(ws::getty(), asking([Form::Masked, Form::Unmasked])),
        total(tls::getty(server), asking_over_tls(client)),
        total_of_a_peer(),
    ];
    println!("\n| stack, as `serve` runs it | bytes | allocations |\n|---|--:|--:|");
    for (held, (name, bound)) in totals.into_iter().zip(BOUNDS) {
        held.print(name);
        assert!(held.bytes <= bound, "{name}: {} bytes", held.bytes);
    }
    let [bare, _, _, tls, udp] = totals;
    Totals { bare, tls, udp }
}

/// What a session of `stack` holds after one message, over TCP and with all that `serve` keeps. `ask` is a client's side.
fn total(
    stack: impl Pipeline<TcpStream>,
    ask: impl Fn(SocketAddr) -> net::TcpStream + Clone + Send + 'static,
) -> Held {
    runtime().block_on(async {
        let listener = getty::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { serve(listener, stack).await });
        after_one(move || ask(address)).await
    })
}

/// The same of a peer of one UDP socket.
fn total_of_a_peer() -> Held {
    runtime().block_on(async {
        let listener = UdpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stack = stacks::bare_around(Raw::new(), service_fn(echo::<Bytes>));
        tokio::spawn(async move { serve(listener, stack).await });
        after_one(move || {
            let client = net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(&[b'x'; PAYLOAD], address).unwrap();
            let mut received = [0; PAYLOAD + 1];
            assert_eq!(client.recv(&mut received).unwrap(), PAYLOAD);
            client
        })
        .await
    })
}

/// What a session holds after one message, which `ask` opens and has answered.
async fn after_one<T: Send + 'static>(ask: impl Fn() -> T + Clone + Send + 'static) -> Held {
    // what the process and the stack have once
    let _first = connect(ask.clone(), 1).await;

    let region = Region::new(ALLOCATOR);
    let clients = connect(ask, SESSIONS).await;
    settle().await;
    let held = Held::since(&region);
    drop(clients);
    held
}

/// So many clients, each with one answer, from a thread of their own. They have no heap but the list.
pub(crate) async fn connect<T: Send + 'static>(
    ask: impl Fn() -> T + Send + 'static,
    n: usize,
) -> Vec<T> {
    let (done, connected) = oneshot::channel();
    let thread = thread::spawn(move || {
        let clients: Vec<_> = (0..n).map(|_| ask()).collect();
        assert!(done.send(clients).is_ok());
    });
    let clients = connected.await.unwrap();
    thread.join().unwrap();
    clients
}

/// A client's side of an echo of one frame, sent in the first of these forms and answered in the second.
fn asking([out, back]: [Form; 2]) -> impl Fn(SocketAddr) -> net::TcpStream + Clone + Send {
    let frame = |form| Frames::in_form(form, PAYLOAD).concatenated(1);
    let (question, answer) = (frame(out), frame(back));
    move |server| {
        let mut client = net::TcpStream::connect(server).unwrap();
        if out == Form::Masked {
            websocket::open(&client).unwrap();
        }
        exchange(&mut client, &question, &answer);
        client
    }
}

/// The same over TLS; of the client is left what its socket is.
fn asking_over_tls(config: ClientConfig) -> impl Fn(SocketAddr) -> net::TcpStream + Clone + Send {
    let config = Arc::new(config);
    let frame = Frames::new(PAYLOAD).concatenated(1);
    move |server| {
        let mut tcp = net::TcpStream::connect(server).unwrap();
        let mut client = client_of(&config);
        exchange(&mut Stream::new(&mut client, &mut tcp), &frame, &frame);
        tcp
    }
}

fn exchange(client: &mut (impl Read + Write), question: &[u8], answer: &[u8]) {
    client.write_all(question).unwrap();
    let mut received = vec![0; answer.len()];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, answer);
}

pub(crate) fn client_of(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(tls::NAME).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}
