//! Where requests wait: slots that are used again, in a list while they are free.

use std::task::Waker;

use tokio::time::Instant;

/// So many slots are kept when none is in use.
pub(crate) const FEW: usize = 8;
/// After so many times that none was in use and few had been, the memory of many is given back.
pub(crate) const QUIET: u8 = 32;

#[derive(Debug)]
pub(crate) enum State<In> {
    /// With the next free one.
    Free(Option<u32>),
    Waiting(Option<Waker>),
    Answered(In),
    Expired,
}

#[derive(Debug)]
pub(crate) struct Slot<In> {
    /// The id of the request that is, or was last, in it.
    pub(crate) id: u64,
    pub(crate) deadline: Option<Instant>,
    pub(crate) state: State<In>,
}

#[derive(Debug)]
pub(crate) struct Slots<In> {
    slots: Vec<Slot<In>>,
    first_free: Option<u32>,
    /// How many are not free.
    used: u32,
    /// How many times in a row few had been used when none was any more.
    quiet: u8,
}

impl<In> Slots<In> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            first_free: None,
            used: 0,
            quiet: 0,
        }
    }

    /// How many are not free.
    #[inline]
    pub(crate) const fn used(&self) -> usize {
        self.used as usize
    }

    /// Puts a request into a free slot, of which `slot` is made; gives back its id.
    #[inline]
    pub(crate) fn fill(
        &mut self,
        id: impl Fn(u32) -> u64,
        slot: impl FnOnce(u64) -> Slot<In>,
    ) -> u64 {
        self.used += 1;
        match self.first_free {
            Some(free) => {
                let id = id(free);
                let old = &mut self.slots[free as usize];
                let State::Free(next) = old.state else {
                    unreachable!("the list of free slots has free slots only")
                };
                *old = slot(id);
                self.first_free = next;
                id
            }
            None => {
                let id = id(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
                self.slots.push(slot(id));
                id
            }
        }
    }

    /// What is in the slot at `index`, where a request waits that has yet to learn what became of it.
    #[inline]
    pub(crate) fn state(&mut self, index: usize) -> &mut State<In> {
        &mut self.slots[index].state
    }

    /// What is in the slot at `index`, if that is the request `id`'s.
    #[inline]
    pub(crate) fn state_of(&mut self, index: usize, id: u64) -> Option<&mut State<In>> {
        let slot = self.slots.get_mut(index).filter(|slot| slot.id == id)?;
        Some(&mut slot.state)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot<In>> {
        self.slots.iter_mut()
    }

    /// Frees the slot at `index`, and gives back what was in it.
    #[inline]
    pub(crate) fn free(&mut self, index: usize) -> State<In> {
        let free = State::Free(self.first_free);
        let old = std::mem::replace(&mut self.slots[index].state, free);
        self.first_free = u32::try_from(index).ok();
        self.used -= 1;
        if self.used == 0 {
            self.rest();
        }
        old
    }

    /// No slot is in use: all of them are as good as new.
    fn rest(&mut self) {
        let most = self.slots.len();
        self.slots.clear();
        self.first_free = None;
        if most > FEW {
            self.quiet = 0;
        } else {
            self.quiet = self.quiet.saturating_add(1);
        }
        if self.is_quiet() {
            self.slots.shrink_to(FEW);
        }
    }

    /// All are free, and the memory of a busy time is given back now.
    #[inline]
    pub(crate) const fn is_quiet(&self) -> bool {
        self.used == 0 && self.quiet == QUIET
    }

    pub(crate) fn deadline(&self, index: usize) -> Option<Instant> {
        self.slots[index].deadline
    }

    /// How many slots there are, and for how many there is memory.
    #[cfg(all(test, not(getty_loom)))]
    pub(crate) fn memory(&self) -> (usize, usize) {
        (self.slots.len(), self.slots.capacity())
    }
}
