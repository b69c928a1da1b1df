//! Counts of everything that connections use, after many of them: registry entries, close
//! records, tasks, descriptors and the heap.
//!
//! Each test runs in a separate process, because the counts are the process's. The number of
//! connections is 10,000, or `GETTY_LEAK_CONNECTIONS`.

use std::{env, fs, future::Future, time::Duration};

use getty::{Layer, net::UdpListener, serve, ws::WsLayer};
use stats_alloc::Stats;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::UdpSocket,
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::{
    ALLOCATOR,
    app::{KINDS, Server, Side, Tls, soon, until},
    children::Process,
};

const CHILD: &str = "GETTY_TEST_LEAKS";

/// Maximum growth of tables in bytes, for any number of connections.
const TABLES: usize = 64 * 1024;

/// Connections at a time.
const BATCH: u32 = 50;

fn connections() -> u32 {
    let long = env::var("GETTY_LEAK_CONNECTIONS").ok();
    long.map_or(10_000, |number| number.parse().unwrap())
}

/// Runs `test` in a separate process.
fn alone<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if env::var_os(CHILD).is_none() {
        let mut child = Process::start(name, |command| {
            command.env(CHILD, "1");
        });
        let time = Duration::from_secs(60) + Duration::from_millis(30) * connections();
        let status = child.ended(time);
        println!("{}", child.printed());
        assert!(status.success(), "{status}");
        return;
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test());
}

/// Resources that the process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    tasks: usize,
    descriptors: usize,
    /// Allocated bytes of the heap.
    heap: usize,
    /// Allocations that were not freed.
    blocks: usize,
}

impl Usage {
    /// Returns the usage once no task remains but those of `tasks`.
    async fn now(tasks: usize) -> Self {
        until(|| Handle::current().metrics().num_alive_tasks() <= tasks).await;
        let Stats {
            allocations,
            deallocations,
            bytes_allocated,
            bytes_deallocated,
            ..
        } = ALLOCATOR.stats();
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            heap: bytes_allocated - bytes_deallocated,
            blocks: allocations - deallocations,
        }
    }
}

/// Opens `total` connections with `visit`, in batches, and asserts that a later half uses no
/// more than the first one: not one task, descriptor, or byte of the heap for each connection.
async fn assert_no_leak<F: Future<Output = ()>>(
    what: &str,
    sides: [&Side; 2],
    total: u32,
    visit: impl Fn() -> F,
) {
    let run = async |count: u32| {
        for _ in 0..count / BATCH {
            futures_util::future::join_all((0..BATCH).map(|_| visit())).await;
        }
        for side in sides {
            side.settle(&what).await;
            side.forget_records();
        }
    };
    // Pools, caches and tables have their size after this.
    run(total / 5).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let before = Usage::now(tasks).await;
    run(total).await;
    let after = Usage::now(tasks).await;
    println!("{what}: {before:?} before {total} connections, {after:?} after");
    // A task of the first connections may have ended meanwhile.
    assert!(after.tasks <= before.tasks, "{what}");
    assert_eq!(after.descriptors, before.descriptors, "{what}");
    // A block that each connection leaks would be thousands. A few may be those of the batch
    // that ended last, such as entries of pools.
    let blocks = after.blocks.saturating_sub(before.blocks);
    assert!(blocks <= 8, "{what}: {blocks} blocks");
    // No more blocks, but one may have grown: the largest table has an entry a connection of a
    // batch.
    let heap = after.heap.saturating_sub(before.heap);
    assert!(heap <= TABLES, "{what}: {heap} bytes");
}

#[test]
fn connections_over_sockets_leave_nothing() {
    alone(
        "leaks::connections_over_sockets_leave_nothing",
        async || {
            for &kind in KINDS {
                // A handshake costs as much as a hundred connections.
                let total = if kind.is_tls() {
                    connections() / 10
                } else {
                    connections()
                };
                let (server_side, client_side) = (Side::new(), Side::new());
                let server = Server::new(kind, &server_side, &Tls::new()).await;
                let visit = async || {
                    let address = &server.address;
                    let (session, task) = server.connect(address, &client_side).await.unwrap();
                    session.send("?hello".to_owned()).await.unwrap();
                    session.close();
                    soon(task).await.unwrap();
                };
                let what = format!("{kind:?}");
                assert_no_leak(&what, [&server_side, &client_side], total, visit).await;
                server.stop().await;
            }
        },
    );
}

#[test]
fn connections_that_fail_leave_nothing() {
    alone("leaks::connections_that_fail_leave_nothing", async || {
        // A WebSocket server whose peers reset, stop early, speak another protocol and panic it.
        let (side, unused) = (Side::new(), Side::new());
        let (listener, connector) = getty::net::memory(1024);
        let stack = side.outside(WsLayer::new().layer(side.server()));
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            serve(listener, stack)
                .with_graceful_shutdown(async move { drop(stopped.await) })
                .await
        });
        let nth = std::cell::Cell::new(0);
        let visit = async || {
            nth.set(nth.get() + 1);
            let script: &[&[u8]] = match nth.get() % 4 {
                0 => &[],
                1 => &[b"GET / HTTP/1.1\r\nHost"],
                2 => &[b"\x16\x03\x01 no HTTP\r\n\r\n"],
                _ => &[
                    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                    b"\xff\xff\xff\xff\xff\xff",
                ],
            };
            let mut peer: DuplexStream = connector.connect().await.unwrap().into_parts().0;
            for bytes in script {
                let _ = peer.write_all(bytes).await;
            }
            let mut answer = [0; 100];
            if nth.get() % 4 > 1 {
                let _ = soon(peer.read(&mut answer)).await;
            }
        };
        assert_no_leak("failures", [&side, &unused], connections(), visit).await;
        stop.send(()).unwrap();
        soon(served).await.unwrap().unwrap();
    });
}

#[test]
fn peers_over_udp_leave_nothing() {
    alone("leaks::peers_over_udp_leave_nothing", async || {
        let (side, unused) = (Side::new(), Side::new());
        let listener = UdpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stack = side.outside(side.server());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            serve(listener, stack)
                .with_graceful_shutdown(async move { drop(stopped.await) })
                .await
        });
        let visit = async || {
            let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let local = peer.local_addr().unwrap();
            let mut buffer = [0; 100];
            let answered = async {
                loop {
                    peer.send_to(b"?hello\n", address).await.unwrap();
                    let answer = peer.recv_from(&mut buffer);
                    if tokio::time::timeout(Duration::from_secs(1), answer)
                        .await
                        .is_ok()
                    {
                        return;
                    }
                }
            };
            soon(answered).await;
            let port = Some(local.port());
            let own = side
                .connections
                .find(|handle| handle.peer_addr().port() == port);
            for handle in own {
                handle.close();
                soon(handle.closed()).await;
            }
        };
        assert_no_leak("UDP", [&side, &unused], connections() / 2, visit).await;
        stop.send(()).unwrap();
        soon(served).await.unwrap().unwrap();
    });
}
