//! Bursts: consecutive broadcasts that share one entry of the queue.

use std::{collections::VecDeque, fmt, sync::Arc};

use super::entry::{Batch, Completion, Queued};
use crate::session::{payload::Payload, shared::SharedMessage};

/// Bytes that a broadcast counts beyond its size: twice the entry of a [`Burst`], whose memory
/// doubles as it grows.
pub(super) const ENTRY_OVERHEAD: u32 = 32;

/// Several broadcasts, in the order in which they were published.
///
/// An entry of the queue has room for any payload, which is three times the size of an entry
/// here. So broadcasts have separate entries only while the queue is short (design.md: Why do
/// consecutive broadcasts share a queue entry?).
pub struct Burst<Out> {
    messages: VecDeque<Broadcast<Out>>,
    /// Sum of the weights, in bytes.
    bytes: u32,
}

struct Broadcast<Out> {
    message: Arc<SharedMessage<Out>>,
    /// Weight of the broadcast, in bytes.
    weight: u32,
    droppable: bool,
}

impl<Out> Burst<Out> {
    pub(super) fn new() -> Box<Self> {
        const { assert!(2 * size_of::<Broadcast<Out>>() <= ENTRY_OVERHEAD as usize) };
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
        self.messages.push_back(Broadcast {
            message,
            weight,
            droppable,
        });
    }

    fn remove(&mut self, index: usize) -> Option<Broadcast<Out>> {
        let parcel = self.messages.remove(index)?;
        self.bytes -= parcel.weight;
        Some(parcel)
    }

    /// Returns the messages one by one so that they are dropped one by one.
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

    /// Returns the sum of the weights of its broadcasts, in bytes.
    fn shared_bytes(&self) -> u32 {
        match &self.payload {
            Payload::Burst(burst) => burst.bytes,
            _ => self.completion.weight(),
        }
    }
}

/// Returns the number of messages in `queue`.
pub(super) fn count<Out>(queue: &VecDeque<Queued<Out>>) -> usize {
    queue.iter().map(Queued::messages).sum()
}

/// Returns the sum of the weights of all broadcasts in `queue`, in bytes.
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
        completion: Completion::NONE,
    })
}

/// Position of a broadcast: the index of its entry and the index within the burst.
type Position = (usize, usize);

/// Returns the positions of the oldest droppable broadcasts whose weights sum to at least
/// `bytes`, or `None` if all together weigh less.
pub(super) fn oldest<Out>(queue: &VecDeque<Queued<Out>>, bytes: u32) -> Option<Vec<Position>> {
    let mut found = Vec::new();
    let mut missing = bytes;
    let droppable = queue.iter().enumerate().flat_map(|(index, entry)| {
        let (single, burst) = match &entry.payload {
            Payload::Burst(burst) => (None, Some(burst)),
            Payload::Shared(_) if entry.completion.is_droppable() => {
                (Some(((index, 0), entry.completion.weight())), None)
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

/// Removes the broadcast at `position` from `queue`. Returns it with its weight.
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
    Some((queued.payload, queued.completion.weight()))
}
