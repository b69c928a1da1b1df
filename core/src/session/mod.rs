//! A session: a connection with a codec, to which typed messages are sent.

mod current;
pub mod driver;
pub(crate) mod error;
mod framed;
pub(crate) mod lent;
mod offer;
mod outbox;
pub(crate) mod payload;
mod raw;
mod send;
mod share;
mod shared;
mod timeout;
mod wait;
mod watched;

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

pub(crate) use self::outbox::{Next, Refusal, WaiterId};
pub use self::share::{Published, Waiting};
pub(crate) use self::watched::{Number, PendingRequests, Watched};
pub use self::{
    error::{SendError, Sent},
    framed::{Framed, FramedParts, HasSession},
    offer::{Offered, SlowConsumer},
    send::{Feeding, Sending},
    wait::Writable,
};
use self::{outbox::Outbox, payload::Payload};
use crate::{
    connection::{CloseReason, ConnectionHandle},
    sync::Signal,
};

/// The handle of one session: a [`ConnectionHandle`] that also sends messages of type `Out`.
///
/// Clonable, `Send + Sync`, usable from any task at any time, with any number of senders. Scope:
/// session. Messages leave first in, first out, each whole; the queue behind is bounded (64
/// messages by default), and full while too many bytes wait for the peer. Replies of handlers do
/// not pass through it: messages that a handler queued before it returned leave before its reply.
///
/// | to send | | it resolves | where there is no room |
/// |---|---|---|---|
/// | and know that it has left | [`send`](Self::send) | when the transport is flushed | waits |
/// | the same, in time | [`send_timeout`](Self::send_timeout) | then, or at the deadline | waits until then |
/// | one after another | [`feed`](Self::feed), and [`flush`](Self::flush) after the last | when it is queued | waits |
/// | without waiting | [`try_send`](Self::try_send) | at once | hands it back |
/// | news, to a peer that may be slow | [`offer`](Self::offer) | at once | does what its [`SlowConsumer`] says |
/// | what is encoded already | [`send_raw`](Self::send_raw), [`send_raw_vectored`](Self::send_raw_vectored) | when the transport is flushed | waits |
/// | a request, for its answer | [`request`](Self::request) | when the answer comes | waits, until its deadline |
/// | to many at once | `Group::broadcast` | at once | each member's policy |
///
/// [`writable`](Self::writable) tells when there is room, [`finish`](Self::finish) ends our direction alone, and
/// [`close_after_flush`](ConnectionHandle::close_after_flush) closes once all has left.
///
/// ```
/// use getty_core::{SendError, Session};
///
/// /// A file in pieces: as fast as the peer reads, and no faster.
/// async fn send_file(session: &Session<Vec<u8>>, file: &[u8]) -> Result<(), SendError<()>> {
///     for piece in file.chunks(16 * 1024) {
///         session.feed(piece.to_vec()).await.map_err(|error| error.map(drop))?;
///     }
///     session.flush().await // all of it has left
/// }
/// # let _ = send_file;
/// ```
///
/// Senders that wait for room wait in line: a future of [`send`](Self::send) or [`feed`](Self::feed) that is kept, but
/// neither polled nor dropped, holds up those behind it.
///
/// A session holds neither the transport nor its task: keeping one does not keep a dead connection open.
pub struct Session<Out>(Arc<Shared<Out>>);

pub(crate) struct Shared<Out> {
    handle: ConnectionHandle,
    outbox: Outbox<Out>,
    watched: Watched<Out>,
}

impl<Out> Session<Out> {
    /// Wakes the driver because messages are queued.
    pub(crate) fn raise_messages(&self) {
        let own = if current::is_current(self.id()) {
            Signal::OWN
        } else {
            0
        };
        self.signal().raise(Signal::MESSAGES | own);
    }

    pub(crate) fn new(handle: ConnectionHandle, capacity: u32) -> Self {
        Self(Arc::new(Shared {
            handle,
            outbox: Outbox::new(capacity),
            watched: Watched::new(),
        }))
    }

    /// The untyped handle.
    #[must_use]
    pub fn handle(&self) -> &ConnectionHandle {
        &self.0.handle
    }

    /// Sends `message` and waits until it has left: until the transport was flushed after its last byte. That it has
    /// left says nothing of the peer's application.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] when the session closes before that, with the message where none of it was encoded;
    /// [`SendError::Encode`] when the codec refuses the message; [`SendError::Io`] when the transport fails after the
    /// message was encoded; and, with the message, [`SendError::Finished`] after a [`finish`](Self::finish), and
    /// [`SendError::Budget`] when a [`MemoryBudget`](crate::MemoryBudget) is used up, for which it does not wait.
    ///
    /// # Cancel safety
    ///
    /// Dropped before there was room in the queue it sends nothing, and its place goes to the next sender. Dropped
    /// later, the message is sent all the same.
    pub fn send(&self, message: Out) -> Sending<'_, Out> {
        Sending::new(self, message)
    }

    /// Queues `message`, waiting for room. It is sent later, unattended: should the codec refuse it then, a stream
    /// session closes with [`CloseReason::Encode`], and a message transport skips and counts it.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] when the session closes before there is room, [`SendError::Finished`] and
    /// [`SendError::Budget`] as [`send`](Self::send), each with the message.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready it queues nothing, and its place goes to the next sender.
    pub fn feed(&self, message: Out) -> Feeding<'_, Out> {
        Feeding::new(self, message)
    }

    /// Queues `message` if there is room at once and no other sender waits. It is sent later, as with
    /// [`feed`](Self::feed).
    ///
    /// # Errors
    ///
    /// [`SendError::Full`], [`SendError::Closed`], [`SendError::Finished`] and [`SendError::Budget`], each with the
    /// message.
    pub fn try_send(&self, message: Out) -> Result<(), SendError<Out>> {
        if self.is_closing() {
            return Err(self.closed_error(Some(message)));
        }
        match self.0.outbox.try_push(Payload::Message(message)) {
            Ok(()) => {
                self.raise_messages();
                Ok(())
            }
            Err((refusal, payload)) => Err(self.refused(&refusal, Some(payload)).of_message()),
        }
    }

    /// How many messages are queued, for dashboards: another sender may change it at once.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.outbox.len()
    }

    /// Returns the number of [requests](Self::request) without an answer, for all types of answers.
    /// Where answers come in order, requests that were [given
    /// up](ConnectionHandle::given_up_requests) are counted as well. It is 0 once the session is
    /// closed.
    #[must_use]
    pub fn unanswered_requests(&self) -> usize {
        self.0.watched.unanswered()
    }

    /// A session that keeps nothing alive, for lists of sessions.
    #[must_use]
    pub fn downgrade(&self) -> WeakSession<Out> {
        WeakSession(Arc::downgrade(&self.0))
    }

    #[inline]
    pub(crate) fn outbox(&self) -> &Outbox<Out> {
        &self.0.outbox
    }

    /// What becomes of requests that were sent.
    #[inline]
    pub(crate) fn watched(&self) -> &Watched<Out> {
        &self.0.watched
    }

    fn closed_error<M>(&self, message: Option<M>) -> SendError<M> {
        SendError::Closed {
            message,
            reason: self.reason().unwrap_or(CloseReason::Dropped),
        }
    }

    /// Why `payload` was not queued.
    fn refused(&self, refusal: &Refusal, payload: Option<Payload<Out>>) -> SendError<Payload<Out>> {
        match (refusal, payload) {
            (Refusal::Full, Some(payload)) => SendError::Full(payload),
            (Refusal::Budget, Some(payload)) => SendError::Budget(payload),
            (Refusal::Finished, Some(payload)) => SendError::Finished(payload),
            (_, payload) => self.closed_error(payload),
        }
    }
}

impl<Out> Clone for Session<Out> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Out> Deref for Session<Out> {
    type Target = ConnectionHandle;

    #[inline]
    fn deref(&self) -> &ConnectionHandle {
        &self.0.handle
    }
}

impl<Out> fmt::Display for Session<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.handle, f)
    }
}

impl<Out> fmt::Debug for Session<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.0.handle).finish()
    }
}

/// A [`Session`] that keeps nothing alive: made by [`Session::downgrade`].
pub struct WeakSession<Out>(Weak<Shared<Out>>);

impl<Out> WeakSession<Out> {
    /// The session, as long as it lives or somebody else keeps it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Session<Out>> {
        self.0.upgrade().map(Session)
    }
}

impl<Out> Clone for WeakSession<Out> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl<Out> fmt::Debug for WeakSession<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WeakSession").field(&self.upgrade()).finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_adds_less_than_two_hundred_bytes_to_its_handle() {
        let counters = 2 * size_of::<usize>();
        let handle = size_of::<ConnectionHandle>();
        // 136 on 64-bit Linux, whatever the messages; the queues of an idle session hold nothing
        assert!(counters + size_of::<Shared<[u8; 1024]>>() - handle <= 200);
    }
}
