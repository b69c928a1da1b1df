//! Memory of a session after one message over a socket with everything that `serve` keeps.

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
    server::{
        getty::{self as stacks, echo},
        ws,
    },
    websocket,
    workload::{runtime, tls},
};
use stats_alloc::Region;
use tokio::{net::TcpStream, sync::oneshot};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, Stream, pki_types::ServerName};

use crate::{ALLOCATOR, Held, PAYLOAD, SESSIONS, settle};

/// Maximum memory of a session, in bytes: the bare stack, the full one, and the bare one over
/// WebSocket, over TLS and for a UDP peer.
///
/// The runtime aligns tasks to 128 bytes, so a future that outgrows its task will show up here.
const BOUNDS: [(&str, f64); 5] = [
    ("bare", 1_450.0),
    ("full", 2_600.0),
    ("WebSocket", 2_400.0),
    ("TLS", 10_000.0),
    ("UDP", 2_000.0),
];
/// Maximum memory that compression adds to an idle WebSocket session, in bytes.
const DEFLATE: f64 = 200.0;

/// Memory of a session with the bare stack.
pub(crate) struct Totals {
    pub(crate) bare: Held,
    pub(crate) tls: Held,
    pub(crate) udp: Held,
}

pub(crate) fn print() -> Totals {
    let frames = || tcp_client([Form::Length, Form::Length]);
    let (server, client) = tls::configurations(tls::Cipher::Aes).unwrap();
    let totals = [
        total(stacks::bare(), frames()),
        total(stacks::full(), frames()),
        total(ws::getty(), tcp_client([Form::Masked, Form::Unmasked])),
        total(tls::getty(server), tls_client(client)),
        total_of_a_peer(),
    ];
    println!("\n| stack, as `serve` runs it | bytes | allocations |\n|---|--:|--:|");
    for (held, (name, bound)) in totals.into_iter().zip(BOUNDS) {
        held.print(name);
        assert!(held.bytes <= bound, "{name}: {} bytes", held.bytes);
    }
    let [bare, _, ws, tls, udp] = totals;
    let deflate = total(ws::getty_with(Some(ws::deflate())), deflate_client());
    deflate.print("WebSocket with compression");
    let added = deflate.beyond(ws).bytes;
    assert!(added <= DEFLATE, "compression adds {added} bytes");
    Totals { bare, tls, udp }
}

/// Returns the memory of a session after one message over TCP. `request` is the client's side.
fn total(
    stack: impl Pipeline<TcpStream>,
    request: impl Fn(SocketAddr) -> net::TcpStream + Clone + Send + 'static,
) -> Held {
    runtime().block_on(async {
        let listener = getty::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { serve(listener, stack).await });
        after_one_message(move || request(address)).await
    })
}

/// Returns the memory of the session of a UDP peer.
fn total_of_a_peer() -> Held {
    runtime().block_on(async {
        let listener = UdpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stack = stacks::bare_around(Raw::new(), service_fn(echo::<Bytes>));
        tokio::spawn(async move { serve(listener, stack).await });
        after_one_message(move || {
            let client = net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(&[b'x'; PAYLOAD], address).unwrap();
            let mut received = [0; PAYLOAD + 1];
            assert_eq!(client.recv(&mut received).unwrap(), PAYLOAD);
            client
        })
        .await
    })
}

/// Returns the memory of a session after one message. `request` connects a client and waits for
/// the answer.
async fn after_one_message<T: Send + 'static>(
    request: impl Fn() -> T + Clone + Send + 'static,
) -> Held {
    // Allocates what exists once in the process and in the stack.
    let _first = connect(request.clone(), 1).await;

    let region = Region::new(ALLOCATOR);
    let clients = connect(request, SESSIONS).await;
    settle().await;
    let held = Held::since(&region);
    drop(clients);
    held
}

/// Connects `n` clients on another thread and waits for one answer each. Only their list is on
/// the heap.
pub(crate) async fn connect<T: Send + 'static>(
    request: impl Fn() -> T + Send + 'static,
    n: usize,
) -> Vec<T> {
    let (done, connected) = oneshot::channel();
    let thread = thread::spawn(move || {
        let clients: Vec<_> = (0..n).map(|_| request()).collect();
        assert!(done.send(clients).is_ok());
    });
    let clients = connected.await.unwrap();
    thread.join().unwrap();
    clients
}

/// Returns the client's side of an echo of one frame with the forms of the request and of the
/// answer.
fn tcp_client([out, back]: [Form; 2]) -> impl Fn(SocketAddr) -> net::TcpStream + Clone + Send {
    let frame = |form| Frames::in_form(form, PAYLOAD).concatenated(1);
    let (request, answer) = (frame(out), frame(back));
    move |server| {
        let mut client = net::TcpStream::connect(server).unwrap();
        if out == Form::Masked {
            websocket::open(&client).unwrap();
        }
        exchange(&mut client, &request, &answer);
        client
    }
}

/// Returns the client's side of an echo of one compressed message.
fn deflate_client() -> impl Fn(SocketAddr) -> net::TcpStream + Clone + Send {
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    // A stored block with 64 bytes, and the header of the next block.
    let mut message = vec![0xc2, 0x80 | 70, 0, 0, 0, 0, 0, 64, 0, !64, 0xff];
    message.extend([b'x'; PAYLOAD]);
    message.push(0);
    move |server| {
        let mut client = net::TcpStream::connect(server).unwrap();
        client.write_all(REQUEST.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        assert!(head.windows(18).any(|part| part == b"permessage-deflate"));
        client.write_all(&message).unwrap();
        let mut answer = [0; 2];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], 0xc2, "the answer is compressed");
        let mut payload = vec![0; answer[1].into()];
        client.read_exact(&mut payload).unwrap();
        client
    }
}

/// Returns the client's side of an echo over TLS. Only the socket of the client will remain.
fn tls_client(config: ClientConfig) -> impl Fn(SocketAddr) -> net::TcpStream + Clone + Send {
    let config = Arc::new(config);
    let frame = Frames::new(PAYLOAD).concatenated(1);
    move |server| {
        let mut tcp = net::TcpStream::connect(server).unwrap();
        let mut client = client_of(&config);
        exchange(&mut Stream::new(&mut client, &mut tcp), &frame, &frame);
        tcp
    }
}

fn exchange(client: &mut (impl Read + Write), request: &[u8], answer: &[u8]) {
    client.write_all(request).unwrap();
    let mut received = vec![0; answer.len()];
    client.read_exact(&mut received).unwrap();
    assert_eq!(received, answer);
}

pub(crate) fn client_of(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(tls::NAME).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}
