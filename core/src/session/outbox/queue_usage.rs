//! Budget charges of the queue.

use super::entry::Queued;
use crate::{
    budget::{BudgetUsage, MemoryBudget},
    session::payload::{Payload, WeightFn},
};

/// Budget usage of a session, with the function that weighs its messages.
#[derive(Debug)]
pub(super) struct QueueUsage<Out> {
    usage: BudgetUsage,
    weigh: Option<WeightFn<Out>>,
}

impl<Out> QueueUsage<Out> {
    /// Charges for the messages that are `queued` already, even without room.
    pub(super) fn new<'a>(
        budget: MemoryBudget,
        id: u64,
        weigh: Option<WeightFn<Out>>,
        queued: impl IntoIterator<Item = &'a Queued<Out>>,
    ) -> Self
    where
        Out: 'a,
    {
        let usage = BudgetUsage::new(budget, id);
        let mut usage = Self { usage, weigh };
        let weight = usage.weight(queued);
        usage.usage.begin(weight);
        usage
    }

    fn weight<'a>(&self, queued: impl IntoIterator<Item = &'a Queued<Out>>) -> usize
    where
        Out: 'a,
    {
        let weights = queued
            .into_iter()
            .map(|queued| queued.payload.weight(self.weigh));
        weights.fold(0, usize::saturating_add)
    }

    /// Charges for `payload`. Returns `false` if the budget has no room.
    pub(super) fn queue(&mut self, payload: &Payload<Out>) -> bool {
        self.usage.queue(payload.weight(self.weigh))
    }

    /// Charges for `new` in place of `old`. Returns `false` if the budget has no room.
    pub(super) fn replace(&mut self, old: &Payload<Out>, new: &Payload<Out>) -> bool {
        let [old, new] = [old, new].map(|payload| payload.weight(self.weigh));
        self.usage.replace(old, new)
    }

    /// Releases the charge of a payload that was removed from the queue.
    pub(super) fn unqueue(&mut self, payload: &Payload<Out>) {
        self.usage.unqueue(payload.weight(self.weigh));
    }

    /// Records that the driver has taken the queue.
    pub(super) fn take(&mut self) {
        self.usage.take();
    }

    /// Releases the charge of what the driver took and has encoded: everything except `left`.
    pub(super) fn release<'a>(&mut self, left: impl IntoIterator<Item = &'a Queued<Out>>)
    where
        Out: 'a,
    {
        let weight = self.weight(left);
        self.usage.release(weight);
    }

    /// Sets the number of bytes in the write buffer.
    pub(super) fn write(&mut self, bytes: usize) {
        self.usage.write(bytes);
    }
}
