//! Waiting for a session: for room, for all that was accepted to leave, for the end of our direction.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    Session,
    error::SendError,
    outbox::{Refusal, WaiterId},
    payload::Payload,
    send::Delivery,
};

impl<Out> Session<Out> {
    /// Waits until there is room: a place in the queue, the write buffer not above its high watermark or, once it was,
    /// down at the low one, and no sender waiting in line. Nothing is reserved by it: another sender may take the room
    /// before a [`try_send`](Self::try_send) does.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] and [`SendError::Finished`], when there will be no room any more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped, and nobody waits for it.
    pub fn writable(&self) -> Writable<'_, Out> {
        Writable {
            session: self,
            watcher: None,
        }
    }

    /// Whether a [`try_send`](Self::try_send) would have room now.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        !self.is_closing() && self.outbox().has_room()
    }

    /// Waits until all that was accepted before the call has left: what was queued, and replies that were encoded. It takes
    /// a place in the queue, and so its turn; like a [`send`](Self::send) it holds back what is newer until the transport
    /// is flushed.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] and [`SendError::Io`] when the session ends before that, be it after a flush that was
    /// complete but for this: [`closed`](crate::ConnectionHandle::closed) has the record then. Also while a session
    /// closes, which flushes of its own accord.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn flush(&self) -> Result<(), SendError<()>> {
        match Delivery::new(self, Payload::Flush).await {
            Ok(_) => Ok(()),
            // all that was accepted lies before that end
            Err(SendError::Finished(_)) => self.until_finished().await,
            Err(error) => Err(error.map(|_| ()).without_message()),
        }
    }

    /// Ends our direction, after all that was accepted has left, and goes on receiving: the peer sees the end of the
    /// stream (a TCP FIN, TLS with its `close_notify`), handlers are called as before. Resolves when the end is handed to
    /// the network. Idempotent.
    ///
    /// From the call on, what is sent is refused with [`SendError::Finished`]; once it is the end's turn, replies of
    /// handlers go nowhere, and are counted in [`Stats::dropped`](crate::Stats::dropped). The session closes as any other:
    /// when the peer ends its direction too, or when it is told to.
    ///
    /// # Errors
    ///
    /// [`SendError::Unsupported`] on transports that cannot end one direction alone, such as WebSocket and UDP: the session
    /// is as it was. [`SendError::Closed`] when the session closes before the end was handed over.
    ///
    /// # Cancel safety
    ///
    /// Dropped before there was room in the queue it does nothing; dropped later, our direction ends all the same.
    pub async fn finish(&self) -> Result<(), SendError<()>> {
        match Delivery::new(self, Payload::Finish).await {
            Ok(_) => Ok(()),
            Err(SendError::Finished(_)) => self.until_finished().await,
            Err(error) => Err(error.map(|_| ()).without_message()),
        }
    }

    /// Somebody else's [`finish`](Self::finish) comes to its end.
    async fn until_finished(&self) -> Result<(), SendError<()>> {
        if self.handle().finished().await {
            Ok(())
        } else {
            Err(self.closed_error(None))
        }
    }
}

/// The future of [`Session::writable`].
#[must_use = "futures do nothing unless polled"]
pub struct Writable<'a, Out> {
    session: &'a Session<Out>,
    watcher: Option<WaiterId>,
}

impl<Out> Future for Writable<'_, Out> {
    type Output = Result<(), SendError<()>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.session.is_closing() {
            return Poll::Ready(Err(this.session.closed_error(None)));
        }
        let room = this.session.outbox().poll_room(cx, &mut this.watcher);
        room.map(|room| match room {
            Ok(()) => Ok(()),
            Err(Refusal::Finished) => Err(SendError::Finished(())),
            Err(_) => Err(this.session.closed_error(None)),
        })
    }
}

impl<Out> Drop for Writable<'_, Out> {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher {
            self.session.outbox().look_away(watcher);
        }
    }
}

impl<Out> fmt::Debug for Writable<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}
