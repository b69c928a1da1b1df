//! Adaptive size of a session's buffers.
//!
//! The size of a read determines the cost of a byte. Small messages arrive a few at a time, and
//! an ordinary buffer holds them all. A peer that sends without a pause fills an ordinary
//! buffer, and each read and write of a larger one saves system calls and packets. A session is
//! given large buffers when its reads fill ordinary ones, as long as it keeps up with its peer
//! and its peer keeps up with it. When anything waits, the session holds no more than usual
//! (design.md: Why do some sessions get larger buffers?).

use crate::buffer_pool::{BUFFER, LARGE};

/// Score of a read that filled a buffer.
const FULL_READ: u8 = 8;
/// Score from which on buffers are large: two full reads.
const LARGE_FROM: u8 = 2 * FULL_READ;
/// Maximum score: after it, 32 short reads make buffers ordinary again.
const MAX_SCORE: u8 = LARGE_FROM + 32;

/// Decides whether a session uses large buffers, from how well recent reads filled theirs.
#[derive(Debug, Default)]
pub(crate) struct BufferSizing(u8);

impl BufferSizing {
    /// Returns `true` if buffers should be large.
    #[inline]
    pub(crate) const fn is_large(&self) -> bool {
        self.0 >= LARGE_FROM
    }

    /// Records a read that brought as much as an ordinary buffer holds.
    pub(crate) const fn record_full_read(&mut self) {
        let score = self.0 + FULL_READ;
        self.0 = if score < MAX_SCORE { score } else { MAX_SCORE };
    }

    /// Records a read that brought less.
    #[inline]
    pub(crate) const fn record_short_read(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// Makes buffers ordinary, because something waits for its handler or for the peer.
    pub(crate) const fn reset(&mut self) {
        self.0 = 0;
    }

    /// Returns how many bytes of replies may be gathered for one write, in a session whose high
    /// watermark is `high`. `None` means the watermark.
    #[inline]
    pub(crate) const fn gathered(&self, high: usize) -> Option<usize> {
        if !self.is_large() || high < BUFFER {
            return None;
        }
        Some(if high > LARGE { high } else { LARGE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_large_after_two_full_reads_and_until_many_short_ones() {
        let mut sizing = BufferSizing::default();
        sizing.record_full_read();
        assert!(!sizing.is_large());
        // A read of the remaining bytes is expected.
        sizing.record_short_read();
        sizing.record_full_read();
        sizing.record_full_read();
        assert!(sizing.is_large());
        for _ in 0..100 {
            sizing.record_full_read();
        }
        for _ in 0..32 {
            assert!(sizing.is_large());
            sizing.record_short_read();
        }
        sizing.record_short_read();
        assert!(!sizing.is_large());
    }

    #[test]
    fn buffers_are_ordinary_at_once_when_anything_waits() {
        let mut sizing = BufferSizing::default();
        for _ in 0..100 {
            sizing.record_full_read();
        }
        sizing.reset();
        sizing.record_full_read();
        assert!(!sizing.is_large());
    }
}
