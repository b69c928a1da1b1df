//! One UDP socket: received from in batches, and sent to by many sessions at once.

use std::{
    cell::Cell,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use super::{Ecn, options};

/// Room for the longest datagram, or for as many short ones as the kernel hands over in one piece.
const SLOT: usize = 64 * 1024;

/// A batch has room for at least so many datagrams, as long as few come at once.
const LEAST_ROOM: usize = if BATCH_SIZE < 4 { BATCH_SIZE } else { 4 };

/// What is laid out for a batch that has room for no more than this. To lay out the most would cost as much as to receive
/// one datagram does.
const FEW: usize = if BATCH_SIZE < 8 { BATCH_SIZE } else { 8 };

/// Whether a batch that is not full means that the socket is empty: recvmmsg goes on until it is.
const SHORT_BATCH_IS_LAST: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Least that a datagram takes in the operating system's receive buffer, bookkeeping included, in
/// bytes.
const LEAST_COST: usize = 256;
/// Linux's default receive buffer, where the socket's own is not known, in bytes.
const USUAL_BUFFER: usize = 208 * 1024;

/// Use of tokio's readiness by a receive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Checked,
    Ignored,
}

/// One received datagram.
pub(super) struct Arrived<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) peer: SocketAddr,
    /// To which of our addresses, where the operating system says.
    pub(super) local: Option<IpAddr>,
    pub(super) ecn: Ecn,
}

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) peer: SocketAddr,
    /// From which of our addresses; the operating system's choice where there is none.
    pub(super) local: Option<IpAddr>,
}

pub(super) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// The address that all datagrams come to, where there is but one.
    only_ip: Option<IpAddr>,
    connected: bool,
    /// How many datagrams the next batch has room for.
    room: AtomicUsize,
    writers: Arc<Writers>,
    /// Wakes all who wait to write. tokio wakes only the last who asked, so that all of them ask with this one.
    writable: Waker,
}

thread_local! {
    // taken out while it is used; pages that no datagram ever reached cost nothing
    static SLOTS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Socket {
    /// The socket must be bound.
    pub(super) fn new(
        socket: socket2::Socket,
        connected: bool,
        fragments: bool,
    ) -> io::Result<Self> {
        let state = if fragments {
            options::state_with_fragments(&socket)
        } else {
            UdpSocketState::new(UdpSockRef::from(&socket))
        }?;
        let socket = std::net::UdpSocket::from(socket);
        let local = socket.local_addr()?;
        let writers = Arc::new(Writers::default());
        Ok(Self {
            io: UdpSocket::from_std(socket)?,
            state,
            local,
            only_ip: Some(local.ip()).filter(|ip| !ip.is_unspecified()),
            connected,
            room: AtomicUsize::new(LEAST_ROOM),
            writable: Waker::from(Arc::clone(&writers)),
            writers,
        })
    }

    pub(super) const fn local(&self) -> SocketAddr {
        self.local
    }

    pub(super) const fn get_ref(&self) -> &UdpSocket {
        &self.io
    }

    /// Our address as one peer sees it: the one it has written to, where that is known.
    pub(super) fn local_for(&self, local: Option<IpAddr>) -> SocketAddr {
        match local {
            Some(ip) if self.local.ip().is_unspecified() => SocketAddr::new(ip, self.local.port()),
            _ => self.local,
        }
    }

    /// Returns the source address of an answer to a datagram that was sent to `local`. `None`
    /// leaves the choice to the operating system: where it has none, and for multicast and
    /// broadcast addresses, which cannot be a source.
    pub(super) fn answer_from(&self, local: Option<IpAddr>) -> Option<IpAddr> {
        local.filter(|local| self.local.ip().is_unspecified() && !is_group(*local))
    }

    /// Returns an upper bound of the full batches that can wait in the operating system's buffer.
    pub(super) fn most_waiting(&self) -> usize {
        let bytes = SockRef::from(&self.io)
            .recv_buffer_size()
            .unwrap_or(USUAL_BUFFER);
        // the first batches are smaller
        bytes / (LEAST_COST * BATCH_SIZE) + 8
    }

    /// Whether a datagram claims to come from this very socket, or from a port that cannot be answered.
    pub(super) fn is_unanswerable(&self, arrived: &Arrived<'_>) -> bool {
        arrived.peer.port() == 0
            || (arrived.peer.port() == self.local.port()
                && arrived.peer.ip() == self.local_for(arrived.local).ip())
    }

    /// Receives one batch and gives each datagram of it to `each`. Ready with whether there may be more.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        mut each: impl FnMut(Arrived<'_>),
    ) -> Poll<io::Result<bool>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let received = self.try_recv(&mut each);
            if !is_would_block(&received) {
                return Poll::Ready(received);
            }
        }
    }

    /// Waits for datagrams, and for news of those that could not be delivered, which only a connected socket is told
    /// and of which tokio's `poll_recv_ready` says nothing.
    pub(super) fn readable(
        self: &Arc<Self>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let socket = Arc::clone(self);
        let interest = Interest::READABLE | Interest::ERROR;
        async move { socket.io.ready(interest).await.map(drop) }
    }

    /// As [`poll_recv`](Self::poll_recv), without waiting.
    pub(super) fn try_recv(&self, each: impl FnMut(Arrived<'_>)) -> io::Result<bool> {
        self.recv(Ready::Checked, each)
    }

    /// Like [`try_recv`](Self::try_recv), but receives even if tokio has not seen yet that
    /// datagrams wait.
    pub(super) fn recv_now(&self, each: impl FnMut(Arrived<'_>)) -> io::Result<bool> {
        self.recv(Ready::Ignored, each)
    }

    fn recv(&self, ready: Ready, each: impl FnMut(Arrived<'_>)) -> io::Result<bool> {
        // room costs something even where it is not used
        let room = self.room.load(Relaxed);
        let received = if room <= FEW {
            self.recv_up_to::<FEW>(room, ready, each)
        } else {
            self.recv_up_to::<BATCH_SIZE>(room, ready, each)
        }?;
        if received == room && room < BATCH_SIZE {
            self.room.store((room * 2).min(BATCH_SIZE), Relaxed);
        } else if received < room / 4 && room > LEAST_ROOM {
            self.room.store(room / 2, Relaxed);
        }
        Ok(received == room)
    }

    /// Receives up to `room` datagrams, which is `MOST` at the most.
    fn recv_up_to<const MOST: usize>(
        &self,
        room: usize,
        ready: Ready,
        mut each: impl FnMut(Arrived<'_>),
    ) -> io::Result<usize> {
        let mut metas = [RecvMeta::default(); MOST];
        let metas = &mut metas[..room];
        let mut slots = SLOTS.take();
        slots.resize(SLOT * BATCH_SIZE, 0);
        let mut received = self.recv_batch::<MOST>(Interest::READABLE, ready, &mut slots, metas);
        if self.connected && is_would_block(&received) {
            // one interest at a time: of two at once tokio says that neither is there
            received = self.recv_batch::<MOST>(Interest::ERROR, ready, &mut slots, metas);
        }
        if let Ok(received) = received {
            for (slot, meta) in slots.chunks_exact(SLOT).zip(&metas[..received]) {
                self.split(&slot[..meta.len], meta, &mut each);
            }
        }
        SLOTS.set(slots);
        received
    }

    fn recv_batch<const MOST: usize>(
        &self,
        interest: Interest,
        ready: Ready,
        slots: &mut [u8],
        metas: &mut [RecvMeta],
    ) -> io::Result<usize> {
        let mut chunks = slots.chunks_exact_mut(SLOT);
        let mut bufs: [IoSliceMut<'_>; MOST] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let room = metas.len();
        let mut received = 0;
        if ready == Ready::Ignored {
            let socket = UdpSockRef::from(&self.io);
            return self.state.recv(socket, &mut bufs[..room], metas);
        }
        let tried = self.io.try_io(interest, || {
            received = self
                .state
                .recv(UdpSockRef::from(&self.io), &mut bufs[..room], metas)?;
            if SHORT_BATCH_IS_LAST && received < room {
                // it found the socket empty: saying so saves the call that would
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match tried {
            Err(error) if received == 0 => Err(error),
            _ => Ok(received),
        }
    }

    /// What the kernel handed over in one piece may be several datagrams of one length, and a last one that is shorter.
    fn split(&self, bytes: &[u8], meta: &RecvMeta, each: &mut impl FnMut(Arrived<'_>)) {
        let mut give = |bytes| {
            each(Arrived {
                bytes,
                peer: meta.addr,
                local: meta.dst_ip.or(self.only_ip),
                ecn: Ecn::from_quinn(meta.ecn),
            });
        };
        if meta.stride == 0 || bytes.len() <= meta.stride {
            give(bytes);
        } else {
            bytes.chunks(meta.stride).for_each(give);
        }
    }

    /// How many datagrams of one length one call can send.
    pub(super) fn most_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends `contents`, as datagrams of `segment` bytes each where that is said.
    pub(super) fn try_send(
        &self,
        route: &Route,
        contents: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        if segment.is_none() && route.local.is_none() {
            // nothing to be told to the kernel: the cheaper call
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

    /// Waits until the socket takes more, beside any number of others. `place` is the caller's own.
    pub(super) fn poll_writable(
        &self,
        cx: &mut Context<'_>,
        place: &mut Place,
    ) -> Poll<io::Result<()>> {
        self.writers.enter(cx, place);
        self.io
            .poll_send_ready(&mut Context::from_waker(&self.writable))
    }
}

/// Returns `true` for an address that a datagram can be sent to and not from.
fn is_group(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

fn is_would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Those who wait for one socket to take more.
#[derive(Default)]
struct Writers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// How often those who waited were woken.
    round: u64,
    wakers: Vec<Waker>,
}

/// Where one who waits stands among the others: in which round, and at which place.
#[derive(Debug, Default)]
pub(super) struct Place(Option<(u64, usize)>);

impl Writers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once a round, however often it is polled: a session that is polled for other reasons takes one place.
    fn enter(&self, cx: &Context<'_>, place: &mut Place) {
        let mut waiting = self.lock();
        match place.0 {
            Some((round, at)) if round == waiting.round => {
                waiting.wakers[at].clone_from(cx.waker());
            }
            _ => {
                place.0 = Some((waiting.round, waiting.wakers.len()));
                waiting.wakers.push(cx.waker().clone());
            }
        }
    }
}

impl Wake for Writers {
    fn wake(self: Arc<Self>) {
        let mut waiting = self.lock();
        waiting.round += 1;
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test]
    async fn own_address_and_port_zero_are_not_answered() {
        // an echo that believed it heard itself would go on for ever
        for (bound, own) in [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.9")] {
            let bound: SocketAddr = bound.parse().unwrap();
            let socket = super::super::builder::SocketOptions::new()
                .bind(bound)
                .unwrap();
            let own: IpAddr = own.parse().unwrap();
            let port = socket.local().port();
            let from = |peer: (IpAddr, u16)| Arrived {
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

    #[test]
    fn all_who_wait_to_write_are_woken_once_however_often_they_asked() {
        let writers = Arc::new(Writers::default());
        let counts: [Arc<Count>; 3] = Default::default();
        let mut places: [Place; 3] = Default::default();
        for _ in 0..2 {
            for (count, place) in counts.iter().zip(&mut places) {
                let waker = Waker::from(Arc::clone(count));
                writers.enter(&Context::from_waker(&waker), place);
            }
        }
        assert_eq!(writers.lock().wakers.len(), 3);

        Waker::from(Arc::clone(&writers)).wake();
        assert!(counts.iter().all(|count| count.0.load(SeqCst) == 1));

        let waker = Waker::from(Arc::clone(&counts[2]));
        writers.enter(&Context::from_waker(&waker), &mut places[2]);
        Waker::from(writers).wake();
        let counts = counts.map(|count| count.0.load(SeqCst));
        assert_eq!(counts, [1, 1, 2], "who does not wait is not woken");
    }
}
