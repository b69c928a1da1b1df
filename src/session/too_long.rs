//! A message that its transport cannot carry.

use std::{error::Error, fmt};

use tower::BoxError;

/// The codec made more bytes of a message than one message of the transport can carry; nothing of it was sent.
///
/// The source of [`SendError::Encode`](crate::SendError::Encode), and of
/// [`CloseReason::Encode`](crate::CloseReason::Encode) where nobody waited for the message and bad ones are not skipped.
/// Split the message, or send it over a byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageTooLong {
    /// How many bytes it took.
    pub bytes: usize,
    /// How many the transport can carry at most.
    pub limit: usize,
}

impl MessageTooLong {
    #[cold]
    pub(crate) fn boxed(bytes: usize, limit: usize) -> BoxError {
        Box::new(Self { bytes, limit })
    }
}

impl fmt::Display for MessageTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, limit } = self;
        write!(
            f,
            "a message of {bytes} bytes, and the transport carries {limit} at most"
        )
    }
}

impl Error for MessageTooLong {}
