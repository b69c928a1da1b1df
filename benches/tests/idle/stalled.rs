//! Memory that a peer can make the server hold before its session is open and memory that
//! remains afterwards.

use std::{
    io::{Read, Write},
    net::{self, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use getty::{CodecLayer, Pipeline, ServiceBuilder, SessionLayer, codec::Raw, serve, tls::TlsLayer};
use getty_benches::{
    server::{getty::echo, ws},
    websocket,
    workload::{runtime, tls},
};
use stats_alloc::Region;
use tokio::net::TcpStream;

use crate::{ALLOCATOR, Held, SESSIONS, settle, totals::connect};

/// Maximum memory of a handshake that stalls in its first message, in bytes with everything
/// that `serve` keeps for the connection.
const STALLED_TLS: f64 = 22_000.0;
/// Maximum memory that a request of 8 KiB may leave in a session, in bytes.
const LEFT: f64 = 64.0;

pub(crate) fn print() {
    println!("\n| a TLS handshake that stalls | bytes | allocations |\n|---|--:|--:|");
    let (server, _) = tls::configurations(tls::Cipher::Aes).unwrap();
    let tls = || TlsLayer::new(Arc::new(server.clone()));
    let bound = 12 * 1024;
    for (name, layer, begun, record) in [
        ("before its first byte", tls(), 0, 4096),
        ("after 11 bytes", tls(), 11, 4096),
        (
            "one byte before the bound, in small records",
            tls(),
            bound - 1,
            64,
        ),
        (
            "one byte before the bound, in records of 4 KiB",
            tls(),
            bound - 1,
            4096,
        ),
        (
            "one byte before the bound, in one record",
            tls(),
            bound - 1,
            16_384,
        ),
        (
            "after 60,000 bytes, with the bound of rustls alone",
            tls().with_max_hello(usize::MAX),
            60_000,
            4096,
        ),
    ] {
        let hello = hello(begun, record);
        let held = held_after(bare(layer), move |server| {
            let mut client = net::TcpStream::connect(server).unwrap();
            client.write_all(&hello).unwrap();
            client
        });
        held.print(name);
        assert!(begun > bound || held.bytes <= STALLED_TLS, "{held:?}");
    }

    println!("\n| an idle session over WebSocket | bytes | allocations |\n|---|--:|--:|");
    let small = request(0);
    let large = request(57);
    assert!((7_000..8_192).contains(&large.len()), "{}", large.len());
    let [small, large] = [small, large].map(|request| {
        held_after(ws::getty(), move |server| {
            let client = net::TcpStream::connect(server).unwrap();
            upgrade(client, &request)
        })
    });
    small.print("after a request of 6 fields");
    large.print("after a request of 63 fields in 8 KB");
    assert!(large.beyond(small).bytes <= LEFT, "{large:?} {small:?}");
}

fn bare(layer: TlsLayer) -> impl Pipeline<TcpStream> {
    ServiceBuilder::new()
        .layer(layer)
        .layer(CodecLayer::new(Raw::new()))
        .layer(SessionLayer::new())
        .service_fn(echo::<Bytes>)
}

/// Returns the first bytes of a `ClientHello` of 60,000 bytes, in records of a given size.
fn hello(bytes: usize, record: usize) -> Vec<u8> {
    let mut message = vec![1, 0, 0xea, 0x60, 3, 3];
    message.resize(60_004, 7);
    let records = message.chunks(record).map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[0x16, 3, 1][..], &length, part].concat()
    });
    let mut all = records.collect::<Vec<_>>().concat();
    all.truncate(bytes);
    all
}

/// Returns a request with this number of additional header fields.
fn request(fields: usize) -> String {
    let end = "\r\n\r\n";
    let head = String::from_utf8(websocket::REQUEST.to_vec()).unwrap();
    let head = head.strip_suffix(end).unwrap();
    let more = |n| format!("\r\nX-Field-{n:02}: {}", "x".repeat(112));
    let more: String = (0..fields).map(more).collect();
    format!("{head}{more}{end}")
}

/// Performs a WebSocket handshake.
fn upgrade(mut client: net::TcpStream, request: &str) -> net::TcpStream {
    client.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 512];
    let mut read = 0;
    while !head[..read].ends_with(b"\r\n\r\n") {
        read += client.read(&mut head[read..]).unwrap();
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    client
}

/// Returns the memory that the server holds for each connection that `open` opens.
fn held_after(
    stack: impl Pipeline<TcpStream>,
    open: impl Fn(SocketAddr) -> net::TcpStream + Clone + Send + 'static,
) -> Held {
    runtime().block_on(async {
        let listener = getty::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { serve(listener, stack).await });
        let open = move || open(address);
        let first = connect(open.clone(), 1).await;
        settle().await;

        let region = Region::new(ALLOCATOR);
        let clients = connect(open, SESSIONS).await;
        settle().await;
        let held = Held::since(&region);
        for mut client in first.into_iter().chain(clients) {
            client.set_nonblocking(true).unwrap();
            let open = client.read(&mut [0]).unwrap_err();
            assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
        }
        held
    })
}
