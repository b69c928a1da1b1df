//! Byte stream in memory whose pieces, room and end are set from outside.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// Event behind the last piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum After {
    End,
    #[default]
    Silence,
    Reset,
}

/// The end that getty has.
#[derive(Debug)]
pub(crate) struct Wire(Arc<Shared>);

/// The other end.
#[derive(Clone, Debug)]
pub(crate) struct Peer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    after: After,
    /// The next read is pending once, so that other tasks run between two pieces.
    pause: bool,
    /// Number of bytes that may still be written.
    room: usize,
    /// Maximum of one write.
    write_limit: usize,
    output: Vec<u8>,
    shut: bool,
    /// This end does not end its direction when getty has ended the other one.
    stays_open: bool,
    gone: bool,
    wakers: Vec<Waker>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            pieces: VecDeque::new(),
            after: After::Silence,
            pause: false,
            room: usize::MAX,
            write_limit: usize::MAX,
            output: Vec::new(),
            shut: false,
            stays_open: false,
            gone: false,
            wakers: Vec::new(),
        }
    }
}

/// Creates a stream without input.
pub(crate) fn wire() -> (Wire, Peer) {
    let shared = Arc::<Shared>::default();
    (Wire(Arc::clone(&shared)), Peer(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        f(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.changed.notify_waiters();
    }
}

impl Peer {
    /// Sends pieces. Each arrives in a separate read, with a pause before it.
    pub(crate) fn send<'a, I: IntoIterator<Item = &'a [u8]>>(&self, pieces: I) {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        self.0
            .change(|state| state.pieces.extend(pieces.map(<[u8]>::to_vec)));
    }

    /// Sets what follows the last piece.
    pub(crate) fn then(&self, after: After) {
        self.0.change(|state| state.after = after);
    }

    /// Keeps this direction open when getty ends the other one. An ordinary peer ends it.
    pub(crate) fn stay_open(&self) {
        self.0.change(|state| state.stays_open = true);
    }

    /// Takes `bytes` more bytes.
    pub(crate) fn take(&self, bytes: usize) {
        self.0
            .change(|state| state.room = state.room.saturating_add(bytes));
    }

    /// Takes no more bytes.
    pub(crate) fn stall(&self) {
        self.0.change(|state| state.room = 0);
    }

    /// Takes at most `bytes` in one write.
    pub(crate) fn limit_writes(&self, bytes: usize) {
        self.0.change(|state| state.write_limit = bytes.max(1));
    }

    pub(crate) fn output(&self) -> Vec<u8> {
        self.0.lock().output.clone()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.lock().gone
    }

    /// Waits until the output fulfils `condition`, or until the other end is gone.
    pub(crate) async fn until(&self, condition: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let changed = self.0.changed.notified();
            {
                let state = self.0.lock();
                if condition(&state.output) || state.gone {
                    return state.output.clone();
                }
            }
            changed.await;
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if state.pieces.is_empty() {
            return match state.after {
                After::End => Poll::Ready(Ok(())),
                After::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                After::Silence => {
                    state.wakers.push(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        if std::mem::take(&mut state.pause) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(piece) = state.pieces.front_mut() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(piece);
            *piece = rest;
            if piece.is_empty() {
                state.pieces.pop_front();
                state.pause = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        assert!(!state.shut, "written to after the shutdown");
        if state.after == After::Reset && state.pieces.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        let n = all.min(state.room).min(state.write_limit);
        if n == 0 && all > 0 {
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        if state.room < usize::MAX {
            state.room -= n;
        }
        let mut left = n;
        for buf in bufs {
            let part = left.min(buf.len());
            state.output.extend_from_slice(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.change(|state| {
            state.shut = true;
            // An ordinary peer ends its direction as well.
            if state.after == After::Silence && !state.stays_open {
                state.after = After::End;
            }
        });
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.change(|state| state.gone = true);
    }
}
