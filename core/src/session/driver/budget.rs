//! Charging of the memory budget.

use std::task::Context;

use super::Driver;
use crate::{
    budget::{self, MemoryBudget},
    session::payload::WeightFn,
};

/// The driver's part of the budget: the write buffer.
#[derive(Debug)]
pub(super) struct BudgetState<Out> {
    budget: Option<MemoryBudget>,
    weigh: Option<WeightFn<Out>>,
    /// Bytes of the write buffer that the budget knows.
    charged: usize,
    /// `true` if messages have left the queue and the budget does not know.
    queue_changed: bool,
}

impl<Out> Default for BudgetState<Out> {
    fn default() -> Self {
        Self {
            budget: None,
            weigh: None,
            charged: 0,
            queue_changed: false,
        }
    }
}

impl<Out> Driver<Out> {
    /// Sets the budget that is charged for everything the session holds for sending. The default
    /// is none.
    #[doc(hidden)]
    pub fn set_memory_budget(&mut self, budget: MemoryBudget) {
        self.charged = true;
        let ext = self.ext.get_or_default();
        let state = ext.budget.get_or_default();
        state.budget = Some(budget.clone());
        let (id, outbox) = (self.session.id(), self.session.outbox());
        outbox.set_budget(budget, id, state.weigh);
    }

    /// Sets how many bytes a message holds beyond the size of its type. Used by a budget that is
    /// set later, and by broadcasts.
    #[doc(hidden)]
    pub fn set_weight(&mut self, weigh: fn(&Out) -> usize) {
        let ext = self.ext.get_or_default();
        ext.budget.get_or_default().weigh = Some(weigh);
        self.session.outbox().set_weigh(weigh);
    }

    /// Charges the bytes that wait in the write buffer to the budget if there is one. Must be
    /// called at the end of a poll.
    #[inline]
    #[doc(hidden)]
    pub fn charge_written(&mut self, bytes: usize) {
        if self.charged
            && let Some(state) = self.ext.get_mut().and_then(|ext| ext.budget.get_mut())
            && (state.queue_changed || budget::is_other_block(state.charged, bytes))
        {
            state.charged = bytes;
            state.queue_changed = false;
            self.session.outbox().charge_written(bytes);
        }
    }

    /// Records that messages returned since the last report have left the queue.
    pub(super) fn note_queue_change(&mut self) {
        if self.charged
            && let Some(state) = self.ext.get_mut().and_then(|ext| ext.budget.get_mut())
        {
            state.queue_changed |= self.unreported;
        }
    }

    fn budget(&self) -> Option<&MemoryBudget> {
        self.ext.get()?.budget.get()?.budget.as_ref()
    }

    /// Returns `true` if there is a budget and it is used up. Nothing should then be added to
    /// pending bytes.
    #[inline]
    #[doc(hidden)]
    pub fn is_budget_used_up(&self) -> bool {
        self.charged && self.budget().is_some_and(MemoryBudget::is_used_up)
    }

    /// Registers the waker of `cx`, which is woken when the budget has room again. Returns `false`
    /// if there is room now.
    #[doc(hidden)]
    pub fn register_for_budget(&self, cx: &Context<'_>) -> bool {
        let id = self.session.id();
        self.budget().is_some_and(|budget| budget.register(id, cx))
    }
}
