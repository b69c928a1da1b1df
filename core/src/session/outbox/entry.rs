//! What lies in the queue.

use std::collections::VecDeque;

use super::tickets::TicketId;
use crate::session::{payload::Payload, watched::Number};

/// Added to the number of a message that is watched: its outcome is not the outbox's to keep but [`Watched`]'s.
///
/// [`Watched`]: crate::session::watched::Watched
const WATCHED: TicketId = 1 << 63;

/// The number of the watched message that `ticket` stands for, if it is one.
#[inline]
pub(crate) const fn watched_number(ticket: TicketId) -> Option<Number> {
    if ticket & WATCHED == 0 {
        None
    } else {
        Some(ticket & !WATCHED)
    }
}

/// What is on its way to the driver.
#[derive(Debug)]
pub(crate) struct Queued<Out> {
    pub(crate) payload: Payload<Out>,
    pub(crate) attention: Attention,
}

/// What the driver has taken.
pub(crate) type Batch<Out> = VecDeque<Queued<Out>>;

/// Who cares for the outcome of what is queued: a word, because there is one in each entry.
///
/// No sender waits for a broadcast. Its word has the bytes that it counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attention(u64);

/// Set for a message that may be dropped, and for one that is shared.
const UNATTENDED: u64 = 3 << 62;

/// Set, beside the two bits above, for a message that may be dropped.
const MAY_DROP: u64 = 1 << 61;

impl Attention {
    /// Nobody; it is sent all the same.
    pub(crate) const NOBODY: Self = Self(0);
    /// Nobody; and it may be dropped in favour of what is offered later.
    pub(super) const DROPPABLE: Self = Self(UNATTENDED | MAY_DROP);

    /// Creates the entry of a broadcast that counts as `weight` bytes. No sender waits for it.
    pub(super) const fn shared(weight: u32, droppable: bool) -> Self {
        let may_drop = if droppable { MAY_DROP } else { 0 };
        Self(UNATTENDED | may_drop | weight as u64)
    }

    /// Returns the bytes that a broadcast counts as, and 0 for other messages.
    pub(super) const fn weight(self) -> u32 {
        if self.is_unattended() {
            let [a, b, c, d, ..] = self.0.to_le_bytes();
            u32::from_le_bytes([a, b, c, d])
        } else {
            0
        }
    }

    /// Returns `true` if the message may be dropped in favour of a later one.
    pub(super) const fn is_droppable(self) -> bool {
        self.is_unattended() && self.0 & MAY_DROP != 0
    }

    const fn is_unattended(self) -> bool {
        self.0 >= UNATTENDED
    }

    /// The `send` with this ticket.
    pub(super) const fn waiting(ticket: TicketId) -> Self {
        Self(ticket)
    }

    /// The sender of the watched message with this number.
    pub(super) const fn watched(number: Number) -> Self {
        Self(WATCHED | number)
    }

    /// The `send` that waits for it.
    pub(crate) const fn ticket(self) -> Option<TicketId> {
        // one comparison: a word of 0 becomes the largest
        if self.0.wrapping_sub(1) < UNATTENDED - 1 {
            Some(self.0)
        } else {
            None
        }
    }
}
