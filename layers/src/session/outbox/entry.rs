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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attention(u64);

impl Attention {
    /// Nobody; it is sent all the same.
    pub(crate) const NOBODY: Self = Self(0);
    /// Nobody; and it may be dropped in favour of what is offered later.
    pub(super) const DROPPABLE: Self = Self(u64::MAX);

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
        match self {
            Self::NOBODY | Self::DROPPABLE => None,
            Self(ticket) => Some(ticket),
        }
    }
}
