//! Message transport in memory. To the session loop it is like WebSocket or UDP.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use getty::{
    CloseReason,
    transport::{Framing, Received, Transport},
};
use tokio::sync::Notify;

/// The session's end.
#[derive(Debug)]
pub(crate) struct Units {
    framing: Framing,
    shared: Arc<Shared>,
}

/// The other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
enum Incoming {
    Message(Vec<u8>),
    /// Size of a control frame such as a pong, in bytes.
    Control(usize),
}

#[derive(Debug, Default)]
struct State {
    incoming: VecDeque<Incoming>,
    ended: bool,
    /// Our end must not send.
    stalled: bool,
    taken: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    pings: usize,
    /// Number of reads of our end.
    asked: usize,
    closed_with: Option<CloseReason>,
    holds_close: bool,
    /// The transport always claims that more has arrived.
    promises_more: bool,
    wakers: Vec<Waker>,
}

pub(crate) fn pair(framing: Framing) -> (Units, Peer) {
    let shared = Arc::new(Shared::default());
    let units = Units {
        framing,
        shared: Arc::clone(&shared),
    };
    (units, Peer(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics in here")
    }
}

impl Peer {
    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        f(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn send(&self, message: impl AsRef<[u8]>) {
        let message = Incoming::Message(message.as_ref().to_vec());
        self.change(|state| state.incoming.push_back(message));
    }

    /// Sends a control frame.
    pub(crate) fn send_control(&self, bytes: usize) {
        self.change(|state| state.incoming.push_back(Incoming::Control(bytes)));
    }

    /// Claims from now on that more has arrived.
    pub(crate) fn promise_more(&self) {
        self.change(|state| state.promises_more = true);
    }

    /// Lets the close stay pending.
    pub(crate) fn hold_close(&self) {
        self.change(|state| state.holds_close = true);
    }

    pub(crate) fn finish(&self) {
        self.change(|state| state.ended = true);
    }

    pub(crate) fn stall(&self) {
        self.change(|state| state.stalled = true);
    }

    pub(crate) fn take_all(&self) {
        self.change(|state| state.stalled = false);
    }

    /// Returns the next message that was flushed.
    pub(crate) async fn message(&self) -> String {
        loop {
            let changed = self.0.changed.notified();
            if let Some(message) = self.0.lock().outgoing.pop_front() {
                return String::from_utf8(message).expect("tests send text");
            }
            changed.await;
        }
    }

    /// Returns how many flushed messages were not taken by the test.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().outgoing.len()
    }

    /// Returns how many pings were sent.
    pub(crate) fn pings(&self) -> usize {
        self.0.lock().pings
    }

    /// Returns how often the session has read.
    pub(crate) fn asked(&self) -> usize {
        self.0.lock().asked
    }

    pub(crate) fn closed_with(&self) -> Option<CloseReason> {
        self.0.lock().closed_with.clone()
    }
}

impl Transport for Units {
    fn framing(&self) -> Framing {
        self.framing
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<Received>> {
        let mut state = self.shared.lock();
        state.asked += 1;
        match state.incoming.pop_front() {
            Some(Incoming::Message(message)) => {
                buf.extend_from_slice(&message);
                return Poll::Ready(Ok(Received::Data(message.len())));
            }
            Some(Incoming::Control(bytes)) => return Poll::Ready(Ok(Received::Control(bytes))),
            None => {}
        }
        if state.ended {
            return Poll::Ready(Ok(Received::End));
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        assert_eq!(state.closed_with, None, "sent after the close");
        if state.stalled {
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let message: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        let len = message.len();
        state.taken.push_back(message);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let taken = std::mem::take(&mut state.taken);
        state.outgoing.extend(taken);
        drop(state);
        self.shared.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }

    fn has_more(&self) -> bool {
        self.shared.lock().promises_more
    }

    fn poll_ping(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        assert_eq!(state.closed_with, None, "pinged after the close");
        state.pings += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        state.closed_with = Some(reason.clone());
        if state.holds_close {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}
