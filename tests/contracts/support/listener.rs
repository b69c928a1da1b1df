//! Listener in memory. The test gives it connections.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use getty::{Address, Connection, net::Listener};

use super::stream::{self, Peer, Stream};

/// Accepts the streams of its [`Dialer`].
#[derive(Debug)]
pub(crate) struct Memory(Arc<Mutex<State>>);

/// Connects to one [`Memory`].
#[derive(Clone, Debug)]
pub(crate) struct Dialer(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    backlog: VecDeque<io::Result<Stream>>,
    waker: Option<Waker>,
    polls: usize,
    gone: bool,
}

pub(crate) fn memory() -> (Memory, Dialer) {
    let state = Arc::default();
    (Memory(Arc::clone(&state)), Dialer(state))
}

impl Dialer {
    fn push(&self, accepted: io::Result<Stream>) {
        let mut state = self.0.lock().expect("no test panics in here");
        state.backlog.push_back(accepted);
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn dial(&self) -> Peer {
        let (stream, peer) = stream::pair();
        self.push(Ok(stream));
        peer
    }

    /// Lets the next accept fail.
    pub(crate) fn fail(&self, kind: io::ErrorKind) {
        self.push(Err(kind.into()));
    }

    /// Returns how many connections wait to be accepted.
    pub(crate) fn backlog(&self) -> usize {
        self.0.lock().expect("no test panics in here").backlog.len()
    }

    /// Returns how often the listener was polled.
    pub(crate) fn polls(&self) -> usize {
        self.0.lock().expect("no test panics in here").polls
    }

    /// Returns `true` if the listener was dropped.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.lock().expect("no test panics in here").gone
    }
}

impl Listener for Memory {
    type Io = Stream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Stream>>> {
        let mut state = self.0.lock().expect("no test panics in here");
        state.polls += 1;
        match state.backlog.pop_front() {
            Some(accepted) => Poll::Ready(accepted.map(Connection::new)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Memory(0))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut state = self.0.lock().expect("no test panics in here");
        state.gone = true;
        state.backlog.clear();
    }
}
