//! What becomes of a message for which there is no room: the sender's choice where it does not wait.

use super::{Session, error::SendError, outbox::Refusal, payload::Payload, send::Entry};
use crate::connection::CloseReason;

/// What a sender wants done when a session's queue is full, because its peer reads more slowly than is sent.
///
/// The queue is bounded in messages by [`SessionLayer::with_queue`], 64 by default. Broadcasts are
/// bounded in bytes by [`SessionLayer::with_queue_bytes`], 1 MiB by default. Scope: one message,
/// offered with [`Session::offer`], or one member of a `Group`.
///
/// [`SessionLayer::with_queue`]: https://docs.rs/getty/latest/getty/struct.SessionLayer.html#method.with_queue
/// [`SessionLayer::with_queue_bytes`]: https://docs.rs/getty/latest/getty/struct.SessionLayer.html#method.with_queue_bytes
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowConsumer {
    /// Wait for room, as [`feed`](Session::feed) does. The default.
    #[default]
    Wait,
    /// Drop the message that is offered.
    DropNewest,
    /// Drop the oldest message in the queue that was offered under this same policy, in favour of this one: what the peer
    /// gets late is news. Messages sent in any other way are never dropped for it; where there are none but those, the
    /// message offered is dropped.
    DropOldest,
    /// Close the session, as [`CloseReason::SlowConsumer`].
    Close,
}

/// What became of a message that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Offered {
    /// It is queued. Under [`SlowConsumer::DropOldest`] a later one may still take its place.
    Queued,
    /// It is queued, in place of an older one, which was dropped.
    Replaced,
    /// It was dropped.
    Dropped,
}

impl Offered {
    /// How many messages were dropped.
    #[must_use]
    pub const fn dropped(self) -> u64 {
        match self {
            Self::Queued => 0,
            Self::Replaced | Self::Dropped => 1,
        }
    }
}

impl<Out> Session<Out> {
    /// Queues `message` as [`feed`](Self::feed) does, unattended, and where the queue is full does what `policy` says.
    /// What is dropped is counted in [`Stats::dropped`](crate::Stats::dropped).
    ///
    /// Under every policy but [`SlowConsumer::Wait`] it is ready at once. It fills the queue also while the write buffer
    /// is above its high watermark, so that a burst is dropped only when the peer lags behind by a whole queue; and it
    /// does not overtake senders that wait.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], also where this offer has closed the session, [`SendError::Finished`] and
    /// [`SendError::Budget`], each with the message.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready it queues nothing.
    pub async fn offer(
        &self,
        message: Out,
        policy: SlowConsumer,
    ) -> Result<Offered, SendError<Out>> {
        self.offer_payload(Payload::Message(message), policy)
            .await
            .map_err(SendError::of_message)
    }

    /// As [`offer`](Self::offer), for payloads of any kind.
    async fn offer_payload(
        &self,
        payload: Payload<Out>,
        policy: SlowConsumer,
    ) -> Result<Offered, SendError<Payload<Out>>> {
        match self.try_offer_payload(payload, policy) {
            Err(SendError::Full(payload)) => {
                Entry::new(self, payload).await.map(|()| Offered::Queued)
            }
            ready => ready,
        }
    }

    /// As [`offer`](Self::offer), for payloads of any kind, and never waiting: [`SendError::Full`] where the policy is to
    /// wait.
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
