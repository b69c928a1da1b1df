//! Settings of keepalive probes.

use std::{io, time::Duration};

use socket2::TcpKeepalive;

/// Sets the interval and the number of the probes.
pub(crate) fn with_probes(
    mut keepalive: TcpKeepalive,
    interval: Option<Duration>,
    retries: Option<u32>,
) -> io::Result<TcpKeepalive> {
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(retries) = retries {
        keepalive = keepalive.with_retries(retries);
    }
    Ok(keepalive)
}
