//! Bursts: consecutive broadcasts that share one entry of the queue.

use std::{collections::VecDeque, fmt, sync::Arc};

use super::{Payload, SharedMessage};

/// Bytes that a broadcast counts beyond its size: twice the entry of a [`Burst`], whose memory
/// doubles as it grows.
pub(in crate::session) const ENTRY_OVERHEAD: u32 = 32;

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

pub(in crate::session) struct Broadcast<Out> {
    pub(in crate::session) message: Arc<SharedMessage<Out>>,
    /// Weight of the broadcast, in bytes.
    pub(in crate::session) weight: u32,
    pub(in crate::session) droppable: bool,
}

impl<Out> Burst<Out> {
    pub(in crate::session) fn new() -> Box<Self> {
        const { assert!(2 * size_of::<Broadcast<Out>>() <= ENTRY_OVERHEAD as usize) };
        Box::new(Self {
            messages: VecDeque::new(),
            bytes: 0,
        })
    }

    /// Returns the number of messages, which is at least 1 in a queue.
    pub(in crate::session) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Returns the sum of the weights, in bytes.
    pub(in crate::session) const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Returns the messages, the oldest first.
    pub(in crate::session) fn iter(&self) -> impl Iterator<Item = &Broadcast<Out>> {
        self.messages.iter()
    }

    pub(in crate::session) fn push(
        &mut self,
        message: Arc<SharedMessage<Out>>,
        weight: u32,
        droppable: bool,
    ) {
        self.bytes += weight;
        self.messages.push_back(Broadcast {
            message,
            weight,
            droppable,
        });
    }

    /// Removes and returns the message at `index`.
    pub(in crate::session) fn remove(&mut self, index: usize) -> Option<Broadcast<Out>> {
        let broadcast = self.messages.remove(index)?;
        self.bytes -= broadcast.weight;
        Some(broadcast)
    }

    /// Returns the messages one by one so that they are dropped one by one.
    pub(in crate::session) fn into_payloads(self) -> impl Iterator<Item = Payload<Out>> {
        let messages = self.messages.into_iter();
        messages.map(|broadcast| Payload::Shared(broadcast.message))
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
