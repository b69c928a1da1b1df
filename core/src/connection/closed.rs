//! The record of a connection that has ended.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use super::{CloseReason, Stats};

/// An error that several holders can keep such as [`Closed::source`].
pub type SharedError = Arc<dyn Error + Send + Sync>;

/// Record of a connection that has ended.
///
/// Close callbacks, [`closed`](super::ConnectionHandle::closed) and the pipeline's response
/// carry it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Closed {
    /// Reason of the close.
    pub reason: CloseReason,
    /// Bytes and messages that were moved until the close.
    pub stats: Stats,
    /// Time between accept or connect and the close.
    pub lifetime: Duration,
    /// Error behind the reason if there is one.
    pub source: Option<SharedError>,
    /// Messages that were received and not handled: their handlers were not called, or did not
    /// finish before the drain deadline. Together with the handled messages they add up to
    /// [`Stats::messages_in`].
    pub unhandled_messages: u64,
    /// Bytes that were received and not decoded. After a local close these are requests that came
    /// too late, including those that were discarded until the peer's end. After a reset they are
    /// at most a part of a message. Bytes that the session had not read from the kernel are not
    /// counted.
    pub unhandled_bytes: u64,
    /// Messages that were accepted for sending, as pushes or as replies of handlers, and never
    /// encoded.
    pub unsent_messages: u64,
    /// Bytes that were encoded and not taken by the transport.
    pub unsent_bytes: u64,
    /// `true` if the peer ended its direction of a byte stream after ours, without a reset. A peer
    /// that closes only after it has read everything then has received everything. `false` implies
    /// no loss: the peer may have ended its direction first, or may not have closed before the
    /// drain deadline.
    pub orderly: bool,
}

/// Counts of messages and bytes that a session had accepted and did not finish.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LossCounts {
    pub(crate) unhandled_messages: u64,
    pub(crate) unhandled_bytes: u64,
    pub(crate) unsent_messages: u64,
    pub(crate) unsent_bytes: u64,
    pub(crate) orderly: bool,
}

impl Closed {
    pub(crate) const fn new(
        reason: CloseReason,
        source: Option<SharedError>,
        stats: Stats,
        lifetime: Duration,
        losses: LossCounts,
    ) -> Self {
        let LossCounts {
            unhandled_messages,
            unhandled_bytes,
            unsent_messages,
            unsent_bytes,
            orderly,
        } = losses;
        Self {
            reason,
            stats,
            lifetime,
            source,
            unhandled_messages,
            unhandled_bytes,
            unsent_messages,
            unsent_bytes,
            orderly,
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after {:.3?} ({})",
            self.reason, self.lifetime, self.stats
        )?;
        for (count, what) in [
            (self.unhandled_messages, "messages unhandled"),
            (self.unhandled_bytes, "bytes undecoded"),
            (self.unsent_messages, "messages unsent"),
            (self.unsent_bytes, "bytes unsent"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// Source of a close whose drain deadline cut off handlers, unsent bytes or the close
/// handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainDeadlineExceeded;

impl fmt::Display for DrainDeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "handlers, unsent bytes or the close handshake were cut off by the drain deadline",
        )
    }
}

impl Error for DrainDeadlineExceeded {}
