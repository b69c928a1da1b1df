//! Memory of a bare session, part by part.

use std::{
    future::{poll_fn, ready},
    io::Write,
    net,
    sync::Arc,
    thread,
};

use futures_util::FutureExt;
use getty::{
    BoxError, Closed, CodecLayer, Connection, ConnectionHandle, Endpoints, Layer, Listener,
    Request, Service, Session, SessionIo, SessionLayer, Transport, TransportKind,
    codec::Raw,
    driver::{CloseGuard, Driver},
    net::UdpListener,
    service_fn,
    tls::{TlsLayer, TlsStream},
};
use getty_benches::{
    frames::Frames,
    server::{
        codec,
        getty::{self as stacks, echo},
    },
    workload::{runtime, tls},
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::yield_now,
};
use tokio_rustls::rustls::{ClientConfig, Stream};

use crate::{
    Held, PAYLOAD, SESSIONS, each, settle,
    totals::{Totals, client_of},
};

/// Name of the row for all other memory.
const REST: &str = "the rest: memory that a message leaves, and that `serve` keeps";

/// Prints the parts. The last row is the difference to a session that `serve` runs.
pub(crate) fn print(totals: &Totals) {
    over_tcp(totals.bare);
    over_tls(totals.tls);
    over_udp(totals.udp);
}

/// Prints the parts of a session over TCP.
fn over_tcp(total: Held) {
    println!("\n| part of a bare session over TCP | bytes | allocations |\n|---|--:|--:|");
    let runtime = runtime();
    let _entered = runtime.enter();
    let (mut clients, connections, before) = accepted(&runtime);
    let frame = Frames::new(PAYLOAD).concatenated(1);
    let request = || {
        for client in &mut clients {
            client.write_all(&frame).unwrap();
        }
    };
    let known = before.and(by_part(&runtime, connections, codec::frames(), request));
    total.beyond(known).print(REST);
}

/// Prints the parts of a session over TLS. The configuration stores no sessions for resumption.
fn over_tls(total: Held) {
    println!("\n| part of a bare session over TLS | bytes | allocations |\n|---|--:|--:|");
    let runtime = runtime();
    let _entered = runtime.enter();
    let (clients, connections, before) = accepted(&runtime);
    let (server, client) = tls::configurations(tls::Cipher::Aes).unwrap();
    let keep = |connection: Connection<TlsStream<TcpStream>>| ready(Ok::<_, BoxError>(connection));
    let mut layer = TlsLayer::new(server).layer(service_fn(keep));
    let client = Arc::new(client);
    let mut kept = Vec::with_capacity(SESSIONS);
    let mut clients = clients.into_iter();
    let (connections, shaken) = each(connections, |connection| {
        let tcp = clients.next().unwrap();
        let config = Arc::clone(&client);
        let sending = thread::spawn(move || send_over_tls(tcp, &config));
        let connection = runtime.block_on(layer.call(connection)).unwrap();
        kept.push(sending.join().unwrap());
        connection
    });
    shaken.print("the handshake: keys and buffers, outside the task");
    // The clients have already sent their frames.
    let of_session = by_part(&runtime, connections, codec::frames(), || ());
    let known = before.and(shaken).and(of_session);
    total.beyond(known).print(REST);
}

/// Performs a handshake and sends a frame. Returns the socket and drops the rest of the client.
fn send_over_tls(mut tcp: net::TcpStream, config: &Arc<ClientConfig>) -> net::TcpStream {
    let mut client = client_of(config);
    let frame = Frames::new(PAYLOAD).concatenated(1);
    let mut stream = Stream::new(&mut client, &mut tcp);
    stream.write_all(&frame).unwrap();
    tcp
}

/// Prints the parts of a session of a UDP peer.
fn over_udp(total: Held) {
    println!("\n| part of a bare session of a UDP peer | bytes | allocations |\n|---|--:|--:|");
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut listener = runtime.block_on(UdpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let mut peers: Vec<_> = (0..=SESSIONS)
        .map(|_| net::UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let mut accept = |peer: net::UdpSocket| {
        peer.send_to(&[b'x'; PAYLOAD], address).unwrap();
        let accepted = poll_fn(|cx| listener.poll_accept(cx));
        (peer, runtime.block_on(accepted).unwrap())
    };
    // Allocates what the listener has once.
    let _first = accept(peers.pop().unwrap());
    let (accepted, peer) = each(peers, accept);
    peer.print("the peer: its table entry, its queue, the first datagram, the connection's handle");
    let (_peers, connections): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
    let known = peer.and(by_part(&runtime, connections, Raw::new(), || ()));
    total.beyond(known).print(REST);
}

/// Returns clients and their connections, as from a listener.
fn accepted(runtime: &Runtime) -> (Vec<net::TcpStream>, Vec<Connection<TcpStream>>, Held) {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients = Vec::with_capacity(SESSIONS);
    let (streams, socket) = each(vec![(); SESSIONS], |()| {
        clients.push(net::TcpStream::connect(address).unwrap());
        runtime.block_on(listener.accept()).unwrap().0
    });
    let (connections, handle) = each(streams, |stream| {
        let [local, peer] = [stream.local_addr(), stream.peer_addr()].map(Result::unwrap);
        let endpoints = Endpoints::new(TransportKind::Tcp, local.into(), peer.into());
        Connection::with_endpoints(stream, endpoints)
    });
    socket.print("the socket's registration with the runtime");
    handle.print("the connection's handle, and its addresses");
    (clients, connections, socket.and(handle))
}

/// Prints what the codec, the session and its task add to each connection. `request` makes each
/// peer send a message.
fn by_part<T, C, M>(
    runtime: &Runtime,
    connections: Vec<Connection<T>>,
    codec: C,
    request: impl FnOnce(),
) -> Held
where
    T: Transport + Send + 'static,
    C: stacks::Codec<M>,
    M: stacks::Message,
{
    let handles: Vec<_> = connections
        .iter()
        .map(|connection| connection.handle().clone())
        .collect();
    let keep = |connection: Connection<SessionIo<T, C, M>>| ready(Ok::<_, BoxError>(connection));
    let mut layer = CodecLayer::new(codec).layer(service_fn(keep));
    let (framed, session) = each(connections, |connection| {
        let framed = layer.call(connection).now_or_never();
        framed
            .expect("the codec layer is ready")
            .expect("the codec layer does not fail")
    });
    let mut sessions = SessionLayer::new().layer(service_fn(echo::<M>));
    let (futures, of_loop) = each(framed, |connection| sessions.call(connection));
    let future = size_of_val(&futures[0]);
    let handler = size_of_answer(&echo::<M>);
    let (tasks, task) = each(futures, |future| tokio::spawn(future));
    request();
    runtime.block_on(until(&handles, |handle| handle.stats().messages_out == 1));

    let inline = |part: &str, bytes: usize| println!("| - {part} | {bytes} | |");
    session.print("the session: its outbox, and the driver");
    of_loop.print("the service");
    task.print("the task");
    let parts = [
        ("the transport", size_of::<T>()),
        ("the codec", size_of::<C>()),
        ("the driver", size_of::<Driver<M>>()),
        ("the close guard", size_of::<CloseGuard>()),
        ("the handler's future", handler),
    ];
    let known: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    for (part, bytes) in parts {
        inline(part, bytes);
    }
    inline(
        "the session loop: reader, writer, queues, timer",
        future - known,
    );
    let of_runtime = Held {
        bytes: task.bytes - future as f64,
        ..Held::default()
    };
    of_runtime.print("- the runtime, and its alignment");
    println!(
        "| a `Session`, the handle of a session | {} | |",
        size_of::<Session<M>>()
    );

    handles.iter().for_each(ConnectionHandle::close);
    for task in tasks {
        let closed: Closed = runtime.block_on(task).unwrap().unwrap();
        assert_eq!(closed.stats.messages_out, 1);
    }
    session.and(of_loop).and(task)
}

/// Returns the size of the future that `handler` returns.
const fn size_of_answer<M, F>(_handler: &impl Fn(Request<M>) -> F) -> usize {
    size_of::<F>()
}

/// Waits until the condition holds for all handles.
async fn until(handles: &[ConnectionHandle], so: impl Fn(&ConnectionHandle) -> bool) {
    while !handles.iter().all(&so) {
        yield_now().await;
    }
    settle().await;
}
