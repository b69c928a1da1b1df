//! Entries of the queue.

use std::collections::VecDeque;

use bytes::Bytes;

use super::completions::TicketId;
use crate::{
    connection::RequestNumber,
    session::payload::{Payload, WeightFn},
};

/// Set in the ticket of a request. The outcome of a request is stored in [`RequestOutcomes`]
/// and not in the outbox.
///
/// [`RequestOutcomes`]: crate::session::RequestOutcomes
const REQUEST: TicketId = 1 << 63;

/// Returns the number of the request that `ticket` stands for, if it is one.
#[inline]
pub(crate) const fn request_number(ticket: TicketId) -> Option<RequestNumber> {
    if ticket & REQUEST == 0 {
        None
    } else {
        Some(ticket & !REQUEST)
    }
}

/// A payload on its way to the driver.
#[derive(Debug)]
pub(crate) struct Queued<Out> {
    pub(crate) payload: Payload<Out>,
    pub(crate) completion: Completion,
}

impl<Out> Payload<Out> {
    /// Returns the size of the payload with its entry in the queue, in bytes.
    pub(super) fn weight(&self, weigh: Option<WeightFn<Out>>) -> usize {
        let held = match self {
            Self::Message(message) => weigh.map_or(0, |weigh| weigh(message)),
            Self::Raw(bytes) => bytes.len(),
            Self::RawVectored(pieces) => pieces.iter().map(Bytes::len).sum(),
            Self::Shared(_) => 0, // other sessions hold it as well
            Self::Burst(burst) => return burst.len().saturating_mul(size_of::<Queued<Out>>()),
            Self::Flush | Self::Finish => return 0,
        };
        held.saturating_add(size_of::<Queued<Out>>())
    }
}

/// Messages that the driver has taken.
pub(crate) type Batch<Out> = VecDeque<Queued<Out>>;

/// How an entry is completed: the ticket of a send, the number of a request, or nothing. It
/// takes one word because each entry has one.
///
/// No sender waits for a broadcast. Its word contains its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion(u64);

/// Set for a message that may be dropped, and for one that is shared.
const UNATTENDED: u64 = 3 << 62;

/// Set in addition to the two bits above, for a message that may be dropped.
const MAY_DROP: u64 = 1 << 61;

impl Completion {
    /// No sender waits for the outcome.
    pub(crate) const NONE: Self = Self(0);
    /// No sender waits for the outcome, and the message may be dropped in favour of a later offer.
    pub(super) const DROPPABLE: Self = Self(UNATTENDED | MAY_DROP);

    /// Creates the completion of a broadcast of this weight, in bytes. No sender waits for it.
    pub(super) const fn broadcast(weight: u32, droppable: bool) -> Self {
        let may_drop = if droppable { MAY_DROP } else { 0 };
        Self(UNATTENDED | may_drop | weight as u64)
    }

    /// Returns the weight of a broadcast in bytes, and 0 for other messages.
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

    /// Creates the completion of the send with this ticket.
    pub(super) const fn send(ticket: TicketId) -> Self {
        Self(ticket)
    }

    /// Creates the completion of the request with this number.
    pub(super) const fn request(number: RequestNumber) -> Self {
        Self(REQUEST | number)
    }

    /// Returns the ticket of the send that waits for the outcome.
    pub(crate) const fn ticket(self) -> Option<TicketId> {
        // one comparison: a word of 0 becomes the largest
        if self.0.wrapping_sub(1) < UNATTENDED - 1 {
            Some(self.0)
        } else {
            None
        }
    }
}
