//! Settings of `SessionLayer`.

use std::time::Duration;

use getty_core::{
    MemoryBudget,
    driver::{DEFAULT_QUEUE_BYTES, DEFAULT_QUEUE_CAPACITY},
};

use crate::transport::Framing;

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) in_flight: usize,
    pub(crate) ordered: bool,
    pub(crate) queue: u32,
    pub(crate) queue_bytes: usize,
    pub(crate) high: usize,
    pub(crate) low: usize,
    pub(crate) reply_limit: usize,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) drain_deadline: Duration,
    pub(crate) skip_bad: Option<bool>,
    pub(crate) budget: Option<MemoryBudget>,
    pub(crate) flush_delay: Option<Duration>,
}

impl Config {
    pub(crate) const DEFAULT: Self = Self {
        in_flight: 1,
        ordered: true,
        queue: DEFAULT_QUEUE_CAPACITY,
        queue_bytes: DEFAULT_QUEUE_BYTES,
        high: 64 * 1024,
        low: 32 * 1024,
        reply_limit: 256 * 1024,
        write_timeout: Some(Duration::from_secs(30)),
        drain_deadline: Duration::from_secs(5),
        skip_bad: None,
        budget: None,
        flush_delay: None,
    };

    /// Returns the bytes of replies at which no further message is handled, if the largest message
    /// of the session up to now has `message` bytes. With a lower limit two sessions whose handlers
    /// answer each other's pushes could both stop (design.md: Why can two busy sessions not stop
    /// each other?).
    pub(crate) fn reply_limit(&self, message: usize) -> usize {
        let pushes = self.high.saturating_mul(2);
        let messages = message.saturating_mul(4);
        self.reply_limit
            .max(self.low.saturating_add(pushes).saturating_add(messages))
    }

    /// Returns `true` if bad messages are skipped. A stream cannot skip, because the position of
    /// the next message is unknown.
    pub(crate) fn skips_bad(&self, framing: Framing) -> bool {
        match framing {
            Framing::Stream => false,
            Framing::Messages => self.skip_bad.unwrap_or(false),
            Framing::Datagrams => self.skip_bad.unwrap_or(true),
        }
    }
}
