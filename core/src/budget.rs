//! A bound on what all sessions of a process hold for sending.
//!
//! Each session's queue and write buffer are bounded by themselves; ten thousand slow peers fill ten thousand of them. A
//! [`MemoryBudget`] is shared by the sessions of one or several `SessionLayer`s, and bounds the sum.
//!
//! What is counted: bytes in write buffers that a session's peer has not taken by the end of a turn; bytes given to
//! [`send_raw`](crate::Session::send_raw); and messages in queues, by the size of their type and what
//! `CodecLayer::with_weight` says of each. Sessions charge it in blocks of 4 KiB, so
//! that a message costs it nothing as a rule, and a session that has anything waiting holds a block at least.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    task::{Context, Waker},
};

use crate::sync::{AtomicUsize, Mutex, Ordering};

/// What a session charges at a time.
const BLOCK: usize = 4 * 1024;

/// Of so many parts of the budget one is kept for the first block of each session: those that hold much cannot shut out
/// those that hold next to nothing.
const KEPT: usize = 8;

/// How many bytes the sessions that share it may hold for sending, all together. Clones share it. Scope: process.
///
/// When it is used up, what is sent is refused with [`SendError::Budget`](crate::SendError::Budget). Replies cannot be
/// refused: a session that has something waiting for its peer handles one message after another then, each only when the
/// reply to the last has left, so that each session exceeds the budget by one reply at the most. The last eighth is kept
/// for sessions that hold less than 4 KiB: a few slow peers cannot shut out the others.
///
/// How large it is to be: a session whose peer is slow holds up to its high watermark and what lies in its queue, 64 KiB and
/// 64 messages by default. Where there is less than that for all that are slow at the same time, they use it up, and the
/// others have 4 KiB each, as long as there is one for every 32 KiB of the budget at the most. Of more, those who read well
/// are refused, too, until the slow ones read or the write timeout has ended them.
///
/// ```
/// use getty_core::MemoryBudget;
///
/// let budget = MemoryBudget::new(256 * 1024 * 1024);
/// assert_eq!(budget.used(), 0);
/// ```
#[derive(Clone)]
pub struct MemoryBudget(Arc<Inner>);

struct Inner {
    limit: usize,
    used: AtomicUsize,
    /// Sessions that decode again when there is room, by the connection's id.
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

impl MemoryBudget {
    /// So many bytes. Less than some 32 KiB leaves no room for anything.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Inner {
            limit: bytes,
            used: AtomicUsize::new(0),
            waiting: Mutex::new(BTreeMap::new()),
        }))
    }

    /// How many bytes there are.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// How many of them are in use, in whole blocks.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Acquire)
    }

    /// Whether nothing is left but for sessions that hold next to nothing.
    #[must_use]
    #[inline]
    pub fn is_used_up(&self) -> bool {
        self.used() >= self.mark()
    }

    fn mark(&self) -> usize {
        self.0.limit - self.0.limit / KEPT
    }

    /// Has `cx` woken when there is room. `false` if there is already.
    pub(crate) fn wait(&self, id: u64, cx: &Context<'_>) -> bool {
        let mut waiting = self.0.waiting.lock();
        let old = waiting.insert(id, cx.waker().clone());
        drop(waiting);
        drop(old);
        // after the entry was made: whoever makes room from here on sees it
        self.is_used_up()
    }

    fn try_charge(&self, bytes: usize, limit: usize) -> bool {
        let charge = |used: usize| used.checked_add(bytes).filter(|used| *used <= limit);
        let charged = self
            .0
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, charge);
        charged.is_ok()
    }

    fn charge(&self, bytes: usize) {
        self.0.used.fetch_add(bytes, Ordering::AcqRel);
    }

    fn release(&self, bytes: usize) {
        let before = self.0.used.fetch_sub(bytes, Ordering::AcqRel);
        if before >= self.mark() && before - bytes < self.mark() {
            let waiting = std::mem::take(&mut *self.0.waiting.lock());
            waiting.into_values().for_each(Waker::wake);
        }
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish()
    }
}

/// What one session has charged to its budget. Dropped, it gives all of it back.
#[derive(Debug)]
pub(crate) struct Account {
    budget: MemoryBudget,
    id: u64,
    /// In whole blocks.
    charged: usize,
    /// What lies in the queue.
    queued: usize,
    /// What the driver has taken from there and not encoded.
    taken: usize,
    /// What lies in the write buffer, as of the end of the last turn that told.
    written: usize,
}

impl Account {
    pub(crate) const fn new(budget: MemoryBudget, id: u64) -> Self {
        Self {
            budget,
            id,
            charged: 0,
            queued: 0,
            taken: 0,
            written: 0,
        }
    }

    // what a message weighs the application says: it may be absurd, and another thing each time
    fn held(&self) -> usize {
        let not_written = self.queued.saturating_add(self.taken);
        not_written.saturating_add(self.written)
    }

    /// Charges so many bytes that are to be queued, if the budget lets it.
    pub(crate) fn queue(&mut self, bytes: usize) -> bool {
        let needed = blocks(self.held().saturating_add(bytes));
        if needed > self.charged {
            let limit = if needed <= BLOCK {
                self.budget.limit()
            } else {
                self.budget.mark()
            };
            if !self.budget.try_charge(needed - self.charged, limit) {
                return false;
            }
            self.charged = needed;
        }
        self.queued = self.queued.saturating_add(bytes);
        true
    }

    /// Charges for what was queued before there was a budget, come what may.
    pub(crate) fn begin(&mut self, bytes: usize) {
        self.queued = bytes;
        self.settle();
    }

    /// Charges `new` bytes that are to be queued in place of `old` ones, if the budget lets it.
    pub(crate) fn replace(&mut self, old: usize, new: usize) -> bool {
        if new > old {
            return self.queue(new - old);
        }
        self.unqueue(old - new);
        true
    }

    /// So many bytes have left the queue and are nobody's.
    pub(crate) fn unqueue(&mut self, bytes: usize) {
        self.queued = self.queued.saturating_sub(bytes);
        self.settle();
    }

    /// The driver has taken the queue.
    pub(crate) fn take(&mut self) {
        let queued = std::mem::take(&mut self.queued);
        self.taken = self.taken.saturating_add(queued);
    }

    /// The driver has encoded what it took, but for so many bytes that it gives back.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.taken = 0;
        self.queued = self.queued.saturating_add(bytes);
    }

    /// So many bytes lie in the write buffer.
    pub(crate) fn write(&mut self, bytes: usize) {
        self.written = bytes;
        self.settle();
    }

    fn settle(&mut self) {
        let needed = blocks(self.held());
        let charged = std::mem::replace(&mut self.charged, needed);
        if needed > charged {
            self.budget.charge(needed - charged);
        } else if needed < charged {
            self.budget.release(charged - needed);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let old = self.budget.0.waiting.lock().remove(&self.id);
        drop(old);
        if self.charged > 0 {
            self.budget.release(self.charged);
        }
    }
}

/// Whether another number of bytes is another number of blocks: what is less is not worth telling the account.
#[inline]
pub(crate) const fn is_other_block(before: usize, now: usize) -> bool {
    blocks(before) != blocks(now)
}

#[inline]
const fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_account_charges_whole_blocks_and_gives_all_of_them_back() {
        let budget = MemoryBudget::new(80 * BLOCK);
        let mut account = Account::new(budget.clone(), 1);
        assert!(account.queue(1));
        assert_eq!(budget.used(), BLOCK);
        assert!(account.queue(BLOCK - 1));
        assert_eq!(budget.used(), BLOCK, "the block was paid");
        assert!(account.queue(1));
        assert_eq!(budget.used(), 2 * BLOCK);
        account.take();
        account.give_back(10);
        account.write(3 * BLOCK);
        assert_eq!(budget.used(), 4 * BLOCK);
        account.unqueue(10);
        assert_eq!(budget.used(), 3 * BLOCK);
        drop(account);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_last_part_is_kept_for_those_that_hold_next_to_nothing() {
        let budget = MemoryBudget::new(16 * BLOCK);
        let mut rich = Account::new(budget.clone(), 1);
        assert!(rich.queue(14 * BLOCK));
        assert!(budget.is_used_up());
        assert!(!rich.queue(1));
        let [mut first, mut second, mut third] =
            [2, 3, 4].map(|id| Account::new(budget.clone(), id));
        assert!(first.queue(10) && second.queue(10));
        assert!(!third.queue(10), "now all of it is used up");
        rich.take();
        rich.give_back(0);
        rich.write(0);
        assert!(third.queue(10) && !budget.is_used_up());
    }

    #[test]
    fn replies_are_charged_come_what_may_and_whoever_waits_is_woken() {
        use tokio_test::task;

        let budget = MemoryBudget::new(8 * BLOCK);
        let mut account = Account::new(budget.clone(), 1);
        account.write(20 * BLOCK);
        assert_eq!(budget.used(), 20 * BLOCK);
        let mut waits = task::spawn(());
        assert!(waits.enter(|cx, _| budget.wait(2, cx)));
        account.write(10 * BLOCK);
        assert!(!waits.is_woken());
        account.write(6 * BLOCK);
        assert!(waits.is_woken());
        assert!(!waits.enter(|cx, _| budget.wait(2, cx)));
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::{future::poll_fn, task::Poll};

    use loom::{future::block_on, thread};

    use super::*;

    /// A session that sleeps because the budget is used up wakes when two others have made room between them.
    #[test]
    fn room_is_never_slept_through() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let budget = MemoryBudget::new(8 * BLOCK);
            let accounts = [1, 2].map(|id| {
                let mut account = Account::new(budget.clone(), id);
                account.write(4 * BLOCK);
                account
            });
            let ends = accounts.map(|account| thread::spawn(move || drop(account)));
            block_on(poll_fn(|cx| {
                if budget.is_used_up() && budget.wait(3, cx) {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            }));
            for end in ends {
                end.join().unwrap();
            }
            assert_eq!(budget.used(), 0);
        });
    }
}
