//! Tests that a message over a socket allocates nothing with the work of `serve` and of the
//! runtime.

use std::{future::ready, net::SocketAddr};

use bytes::Bytes;
use getty::{
    BoxError, CodecLayer, Reply as Replies, Request, ServiceBuilder, SessionLayer,
    codec::Raw,
    net::{Datagram, TcpListener, UdpEndpoint, UdpListener},
    serve, service_fn,
};
use getty_benches::{frames::Frames, workload::runtime};
use stats_alloc::Region;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::{
    ALLOCATOR, ATTEMPTS, LONG, SHORT, count,
    stacks::{Bare, Full, Reply, Stack},
};

/// Address with a free port.
const ANY_PORT: &str = "127.0.0.1:0";

pub(crate) fn allocate_nothing() {
    for (frames, payload) in [(1, 64), (50, 64), (16, 1024)] {
        let taken = [tcp::<Bare>(frames, payload), tcp::<Full>(frames, payload)];
        assert_eq!(taken, [0, 0], "TCP, bare and full: {frames} x {payload}");
    }
    for datagrams in [1, 16] {
        let taken = [udp_listener(datagrams), udp_endpoint(datagrams)];
        assert_eq!(taken, [0, 0], "UDP, listener and endpoint: {datagrams}");
    }
}

/// Returns the minimum number of allocations of many repetitions after a warm-up.
macro_rules! least {
    ($again:expr) => {{
        for _ in 0..SHORT {
            $again;
        }
        let mut least = u64::MAX;
        for _ in 0..ATTEMPTS {
            let region = Region::new(ALLOCATOR);
            for _ in 0..LONG {
                $again;
            }
            least = least.min(count(&region));
        }
        least
    }};
}

fn tcp<S: Stack>(frames: usize, payload: usize) -> u64 {
    let echo = |request: Request<Bytes>| -> Reply { ready(Ok(request.into_message())) };
    runtime().block_on(async {
        let listener = TcpListener::bind(ANY_PORT).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stack = S::around(service_fn(echo));
        tokio::spawn(async move { serve(listener, stack).await });

        let mut client = TcpStream::connect(address).await.unwrap();
        let batch = Frames::new(payload).concatenated(frames);
        let mut received = vec![0; batch.len()];
        least!({
            client.write_all(&batch).await.unwrap();
            client.read_exact(&mut received).await.unwrap();
            assert_eq!(received, batch);
        })
    })
}

/// Measures `UdpListener` with a session for each peer.
fn udp_listener(datagrams: u8) -> u64 {
    runtime().block_on(async {
        let listener = UdpListener::bind(ANY_PORT).await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = |request: Request<Bytes>| -> Reply { ready(Ok(request.into_message())) };
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(Raw::new()))
            .layer(SessionLayer::new())
            .service(service_fn(echo));
        tokio::spawn(async move { serve(listener, stack).await });
        exchange(address, datagrams).await
    })
}

/// Measures `UdpEndpoint` with one session for all peers.
fn udp_endpoint(datagrams: u8) -> u64 {
    runtime().block_on(async {
        let endpoint = UdpEndpoint::bind(ANY_PORT).await.unwrap();
        let address = endpoint.local_addr();
        let echo = |request: Request<Datagram<Bytes>>| {
            ready(Ok::<_, BoxError>(Replies::one(request.into_message())))
        };
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(Raw::new()))
            .layer(SessionLayer::new())
            .service(service_fn(echo));
        tokio::spawn(async move { serve(endpoint, stack).await });
        exchange(address, datagrams).await
    })
}

async fn exchange(server: SocketAddr, datagrams: u8) -> u64 {
    let client = UdpSocket::bind(ANY_PORT).await.unwrap();
    client.connect(server).await.unwrap();
    let mut received = [0; 128];
    least!({
        for n in 0..datagrams {
            client.send(&[n; 64]).await.unwrap();
        }
        for n in 0..datagrams {
            assert_eq!(client.recv(&mut received).await.unwrap(), 64);
            assert_eq!(received[0], n);
        }
    })
}
