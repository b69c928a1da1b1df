//! One UDP socket, received from in batches and sent to by many sessions.

use std::{
    cell::Cell,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use getty_core::sync::{SharedWaker, WaiterId};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use super::ecn::Ecn;
use crate::platform::{RECEIVES_BATCHES, fragmenting_state};

/// Size of one receive buffer, in bytes: for the longest datagram, or for several short ones
/// that the kernel returns as one piece.
const SLOT: usize = 64 * 1024;

/// Minimum number of datagrams that a batch can receive while few arrive at once.
const MIN_ROOM: usize = if BATCH_SIZE < 4 { BATCH_SIZE } else { 4 };

/// Maximum number of datagrams in a small batch. Preparing a full-size batch would cost as much
/// as receiving one datagram.
const SMALL_BATCH: usize = if BATCH_SIZE < 8 { BATCH_SIZE } else { 8 };

/// Minimum size of a datagram in the operating system's receive buffer, in bytes, with its
/// bookkeeping.
const MIN_BUFFERED_SIZE: usize = 256;
/// Linux's default receive buffer, in bytes. Used if the socket's size is unknown.
const DEFAULT_RECV_BUFFER: usize = 208 * 1024;

/// Use of tokio's readiness by a receive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Checked,
    Ignored,
}

/// One received datagram.
pub(crate) struct IncomingDatagram<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) peer: SocketAddr,
    /// Local address that it was sent to. `None` where the operating system does not report it.
    pub(crate) local: Option<IpAddr>,
    pub(crate) ecn: Ecn,
}

/// Destination and source of a datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) peer: SocketAddr,
    /// Local address to send from. `None` leaves the choice to the operating system.
    pub(crate) local: Option<IpAddr>,
}

/// A UDP socket in tokio, with the state that quinn-udp keeps for it.
pub(crate) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// Destination of all received datagrams, if the socket has a single address.
    only_ip: Option<IpAddr>,
    connected: bool,
    /// Maximum number of datagrams in the next batch. Adapts to the number that arrive at once.
    room: AtomicUsize,
    /// Tasks that wait until the socket is writable.
    writers: SharedWaker,
}

thread_local! {
    // taken out while in use; untouched pages take no memory
    static SLOTS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Socket {
    /// Wraps a socket, which must be bound.
    pub(crate) fn new(
        socket: socket2::Socket,
        connected: bool,
        fragments: bool,
    ) -> io::Result<Self> {
        let state = if fragments {
            fragmenting_state(&socket)
        } else {
            UdpSocketState::new(UdpSockRef::from(&socket))
        }?;
        let socket = std::net::UdpSocket::from(socket);
        let local = socket.local_addr()?;
        Ok(Self {
            io: UdpSocket::from_std(socket)?,
            state,
            local,
            only_ip: Some(local.ip()).filter(|ip| !ip.is_unspecified()),
            connected,
            room: AtomicUsize::new(MIN_ROOM),
            writers: SharedWaker::new(),
        })
    }

    pub(crate) const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) const fn get_ref(&self) -> &UdpSocket {
        &self.io
    }

    /// Returns the local address as a peer sees it: the address that the peer sends to, if known.
    pub(crate) fn local_addr_for(&self, local: Option<IpAddr>) -> SocketAddr {
        match local {
            Some(ip) if self.local.ip().is_unspecified() => SocketAddr::new(ip, self.local.port()),
            _ => self.local,
        }
    }

    /// Returns the source address of a reply to a datagram that was sent to `local`.
    ///
    /// Returns `None` if the operating system must choose it. Multicast and broadcast addresses
    /// cannot be a source.
    pub(crate) fn reply_source(&self, local: Option<IpAddr>) -> Option<IpAddr> {
        local.filter(|local| self.local.ip().is_unspecified() && !is_multicast_or_broadcast(*local))
    }

    /// Returns an upper bound of the full batches that can wait in the operating system's buffer.
    pub(crate) fn max_waiting_batches(&self) -> usize {
        let bytes = SockRef::from(&self.io)
            .recv_buffer_size()
            .unwrap_or(DEFAULT_RECV_BUFFER);
        // plus the first batches, which are smaller
        bytes / (MIN_BUFFERED_SIZE * BATCH_SIZE) + 8
    }

    /// Returns `true` if the datagram claims to come from this socket or from port 0, which cannot
    /// receive.
    pub(crate) fn is_unanswerable(&self, datagram: &IncomingDatagram<'_>) -> bool {
        datagram.peer.port() == 0
            || (datagram.peer.port() == self.local.port()
                && datagram.peer.ip() == self.local_addr_for(datagram.local).ip())
    }

    /// Receives one batch and calls `each` with every datagram. Returns `true` if there may be
    /// more.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        mut each: impl FnMut(IncomingDatagram<'_>),
    ) -> Poll<io::Result<bool>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.try_recv(&mut each);
            if !is_would_block(&received) {
                return Poll::Ready(received);
            }
        }
    }

    /// Waits for datagrams and for errors about datagrams that could not be delivered.
    ///
    /// Only a connected socket receives such errors, and tokio's `poll_recv_ready` ignores them.
    pub(crate) fn readable(
        self: &Arc<Self>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let socket = Arc::clone(self);
        let interest = Interest::READABLE | Interest::ERROR;
        async move { socket.io.ready(interest).await.map(drop) }
    }

    /// Like [`poll_recv`](Self::poll_recv), but fails with `WouldBlock` if no datagram waits.
    pub(crate) fn try_recv(&self, each: impl FnMut(IncomingDatagram<'_>)) -> io::Result<bool> {
        self.recv(Readiness::Checked, each)
    }

    /// Like [`try_recv`](Self::try_recv), but receives even if tokio has not yet seen that
    /// datagrams wait.
    pub(crate) fn recv_now(&self, each: impl FnMut(IncomingDatagram<'_>)) -> io::Result<bool> {
        self.recv(Readiness::Ignored, each)
    }

    fn recv(
        &self,
        readiness: Readiness,
        each: impl FnMut(IncomingDatagram<'_>),
    ) -> io::Result<bool> {
        // unused room has a cost too
        let room = self.room.load(Relaxed);
        let received = if room <= SMALL_BATCH {
            self.recv_up_to::<SMALL_BATCH>(room, readiness, each)
        } else {
            self.recv_up_to::<BATCH_SIZE>(room, readiness, each)
        }?;
        if received == room && room < BATCH_SIZE {
            self.room.store((room * 2).min(BATCH_SIZE), Relaxed);
        } else if received < room / 4 && room > MIN_ROOM {
            self.room.store(room / 2, Relaxed);
        }
        Ok(received == room)
    }

    /// Receives up to `room` datagrams, which is at most `MAX`.
    fn recv_up_to<const MAX: usize>(
        &self,
        room: usize,
        readiness: Readiness,
        mut each: impl FnMut(IncomingDatagram<'_>),
    ) -> io::Result<usize> {
        let mut metas = [RecvMeta::default(); MAX];
        let metas = &mut metas[..room];
        let mut slots = SLOTS.take();
        slots.resize(SLOT * BATCH_SIZE, 0);
        let mut received = self.recv_batch::<MAX>(Interest::READABLE, readiness, &mut slots, metas);
        if self.connected && is_would_block(&received) {
            // one interest at a time because tokio clears the readiness of both if one would block
            received = self.recv_batch::<MAX>(Interest::ERROR, readiness, &mut slots, metas);
        }
        if let Ok(received) = received {
            for (slot, meta) in slots.chunks_exact(SLOT).zip(&metas[..received]) {
                self.split(&slot[..meta.len], meta, &mut each);
            }
        }
        SLOTS.set(slots);
        received
    }

    fn recv_batch<const MAX: usize>(
        &self,
        interest: Interest,
        readiness: Readiness,
        slots: &mut [u8],
        metas: &mut [RecvMeta],
    ) -> io::Result<usize> {
        let mut chunks = slots.chunks_exact_mut(SLOT);
        let mut bufs: [IoSliceMut<'_>; MAX] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let room = metas.len();
        let mut received = 0;
        if readiness == Readiness::Ignored {
            let socket = UdpSockRef::from(&self.io);
            return self.state.recv(socket, &mut bufs[..room], metas);
        }
        let result = self.io.try_io(interest, || {
            received = self
                .state
                .recv(UdpSockRef::from(&self.io), &mut bufs[..room], metas)?;
            if RECEIVES_BATCHES && received < room {
                // the socket is empty: clearing the readiness saves the call that would find out
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match result {
            Err(error) if received == 0 => Err(error),
            _ => Ok(received),
        }
    }

    /// Splits a piece that the kernel received as one: datagrams of one length, and a last one that
    /// may be shorter.
    fn split(&self, bytes: &[u8], meta: &RecvMeta, each: &mut impl FnMut(IncomingDatagram<'_>)) {
        let mut yield_one = |bytes| {
            each(IncomingDatagram {
                bytes,
                peer: meta.addr,
                local: meta.dst_ip.or(self.only_ip),
                ecn: Ecn::from_quinn(meta.ecn),
            });
        };
        if meta.stride == 0 || bytes.len() <= meta.stride {
            yield_one(bytes);
        } else {
            bytes.chunks(meta.stride).for_each(yield_one);
        }
    }

    /// Returns the maximum number of datagrams of one length that one call can send.
    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends `contents`, split into datagrams of `segment` bytes if `segment` is set.
    pub(crate) fn try_send(
        &self,
        route: &Route,
        contents: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        if segment.is_none() && route.local.is_none() {
            // without control data the cheaper call suffices
            return if self.connected {
                self.io.try_send(contents)
            } else {
                self.io.try_send_to(contents, route.peer)
            }
            .map(drop);
        }
        let transmit = Transmit {
            destination: route.peer,
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: route.local,
        };
        self.io.try_io(Interest::WRITABLE, || {
            self.state.try_send(UdpSockRef::from(&self.io), &transmit)
        })
    }

    /// Polls until the socket is writable. Any number of tasks may wait; `waiter` must belong to
    /// the caller.
    pub(super) fn poll_writable(
        &self,
        cx: &Context<'_>,
        waiter: &mut Option<WaiterId>,
    ) -> Poll<io::Result<()>> {
        self.writers
            .poll(cx, waiter, |cx| self.io.poll_send_ready(cx))
    }
}

/// Returns `true` if datagrams can be sent to `ip` but not from it.
fn is_multicast_or_broadcast(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

fn is_would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::{super::options::SocketOptions, *};

    #[tokio::test]
    async fn own_address_and_port_zero_are_not_answered() {
        // an echo server would otherwise answer itself without end
        for (bound, own) in [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.9")] {
            let bound: SocketAddr = bound.parse().unwrap();
            let socket = SocketOptions::new().bind(bound).unwrap();
            let own: IpAddr = own.parse().unwrap();
            let port = socket.local_addr().port();
            let from = |peer: (IpAddr, u16)| IncomingDatagram {
                bytes: b"hello",
                peer: peer.into(),
                local: Some(own),
                ecn: Ecn::NotCapable,
            };
            assert!(socket.is_unanswerable(&from((own, port))));
            assert!(socket.is_unanswerable(&from((own, 0))));
            assert!(!socket.is_unanswerable(&from((own, port ^ 1))));
            assert!(!socket.is_unanswerable(&from(([127, 0, 0, 2].into(), port))));
        }
    }
}
