//! Slots of requests, which are reused. Free slots form a list.

use std::task::Waker;

use tokio::time::Instant;

/// Number of slots whose memory is kept when no slot is in use.
pub(crate) const RETAINED_SLOTS: usize = 8;
/// Number of consecutive rounds with few requests after which the memory of many slots is
/// freed. A round ends when no slot is in use.
pub(crate) const SHRINK_AFTER: u8 = 32;

#[derive(Debug)]
pub(crate) enum State<In> {
    /// With the index of the next free slot.
    Free(Option<u32>),
    Waiting(Option<Waker>),
    Responded(In),
    Expired,
}

#[derive(Debug)]
pub(crate) struct Slot<In> {
    /// Id of the request in the slot, or of the last one.
    pub(crate) id: u64,
    pub(crate) deadline: Option<Instant>,
    pub(crate) state: State<In>,
}

#[derive(Debug)]
pub(crate) struct Slots<In> {
    slots: Vec<Slot<In>>,
    first_free: Option<u32>,
    /// Number of slots in use.
    used: u32,
    /// Number of consecutive rounds with few requests.
    small_rounds: u8,
}

impl<In> Slots<In> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            first_free: None,
            used: 0,
            small_rounds: 0,
        }
    }

    /// Returns the number of slots in use.
    #[inline]
    pub(crate) const fn used(&self) -> usize {
        self.used as usize
    }

    /// Fills a free slot with the value of `slot` and returns the id of its request.
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

    /// Returns the state of the slot at `index`, which must be in use.
    #[inline]
    pub(crate) fn state(&mut self, index: usize) -> &mut State<In> {
        &mut self.slots[index].state
    }

    /// Returns the state of the slot at `index`, if it belongs to the request `id`.
    #[inline]
    pub(crate) fn state_of(&mut self, index: usize, id: u64) -> Option<&mut State<In>> {
        let slot = self.slots.get_mut(index).filter(|slot| slot.id == id)?;
        Some(&mut slot.state)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot<In>> {
        self.slots.iter_mut()
    }

    /// Frees the slot at `index` and returns its state.
    #[inline]
    pub(crate) fn free(&mut self, index: usize) -> State<In> {
        let free = State::Free(self.first_free);
        let old = std::mem::replace(&mut self.slots[index].state, free);
        self.first_free = u32::try_from(index).ok();
        self.used -= 1;
        if self.used == 0 {
            self.recycle();
        }
        old
    }

    /// Resets the list of slots when none is in use.
    fn recycle(&mut self) {
        let slots = self.slots.len();
        self.slots.clear();
        self.first_free = None;
        if slots > RETAINED_SLOTS {
            self.small_rounds = 0;
        } else {
            self.small_rounds = self.small_rounds.saturating_add(1);
        }
        if self.should_shrink() {
            self.slots.shrink_to(RETAINED_SLOTS);
        }
    }

    /// Returns `true` if no slot is in use and memory should be freed now.
    #[inline]
    pub(crate) const fn should_shrink(&self) -> bool {
        self.used == 0 && self.small_rounds == SHRINK_AFTER
    }

    pub(crate) fn deadline(&self, index: usize) -> Option<Instant> {
        self.slots[index].deadline
    }

    /// Returns the number of slots and the number for which there is memory.
    #[cfg(all(test, not(getty_loom)))]
    pub(crate) fn memory(&self) -> (usize, usize) {
        (self.slots.len(), self.slots.capacity())
    }
}
