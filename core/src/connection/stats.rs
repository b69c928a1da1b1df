//! What has moved over a connection.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Bytes and messages that a connection has moved, as seen from our side.
///
/// Bytes are the transport's payload: what its codec reads and writes, without TCP, TLS or WebSocket overhead.
/// Messages received are counted when decoded, messages sent when encoded, bytes when the transport gave or took them.
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
    /// Messages that were skipped because they could not be decoded or encoded, on transports that skip them, or that
    /// such a transport lost for us: datagrams that were truncated, or for which a queue had no room.
    pub skipped: u64,
    /// Messages that were not sent because the peer reads too slowly or our direction was ended: those that were offered
    /// under a [`SlowConsumer`](crate::SlowConsumer) policy, and replies after [`finish`](crate::Session::finish).
    pub dropped: u64,
    /// Answers that nobody waited for (any more) and that were dropped: late, answered twice, or to no request of ours.
    /// They are among the messages received.
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
            write!(f, "; {late} answers late")?;
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

    pub(crate) fn snapshot(&self, tallies: Tallies) -> Stats {
        Stats {
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            messages_in: self.messages_in.get(),
            messages_out: self.messages_out.get(),
            skipped: tallies.skipped,
            dropped: tallies.dropped,
            late: tallies.late,
        }
    }
}

/// What few connections ever count.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) skipped: u64,
    pub(crate) dropped: u64,
    pub(crate) late: u64,
}
