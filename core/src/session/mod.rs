//! Sessions: typed handles that send messages.

mod broadcast;
mod current;
pub mod driver;
pub(crate) mod error;
mod offer;
mod outbox;
pub(crate) mod payload;
mod raw;
mod request_outcomes;
mod send;
mod session_io;
pub(crate) mod session_ref;
mod timeout;
mod wait;

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

pub use self::broadcast::{BroadcastExt, BroadcastSend, Published};
pub use self::{
    error::{SendError, Sent},
    offer::{Offered, SlowConsumer},
    send::{Feeding, Sending},
    session_io::{HasSession, SessionIo, SessionIoParts},
    wait::Writable,
};
use self::{outbox::Outbox, payload::Payload};
pub(crate) use self::{
    outbox::{PendingWakes, Refusal},
    request_outcomes::{PendingRequests, RequestOutcomes},
};
use crate::{
    connection::{CloseReason, ConnectionHandle},
    sync::Signal,
};

/// Handle of one session: a [`ConnectionHandle`] that also sends messages of type `Out`.
///
/// It can be cloned and used from any thread, by any number of senders. Scope: session.
/// Messages leave in the order in which they were queued, each as a whole. The queue is
/// bounded (64 messages by default), and counts as full while too many bytes wait for the
/// peer. Replies of handlers do not pass through it (design.md: Why do replies not go through
/// the queue?). Messages that a handler queued before it returned leave before its reply.
///
/// | to send | method | resolves | without room |
/// |---|---|---|---|
/// | and wait until it is flushed | [`send`] | when the transport is flushed | waits |
/// | the same, with a timeout | [`send_timeout`] | when flushed, or at the timeout | waits |
/// | many messages | [`feed`], and [`flush`] after the last | when it is queued | waits |
/// | without waiting | [`try_send`](Self::try_send) | at once | returns it |
/// | updates, to a slow peer | [`offer`] | at once | applies its [`SlowConsumer`] policy |
/// | the same, outside async code | [`try_offer`] | at once | applies its policy |
/// | encoded bytes | [`send_raw`], [`send_raw_vectored`] | when it is flushed | waits |
/// | a request, for its response | [`request`] | when the response arrives | waits |
/// | to many sessions | `Group::broadcast` | at once | applies each member's policy |
///
/// [`writable`](Self::writable) waits for room and [`finish`](Self::finish) ends this side's
/// direction alone. [`Close::after_flush`](crate::Close::after_flush) closes once everything
/// is flushed.
///
/// ```
/// use getty_core::{SendError, Session};
///
/// /// Sends a file in pieces, as fast as the peer reads.
/// async fn send_file(session: &Session<Vec<u8>>, file: &[u8]) -> Result<(), SendError<()>> {
///     for piece in file.chunks(16 * 1024) {
///         session.feed(piece.to_vec()).await.map_err(|error| error.map(drop))?;
///     }
///     session.flush().await // all pieces have left
/// }
/// # let _ = send_file;
/// ```
///
/// Senders that wait for room are served in order. A future of [`send`](Self::send) or
/// [`feed`](Self::feed) that is kept, but neither polled nor dropped, blocks the senders
/// behind it.
///
/// A session holds neither the transport nor its task: keeping it does not keep a dead
/// connection open.
///
/// [`send`]: Self::send
/// [`send_timeout`]: Self::send_timeout
/// [`feed`]: Self::feed
/// [`flush`]: Self::flush
/// [`offer`]: Self::offer
/// [`try_offer`]: Self::try_offer
/// [`send_raw`]: Self::send_raw
/// [`send_raw_vectored`]: Self::send_raw_vectored
/// [`request`]: Self::request
pub struct Session<Out>(Arc<Shared<Out>>);

pub(crate) struct Shared<Out> {
    handle: ConnectionHandle,
    outbox: Outbox<Out>,
    requests: RequestOutcomes<Out>,
}

impl<Out> Session<Out> {
    /// Wakes the driver after messages were queued.
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
            requests: RequestOutcomes::new(),
        }))
    }

    /// Returns the untyped handle.
    #[must_use]
    pub fn handle(&self) -> &ConnectionHandle {
        &self.0.handle
    }

    /// Sends `message` and waits until the transport is flushed after its last byte.
    ///
    /// A flush does not imply that the peer's application has read the message (design.md: Why
    /// does `send` wait for the flush?).
    ///
    /// # Errors
    ///
    /// - [`SendError::Closed`] if the session closes before that. It contains the message if no
    ///   byte was encoded.
    /// - [`SendError::Encode`] if the codec refuses the message.
    /// - [`SendError::Io`] if the transport fails after the message was encoded.
    /// - [`SendError::Finished`] with the message after a [`finish`](Self::finish).
    /// - [`SendError::Budget`] with the message if a [`MemoryBudget`](crate::MemoryBudget) is used
    ///   up. This method does not wait for the budget.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before there was room in the queue, nothing is sent and the next
    /// sender gets the room. If it is dropped later, the message is still sent.
    pub fn send(&self, message: Out) -> Sending<'_, Out> {
        Sending::new(self, message)
    }

    /// Queues `message`, and waits for room if there is none.
    ///
    /// The message is sent later, without a waiting sender. If the codec then refuses it, a stream
    /// session closes with [`CloseReason::Encode`], and a message transport skips and counts it.
    ///
    /// # Errors
    ///
    /// - [`SendError::Closed`] if the session closes before there is room.
    /// - [`SendError::Finished`] and [`SendError::Budget`] as for [`send`](Self::send).
    ///
    /// Each contains the message.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, nothing is queued and the next sender gets the
    /// room.
    #[doc(alias("enqueue", "write"))]
    pub fn feed(&self, message: Out) -> Feeding<'_, Out> {
        Feeding::new(self, message)
    }

    /// Queues `message` if there is room at once and no other sender waits. The message is sent
    /// later, as with [`feed`](Self::feed).
    ///
    /// # Errors
    ///
    /// [`SendError::Full`], [`SendError::Closed`], [`SendError::Finished`] and
    /// [`SendError::Budget`], each with the message.
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

    /// Returns the number of queued messages. For dashboards: another sender may change it at any
    /// time.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.outbox.len()
    }

    /// Returns the number of [requests](Self::request) without a response for all types of
    /// responses. Where responses come in order, [abandoned
    /// requests](ConnectionHandle::abandoned_requests) are counted as well. The number is 0 once
    /// the session is closed.
    #[must_use]
    pub fn unanswered_requests(&self) -> usize {
        self.0.requests.pending()
    }

    /// Returns a session that keeps nothing alive for lists of sessions.
    #[must_use]
    pub fn downgrade(&self) -> WeakSession<Out> {
        WeakSession(Arc::downgrade(&self.0))
    }

    #[inline]
    pub(crate) fn outbox(&self) -> &Outbox<Out> {
        &self.0.outbox
    }

    /// Returns the outcomes of requests that were sent.
    #[inline]
    pub(crate) fn requests(&self) -> &RequestOutcomes<Out> {
        &self.0.requests
    }

    fn closed_error<M>(&self, message: Option<M>) -> SendError<M> {
        SendError::Closed {
            message,
            reason: self.reason().unwrap_or(CloseReason::Dropped),
        }
    }

    /// Creates the error for a payload that was not queued.
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

/// A [`Session`] that keeps nothing alive. Created by [`Session::downgrade`].
pub struct WeakSession<Out>(Weak<Shared<Out>>);

impl<Out> WeakSession<Out> {
    /// Returns the session, if it is still alive.
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
    fn idle_session_adds_less_than_two_hundred_bytes_to_its_handle() {
        let counters = 2 * size_of::<usize>();
        let handle = size_of::<ConnectionHandle>();
        // 136 on 64-bit Linux for any message type: the queues of an idle session are empty
        assert!(counters + size_of::<Shared<[u8; 1024]>>() - handle <= 200);
    }
}
