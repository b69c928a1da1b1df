//! Waiting for room, for the flush, and for the end of this side's direction.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{Session, error::SendError, outbox::Refusal, payload::Payload, send::SendFuture};
use crate::sync::WaiterId;

impl<Out> Session<Out> {
    /// Waits until there is room to send.
    ///
    /// There is room if the queue has a free place, no sender waits and the write buffer is not
    /// above its high watermark or has fallen to the low one since. Nothing is reserved: another
    /// sender may take the room before a [`try_send`](Self::try_send) does (design.md: Why does
    /// `writable` not wait in the senders' queue?).
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] and [`SendError::Finished`] if there will be no room any more.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. It never delays other senders.
    pub fn writable(&self) -> Writable<'_, Out> {
        Writable {
            session: self,
            watcher: None,
        }
    }

    /// Returns `true` if a [`try_send`](Self::try_send) would have room now.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        !self.is_closing() && self.outbox().has_room()
    }

    /// Waits until everything that was accepted before the call is flushed: queued messages, and
    /// encoded replies.
    ///
    /// It takes a place in the queue. Like a [`send`](Self::send), it delays newer messages until
    /// the transport is flushed.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] and [`SendError::Io`] if the session ends before that. The end may
    /// come after a complete flush that only this future has not seen:
    /// [`closed`](crate::ConnectionHandle::closed) then returns the record. A closing
    /// session returns the error as well, because it flushes without a request.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe.
    pub async fn flush(&self) -> Result<(), SendError<()>> {
        match SendFuture::new(self, Payload::Flush).await {
            Ok(_) => Ok(()),
            // everything that was accepted precedes that end
            Err(SendError::Finished(_)) => self.until_finished().await,
            Err(error) => Err(error.map(|_| ()).without_message()),
        }
    }

    /// Ends this side's direction after everything accepted is flushed, and keeps receiving.
    /// Resolves when the end is handed to the network. This method is idempotent.
    ///
    /// The peer sees the end of the stream: a TCP FIN, or `close_notify` with TLS. Handlers are
    /// called as before (design.md: Why does `finish` let handlers continue?).
    ///
    /// After the call, sends are refused with [`SendError::Finished`]. Once the end was sent,
    /// replies of handlers are dropped and counted in [`Stats::dropped`](crate::Stats::dropped).
    /// The session closes like any other: when the peer ends its direction as well, or when a
    /// close is requested (design.md: Why does half-close not end a session?).
    ///
    /// # Errors
    ///
    /// - [`SendError::Unsupported`] on transports that cannot end one direction alone such as
    ///   WebSocket and UDP. The session is not affected.
    /// - [`SendError::Closed`] if the session closes before the end was handed over.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before there was room in the queue, nothing happens. If it is
    /// dropped later, the direction still ends.
    #[doc(alias("half_close", "shutdown_write"))]
    pub async fn finish(&self) -> Result<(), SendError<()>> {
        match SendFuture::new(self, Payload::Finish).await {
            Ok(_) => Ok(()),
            Err(SendError::Finished(_)) => self.until_finished().await,
            Err(error) => Err(error.map(|_| ()).without_message()),
        }
    }

    /// Waits for the end that another call of [`finish`](Self::finish) requested.
    async fn until_finished(&self) -> Result<(), SendError<()>> {
        if self.handle().finished().await {
            Ok(())
        } else {
            Err(self.closed_error(None))
        }
    }
}

/// Future of [`Session::writable`].
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
            self.session.outbox().cancel_room(watcher);
        }
    }
}

impl<Out> fmt::Debug for Writable<'_, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}
