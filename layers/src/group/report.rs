//! Outcome of a broadcast.

use std::fmt;

/// Outcome of a broadcast: the number of members for each result. Each member counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Members with the message in their queue. It is sent in order unless the session ends first.
    pub delivered: usize,
    /// Members that do not get the message: they had no room, and their policy is not to wait, or
    /// the publisher did not wait. Also members whose session has used up its
    /// [`MemoryBudget`](getty_core::MemoryBudget), with any policy.
    pub dropped: usize,
    /// Members that do not get the message because their session is closing. Their policy may have
    /// closed it because they were too slow.
    pub closed: usize,
    /// Members of `delivered` that have lost older messages for this one. The number of lost
    /// messages is counted in [`Stats::dropped`](getty_core::Stats::dropped).
    pub replaced: usize,
}

impl Report {
    /// Returns the number of members that the message was for.
    #[must_use]
    pub const fn members(&self) -> usize {
        self.delivered + self.dropped + self.closed
    }

    /// Returns `true` if no member has lost a message, apart from closing sessions.
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
            "{delivered} delivered ({replaced} replacing older messages), {dropped} dropped, \
             {closed} closed"
        )
    }
}
