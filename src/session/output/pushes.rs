//! Counts the pushed bytes in the write buffer, apart from the bytes of replies.
//!
//! The bytes of pushes form runs. A run is the bytes that were pushed together without a reply
//! between them. The latest run is stored in the writer itself. Earlier runs that still wait
//! are stored in its [`PendingWrites`].

use super::writer::{PendingWrites, Writer};

impl Writer {
    /// Marks all bytes encoded from `start` on as pushes. Senders have queued them, so they are not
    /// replies.
    #[inline]
    pub(crate) fn mark_pushed(&mut self, start: u64) {
        if self.latest_push() > 0 {
            return self.mark_pushed_again(start);
        }
        self.push_len = u32::try_from(self.encoded - start).unwrap_or(u32::MAX);
        self.push_end = low(self.encoded);
    }

    /// As [`mark_pushed`](Self::mark_pushed), while earlier pushes wait.
    #[cold]
    fn mark_pushed_again(&mut self, start: u64) {
        if start == self.encoded {
            return;
        }
        let len = u32::try_from(self.encoded - start).unwrap_or(u32::MAX);
        if self.push_end == low(start) {
            self.push_len = self.push_len.saturating_add(len);
        } else {
            let run = u64::from(self.latest_push());
            let end = self.taken + u64::from(self.push_end.wrapping_sub(low(self.taken)));
            let pending = self.pending.get_or_default();
            pending.push_runs.push_back((end - run, end));
            pending.push_bytes += run;
            self.push_len = len;
        }
        self.push_end = low(self.encoded);
    }

    /// Returns how many bytes of the latest run of pushes wait.
    #[inline]
    fn latest_push(&self) -> u32 {
        // Negative for a run that was taken completely. The value is less than 2 GiB as long as
        // anything waits.
        let waits = self.push_end.wrapping_sub(low(self.taken));
        if waits > u32::MAX / 2 {
            0
        } else {
            waits.min(self.push_len)
        }
    }

    /// Returns `true` if a message was pushed.
    pub(crate) const fn has_pushed(&self) -> bool {
        self.push_end != 0 || self.push_len != 0
    }

    /// Returns how many of the bytes that wait were pushed; the others are replies.
    pub(crate) fn pushed(&mut self) -> usize {
        let latest = u64::from(self.latest_push());
        let earlier = match self.pending.get_mut() {
            Some(pending) if !pending.push_runs.is_empty() => pending.earlier_pushes(self.taken),
            _ => 0,
        };
        usize::try_from(latest + earlier).unwrap_or(usize::MAX)
    }
}

impl PendingWrites {
    /// Removes the runs of pushes that the transport has taken, and returns the length of the
    /// others in bytes.
    #[cold]
    fn earlier_pushes(&mut self, taken: u64) -> u64 {
        while let Some((start, end)) = self.push_runs.front_mut() {
            if taken <= *start {
                break;
            }
            let gone = taken.min(*end) - *start;
            *start += gone;
            self.push_bytes -= gone;
            if *start < *end {
                break;
            }
            self.push_runs.pop_front();
        }
        self.push_bytes
    }
}

/// Returns the low half of a position, which is enough to compare positions that are close.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the high half is left out")]
const fn low(position: u64) -> u32 {
    position as u32
}
