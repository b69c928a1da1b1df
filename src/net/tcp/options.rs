//! TCP socket options that listeners and connectors share.

use std::{io, time::Duration};

use getty_core::internal::log;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};

use crate::{net::socket_options::BufferSizes, platform};

/// Probes that the operating system sends over an idle TCP connection.
///
/// They detect that a machine or the network is gone, but not that a program hangs. A heartbeat
/// message detects that as well. Scope: connection. Times are whole seconds; a fraction is cut
/// off. Settings that are not set are the system's: on Linux a probe every 75 s and 9 probes.
///
/// ```
/// use std::time::Duration;
/// use getty::net::{Keepalive, TcpListener};
///
/// let keepalive = Keepalive::new(Duration::from_secs(60))
///     .with_interval(Duration::from_secs(10))
///     .with_retries(3);
/// // a peer that vanishes is detected after 60 + 3 * 10 seconds
/// let listener = TcpListener::builder().with_keepalive(keepalive);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    time: Duration,
    interval: Option<Duration>,
    retries: Option<u32>,
}

impl Keepalive {
    /// Creates settings whose first probe is sent after `time` without traffic. The minimum is 1 s.
    /// The maximum on Linux is 32,767 s.
    #[must_use]
    pub const fn new(time: Duration) -> Self {
        Self {
            time,
            interval: None,
            retries: None,
        }
    }

    /// Sets the time between two probes. The minimum is 1 s. The maximum on Linux is 32,767 s. The
    /// default is the operating system's.
    #[must_use]
    pub const fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Sets the number of unanswered probes that end the connection: at least 1, on Linux at most
    /// 127. The default is the operating system's.
    #[must_use]
    pub const fn with_retries(mut self, retries: u32) -> Self {
        self.retries = Some(retries);
        self
    }

    fn apply(self, socket: &SockRef<'_>) -> io::Result<()> {
        let keepalive = TcpKeepalive::new().with_time(self.time);
        socket.set_tcp_keepalive(&platform::with_probes(
            keepalive,
            self.interval,
            self.retries,
        )?)
    }
}

/// Options of a connection's socket, accepted or dialed.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamOptions {
    pub(super) nodelay: bool,
    pub(super) keepalive: Option<Keepalive>,
    pub(super) buffers: BufferSizes,
    pub(super) unsent_limit: Option<u32>,
}

/// Default limit on unsent bytes in the kernel. With it the kernel takes more bytes about as
/// often as the peer reads so that the write timeout sees progress (design.md: Why is the
/// kernel's send queue limited?).
const UNSENT_LIMIT: u32 = 128 * 1024;

impl StreamOptions {
    pub(super) const fn new() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
            buffers: BufferSizes::new(),
            unsent_limit: Some(UNSENT_LIMIT),
        }
    }

    /// Sets the limit on unsent bytes, where the platform has it.
    fn limit_unsent(&self, socket: &SockRef<'_>) -> io::Result<()> {
        self.unsent_limit
            .map_or(Ok(()), |bytes| platform::limit_unsent(socket, bytes))
    }

    /// Sets all options on a socket that will listen or connect.
    ///
    /// Accepted sockets inherit the buffer sizes, which the handshake already needs. The other
    /// options are set here too so that an unsupported one fails once and not per connection.
    pub(super) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.nodelay)?;
        if let Some(keepalive) = self.keepalive {
            keepalive.apply(socket)?;
        }
        self.buffers.apply(socket)?;
        self.limit_unsent(socket)
    }

    /// Sets all options on a listening socket, for the connections that it will accept.
    pub(super) fn apply_to_listener(&self, listener: &TcpListener) {
        if let Err(error) = self.apply(&SockRef::from(listener)) {
            tracing::debug!(%error, "cannot set the options of a listener");
        }
    }

    /// Sets the options that accepted sockets do not inherit on every platform.
    ///
    /// Errors are logged because some systems refuse options if the peer is already gone. The next
    /// read reports that.
    pub(super) fn apply_to_accepted(&self, stream: &TcpStream) {
        if self.nodelay
            && let Err(error) = stream.set_nodelay(true)
        {
            log(|| tracing::debug!(%error, "cannot set nodelay on an accepted socket"));
        }
        if let Some(keepalive) = self.keepalive
            && let Err(error) = keepalive.apply(&SockRef::from(stream))
        {
            log(|| tracing::debug!(%error, "cannot set keepalive on an accepted socket"));
        }
        if let Err(error) = self.limit_unsent(&SockRef::from(stream)) {
            log(|| tracing::debug!(%error, "cannot limit the unsent bytes of an accepted socket"));
        }
    }
}
