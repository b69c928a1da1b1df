//! What is held for sending, charged to a budget.

use std::task::Context;

use super::Driver;
use crate::{
    budget::{self, MemoryBudget},
    session::payload::Weigh,
};

/// What is held for sending, as a budget knows it.
#[derive(Debug)]
pub(super) struct Memory<Out> {
    budget: Option<MemoryBudget>,
    weigh: Option<Weigh<Out>>,
    /// How many bytes of the write buffer the budget knows of.
    charged: usize,
    /// Messages have left the queue that the budget believes there.
    uncharged: bool,
}

impl<Out> Default for Memory<Out> {
    fn default() -> Self {
        Self {
            budget: None,
            weigh: None,
            charged: 0,
            uncharged: false,
        }
    }
}

impl<Out> Driver<Out> {
    /// Has what the session holds for sending charged to `budget`.
    pub fn set_memory_budget(&mut self, budget: MemoryBudget) {
        self.charged = true;
        let rare = self.rare.get_or_insert_default();
        let memory = rare.memory.get_or_insert_default();
        memory.budget = Some(budget.clone());
        let (id, outbox) = (self.session.id(), self.session.outbox());
        outbox.set_budget(budget, id, memory.weigh);
    }

    /// Sets how many bytes a message holds beyond its own size, for a budget that is set later and
    /// for broadcasts.
    pub fn set_weight(&mut self, weigh: fn(&Out) -> usize) {
        let rare = self.rare.get_or_insert_default();
        rare.memory.get_or_insert_default().weigh = Some(weigh);
        self.session.outbox().set_weigh(weigh);
    }

    /// Charges the bytes that wait in the write buffer to the budget, where there is one; to be told at the end of a turn.
    #[inline]
    pub fn charge_written(&mut self, bytes: usize) {
        if self.charged
            && let Some(memory) = self.rare.as_mut().and_then(|rare| rare.memory.as_mut())
            && (memory.uncharged || budget::is_other_block(memory.charged, bytes))
        {
            memory.charged = bytes;
            memory.uncharged = false;
            self.session.outbox().charge_written(bytes);
        }
    }

    /// What was given out since the last report has left the queue.
    pub(super) fn uncharge(&mut self) {
        if self.charged
            && let Some(memory) = self.rare.as_mut().and_then(|rare| rare.memory.as_mut())
        {
            memory.uncharged |= self.unreported;
        }
    }

    fn budget(&self) -> Option<&MemoryBudget> {
        self.rare.as_ref()?.memory.as_ref()?.budget.as_ref()
    }

    /// Whether there is a budget and it is used up: then nothing is to be added to what waits already.
    #[inline]
    pub fn is_out_of_memory(&self) -> bool {
        self.charged && self.budget().is_some_and(MemoryBudget::is_used_up)
    }

    /// Has `cx` woken when a budget that is used up has room again. `false` if there is room now.
    pub fn wait_for_memory(&self, cx: &Context<'_>) -> bool {
        let id = self.session.id();
        self.budget().is_some_and(|budget| budget.wait(id, cx))
    }
}
