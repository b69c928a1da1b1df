//! The task that reads one socket and expires its silent peers (design.md: Why does one task
//! read a listener's socket?).

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use getty_core::{CloseReason, internal::log, sync::AcceptQueue};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{
    batch::{Batch, PendingAccept},
    inline_scheduler::InlineScheduler,
    listener_socket::ListenerSocket,
    peer::WakeHandle,
};
use crate::net::udp::socket::Socket;

/// First pause after a socket error. Each further error doubles it up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Peers that are due within this time expire together.
const GRAIN: Duration = Duration::from_millis(10);

/// Maximum number of full batches in one poll.
const MAX_BATCHES: u32 = 4;

/// Future of the task that reads one socket, even while no task accepts. It ends when the
/// listener and its sessions are gone.
pub(super) struct Reader {
    socket: Arc<ListenerSocket>,
    accept_queue: Arc<AcceptQueue<PendingAccept>>,
    /// Sessions to poll once a batch is delivered. Empty between batches.
    wakes: Vec<WakeHandle>,
    scheduler: InlineScheduler,
    /// Waker of this task, as registered with the socket.
    waker: Option<Waker>,
    /// Runs until the next peer may have been silent, or may have waited, for too long.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Maximum number of full batches to read before peers expire.
    unread: usize,
    /// Time at which the last sleep was due to end.
    due: Option<Instant>,
    /// Runs after a socket error.
    pause: Option<Pin<Box<Sleep>>>,
    next_pause: Duration,
}

impl Reader {
    /// Panics if called outside of a runtime.
    pub(super) fn new(
        socket: Arc<ListenerSocket>,
        accept_queue: Arc<AcceptQueue<PendingAccept>>,
    ) -> Self {
        Self {
            scheduler: InlineScheduler::new(socket.settings().inline_polling),
            socket,
            accept_queue,
            wakes: Vec::new(),
            waker: None,
            sleep: None,
            unread: 0,
            due: None,
            pause: None,
            next_pause: FIRST_PAUSE,
        }
    }

    /// Expires peers that are due, and sleeps until the next is.
    ///
    /// Reads the arrived datagrams before that. If the thread was blocked they are still unread,
    /// and peers that have sent them are not silent (design.md: Why does the listener read its
    /// socket before peers expire?).
    fn poll_expiry(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(sleep) = &mut self.sleep {
                if sleep.as_mut().poll(cx).is_pending() {
                    return;
                }
                self.due = Some(sleep.deadline());
                self.sleep = None;
                self.unread = self.socket.socket().max_waiting_batches();
            }
            if !self.read_rest() {
                // the sessions are polled first, as after other full batches
                cx.waker().wake_by_ref();
                return;
            }
            // the thread was blocked before the sleep ended, or by a session that was polled since
            let late = self.due.take().is_some_and(|due| due.elapsed() > GRAIN);
            let Some(next) = self.expire(Instant::now(), late) else {
                return;
            };
            self.sleep = Some(Box::pin(sleep_until(
                next.checked_add(GRAIN).unwrap_or(next),
            )));
        }
    }

    /// Reads the datagrams that wait in the socket, even if tokio has not seen them yet. Returns
    /// `false` if there are more.
    ///
    /// The read is bounded so that silent peers expire even if the socket is never empty.
    fn read_rest(&mut self) -> bool {
        for _ in 0..MAX_BATCHES {
            if self.unread == 0 {
                return true;
            }
            let mut now = Instant::now();
            let received = self.receive(&mut now, |socket, batch| {
                socket.recv_now(|datagram| batch.deliver(&datagram))
            });
            match received {
                Ok(true) => self.unread -= 1,
                Ok(false) | Err(_) => self.unread = 0,
            }
        }
        self.unread == 0
    }

    /// Closes the sessions that are due. Returns the time at which the next is due.
    fn expire(&self, now: Instant, late: bool) -> Option<Instant> {
        let unaccepted = self.expire_unaccepted(now);
        let silent = self.expire_silent(now, late);
        unaccepted.into_iter().chain(silent).min()
    }

    fn expire_unaccepted(&self, now: Instant) -> Option<Instant> {
        let timeout = self.socket.settings().accept_timeout;
        let is_late = |pending: &PendingAccept| pending.is_late(timeout, now);
        while let Some(late) = self.accept_queue.pop_if(is_late) {
            self.socket.counters().unaccepted.add(1);
            drop(late);
        }
        self.accept_queue
            .peek(|pending| pending.since)?
            .checked_add(timeout)
    }

    fn expire_silent(&self, now: Instant, late: bool) -> Option<Instant> {
        let idle = self.socket.settings().idle_timeout?;
        loop {
            let mut table = self.socket.lock_table();
            let Some(silent) = table.expire(idle, now, late) else {
                return table.earliest_heard()?.checked_add(idle);
            };
            drop(table);
            self.socket.shared().peer_removed();
            self.socket.counters().expired.add(1);
            silent.close_with(CloseReason::IdleTimeout);
        }
    }

    /// Cuts the sleep short if a new peer must be accepted before the sleep ends.
    fn wake_for_accept(&mut self, now: Instant) {
        let timeout = self.socket.settings().accept_timeout;
        let due = now.checked_add(timeout.saturating_add(GRAIN));
        if let (Some(sleep), Some(due)) = (&self.sleep, due)
            && sleep.deadline() > due
        {
            self.sleep = None;
        }
    }

    /// Receives one batch with `recv`, delivers it and polls its sessions. Updates `now`.
    fn receive<T>(
        &mut self,
        now: &mut Instant,
        recv: impl FnOnce(&Socket, &mut Batch<'_>) -> T,
    ) -> T {
        let (received, opened) = Batch::receive(
            &self.socket,
            &self.accept_queue,
            &mut self.wakes,
            *now,
            recv,
        );
        if opened {
            self.wake_for_accept(*now);
        }
        *now = self.scheduler.run(&mut self.wakes, *now);
        received
    }
}

impl Future for Reader {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.socket.is_unused(&mut this.waker, cx) {
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
                socket.poll_recv(cx, |datagram| batch.deliver(&datagram))
            });
            match received {
                Poll::Ready(Ok(more)) => {
                    this.next_pause = FIRST_PAUSE;
                    batches += u32::from(more);
                    if batches == MAX_BATCHES {
                        // the sessions are polled first because they make room in their queues
                        cx.waker().wake_by_ref();
                        break;
                    }
                }
                Poll::Ready(Err(error)) => {
                    let next_pause = this.next_pause;
                    log(|| {
                        tracing::warn!(%error, ?next_pause, "cannot receive; retrying after a pause");
                    });
                    let mut pause = Box::pin(sleep(this.next_pause));
                    let persists = this.next_pause == MAX_PAUSE;
                    this.next_pause = (this.next_pause * 2).min(MAX_PAUSE);
                    let _ = pause.as_mut().poll(cx);
                    this.pause = Some(pause);
                    if !persists {
                        // no peer expires before its datagrams can be read after the pause
                        return Poll::Pending;
                    }
                    break;
                }
                Poll::Pending => break,
            }
        }
        this.poll_expiry(cx);
        Poll::Pending
    }
}
