//! The settings of a listener, and binding it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{ToSocketAddrs, lookup_host};

use super::{
    LONGEST_V6, UdpListener,
    settings::{Admit, Eviction, FirstDatagram, Overflow, ProbePolicy, Settings},
    socket,
};
use crate::net::bind::cannot_listen;

/// The settings of a [`UdpListener`]; made by [`UdpListener::builder`].
///
/// What is said here of sessions holds for each of them; of peers, for all of the listener's sockets together.
///
/// ```
/// use std::time::Duration;
/// use getty::net::{Eviction, Overflow, UdpListener};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = UdpListener::builder()
///     .with_max_peers(10_000)
///     .with_eviction(Eviction::LongestIdle)
///     .with_overflow(Overflow::DropOldest)
///     .with_idle_timeout(Duration::from_secs(30))
///     .with_max_datagram(1400)
///     .bind("127.0.0.1:0")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder listens once it is bound"]
pub struct UdpListenerBuilder {
    settings: Settings,
    sockets: usize,
    options: SocketOptions,
}

/// The settings of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketOptions {
    pub(super) reuse_port: bool,
    pub(super) only_v6: Option<bool>,
    pub(super) fragments: bool,
    pub(super) send_buffer_size: Option<usize>,
    pub(super) recv_buffer_size: Option<usize>,
}

impl SocketOptions {
    pub(super) const fn new() -> Self {
        Self {
            reuse_port: false,
            only_v6: None,
            fragments: true,
            send_buffer_size: None,
            recv_buffer_size: None,
        }
    }

    /// A socket of the address's family, that is not bound yet.
    pub(super) fn socket(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        socket.set_nonblocking(true)?;
        #[cfg(all(
            unix,
            not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))
        ))]
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6()
            && let Some(only) = self.only_v6
        {
            socket.set_only_v6(only)?;
        }
        if let Some(size) = self.send_buffer_size {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(size) = self.recv_buffer_size {
            socket.set_recv_buffer_size(size)?;
        }
        Ok(socket)
    }

    pub(super) fn bind(&self, address: SocketAddr) -> io::Result<socket::Socket> {
        let socket = self.socket(address)?;
        socket.bind(&address.into())?;
        self.finish(socket, false)
    }

    pub(super) fn finish(&self, socket: Socket, connected: bool) -> io::Result<socket::Socket> {
        socket::Socket::new(socket, connected, self.fragments)
    }
}

impl UdpListenerBuilder {
    pub(super) const fn new() -> Self {
        Self {
            settings: Settings::new(),
            sockets: 1,
            options: SocketOptions::new(),
        }
    }

    /// How many peers have a session at most; at least 1. Scope: the listener. Default: 65,536.
    ///
    /// A peer costs some 2 KiB while it is idle, and as much as its queue holds beside that.
    pub const fn with_max_peers(mut self, peers: usize) -> Self {
        self.settings.max_peers = if peers == 0 { 1 } else { peers };
        self
    }

    /// What happens to a new peer when there are that many. Default: [`Eviction::Refuse`].
    pub const fn with_eviction(mut self, eviction: Eviction) -> Self {
        self.settings.eviction = eviction;
        self
    }

    /// How many datagrams of one peer wait for its session at most, and how many bytes of them; one datagram has room
    /// however long it is. At least 1. Scope: session. Default: 256 datagrams, 256 KiB.
    pub const fn with_queue(mut self, datagrams: usize, bytes: usize) -> Self {
        self.settings.queue = if datagrams == 0 { 1 } else { datagrams };
        self.settings.queue_bytes = bytes;
        self
    }

    /// What is dropped when that queue is full. Counted in the session's [`Stats`](crate::Stats) as skipped, and as
    /// overflowed in [`UdpInfo`](super::UdpInfo) and [`UdpStats`](super::UdpStats). Default: [`Overflow::DropNewest`].
    pub const fn with_overflow(mut self, overflow: Overflow) -> Self {
        self.settings.overflow = overflow;
        self
    }

    /// How many new peers wait to be accepted; the datagrams of others are dropped and counted. At least 1. Scope: the
    /// listener. Default: 1024.
    pub const fn with_backlog(mut self, peers: usize) -> Self {
        self.settings.backlog = if peers == 0 { 1 } else { peers };
        self
    }

    /// How long a new peer may wait to be accepted, before it is forgotten. Default: 10 s.
    pub const fn with_accept_timeout(mut self, timeout: Duration) -> Self {
        self.settings.accept_timeout = timeout;
        self
    }

    /// How long a peer may be silent, before its session ends as
    /// [`IdleTimeout`](crate::CloseReason::IdleTimeout); `None` for ever. Default: 60 s.
    ///
    /// UDP has no close, so this is how sessions end whose peer is gone. What we send does not put it off: a peer that
    /// only listens has to say something now and then, as its NAT wants, too. An empty datagram will do.
    ///
    /// A peer that waits for the session is not silent: the timeout does not end a session while
    /// datagrams are queued or a handler is in flight. After that the peer has a whole timeout.
    /// Before peers expire, the socket is read to its end. If the expiry runs late because the
    /// thread was blocked, each silent peer is spared once.
    pub fn with_idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into();
        self
    }

    /// How long a datagram may be, received or sent, in bytes of payload. Longer ones that are received are dropped and
    /// counted as truncated; sending one is an error. At most what the peer's protocol carries: 65,507 bytes over IPv4
    /// and 65,527 over IPv6, which is the default.
    pub const fn with_max_datagram(mut self, bytes: usize) -> Self {
        self.settings.max_datagram = if bytes < LONGEST_V6 {
            bytes
        } else {
            LONGEST_V6
        };
        self
    }

    /// Whether datagrams of no bytes are messages for the codec, and open sessions. Without it they are counted, and keep
    /// the session of their peer alive. Default: no.
    pub const fn with_empty_datagrams(mut self, on: bool) -> Self {
        self.settings.empty = on;
        self
    }

    /// What to do with probes of the Go library's clients. Default: [`ProbePolicy::Deliver`], as datagrams of any other
    /// kind.
    pub const fn with_probes(mut self, policy: ProbePolicy) -> Self {
        self.settings.probe = policy;
        self
    }

    /// Whether sessions may have their turns on the task that reads the socket, as long as they are quick: handlers run
    /// there then, and nothing is read meanwhile. Default: they may.
    ///
    /// It saves the wake-up of a task for each datagram, and with it that of a thread for each few, which cost more than a
    /// short handler does. Up to 32 sessions have their turns one after another. If they take longer than 40 us and 20 us
    /// for each, or 300 us together, the rest are left to their own tasks; if that happens again, or a handler keeps the
    /// thread for more than 20 ms, so are the next 16 to 4,096 batches of datagrams.
    ///
    /// Turn it off where handlers block their thread now and then, by `block_in_place` too, and the other peers must not
    /// wait for a single one of them: nor must a handler itself, which would block for ever if it waited so for what
    /// another peer of the socket is to send. To `await` it is fine. Sessions that another runtime serves than the one that the listener was bound on
    /// never have their turns there.
    pub const fn with_turns_in_place(mut self, on: bool) -> Self {
        self.settings.turns_in_place = on;
        self
    }

    /// Asks `hook` about each datagram of an address that has no session. Default: each opens one.
    ///
    /// It runs in the task that reads the socket, so it must not block; nothing is read meanwhile. One that panics has
    /// said [`Admit::Ignore`].
    ///
    /// ```
    /// use getty::net::{Admit, UdpListener};
    ///
    /// let listener = UdpListener::builder().with_admit(|first| {
    ///     if first.payload.starts_with(b"JOIN ") {
    ///         Admit::Open
    ///     } else {
    ///         Admit::Ignore
    ///     }
    /// });
    /// ```
    pub fn with_admit(
        mut self,
        hook: impl Fn(FirstDatagram<'_>) -> Admit + Send + Sync + 'static,
    ) -> Self {
        self.settings.admit = Some(Arc::new(hook));
        self
    }

    /// Reads so many sockets, each on a task of its own, that share the port; the operating system gives all datagrams
    /// of one peer to the same one, and spreads the peers. More than one needs an operating system that can
    /// (`SO_REUSEPORT`: Linux), and pays where one task cannot read all that comes. At least 1. Default: 1.
    pub const fn with_sockets(mut self, sockets: usize) -> Self {
        self.sockets = if sockets == 0 { 1 } else { sockets };
        self
    }

    /// Whether other sockets, of this user, may share the port, if all of them say so (`SO_REUSEPORT`). Default: off,
    /// but on with several [sockets](Self::with_sockets).
    pub const fn with_reuse_port(mut self, on: bool) -> Self {
        self.options.reuse_port = on;
        self
    }

    /// Whether a listener of an IPv6 address leaves IPv4 alone (`IPV6_V6ONLY`); without it `[::]` may have peers of both.
    /// No effect on IPv4 addresses. Default: the operating system's, on Linux off.
    pub const fn with_only_v6(mut self, on: bool) -> Self {
        self.options.only_v6 = Some(on);
        self
    }

    /// Whether the operating system may send in fragments what is longer than the network's own datagrams. Without it
    /// such a datagram is refused, and counted as unsent. Linux only; elsewhere the operating system decides. Default: it
    /// may.
    pub const fn with_fragments(mut self, on: bool) -> Self {
        self.options.fragments = on;
        self
    }

    /// How many bytes the operating system keeps that are sent and have not left (`SO_SNDBUF`). Default: the operating
    /// system's.
    pub const fn with_send_buffer_size(mut self, bytes: usize) -> Self {
        self.options.send_buffer_size = Some(bytes);
        self
    }

    /// How many bytes the operating system keeps that have come and are not yet read, of all peers together
    /// (`SO_RCVBUF`): what comes in a burst and finds no room there is lost, whosever it is. Nobody counts it here; Linux
    /// does, as `drops` of the socket in `/proc/net/udp` and as `RcvbufErrors` in `/proc/net/snmp`. It doubles the number,
    /// for its own use, and caps it at `net.core.rmem_max`. Default: the operating system's, on Linux some 200 KiB, which is
    /// no more than 250 small datagrams: a public server wants a few megabytes.
    pub const fn with_recv_buffer_size(mut self, bytes: usize) -> Self {
        self.options.recv_buffer_size = Some(bytes);
        self
    }

    /// Binds the sockets to `address`, or to the first of its addresses that can be had, and begins to read.
    ///
    /// # Errors
    ///
    /// The operating system's, with the address: it is in use, or not of this machine, or a setting cannot be had.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped leaves no socket behind.
    pub async fn bind(self, address: impl ToSocketAddrs) -> io::Result<UdpListener> {
        let mut failed = None;
        for address in lookup_host(address).await? {
            match self.bind_address(address) {
                Ok(sockets) => return Ok(UdpListener::start(sockets, self.settings)),
                Err(error) => failed = Some(cannot_listen(address, error)),
            }
        }
        Err(failed.unwrap_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "there is no address to bind to",
            )
        }))
    }

    fn bind_address(&self, mut address: SocketAddr) -> io::Result<Vec<socket::Socket>> {
        let options = SocketOptions {
            reuse_port: self.options.reuse_port || self.sockets > 1,
            ..self.options
        };
        (0..self.sockets)
            .map(|_| {
                let socket = options.bind(address)?;
                // the first may have been given a port, which the others are to share
                address = socket.local();
                Ok(socket)
            })
            .collect()
    }
}
