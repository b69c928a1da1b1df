//! Message transport in memory.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use getty::{
    CloseReason,
    transport::{Framing, Received, Transport},
};

use crate::{
    Peer,
    stream::Delay,
    wire::{Incoming, Wire},
};

/// The session's end of a message transport in memory. To the session loop it is like WebSocket
/// or UDP. Its [`Peer`] controls the faults.
#[derive(Debug)]
pub struct Messages {
    framing: Framing,
    wire: Arc<Wire>,
    delay: Delay,
}

/// Creates a message transport and its peer.
///
/// [`Framing::Messages`] is like WebSocket and [`Framing::Datagrams`] is like UDP.
///
/// # Panics
///
/// Panics for [`Framing::Stream`]: use [`stream`](crate::stream()).
#[must_use]
pub fn messages(framing: Framing) -> (Messages, Peer) {
    assert_ne!(framing, Framing::Stream, "a stream has no messages");
    let wire = Wire::new(framing);
    let messages = Messages {
        framing,
        wire: Arc::clone(&wire),
        delay: Delay::default(),
    };
    (messages, Peer::new(wire))
}

impl Transport for Messages {
    fn framing(&self) -> Framing {
        self.framing
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<Received>> {
        let state = &mut *self.wire.lock();
        state.counts.reads += 1;
        if state.hesitates(cx) {
            return Poll::Pending;
        }
        if state.reads_until_reset == Some(0) {
            state.incoming.clear();
            state.reset();
        }
        if self.delay.poll(cx, state).is_pending() {
            return state.wait(cx);
        }
        if !state.incoming.is_empty() && state.pauses(cx) {
            return Poll::Pending;
        }
        state.is_paused = true;
        let next = state.incoming.pop_front().map(|(_, incoming)| incoming);
        let endless = || state.endless.clone().map(Incoming::Data);
        match next.or_else(endless) {
            Some(Incoming::Data(data)) => {
                if let Some(left) = &mut state.reads_until_reset {
                    *left = left.saturating_sub(data.len());
                }
                buf.extend_from_slice(&data);
                return Poll::Ready(Ok(Received::Data(data.len())));
            }
            Some(Incoming::Control(bytes)) => return Poll::Ready(Ok(Received::Control(bytes))),
            Some(Incoming::Lost(n)) => return Poll::Ready(Ok(Received::Lost(n))),
            None => {}
        }
        match &state.end {
            Some(Ok(())) => Poll::Ready(Ok(Received::End)),
            Some(Err(error)) => Poll::Ready(Err(error.kind().into())),
            None => state.wait(cx),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let state = &mut *self.wire.lock();
        assert_eq!(state.closed_with, None, "sent after the close");
        ready!(state.poll_write(cx))?;
        let message: Bytes = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        // a message is taken as a whole or not at all
        if state.room == 0 {
            return state.wait(cx);
        }
        if state.room < usize::MAX {
            state.room = state.room.saturating_sub(message.len());
        }
        if let Some(left) = &mut state.writes_until_reset {
            *left = left.saturating_sub(message.len());
        }
        let len = message.len();
        if !state.forgets {
            state.output.extend_from_slice(&message);
            state.unflushed.push_back(message);
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.wire.lock();
        ready!(state.poll_flush(cx));
        let unflushed = std::mem::take(&mut state.unflushed);
        state.messages.extend(unflushed);
        state.flushed = state.output.len();
        self.wire.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }

    fn has_more(&self) -> bool {
        self.wire.lock().promises_more
    }

    fn has_ping(&self) -> bool {
        self.wire.lock().has_ping
    }

    fn poll_ping(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.wire.lock();
        assert_eq!(state.closed_with, None, "pinged after the close");
        state.pings += 1;
        drop(state);
        self.wire.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        let state = &mut *self.wire.lock();
        state.closed_with = Some(reason.clone());
        ready!(state.poll_shutdown(cx));
        self.wire.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.wire.leave();
    }
}
