//! What waits in a session's queue: messages that are yet to be encoded, and bytes that are.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{
    outbox::{Burst, Queued},
    shared::SharedMessage,
};

/// One thing to send: it leaves whole, in its turn, and is one message on transports that keep messages apart.
///
/// Raw bytes stand here by value and the rest behind pointers, so that an entry of the queue is no larger than one of
/// `Bytes` has to be.
#[non_exhaustive]
pub enum Payload<Out> {
    /// A message for the session's codec.
    Message(Out),
    /// Bytes that are encoded already.
    Raw(Bytes),
    /// The same, in several pieces.
    RawVectored(Vec<Bytes>),
    /// A message that many sessions send, and that is encoded once for those whose codecs are configured alike.
    Shared(Arc<SharedMessage<Out>>),
    /// Several shared messages in one entry of the queue. A driver hands them out one by one.
    #[doc(hidden)]
    Burst(Box<Burst<Out>>),
    /// Nothing to send: somebody waits until all before it has left.
    Flush,
    /// Nothing to send any more: our direction ends when all before has left.
    Finish,
}

impl<Out> Payload<Out> {
    /// The message, where it is one of this session alone.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        match self {
            Self::Message(message) => Some(message),
            Self::Raw(_)
            | Self::RawVectored(_)
            | Self::Shared(_)
            | Self::Burst(_)
            | Self::Flush
            | Self::Finish => None,
        }
    }
}

impl<Out> Payload<Out> {
    /// Returns `true` if there is something to send.
    pub(crate) const fn is_message(&self) -> bool {
        !matches!(self, Self::Flush | Self::Finish)
    }
}

/// How many bytes a message holds beyond its own size.
pub type Weigh<Out> = fn(&Out) -> usize;

impl<Out> Payload<Out> {
    /// How many bytes it holds, with its place in the queue.
    pub(crate) fn weight(&self, weigh: Option<Weigh<Out>>) -> usize {
        let held = match self {
            Self::Message(message) => weigh.map_or(0, |weigh| weigh(message)),
            Self::Raw(bytes) => bytes.len(),
            Self::RawVectored(pieces) => pieces.iter().map(Bytes::len).sum(),
            Self::Shared(_) => 0, // it is not this session's alone
            Self::Burst(burst) => return burst.len().saturating_mul(size_of::<Queued<Out>>()),
            Self::Flush | Self::Finish => return 0,
        };
        held.saturating_add(size_of::<Queued<Out>>())
    }
}

impl<Out> fmt::Debug for Payload<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message(_) => "Message",
            Self::Raw(_) => "Raw",
            Self::RawVectored(_) => "RawVectored",
            Self::Shared(_) => "Shared",
            Self::Burst(_) => "Burst",
            Self::Flush => "Flush",
            Self::Finish => "Finish",
        })
    }
}
