//! A bare session, one step after another.

use std::{
    future::{poll_fn, ready},
    io::Write,
    net,
    sync::Arc,
    thread,
};

use futures_util::FutureExt;
use getty::{
    BoxError, Closed, CodecLayer, Connection, ConnectionHandle, Endpoints, Framed, Layer, Listener,
    Request, Service, Session, SessionLayer, Transport, TransportKind,
    codec::Raw,
    driver::{Driver, Lease},
    net::UdpListener,
    service_fn,
    tls::{TlsLayer, TlsStream},
};
use getty_benches::{
    frames::Frames,
    server::{codec, getty as stacks},
    tls,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::yield_now,
};
use tokio_rustls::rustls::{ClientConfig, Stream};

use crate::{
    Held, PAYLOAD, SESSIONS, each, echo, runtime, settle,
    totals::{Totals, client_of},
};

/// What is in none of the parts.
const REST: &str = "the rest: what a message leaves, and what `serve` keeps";

/// Beside what a session holds that `serve` runs: so much is left of it when all that is known is taken away.
pub(crate) fn print(totals: &Totals) {
    over_tcp(totals.bare);
    over_tls(totals.tls);
    over_udp(totals.udp);
}

/// The bare stack over TCP, one step after another.
fn over_tcp(total: Held) {
    println!("\n| part of a bare session over TCP | bytes | allocations |\n|---|--:|--:|");
    let runtime = runtime();
    let _entered = runtime.enter();
    let (mut clients, connections, before) = accepted(&runtime);
    let frame = Frames::new(PAYLOAD).concatenated(1);
    let ask = || {
        for client in &mut clients {
            client.write_all(&frame).unwrap();
        }
    };
    let known = before.and(by_part(&runtime, connections, codec::frames(), ask));
    total.beyond(known).print(REST);
}

/// The same over TLS. What is kept for later connections is the configuration's, and here there is none of it.
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
        let asks = thread::spawn(move || ask_over_tls(tcp, &config));
        let connection = runtime.block_on(layer.call(connection)).unwrap();
        kept.push(asks.join().unwrap());
        connection
    });
    shaken.print("the handshake: keys and buffers, outside of the task");
    // the questions are on their way
    let of_session = by_part(&runtime, connections, codec::frames(), || ());
    let known = before.and(shaken).and(of_session);
    total.beyond(known).print(REST);
}

/// Takes a handshake and sends a frame; then there is nothing left of the client but its socket.
fn ask_over_tls(mut tcp: net::TcpStream, config: &Arc<ClientConfig>) -> net::TcpStream {
    let mut client = client_of(config);
    let frame = Frames::new(PAYLOAD).concatenated(1);
    let mut stream = Stream::new(&mut client, &mut tcp);
    stream.write_all(&frame).unwrap();
    tcp
}

/// A session a peer, of one socket.
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
    // what the listener has once
    let _first = accept(peers.pop().unwrap());
    let (accepted, peer) = each(peers, accept);
    peer.print(
        "the peer: its place in the table, its queue, the first datagram, the connection's handle",
    );
    let (_peers, connections): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
    let known = peer.and(by_part(&runtime, connections, Raw::new(), || ()));
    total.beyond(known).print(REST);
}

/// Clients and their connections, as a listener hands them out.
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

/// What the codec, the session and its task add to each of these connections, whose peers `ask` for an answer each.
fn by_part<T, C, M>(
    runtime: &Runtime,
    connections: Vec<Connection<T>>,
    codec: C,
    ask: impl FnOnce(),
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
    let keep = |connection: Connection<Framed<T, C, M>>| ready(Ok::<_, BoxError>(connection));
    let mut layer = CodecLayer::new(codec).layer(service_fn(keep));
    let (framed, session) = each(connections, |connection| {
        let framed = layer.call(connection).now_or_never();
        framed.expect("it is ready").expect("it does not fail")
    });
    let mut sessions = SessionLayer::new().layer(service_fn(echo::<M>));
    let (futures, of_loop) = each(framed, |connection| sessions.call(connection));
    let future = size_of_val(&futures[0]);
    let handler = size_of_answer(&echo::<M>);
    let (tasks, task) = each(futures, |future| tokio::spawn(future));
    ask();
    runtime.block_on(until(&handles, |handle| handle.stats().messages_out == 1));

    let inline = |part: &str, bytes: usize| println!("| - {part} | {bytes} | |");
    session.print("the session: its outbox, and the driver's half of it");
    of_loop.print("the service");
    task.print("the task");
    let parts = [
        ("the transport", size_of::<T>()),
        ("the codec", size_of::<C>()),
        ("the driver's half", size_of::<Driver<M>>()),
        ("the lease", size_of::<Lease>()),
        ("the handler's future", handler),
    ];
    let known: usize = parts.iter().map(|(_, bytes)| bytes).sum();
    for (part, bytes) in parts {
        inline(part, bytes);
    }
    inline(
        "the loop's own: reader, writer, queues, timer",
        future - known,
    );
    let of_runtime = Held {
        bytes: task.bytes - future as f64,
        ..Held::default()
    };
    of_runtime.print("- the runtime's own, and what its alignment leaves");
    println!(
        "| a session's handle, `Session`, for whoever keeps one | {} | |",
        size_of::<Session<M>>()
    );

    handles.iter().for_each(ConnectionHandle::close);
    for task in tasks {
        let closed: Closed = runtime.block_on(task).unwrap().unwrap();
        assert_eq!(closed.stats.messages_out, 1);
    }
    session.and(of_loop).and(task)
}

/// The size of the future that `handler` makes.
const fn size_of_answer<M, F>(_handler: &impl Fn(Request<M>) -> F) -> usize {
    size_of::<F>()
}

/// Until all of `handles` are so.
async fn until(handles: &[ConnectionHandle], so: impl Fn(&ConnectionHandle) -> bool) {
    while !handles.iter().all(&so) {
        yield_now().await;
    }
    settle().await;
}
