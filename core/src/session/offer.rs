//! Sending without waiting: the policy for a full queue.

use super::{Session, error::SendError, outbox::Refusal, payload::Payload, send::EnqueueFuture};
use crate::connection::{CloseReason, HandleExt};

/// Policy for a full queue, which means that the peer reads more slowly than this side sends.
///
/// The queue is bounded in messages by [`SessionLayer::with_queue`], 64 by default. Broadcasts
/// are bounded in bytes by [`SessionLayer::with_queue_bytes`], 1 MiB by default. Scope: one
/// message, offered with [`Session::offer`], or one member of a `Group`.
///
/// [`SessionLayer::with_queue`]:
/// https://docs.rs/getty/latest/getty/struct.SessionLayer.html#method.with_queue
/// [`SessionLayer::with_queue_bytes`]:
/// https://docs.rs/getty/latest/getty/struct.SessionLayer.html#method.with_queue_bytes
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowConsumer {
    /// Wait for room, as [`feed`](Session::feed) does. The default.
    #[default]
    Wait,
    /// Drop the offered message.
    DropNewest,
    /// Drop the oldest queued message that was offered under this same policy, in favour of this
    /// one. Messages sent in any other way are never dropped for it. If the queue contains only
    /// those, the offered message is dropped (design.md: Why does `DropOldest` not always drop the
    /// oldest message?).
    DropOldest,
    /// Close the session with [`CloseReason::SlowConsumer`].
    Close,
}

/// Outcome of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Offered {
    /// The message is queued. Under [`SlowConsumer::DropOldest`] a later one may still replace it.
    Queued,
    /// The message is queued in place of an older one, which was dropped.
    Replaced,
    /// The message was dropped.
    Dropped,
}

impl Offered {
    /// Returns the number of dropped messages.
    #[must_use]
    pub const fn dropped(self) -> u64 {
        match self {
            Self::Queued => 0,
            Self::Replaced | Self::Dropped => 1,
        }
    }
}

impl<Out> Session<Out> {
    /// Queues `message` like [`feed`](Self::feed), and applies `policy` if the queue is full.
    /// Dropped messages are counted in [`Stats::dropped`](crate::Stats::dropped).
    ///
    /// Under every policy except [`SlowConsumer::Wait`], the future is ready at once. It fills the
    /// queue even while the write buffer is above its high watermark, so that a burst is dropped
    /// only when the peer lags behind by a whole queue. It does not overtake waiting senders.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], also if this offer has closed the session, [`SendError::Finished`]
    /// and [`SendError::Budget`], each with the message.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, nothing is queued.
    pub async fn offer(
        &self,
        message: Out,
        policy: SlowConsumer,
    ) -> Result<Offered, SendError<Out>> {
        self.offer_payload(Payload::Message(message), policy)
            .await
            .map_err(SendError::of_message)
    }

    /// Queues `message` like [`offer`](Self::offer), but never waits: for code that is not async,
    /// such as close callbacks and functions of another library.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if the queue is full and the policy is [`SlowConsumer::Wait`], and the
    /// errors of [`offer`](Self::offer), each with the message.
    ///
    /// ```
    /// use getty_core::{Connection, Offered, SlowConsumer, driver};
    ///
    /// // a session without a socket, for tests
    /// let connection = Connection::new(());
    /// let (session, _driver) = driver::pair(connection.handle().clone());
    /// let offered = session.try_offer("12:00", SlowConsumer::DropOldest);
    /// assert_eq!(offered.unwrap(), Offered::Queued);
    /// ```
    pub fn try_offer(&self, message: Out, policy: SlowConsumer) -> Result<Offered, SendError<Out>> {
        self.try_offer_payload(Payload::Message(message), policy)
            .map_err(SendError::of_message)
    }

    /// Like [`offer`](Self::offer) for payloads of any kind.
    async fn offer_payload(
        &self,
        payload: Payload<Out>,
        policy: SlowConsumer,
    ) -> Result<Offered, SendError<Payload<Out>>> {
        match self.try_offer_payload(payload, policy) {
            Err(SendError::Full(payload)) => EnqueueFuture::new(self, payload)
                .await
                .map(|()| Offered::Queued),
            ready => ready,
        }
    }

    /// Like [`offer`](Self::offer) for payloads of any kind, but never waits. Returns
    /// [`SendError::Full`] if the policy is to wait.
    fn try_offer_payload(
        &self,
        payload: Payload<Out>,
        policy: SlowConsumer,
    ) -> Result<Offered, SendError<Payload<Out>>> {
        if self.is_closing() {
            return Err(self.refused(&Refusal::Closed, Some(payload)));
        }
        let pushed = match policy {
            SlowConsumer::Wait => self.outbox().try_push(payload).map(|()| None),
            _ => {
                let droppable = policy == SlowConsumer::DropOldest;
                self.outbox().offer(payload, droppable)
            }
        };
        let offered = match pushed {
            Ok(None) => Offered::Queued,
            Ok(Some(_dropped)) => Offered::Replaced,
            Err((Refusal::Full, payload)) => match policy {
                SlowConsumer::Wait => return Err(SendError::Full(payload)),
                SlowConsumer::DropNewest | SlowConsumer::DropOldest => Offered::Dropped,
                SlowConsumer::Close => {
                    self.close_with(CloseReason::SlowConsumer);
                    return Err(self.refused(&Refusal::Closed, Some(payload)));
                }
            },
            Err((refusal, payload)) => return Err(self.refused(&refusal, Some(payload))),
        };
        if offered.dropped() > 0 {
            self.handle().count_dropped(offered.dropped());
        }
        if offered != Offered::Dropped {
            self.raise_messages();
        }
        Ok(offered)
    }
}
