//! A connection that is opened and closed without a message. It is in memory or over TCP.

use std::{
    future::Future,
    io,
    net::Ipv4Addr,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll, Waker},
};

use ::getty::{Connection, Pipeline, net};
use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    Policy::{Checked, Reported},
    Scenario,
};
use crate::{
    server::{getty, tokio_loop},
    transport::Scripted,
    workload::runtime,
};

/// Size of a read of the hand-written loop, in bytes.
const READ: usize = 8 * 1024;

pub(super) fn scenarios() -> impl Iterator<Item = Scenario> {
    let all = [
        Scenario::new("life-by-hand", Reported, |n| {
            in_memory(n, |transport| {
                tokio_loop::by_hand(transport, READ).map(|ended| ended.is_ok())
            });
        }),
        Scenario::new("life-getty", Checked, |n| sessions(n, getty::bare())),
        Scenario::new("life-getty-full", Checked, |n| {
            sessions(n, getty::full());
        }),
        Scenario::new("life-tcp-by-hand", Reported, |n| {
            over_tcp(n, |listener| async move {
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(tokio_loop::by_hand(stream, READ));
                }
            });
        }),
        Scenario::new("life-tcp-getty", Checked, |n| {
            over_tcp(n, |listener| serve(listener, getty::bare()));
        }),
        Scenario::new("life-tcp-getty-full", Checked, |n| {
            over_tcp(n, |listener| serve(listener, getty::full()));
        }),
    ];
    all.into_iter()
        .map(|scenario| scenario.with_times(200, 1_200))
}

/// Runs connections one after another. Each ends as soon as it has started.
fn in_memory<F>(connections: u64, mut life: impl FnMut(Scripted) -> F)
where
    F: Future<Output = bool> + Send + 'static,
{
    let written = Arc::new(AtomicU64::new(0));
    runtime().block_on(async {
        for _ in 0..connections {
            let transport = Scripted::new(Bytes::new(), 0, Arc::clone(&written));
            let ended = tokio::spawn(life(transport)).await;
            assert!(
                ended.expect("the loop does not panic"),
                "the connection ends without an error"
            );
        }
    });
}

/// Runs connections with `stack`.
fn sessions(connections: u64, mut stack: impl Pipeline<Scripted>) {
    in_memory(connections, |transport| {
        let ready = stack.poll_ready(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(ready, Poll::Ready(Ok(()))), "no limit is reached");
        stack
            .call(Connection::new(transport))
            .map(|ended| ended.is_ok())
    });
}

/// Runs connections over TCP. The listener is served on the same thread.
fn over_tcp<F>(connections: u64, serve: impl FnOnce(TcpListener) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    runtime().block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("the listener is bound");
        let server = tokio::spawn(serve(listener));
        for _ in 0..connections {
            let opened = TcpStream::connect(address).await;
            let mut stream = opened.expect("the server listens");
            let finished = stream.shutdown().await;
            finished.expect("the connection is open");
            // The server closes its side in response.
            let end = stream.read_u8().await;
            assert!(end.is_err());
        }
        server.abort();
    });
}

async fn serve(listener: TcpListener, stack: impl Pipeline<TcpStream>) -> io::Result<()> {
    let served = ::getty::serve(net::TcpListener::from(listener), stack).await;
    served.map(drop).map_err(io::Error::other)
}
