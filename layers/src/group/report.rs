//! What became of a broadcast.

use std::fmt;

/// What became of one message for many: how many members each outcome has. Each member counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Has the message in its queue, from which it leaves in its turn unless the session ends before.
    pub delivered: usize,
    /// Does not get it: there was no room, and the member's policy is not to wait, or there was nobody to wait; or the
    /// [`MemoryBudget`](getty_core::MemoryBudget) of its session is used up, whatever its policy.
    pub dropped: usize,
    /// Does not get it: the session is closing, be it that its policy has just closed it for being too slow.
    pub closed: usize,
    /// Of those delivered to, how many have lost older messages for it. Their number is counted in
    /// [`Stats::dropped`](getty_core::Stats::dropped).
    pub replaced: usize,
}

impl Report {
    /// How many members the message was for.
    #[must_use]
    pub const fn members(&self) -> usize {
        self.delivered + self.dropped + self.closed
    }

    /// Whether nobody whose session goes on has lost anything.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.dropped == 0 && self.replaced == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            delivered,
            dropped,
            closed,
            replaced,
        } = self;
        write!(
            f,
            "{delivered} delivered ({replaced} in place of older ones), {dropped} dropped, {closed} closed"
        )
    }
}
