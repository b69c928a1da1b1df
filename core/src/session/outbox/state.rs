//! What the outbox's mutex guards.

use std::{collections::VecDeque, task::Waker};

use super::{
    Refusal,
    charges::Charges,
    entry::{Attention, Queued},
    line::{Line, WaiterId},
    tickets::{TicketId, Tickets},
};
use crate::session::{
    payload::{Payload, Weigh},
    watched::Number,
};

#[derive(Debug)]
pub(super) struct State<Out> {
    pub(super) messages: VecDeque<Queued<Out>>,
    /// How many messages were queued that are watched.
    pub(super) watched: Number,
    /// From the first sender that waits for anything on.
    pub(super) senders: Option<Box<Senders<Out>>>,
    /// How many messages may lie here and, taken but not encoded, with the driver.
    pub(super) capacity: u32,
    /// How many of those the driver has taken and not encoded yet.
    pub(super) taken: u32,
    /// Bytes that the broadcasts in the queue count as.
    pub(super) held: u32,
    /// Bytes that the broadcasts in the driver's batch count as.
    pub(super) taken_bytes: u32,
    /// Maximum sum of both.
    pub(super) bound: u32,
    /// The driver takes no messages, because too many bytes wait for the peer.
    pub(super) blocked: bool,
    /// Our direction is to end after what lies here, or has ended.
    pub(super) finished: bool,
    pub(super) closed: bool,
    /// Where what lies here is charged.
    pub(super) charges: Option<Box<Charges<Out>>>,
    /// For how many turns in a row the queues were short.
    quiet: u8,
}

/// The senders that wait.
#[derive(Debug)]
pub(super) struct Senders<Out> {
    /// For outcomes.
    pub(super) tickets: Tickets<Out>,
    /// For room.
    pub(super) waiters: Line,
    /// Those who want to know of room and take none. They stand in nobody's way.
    pub(super) watchers: Line,
    /// Publishers that wait until broadcasts have left.
    pub(super) publishers: Line,
    /// Returns how many bytes a message holds beyond its own size.
    pub(super) weigh: Option<Weigh<Out>>,
}

impl<Out> Default for Senders<Out> {
    fn default() -> Self {
        Self {
            tickets: Tickets::default(),
            waiters: Line::default(),
            watchers: Line::default(),
            publishers: Line::default(),
            weigh: None,
        }
    }
}

/// Who waits for the outcome of a message that is pushed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attended {
    No,
    Waiting,
    Watched,
}

/// Default bound of broadcasts, in bytes.
pub(crate) const DEFAULT_BOUND: u32 = 1024 * 1024;

/// A queue no longer than this is short, and keeps its memory.
pub(super) const SHORT: usize = 8;
/// After so many turns with short queues the memory of long ones is given back. Large against 1, so that growing again
/// costs next to nothing a message.
pub(super) const QUIET: u8 = 32;

impl<Out> State<Out> {
    pub(super) const fn new(capacity: u32) -> Self {
        Self {
            messages: VecDeque::new(),
            watched: 0,
            senders: None,
            capacity,
            taken: 0,
            held: 0,
            taken_bytes: 0,
            bound: DEFAULT_BOUND,
            blocked: false,
            finished: false,
            closed: false,
            charges: None,
            quiet: 0,
        }
    }

    pub(super) fn senders(&mut self) -> &mut Senders<Out> {
        self.senders.get_or_insert_default()
    }

    pub(super) fn room(&self) -> usize {
        if self.blocked { 0 } else { self.places() }
    }

    /// Why nothing is queued any more, if nothing is.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if self.closed {
            Some(Refusal::Closed)
        } else if self.finished {
            Some(Refusal::Finished)
        } else {
            None
        }
    }

    /// Charges for `payload`, where there is a budget; whether that lets it.
    pub(super) fn charge(&mut self, payload: &Payload<Out>) -> bool {
        self.charges
            .as_mut()
            .is_none_or(|charges| charges.queue(payload))
    }

    /// Refunds the charge of `payload`, which was in the queue.
    pub(super) fn uncharge(&mut self, payload: &Payload<Out>) {
        if let Some(charges) = &mut self.charges {
            charges.unqueue(payload);
        }
    }

    /// The same, where `payload` takes the place of the message at `old`.
    pub(super) fn charge_in_place_of(&mut self, old: usize, payload: &Payload<Out>) -> bool {
        self.charges
            .as_mut()
            .is_none_or(|charges| charges.replace(&self.messages[old].payload, payload))
    }

    /// The wakers of all who wait for room that will never be.
    pub(super) fn wake_all(&mut self) -> Vec<Waker> {
        let Some(senders) = &mut self.senders else {
            return Vec::new();
        };
        let mut all = senders.waiters.all();
        all.append(&mut senders.watchers.all());
        all.append(&mut senders.publishers.all());
        all
    }

    /// How many messages more the queue can hold, whatever the write buffer holds.
    pub(super) fn places(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.len())
    }

    /// How many messages wait here and, taken but not encoded, with the driver.
    pub(super) fn len(&self) -> usize {
        self.messages.len() + self.taken as usize
    }

    /// The waker of the one whose turn it is, if there is room for it and it does not know yet. It wakes the next when
    /// it has pushed or given up. Where nobody waits, all who watch learn of the room.
    pub(super) fn next_in_turn(&mut self) -> Next {
        if self.room() == 0 {
            return Next::One(None);
        }
        match self.senders.as_deref_mut() {
            None => Next::One(None),
            Some(senders) if !senders.waiters.is_empty() => Next::One(senders.waiters.first()),
            Some(senders) if senders.watchers.is_empty() => Next::One(None),
            Some(senders) => Next::All(senders.watchers.all()),
        }
    }

    /// How many senders wait for room.
    pub(super) fn waiting(&self) -> usize {
        self.senders
            .as_ref()
            .map_or(0, |senders| senders.waiters.len())
    }

    pub(super) fn place(&self, waiter: WaiterId) -> Option<usize> {
        self.senders.as_ref()?.waiters.place(waiter)
    }

    /// Takes a sender out of those who wait for room; its waker is to be dropped after the lock.
    pub(super) fn remove(&mut self, place: Option<usize>) -> Option<Waker> {
        self.senders.as_mut()?.waiters.remove(place)
    }

    #[inline]
    pub(super) fn push(&mut self, payload: Payload<Out>, attended: Attended) -> Option<TicketId> {
        let attention = match attended {
            Attended::No => Attention::NOBODY,
            Attended::Waiting => Attention::waiting(self.senders().tickets.issue()),
            Attended::Watched => self.watch(),
        };
        self.messages.push_back(Queued { payload, attention });
        attention.ticket()
    }

    /// Numbers a message that is watched.
    #[inline]
    pub(super) const fn watch(&mut self) -> Attention {
        self.watched += 1;
        Attention::watched(self.watched)
    }

    /// Counts turns in which the queues were short, and gives the memory of long ones back after a number of them.
    pub(super) fn give_back(&mut self, batch: Option<&mut VecDeque<Queued<Out>>>) {
        let mut longest = batch.as_ref().map_or(1, |batch| batch.len());
        if let Some(senders) = &self.senders {
            longest = longest
                .max(senders.tickets.len())
                .max(senders.waiters.len())
                .max(senders.watchers.len())
                .max(senders.publishers.len());
        }
        if longest > SHORT {
            self.quiet = 0;
            return;
        }
        self.quiet += 1;
        if self.quiet == QUIET {
            self.quiet = 0;
            batch.into_iter().for_each(|batch| batch.shrink_to(SHORT));
            self.messages.shrink_to(SHORT);
            if let Some(senders) = &mut self.senders {
                senders.tickets.shrink_to(SHORT);
                senders.waiters.shrink_to(SHORT);
                senders.watchers.shrink_to(SHORT);
                senders.publishers.shrink_to(SHORT);
            }
        }
    }
}

/// Whom a sender wakes that has had its turn.
pub(crate) enum Next {
    One(Option<Waker>),
    All(Vec<Waker>),
}

impl Next {
    pub(super) const fn is_some(&self) -> bool {
        match self {
            Self::One(waker) => waker.is_some(),
            Self::All(wakers) => !wakers.is_empty(),
        }
    }

    #[inline]
    pub(crate) fn wake(self) {
        match self {
            Self::One(waker) => waker.into_iter().for_each(Waker::wake),
            Self::All(wakers) => wakers.into_iter().for_each(Waker::wake),
        }
    }
}
