//! Queue entries that are bursts: their messages are counted, dropped and taken one by one.

use std::collections::VecDeque;

use super::entry::{Batch, Completion, Queued};
use crate::session::payload::Payload;

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
            Payload::Burst(burst) => burst.bytes(),
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
        let parcels = burst.into_iter().flat_map(|burst| burst.iter());
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
