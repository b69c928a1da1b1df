//! Counters of bytes and messages.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Bytes and messages that a connection has moved, as seen from this side.
///
/// Bytes are the transport's payload: those that the codec reads and writes, without TCP, TLS
/// or WebSocket overhead. Received messages are counted when they are decoded, sent messages
/// when they are encoded. Bytes are counted when the transport returned or took them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Messages that were skipped because they could not be decoded or encoded, on transports that
    /// skip them. Datagrams that were truncated, or for which a queue had no room, are included.
    pub skipped: u64,
    /// Messages that were not sent because the peer reads too slowly or this side had ended its
    /// direction. These are messages that were offered under a
    /// [`SlowConsumer`](crate::SlowConsumer) policy, and replies after
    /// [`finish`](crate::Session::finish).
    pub dropped: u64,
    /// Responses that were dropped because no request waited for them: late, repeated, or with an
    /// unknown id. They are included in the received messages.
    pub late: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bytes_in,
            bytes_out,
            messages_in,
            messages_out,
            skipped,
            dropped,
            late,
        } = self;
        write!(
            f,
            "in {messages_in} messages, {bytes_in} bytes; out {messages_out} messages, {bytes_out} bytes"
        )?;
        if *skipped > 0 {
            write!(f, "; {skipped} skipped")?;
        }
        if *late > 0 {
            write!(f, "; {late} late responses")?;
        }
        if *dropped > 0 {
            write!(f, "; {dropped} dropped")?;
        }
        Ok(())
    }
}

/// A counter with one writer, the connection's driver: adding is a plain load and store.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) messages_in: Counter,
    pub(crate) messages_out: Counter,
}

impl Counters {
    /// Returns the bytes and the messages that were sent.
    pub(crate) fn sent(&self) -> (u64, u64) {
        (self.bytes_out.get(), self.messages_out.get())
    }

    pub(crate) fn snapshot(&self, rare_counts: RareCounts) -> Stats {
        Stats {
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            messages_in: self.messages_in.get(),
            messages_out: self.messages_out.get(),
            skipped: rare_counts.skipped,
            dropped: rare_counts.dropped,
            late: rare_counts.late,
        }
    }
}

/// Counts that are zero for most connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RareCounts {
    pub(crate) skipped: u64,
    pub(crate) dropped: u64,
    pub(crate) late: u64,
}
