//! Settings of TCP sockets that connections have on both sides.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

/// Probes that the operating system sends over an idle TCP connection, to find out whether the peer is still there.
///
/// They tell that a machine or the network is gone, not that a program hangs: a heartbeat message does that. Scope:
/// connection. Times are whole seconds, and a part of a second is cut off; what is not set is the system's own default,
/// on Linux a probe every 75 s and 9 of them.
///
/// ```
/// use std::time::Duration;
/// use getty::net::{Keepalive, TcpListener};
///
/// let keepalive = Keepalive::new(Duration::from_secs(60))
///     .with_interval(Duration::from_secs(10))
///     .with_retries(3);
/// // a peer that vanishes is noticed after 60 + 3 * 10 seconds
/// let listener = TcpListener::builder().with_keepalive(keepalive);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    time: Duration,
    interval: Option<Duration>,
    retries: Option<u32>,
}

impl Keepalive {
    /// Sends the first probe after so long without traffic: 1 s at least, on Linux 32767 s at most.
    #[must_use]
    pub const fn new(time: Duration) -> Self {
        Self {
            time,
            interval: None,
            retries: None,
        }
    }

    /// The time between one probe and the next: 1 s at least, on Linux 32767 s at most. Default: the operating
    /// system's.
    #[must_use]
    pub const fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// How many probes without an answer end the connection: at least 1, on Linux 127 at most. Default: the operating
    /// system's.
    #[must_use]
    pub const fn with_retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    fn apply(self, socket: &SockRef<'_>) -> io::Result<()> {
        let keepalive = TcpKeepalive::new().with_time(self.time);
        socket.set_tcp_keepalive(&with_probes(keepalive, self.interval, self.retries)?)
    }
}

/// Where the operating system lets a socket say how it probes.
#[cfg(any(
    windows,
    target_vendor = "apple",
    target_os = "android",
    target_os = "dragonfly",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "linux",
    target_os = "netbsd",
))]
fn with_probes(
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

#[cfg(not(any(
    windows,
    target_vendor = "apple",
    target_os = "android",
    target_os = "dragonfly",
    target_os = "freebsd",
    target_os = "illumos",
    target_os = "linux",
    target_os = "netbsd",
)))]
fn with_probes(
    keepalive: TcpKeepalive,
    interval: Option<Duration>,
    retries: Option<u32>,
) -> io::Result<TcpKeepalive> {
    match (interval, retries) {
        (None, None) => Ok(keepalive),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// What listeners and connectors set on the sockets of their connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamOptions {
    pub(super) nodelay: bool,
    pub(super) keepalive: Option<Keepalive>,
    pub(super) send_buffer_size: Option<usize>,
    pub(super) recv_buffer_size: Option<usize>,
    pub(super) unsent_limit: Option<u32>,
}

/// Default limit on unsent bytes in the kernel. With it the kernel takes more bytes about as often
/// as the peer reads, so that the write timeout sees progress (design.md: Why is the kernel's send
/// queue limited?).
const UNSENT_LIMIT: u32 = 128 * 1024;

/// `true` where accepted sockets inherit every setting from the socket that listens.
pub(super) const INHERITS: bool = cfg!(any(target_os = "android", target_os = "linux"));

impl StreamOptions {
    pub(super) const fn new() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
            send_buffer_size: None,
            recv_buffer_size: None,
            unsent_limit: Some(UNSENT_LIMIT),
        }
    }

    /// Sets the limit on unsent bytes, where the platform has it.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    fn limit_unsent(&self, socket: &SockRef<'_>) -> io::Result<()> {
        self.unsent_limit
            .map_or(Ok(()), |bytes| socket.set_tcp_notsent_lowat(bytes))
    }

    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    #[allow(clippy::unnecessary_wraps, reason = "fails on other platforms")]
    fn limit_unsent(&self, _: &SockRef<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Sets everything on a socket that is about to listen or to connect. Accepted sockets inherit the buffer sizes,
    /// which the handshake already depends on; the rest is set here too so that what cannot be had fails now, and not
    /// once a connection.
    pub(super) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        if let Some(keepalive) = self.keepalive {
            keepalive.apply(socket)?;
        }
        if let Some(size) = self.send_buffer_size {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(size) = self.recv_buffer_size {
            socket.set_recv_buffer_size(size)?;
        }
        self.limit_unsent(socket)
    }

    /// Sets everything on a socket that listens already, for connections that it will accept.
    pub(super) fn apply_to_listener(&self, listener: &TcpListener) {
        if let Err(error) = self.apply(&SockRef::from(listener)) {
            tracing::debug!(%error, "cannot change the settings of a listener");
        }
    }

    /// Sets on an accepted socket what not every system lets it inherit. A socket that refuses, as one does on some
    /// systems when its peer is gone already, is not worth losing the connection over: whoever reads will see.
    pub(super) fn apply_to_accepted(&self, stream: &TcpStream) {
        if self.nodelay
            && let Err(error) = stream.set_nodelay(true)
        {
            tracing::debug!(%error, "an accepted socket keeps its delay");
        }
        if let Some(keepalive) = self.keepalive
            && let Err(error) = keepalive.apply(&SockRef::from(stream))
        {
            tracing::debug!(%error, "an accepted socket goes without keepalive");
        }
        if let Err(error) = self.limit_unsent(&SockRef::from(stream)) {
            tracing::debug!(%error, "cannot limit the unsent bytes of an accepted socket");
        }
    }
}
