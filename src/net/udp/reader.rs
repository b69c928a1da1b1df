//! The task that reads one socket: it gives each datagram to its peer, and makes a session of a new one.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use getty_core::{Address, CloseReason, Connection, Endpoints, Panic, TransportKind};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    hub::Hub,
    peer::{Peer, UdpInfo, UdpPeer, Woken},
    probe::{ANSWER, is_probe},
    settings::{Admit, Evicted, Eviction, FirstDatagram, ProbePolicy, Settings},
    socket::{Arrived, Route, Socket},
    stats::Counts,
    table::{Flow, Table},
    turns::Turns,
};

/// The first pause after an error of the socket's; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Peers that are due within so long are seen to together.
const GRAIN: Duration = Duration::from_millis(10);

/// So many full batches, then it is others' turn.
const BATCHES: u32 = 4;

/// One socket of a listener, with its peers.
pub(super) struct Port {
    socket: Socket,
    table: Mutex<Table>,
    hub: Arc<Hub>,
    reader: AtomicWaker,
}

impl Port {
    pub(super) fn new(socket: Socket, hub: Arc<Hub>) -> Self {
        Self {
            socket,
            table: Mutex::default(),
            hub,
            reader: AtomicWaker::new(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn settings(&self) -> &Settings {
        self.hub.settings()
    }

    pub(super) fn counts(&self) -> &Counts {
        self.hub.counts()
    }

    /// The listener is gone: the reader looks whether it is still needed.
    pub(super) fn wake_reader(&self) {
        self.reader.wake();
    }

    /// A session has ended; its peer's next datagram opens another.
    pub(super) fn leave(&self, key: usize, peer: &Arc<Peer>) {
        let mut table = self.table();
        if table.remove(key, peer) {
            self.hub.peer_removed();
        }
        let last = table.is_empty();
        drop(table);
        self.hub.session_ended();
        if last && self.hub.is_closed() {
            self.reader.wake();
        }
    }
}

/// Reads one socket, whether or not anybody accepts. It ends with the last of the listener and its sessions.
pub(super) struct Reader {
    port: Arc<Port>,
    /// Who has a turn once a batch is given out, so that a session sees all of its part.
    woken: Vec<Woken>,
    turns: Turns,
    /// When somebody has been silent, or has waited, for too long.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Number of full batches to read before peers expire.
    unread: usize,
    /// Time at which the last sleep was due to end.
    due: Option<Instant>,
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
}

impl Reader {
    pub(super) fn new(port: Arc<Port>) -> Self {
        Self {
            turns: Turns::new(port.settings().turns_in_place),
            port,
            woken: Vec::new(),
            sleep: None,
            unread: 0,
            due: None,
            pause: None,
            next_pause: FIRST_PAUSE,
        }
    }

    /// Expires peers that are due, and waits for the next. Before that it reads what has arrived: a
    /// thread that was blocked has not read it, and peers that sent meanwhile are not silent.
    fn poll_due(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(sleep) = &mut self.sleep {
                if sleep.as_mut().poll(cx).is_pending() {
                    return;
                }
                self.due = Some(sleep.deadline());
                self.sleep = None;
                self.unread = self.port.socket.most_waiting();
            }
            if !self.read_rest() {
                // the sessions first, as after other full batches
                cx.waker().wake_by_ref();
                return;
            }
            // the thread was blocked before the sleep ended, or by a session that was polled since
            let late = self.due.take().is_some_and(|due| due.elapsed() > GRAIN);
            let Some(next) = self.end_due(Instant::now(), late) else {
                return;
            };
            self.sleep = Some(Box::pin(sleep_until(
                next.checked_add(GRAIN).unwrap_or(next),
            )));
        }
    }

    /// Reads what waits in the socket, even if tokio has not seen it yet. Returns `false` if there
    /// is more.
    ///
    /// The read is bounded, so that silent peers expire even if the socket is never empty.
    fn read_rest(&mut self) -> bool {
        for _ in 0..BATCHES {
            if self.unread == 0 {
                return true;
            }
            let mut now = Instant::now();
            let received = self.receive(&mut now, |socket, batch| {
                socket.recv_now(|arrived| batch.take(&arrived))
            });
            match received {
                Ok(true) => self.unread -= 1,
                Ok(false) | Err(_) => self.unread = 0,
            }
        }
        self.unread == 0
    }

    fn end_due(&self, now: Instant, late: bool) -> Option<Instant> {
        let hub = &self.port.hub;
        let unaccepted = hub.expire(now);
        let Some(idle) = hub.settings().idle_timeout else {
            return unaccepted;
        };
        let silent = loop {
            let mut table = self.port.table();
            let Some(silent) = table.expire(idle, now, late) else {
                break table.heard_first();
            };
            drop(table);
            hub.peer_removed();
            hub.counts().expired.add(1);
            silent.close_with(CloseReason::IdleTimeout);
        };
        let silent = silent.and_then(|heard| heard.checked_add(idle));
        unaccepted.into_iter().chain(silent).min()
    }

    /// A new peer may have to be accepted before the next that is known to be due.
    fn look_earlier(&mut self, now: Instant) {
        let due = now.checked_add(self.port.settings().accept_timeout.saturating_add(GRAIN));
        if let (Some(sleep), Some(due)) = (&self.sleep, due)
            && sleep.deadline() > due
        {
            self.sleep = None;
        }
    }

    /// Receives one batch with `recv` and gives it to the peers. `now` is brought up to date.
    fn receive<T>(
        &mut self,
        now: &mut Instant,
        recv: impl FnOnce(&Socket, &mut Batch<'_>) -> T,
    ) -> T {
        let (received, opened) = give_out(&self.port, &mut self.woken, *now, recv);
        if opened {
            self.look_earlier(*now);
        }
        *now = self.turns.give(&mut self.woken, *now);
        received
    }
}

/// Receives one batch with `recv` and gives it to the peers; `true` if a peer is new.
fn give_out<T>(
    port: &Arc<Port>,
    woken: &mut Vec<Woken>,
    now: Instant,
    recv: impl FnOnce(&Socket, &mut Batch<'_>) -> T,
) -> (T, bool) {
    let mut batch = Batch {
        port,
        now,
        table: None,
        woken,
        received: 0,
        delivered: 0,
        opened: false,
    };
    let received = recv(&port.socket, &mut batch);
    if batch.received > 0 {
        port.counts().received.add(batch.received);
        port.counts().delivered.add(batch.delivered);
    }
    (received, batch.opened)
}

impl Future for Reader {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.port.reader.register(cx.waker());
        if this.port.hub.is_closed() && this.port.table().is_empty() {
            return Poll::Ready(());
        }
        if let Some(pause) = &mut this.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.pause = None;
        }
        let mut batches = 0;
        let mut now = Instant::now();
        loop {
            let received = this.receive(&mut now, |socket, batch| {
                socket.poll_recv(cx, |arrived| batch.take(&arrived))
            });
            match received {
                Poll::Ready(Ok(more)) => {
                    this.next_pause = FIRST_PAUSE;
                    batches += u32::from(more);
                    if batches == BATCHES {
                        // the sessions first: they make room in their queues
                        cx.waker().wake_by_ref();
                        break;
                    }
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, pause = ?this.next_pause, "receiving failed; it goes on after a pause");
                    let mut pause = Box::pin(tokio::time::sleep(this.next_pause));
                    let lasts = this.next_pause == LONGEST_PAUSE;
                    this.next_pause = (this.next_pause * 2).min(LONGEST_PAUSE);
                    let _ = pause.as_mut().poll(cx);
                    this.pause = Some(pause);
                    if !lasts {
                        // datagrams of peers may be read after the pause, so no peer expires before
                        return Poll::Pending;
                    }
                    break;
                }
                Poll::Pending => break,
            }
        }
        this.poll_due(cx);
        Poll::Pending
    }
}

/// The datagrams of one batch on their way.
struct Batch<'a> {
    port: &'a Arc<Port>,
    now: Instant,
    /// Locked for as long as all datagrams are of peers that are there.
    table: Option<MutexGuard<'a, Table>>,
    woken: &'a mut Vec<Woken>,
    received: u64,
    delivered: u64,
    /// A new peer is there.
    opened: bool,
}

impl Batch<'_> {
    fn take(&mut self, arrived: &Arrived<'_>) {
        self.received += 1;
        let Self { port, woken, .. } = self;
        let settings = port.settings();
        if settings.probe != ProbePolicy::Deliver && is_probe(arrived.bytes) {
            port.counts().probes.add(1);
            if settings.probe == ProbePolicy::Answer && !port.socket.is_unanswerable(arrived) {
                self.answer(arrived, ANSWER);
            }
            return;
        }
        let truncated = arrived.bytes.len() > settings.max_datagram;
        let empty = arrived.bytes.is_empty() && !settings.empty;
        if truncated {
            port.counts().truncated.add(1);
        } else if empty {
            port.counts().empty.add(1);
        }
        let table = self.table.get_or_insert_with(|| port.table());
        match table.hear(&flow(arrived), self.now) {
            Some(peer) if truncated => woken.extend(peer.truncated()),
            // a sign of life, and nothing else
            Some(_) if empty => {}
            Some(peer) => self.delivered += deliver(peer, port, arrived, woken),
            None if truncated || empty => {}
            None => {
                self.table = None;
                self.welcome(arrived);
            }
        }
    }

    /// A datagram of an address that has no session.
    fn welcome(&mut self, arrived: &Arrived<'_>) {
        let port = self.port;
        let counts = port.counts();
        if port.hub.is_closed() || port.socket.is_unanswerable(arrived) {
            counts.ignored.add(1);
            return;
        }
        // before the hook is asked, which may take long: what is refused anyway is to cost little
        let full = port.hub.is_full();
        let evicts = port.settings().eviction == Eviction::LongestIdle;
        if (full && !evicts) || !port.hub.has_room_to_wait() {
            counts.refused.add(1);
            return;
        }
        match self.admit(arrived) {
            Admit::Open => {}
            Admit::Ignore => return counts.ignored.add(1),
            Admit::Answer(bytes) => {
                counts.ignored.add(1);
                return self.answer(arrived, &bytes);
            }
        }
        if full && !self.evict() {
            counts.refused.add(1);
            return;
        }
        self.open(arrived);
    }

    fn admit(&self, arrived: &Arrived<'_>) -> Admit {
        let Some(hook) = &self.port.settings().admit else {
            return Admit::Open;
        };
        let first = FirstDatagram {
            peer: arrived.peer,
            local: arrived.local,
            payload: arrived.bytes,
        };
        Panic::catch(|| hook(first)).unwrap_or_else(|panic| {
            tracing::error!(%panic, peer = %arrived.peer, "the admit hook panicked; the datagram is dropped");
            Admit::Ignore
        })
    }

    fn evict(&self) -> bool {
        let Some(evicted) = self.port.table().evict() else {
            return false; // all peers are those of other sockets
        };
        self.port.hub.peer_removed();
        self.port.counts().evicted.add(1);
        evicted.close_because(CloseReason::IdleTimeout, Evicted);
        true
    }

    fn open(&mut self, arrived: &Arrived<'_>) {
        let port = self.port;
        let peer = Arc::new(Peer::new(flow(arrived)));
        self.delivered += deliver(&peer, port, arrived, self.woken);
        self.opened = true;
        let endpoints = Endpoints::new(
            TransportKind::Udp,
            Address::Ip(port.socket.local_for(arrived.local)),
            Address::Ip(arrived.peer),
        );
        let connection = Connection::with_endpoints(arrived.peer, endpoints);
        let handle = connection.handle().clone();
        handle.insert(UdpInfo(Arc::clone(&peer)));
        let key = port.table().add(Arc::clone(&peer), handle, self.now);
        port.hub.peer_added();
        let connection = connection.map_transport(|_| UdpPeer::new(Arc::clone(port), peer, key));
        port.hub.offer(connection, self.now);
    }

    /// Sends `bytes` back at once; what the socket does not take is lost, as it might have been on the way.
    fn answer(&self, arrived: &Arrived<'_>, bytes: &[u8]) {
        let socket = &self.port.socket;
        let route = Route {
            peer: arrived.peer,
            local: socket.answer_from(arrived.local),
        };
        if let Err(error) = socket.try_send(&route, bytes, None) {
            tracing::debug!(peer = %arrived.peer, %error, "an answer was not sent");
            self.port.counts().unsent.add(1);
        }
    }
}

fn flow(arrived: &Arrived<'_>) -> Flow {
    Flow {
        peer: arrived.peer,
        local: arrived.local,
    }
}

/// How many more are delivered now.
fn deliver(peer: &Peer, port: &Port, arrived: &Arrived<'_>, woken: &mut Vec<Woken>) -> u64 {
    let queued = peer.push(arrived, port.settings());
    woken.extend(queued.waiting);
    if queued.overflowed > 0 {
        port.counts().overflowed.add(queued.overflowed);
    }
    u64::from(queued.taken)
}
