//! Listeners, connectors and sessions over real sockets and within the process.

mod broadcast;
#[cfg(all(unix, feature = "tls", feature = "ws"))]
mod bulk;
mod busy;
#[cfg(all(feature = "tls", feature = "ws"))]
mod clients;
#[cfg(all(feature = "compression", feature = "tls"))]
mod compression;
#[cfg(feature = "tls")]
mod edge;
#[cfg(all(feature = "tls", feature = "ws"))]
mod end_log;
#[cfg(all(unix, feature = "tls", feature = "ws"))]
mod endings;
#[cfg(all(unix, feature = "tls", feature = "ws"))]
mod kinds;
mod listener_fn;
#[path = "../contracts/support/log.rs"]
#[allow(dead_code, reason = "tests of other binaries use more")]
mod log;
mod memory;
mod middleware;
mod opening;
#[cfg(target_os = "linux")]
mod per_core;
mod proxy;
mod proxy_protocol;
mod sending;
mod session_limit;
mod silent;
#[cfg(feature = "tls")]
mod start_tls;
mod switch;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
mod udp;
#[cfg(unix)]
mod unix;
#[cfg(feature = "ws")]
mod ws;

use std::{error::Error, future::poll_fn, io};

use getty::{Connection, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Accepts the next connection of `listener`, as a server does.
async fn accept<L: Listener>(listener: &mut L) -> Connection<L::Io> {
    poll_fn(|cx| listener.poll_accept(cx)).await.unwrap()
}

/// Sends bytes in both directions between the two ends of a connection.
async fn exchange<A, B>(one: &mut Connection<A>, other: &mut Connection<B>) -> io::Result<()>
where
    A: AsyncReadExt + AsyncWriteExt + Unpin,
    B: AsyncReadExt + AsyncWriteExt + Unpin,
{
    let mut read = [0; 4];
    one.transport_mut().write_all(b"ping").await?;
    other.transport_mut().read_exact(&mut read).await?;
    assert_eq!(&read, b"ping");
    other.transport_mut().write_all(b"pong").await?;
    one.transport_mut().read_exact(&mut read).await?;
    assert_eq!(&read, b"pong");
    Ok(())
}

/// Returns an error and its causes, one per line.
fn report(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(|error| format!("{error}\n")).collect()
}
