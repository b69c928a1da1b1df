//! What lies in the queue, charged to a budget.

use super::entry::Queued;
use crate::{
    budget::{Account, MemoryBudget},
    session::payload::{Payload, Weigh},
};

/// An account, and how to weigh what it is charged with.
#[derive(Debug)]
pub(super) struct Charges<Out> {
    account: Account,
    weigh: Option<Weigh<Out>>,
}

impl<Out> Charges<Out> {
    /// Charges for what is `queued` already, whether that is too much or not.
    pub(super) fn new<'a>(
        budget: MemoryBudget,
        id: u64,
        weigh: Option<Weigh<Out>>,
        queued: impl IntoIterator<Item = &'a Queued<Out>>,
    ) -> Self
    where
        Out: 'a,
    {
        let account = Account::new(budget, id);
        let mut charges = Self { account, weigh };
        let weight = charges.weight(queued);
        charges.account.begin(weight);
        charges
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

    /// Charges for `payload`; whether the budget lets it.
    pub(super) fn queue(&mut self, payload: &Payload<Out>) -> bool {
        self.account.queue(payload.weight(self.weigh))
    }

    /// The same, where `new` takes the place of `old`.
    pub(super) fn replace(&mut self, old: &Payload<Out>, new: &Payload<Out>) -> bool {
        let [old, new] = [old, new].map(|payload| payload.weight(self.weigh));
        self.account.replace(old, new)
    }

    /// `payload` has been taken out of the queue again.
    pub(super) fn unqueue(&mut self, payload: &Payload<Out>) {
        self.account.unqueue(payload.weight(self.weigh));
    }

    /// The driver has taken the queue.
    pub(super) fn take(&mut self) {
        self.account.take();
    }

    /// All but `left` of what the driver had taken is encoded.
    pub(super) fn give_back<'a>(&mut self, left: impl IntoIterator<Item = &'a Queued<Out>>)
    where
        Out: 'a,
    {
        let weight = self.weight(left);
        self.account.give_back(weight);
    }

    /// So many bytes lie in the write buffer.
    pub(super) fn write(&mut self, bytes: usize) {
        self.account.write(bytes);
    }
}
