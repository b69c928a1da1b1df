//! The builder of a listener.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::net::ToSocketAddrs;

use super::{
    listener::UdpListener,
    settings::{Eviction, FirstDatagram, Settings, UdpAdmission, UdpOverflow},
};
use crate::net::{
    bind::bind_first,
    udp::{
        probe::ProbePolicy,
        socket::{Socket, SocketOptions, at_most_max_payload},
    },
};

/// Settings of a [`UdpListener`], created by [`UdpListener::builder`].
///
/// Settings of sessions apply to each session. Settings of peers apply to all sockets of the
/// listener together.
///
/// ```
/// use std::time::Duration;
/// use getty::net::{Eviction, UdpOverflow, UdpListener};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let listener = UdpListener::builder()
///     .with_max_peers(10_000)
///     .with_eviction(Eviction::LongestIdle)
///     .with_overflow(UdpOverflow::DropOldest)
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

impl UdpListener {
    /// Listens on the first address of `address` that can be bound, with the default settings of
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// As for [`UdpListenerBuilder::bind`].
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves no socket behind.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Self::builder().bind(address).await
    }

    /// Creates a builder with the default settings, to be [bound](UdpListenerBuilder::bind) to an
    /// address.
    pub const fn builder() -> UdpListenerBuilder {
        UdpListenerBuilder::new()
    }
}

/// Creates a listener with the default settings over a bound socket, for example one that was
/// inherited from a service manager. [`UdpListenerBuilder::listen_on`] has the settings. Panics
/// if called outside of a tokio runtime.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
/// use getty::{codec::Text, net::UdpListener};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let app = ServiceBuilder::new()
///     .layer(CodecLayer::new(Text::new()))
///     .layer(SessionLayer::new())
///     .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()));
/// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// let address = socket.local_addr()?;
/// tokio::spawn(getty::serve(UdpListener::try_from(socket)?, app).into_future());
///
/// let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
/// client.send_to(b"hello", address).await?;
/// let mut reply = [0; 16];
/// let (length, peer) = client.recv_from(&mut reply).await?;
/// assert_eq!((&reply[..length], peer), (&b"hello"[..], address));
/// # Ok(())
/// # }
/// ```
impl TryFrom<std::net::UdpSocket> for UdpListener {
    type Error = io::Error;

    fn try_from(socket: std::net::UdpSocket) -> io::Result<Self> {
        Self::builder().listen_on(socket)
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

    /// Sets the maximum number of peers with a session, at least 1. Scope: the listener. The
    /// default is 65,536.
    ///
    /// An idle peer costs about 2 KiB plus the contents of its queue.
    pub const fn with_max_peers(mut self, peers: usize) -> Self {
        self.settings.max_peers = if peers == 0 { 1 } else { peers };
        self
    }

    /// Sets the treatment of a new peer when that maximum is reached. The default is
    /// [`Eviction::Refuse`].
    pub const fn with_eviction(mut self, eviction: Eviction) -> Self {
        self.settings.eviction = eviction;
        self
    }

    /// Sets the size of each peer's queue: the maximum number of datagrams, at least 1, and the
    /// maximum number of bytes. An empty queue has room for one datagram of any length. Scope:
    /// session. The default is 256 datagrams and 256 KiB.
    pub const fn with_queue(mut self, datagrams: usize, bytes: usize) -> Self {
        self.settings.queue = if datagrams == 0 { 1 } else { datagrams };
        self.settings.queue_bytes = bytes;
        self
    }

    /// Sets which datagram is dropped when a peer's queue is full. The default is
    /// [`UdpOverflow::DropNewest`].
    ///
    /// Dropped datagrams are counted as skipped in the session's [`Stats`](crate::Stats) and as
    /// overflowed in [`UdpInfo`](super::UdpInfo) and [`UdpStats`](crate::net::UdpStats).
    pub const fn with_overflow(mut self, overflow: UdpOverflow) -> Self {
        self.settings.overflow = overflow;
        self
    }

    /// Sets the maximum number of new peers that wait to be accepted, at least 1. Datagrams of
    /// further new peers are dropped and counted. Scope: the listener. The default is 1024.
    pub const fn with_backlog(mut self, peers: usize) -> Self {
        self.settings.backlog = if peers == 0 { 1 } else { peers };
        self
    }

    /// Sets the maximum time that a new peer may wait to be accepted. After that it is dropped. The
    /// default is 10 s.
    pub const fn with_accept_timeout(mut self, timeout: Duration) -> Self {
        self.settings.accept_timeout = timeout;
        self
    }

    /// Sets the maximum silence of a peer, after which its session closes with
    /// [`IdleTimeout`](crate::CloseReason::IdleTimeout). `None` disables the timeout. The default
    /// is 60 s.
    ///
    /// UDP has no close, so this ends the sessions of peers that are gone. Sent datagrams do not
    /// extend it. A peer that only receives must send a datagram regularly, which a NAT on the path
    /// requires as well. An empty datagram suffices.
    ///
    /// A peer that waits for the session is not silent: the timeout does not end a session while
    /// datagrams are queued or a handler is in flight. After that the peer has a full timeout. All
    /// waiting datagrams are read before peers expire. If the expiry runs late because the thread
    /// was blocked, each silent peer is spared once.
    pub fn with_idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = timeout.into();
        self
    }

    /// Sets the maximum length of a datagram, received or sent, in bytes of payload. The default
    /// and the upper limit is the maximum of the peer's protocol: 65,507 bytes over IPv4 and 65,527
    /// bytes over IPv6.
    ///
    /// A longer datagram that is received is dropped and counted as truncated. Sending one fails.
    pub const fn with_max_datagram(mut self, bytes: usize) -> Self {
        self.settings.max_datagram = at_most_max_payload(bytes);
        self
    }

    /// Sets whether empty datagrams are messages for the codec, which may open sessions. The
    /// default is `false`: they are counted, and they keep the session of their peer alive.
    pub const fn with_empty_datagrams(mut self, on: bool) -> Self {
        self.settings.empty = on;
        self
    }

    /// Sets the treatment of probes from clients of the Go library getty. The default is
    /// [`ProbePolicy::Deliver`], which treats them as any other datagram.
    pub const fn with_probes(mut self, policy: ProbePolicy) -> Self {
        self.settings.probe = policy;
        self
    }

    /// Sets whether the task that reads the socket may poll sessions itself. Handlers then run on
    /// that task, and the socket is not read meanwhile. The default is `true`.
    ///
    /// Inline polling saves the wake-up of a task per datagram, and the wake-up of a thread for
    /// every few datagrams. These cost more than a short handler.
    ///
    /// The reader polls up to 32 sessions one after another. If they take longer than 40 us plus 20
    /// us per session, or 300 us in total, the rest are left to their tasks. If the next batch is
    /// slow too, the following 16 to 4,096 batches are left to the tasks. A single handler that
    /// blocks the thread for more than 20 ms has the same effect.
    ///
    /// Turn it off if handlers may block their thread, with `block_in_place` too, and other peers
    /// must never wait for such a handler. A handler must not block until another peer of the same
    /// socket sends something because that would wait without end. It may `await` it.
    ///
    /// Sessions that run on another runtime than the one that the listener was bound on are never
    /// polled inline.
    pub const fn with_inline_polling(mut self, on: bool) -> Self {
        self.settings.inline_polling = on;
        self
    }

    /// Sets a hook that decides about each datagram of an address without a session. The default
    /// opens a session for each.
    ///
    /// The hook runs on the task that reads the socket. It must not block because the socket is not
    /// read meanwhile. A panic counts as [`UdpAdmission::Ignore`].
    ///
    /// ```
    /// use getty::net::{UdpAdmission, UdpListener};
    ///
    /// let listener = UdpListener::builder().with_admit(|first| {
    ///     if first.payload.starts_with(b"JOIN ") {
    ///         UdpAdmission::Open
    ///     } else {
    ///         UdpAdmission::Ignore
    ///     }
    /// });
    /// ```
    pub fn with_admit(
        mut self,
        hook: impl Fn(FirstDatagram<'_>) -> UdpAdmission + Send + Sync + 'static,
    ) -> Self {
        self.settings.admit = Some(Arc::new(hook));
        self
    }

    /// Sets the number of sockets that share the port, at least 1. Each is read by a separate task.
    /// The default is 1.
    ///
    /// The operating system distributes the peers over the sockets, and all datagrams of one peer
    /// arrive at the same socket. Several sockets require `SO_REUSEPORT` (Linux). They help if one
    /// task cannot read all datagrams in time.
    pub const fn with_sockets(mut self, sockets: usize) -> Self {
        self.sockets = if sockets == 0 { 1 } else { sockets };
        self
    }

    /// Sets whether other sockets of the same user may share the port (`SO_REUSEPORT`). All of them
    /// must set it. The default is `false`, or `true` with several [sockets](Self::with_sockets).
    pub const fn with_reuse_port(mut self, on: bool) -> Self {
        self.options.bind.reuse_port = on;
        self
    }

    /// Sets whether an IPv6 listener excludes IPv4 (`IPV6_V6ONLY`). If `false`, `[::]` may have
    /// peers of both families. IPv4 addresses are not affected. The default is the operating
    /// system's, which is `false` on Linux.
    pub const fn with_only_v6(mut self, on: bool) -> Self {
        self.options.bind.only_v6 = Some(on);
        self
    }

    /// Sets whether the operating system may send long datagrams in fragments on Linux and
    /// Android. If `false`, a datagram above the network's limit is refused and counted as
    /// unsent. Elsewhere it has no effect: Windows, Apple's systems and FreeBSD send no fragments,
    /// and other systems send none over IPv6. The default is `true`.
    pub const fn with_fragments(mut self, on: bool) -> Self {
        self.options.fragments = on;
        self
    }

    /// Sets the size of the operating system's send buffer (`SO_SNDBUF`), in bytes. The default is
    /// the operating system's.
    pub const fn with_send_buffer_size(mut self, bytes: usize) -> Self {
        self.options.buffers.send = Some(bytes);
        self
    }

    /// Sets the size of the operating system's receive buffer (`SO_RCVBUF`), in bytes. All peers
    /// share it. The default is the operating system's.
    ///
    /// Datagrams of a burst that exceed the buffer are lost, and getty cannot count them. Linux
    /// counts them as `drops` of the socket in `/proc/net/udp` and as `RcvbufErrors` in
    /// `/proc/net/snmp`. It doubles the number for its bookkeeping, and caps it at
    /// `net.core.rmem_max`. Its default of about 200 KiB holds no more than 250 small datagrams. A
    /// public server should use a few megabytes.
    pub const fn with_recv_buffer_size(mut self, bytes: usize) -> Self {
        self.options.buffers.recv = Some(bytes);
        self
    }

    /// Binds the sockets to the first address of `address` that can be bound, and starts to read.
    ///
    /// # Errors
    ///
    /// Fails if the name cannot be resolved. Otherwise returns the error of the last address, which
    /// it names: the address is in use or does not belong to this machine, or a socket option
    /// cannot be set.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves no socket behind.
    pub async fn bind(self, address: impl ToSocketAddrs) -> io::Result<UdpListener> {
        let bind = |address| {
            let sockets = self.bind_address(address)?;
            Ok(UdpListener::start(sockets, self.settings.clone()))
        };
        bind_first(address, bind).await
    }

    /// Starts to read a socket that is bound already, for example one that was inherited from a
    /// service manager.
    ///
    /// The settings of the bind have no effect: [`with_sockets`](Self::with_sockets),
    /// [`with_reuse_port`](Self::with_reuse_port) and [`with_only_v6`](Self::with_only_v6).
    ///
    /// ```
    /// use getty::net::UdpListener;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// let address = socket.local_addr()?;
    /// let listener = UdpListener::builder().with_max_peers(100).listen_on(socket)?;
    /// assert_eq!(listener.local_addr()?, address);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the operating system refuses a socket option, or cannot report the address of the
    /// socket.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    pub fn listen_on(self, socket: std::net::UdpSocket) -> io::Result<UdpListener> {
        socket.set_nonblocking(true)?;
        self.options.buffers.apply(&SockRef::from(&socket))?;
        let socket = self.options.wrap(socket.into())?;
        Ok(UdpListener::start(vec![socket], self.settings))
    }

    fn bind_address(&self, mut address: SocketAddr) -> io::Result<Vec<Socket>> {
        let mut options = self.options;
        options.bind.reuse_port |= self.sockets > 1;
        (0..self.sockets)
            .map(|_| {
                let socket = options.bind(address)?;
                // the first socket may have been assigned a port, which the others share
                address = socket.local_addr();
                Ok(socket)
            })
            .collect()
    }
}
