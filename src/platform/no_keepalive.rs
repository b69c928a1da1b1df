//! Settings of keepalive probes where the operating system has one for all connections.

use std::{io, time::Duration};

use socket2::TcpKeepalive;

/// Fails with [`Unsupported`](io::ErrorKind::Unsupported) if an interval or a number is set.
pub(crate) fn with_probes(
    keepalive: TcpKeepalive,
    interval: Option<Duration>,
    retries: Option<u32>,
) -> io::Result<TcpKeepalive> {
    match (interval, retries) {
        (None, None) => Ok(keepalive),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}
