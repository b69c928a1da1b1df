//! Payloads: the messages and encoded bytes that a session sends.

mod burst;
mod failure;
mod shared;

use std::{fmt, sync::Arc};

use bytes::Bytes;

pub(super) use self::burst::{Burst, ENTRY_OVERHEAD};
pub(crate) use self::failure::SendFailure;
pub use self::shared::{CodecId, SharedForm, SharedMessage};
use super::error::SendError;

/// One item to send. It is sent as a whole and is one message on transports that preserve
/// message boundaries.
///
/// Raw bytes are stored by value and the rest behind pointers. So an entry of the queue is no
/// larger than one of `Bytes` must be.
#[non_exhaustive]
pub enum Payload<Out> {
    /// A message for the session's codec.
    Message(Out),
    /// Encoded bytes.
    Raw(Bytes),
    /// Encoded bytes in several pieces.
    RawVectored(Vec<Bytes>),
    /// A message that many sessions send. It is encoded once for all sessions with the same codec
    /// id.
    Shared(Arc<SharedMessage<Out>>),
    /// Several shared messages in one entry of the queue. A driver returns them one by one.
    #[doc(hidden)]
    Burst(Box<Burst<Out>>),
    /// No message: a sender waits until all earlier payloads are flushed.
    Flush,
    /// The end of this side's direction, after all earlier payloads are flushed.
    Finish,
}

impl<Out> Payload<Out> {
    /// Returns the message unless the payload is shared or has none.
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
    /// Returns `true` if the payload sends bytes.
    pub(crate) const fn is_message(&self) -> bool {
        !matches!(self, Self::Flush | Self::Finish)
    }
}

/// Returns the size of a message beyond the size of its type, in bytes.
pub type WeightFn<Out> = fn(&Out) -> usize;

impl<Out> SendError<Payload<Out>> {
    /// Converts the payload back into the message that the caller passed.
    pub(crate) fn of_message(self) -> SendError<Out> {
        self.map(|payload| match payload {
            Payload::Message(message) => message,
            other => unreachable!("the payload was a message, not {other:?}"),
        })
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
