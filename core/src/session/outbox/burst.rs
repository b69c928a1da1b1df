//! Runs of broadcasts that share one entry of the queue.

use std::{collections::VecDeque, fmt, sync::Arc};

use super::entry::{Attention, Batch, Queued};
use crate::session::{payload::Payload, shared::SharedMessage};

/// Bytes that a broadcast counts beyond its own: twice the entry of a [`Burst`], whose memory
/// doubles as it grows.
pub(super) const PLACE: u32 = 32;

/// Several broadcasts, in the order in which they were published.
///
/// An entry of the queue has room for any payload, which is three times the size of an entry here.
/// So broadcasts have separate entries only while the queue is short.
pub struct Burst<Out> {
    messages: VecDeque<Parcel<Out>>,
    /// Sum of the weights.
    bytes: u32,
}

struct Parcel<Out> {
    message: Arc<SharedMessage<Out>>,
    /// Bytes that it counts as.
    weight: u32,
    droppable: bool,
}

impl<Out> Burst<Out> {
    pub(super) fn new() -> Box<Self> {
        const { assert!(2 * size_of::<Parcel<Out>>() <= PLACE as usize) };
        Box::new(Self {
            messages: VecDeque::new(),
            bytes: 0,
        })
    }

    /// Returns the number of messages, which is at least 1 in a queue.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn push(&mut self, message: Arc<SharedMessage<Out>>, weight: u32, droppable: bool) {
        self.bytes += weight;
        self.messages.push_back(Parcel {
            message,
            weight,
            droppable,
        });
    }

    fn remove(&mut self, index: usize) -> Option<Parcel<Out>> {
        let parcel = self.messages.remove(index)?;
        self.bytes -= parcel.weight;
        Some(parcel)
    }

    /// Returns the messages one by one, so that they are dropped one by one.
    pub(super) fn into_payloads(self) -> impl Iterator<Item = Payload<Out>> {
        let messages = self.messages.into_iter();
        messages.map(|parcel| Payload::Shared(parcel.message))
    }
}

impl<Out> fmt::Debug for Burst<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Burst")
            .field("len", &self.len())
            .field("bytes", &self.bytes)
            .finish()
    }
}

impl<Out> Queued<Out> {
    /// Returns the number of messages in this entry.
    fn messages(&self) -> usize {
        match &self.payload {
            Payload::Burst(burst) => burst.len(),
            _ => 1,
        }
    }

    /// Returns the bytes that its broadcasts count as.
    fn shared_bytes(&self) -> u32 {
        match &self.payload {
            Payload::Burst(burst) => burst.bytes,
            _ => self.attention.weight(),
        }
    }
}

/// Returns the number of messages in `queue`.
pub(super) fn count<Out>(queue: &VecDeque<Queued<Out>>) -> usize {
    queue.iter().map(Queued::messages).sum()
}

/// Returns the bytes that the broadcasts in `queue` count as.
pub(super) fn shared_bytes<Out>(queue: &VecDeque<Queued<Out>>) -> u32 {
    queue.iter().map(Queued::shared_bytes).sum()
}

/// Removes and returns the first message of `batch`, whose entries may be bursts.
#[cold]
pub(crate) fn pop_first<Out>(batch: &mut Batch<Out>) -> Option<Queued<Out>> {
    let Payload::Burst(burst) = &mut batch.front_mut()?.payload else {
        return batch.pop_front();
    };
    let parcel = burst.remove(0)?;
    if burst.len() == 0 {
        batch.pop_front();
    }
    Some(Queued {
        payload: Payload::Shared(parcel.message),
        attention: Attention::NOBODY,
    })
}

/// Position of a broadcast: of its entry, and within the burst if the entry is one.
type Position = (usize, usize);

/// Returns the positions of the oldest droppable broadcasts that together count as at least
/// `bytes`, or `None` if all together count as less.
pub(super) fn oldest<Out>(queue: &VecDeque<Queued<Out>>, bytes: u32) -> Option<Vec<Position>> {
    let mut found = Vec::new();
    let mut missing = bytes;
    let droppable = queue.iter().enumerate().flat_map(|(index, entry)| {
        let (single, burst) = match &entry.payload {
            Payload::Burst(burst) => (None, Some(burst)),
            Payload::Shared(_) if entry.attention.is_droppable() => {
                (Some(((index, 0), entry.attention.weight())), None)
            }
            _ => (None, None),
        };
        let parcels = burst.into_iter().flat_map(|burst| burst.messages.iter());
        let parcels = parcels.enumerate().filter(|(_, parcel)| parcel.droppable);
        let parcels = parcels.map(move |(within, parcel)| ((index, within), parcel.weight));
        single.into_iter().chain(parcels)
    });
    for (position, weight) in droppable {
        found.push(position);
        missing = missing.saturating_sub(weight);
        if missing == 0 {
            return Some(found);
        }
    }
    None
}

/// Removes the broadcast at `position` from `queue`. Returns it with the bytes that it counts as.
pub(super) fn remove<Out>(
    queue: &mut VecDeque<Queued<Out>>,
    (index, within): Position,
) -> Option<(Payload<Out>, u32)> {
    if let Payload::Burst(burst) = &mut queue.get_mut(index)?.payload {
        let parcel = burst.remove(within)?;
        if burst.len() == 0 {
            queue.remove(index);
        }
        return Some((Payload::Shared(parcel.message), parcel.weight));
    }
    let queued = queue.remove(index)?;
    Some((queued.payload, queued.attention.weight()))
}
