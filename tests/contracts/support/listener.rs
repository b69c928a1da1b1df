//! A listener in memory, whose connections are the streams that the test gives it.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use getty::{Address, Connection, net::Listener};

use super::stream::{self, Peer, Stream};

/// Accepts what its [`Dialer`] dials.
#[derive(Debug)]
pub(crate) struct Memory(Arc<Mutex<State>>);

/// Dials one [`Memory`].
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

    /// The next accept fails.
    pub(crate) fn fail(&self, kind: io::ErrorKind) {
        self.push(Err(kind.into()));
    }

    /// How many connections wait to be accepted.
    pub(crate) fn backlog(&self) -> usize {
        self.0.lock().expect("no test panics in here").backlog.len()
    }

    /// How often the listener was asked.
    pub(crate) fn polls(&self) -> usize {
        self.0.lock().expect("no test panics in here").polls
    }

    /// The listener was dropped: nothing is accepted any more.
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
