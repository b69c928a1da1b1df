//! A limit on the memory that all sessions of a process hold for sending.
//!
//! The queue and the write buffer of each session have limits, but ten thousand slow peers can
//! fill ten thousand queues. A [`MemoryBudget`] is shared by the sessions of one or more
//! `SessionLayer`s and limits the sum.
//!
//! The budget counts:
//!
//! - bytes in a write buffer that the peer has not taken by the end of a poll;
//! - bytes passed to [`send_raw`](crate::Session::send_raw);
//! - messages in queues, by the size of their type and the weight from
//!   `CodecLayer::with_weight`.
//!
//! Sessions charge the budget in blocks of 4 KiB. Most messages therefore do not touch it, and
//! a session with anything to send holds at least one block.

use std::{fmt, sync::Arc, task::Context};

use crate::sync::Quota;

/// Bytes that a session charges at a time.
const BLOCK: usize = 4 * 1024;

/// Fraction of the budget that is reserved for the first block of each session, as a divisor.
/// Sessions that hold much cannot shut out sessions that hold little.
const RESERVE_DIVISOR: usize = 8;

/// Maximum bytes that the sessions that share it may hold for sending. Clones share the
/// budget. Scope: process.
///
/// When the budget is used up, sends are refused with
/// [`SendError::Budget`](crate::SendError::Budget). Replies cannot be refused. Instead, a
/// session with replies to send handles one message at a time, each only once the previous
/// reply has left. Each session can therefore exceed the budget by at most one reply. The last
/// eighth is reserved for sessions that hold less than 4 KiB so that a few slow peers cannot
/// shut out the others.
///
/// A session with a slow peer holds up to its high watermark and the content of its queue: 64
/// KiB and 64 messages by default. If the budget is smaller than that for all peers that are
/// slow at the same time, they use it up. The other sessions can then hold 4 KiB each, for at
/// most one session per 32 KiB of the budget. Further sessions are refused as well, even if
/// their peers read, until the slow peers read or the write timeout ends their sessions.
///
/// ```
/// use getty_core::MemoryBudget;
///
/// let budget = MemoryBudget::new(256 * 1024 * 1024);
/// assert_eq!(budget.used(), 0);
/// ```
#[derive(Clone)]
pub struct MemoryBudget(Arc<Quota>);

impl MemoryBudget {
    /// Creates a budget of this many bytes. A budget should exceed 32 KiB: a smaller one has no
    /// room for a message.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Quota::new(bytes, bytes - bytes / RESERVE_DIVISOR)))
    }

    /// Returns the size of the budget, in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit()
    }

    /// Returns the number of bytes in use, in whole blocks.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used()
    }

    /// Returns `true` if only sessions that hold less than 4 KiB may still send.
    #[must_use]
    #[inline]
    pub fn is_used_up(&self) -> bool {
        self.0.is_used_up()
    }

    /// Registers the waker of `cx`, which is woken when there is room again. Returns `false` if
    /// there is room now.
    pub(crate) fn register(&self, id: u64, cx: &Context<'_>) -> bool {
        self.0.register(id, cx)
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

/// Bytes that one session has charged to its budget. They are released when it is dropped.
#[derive(Debug)]
pub(crate) struct BudgetUsage {
    budget: MemoryBudget,
    /// Id of the connection.
    id: u64,
    /// Bytes charged, in whole blocks.
    charged: usize,
    /// Bytes in the queue.
    queued: usize,
    /// Bytes that the driver has taken from the queue and not encoded.
    taken: usize,
    /// Bytes in the write buffer, as of the last report.
    written: usize,
}

impl BudgetUsage {
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

    // saturating: the application weighs messages, and may return any number each time
    fn held(&self) -> usize {
        let not_written = self.queued.saturating_add(self.taken);
        not_written.saturating_add(self.written)
    }

    /// Charges `bytes` that will be queued. Returns `false` if the budget has no room.
    pub(crate) fn queue(&mut self, bytes: usize) -> bool {
        let needed = blocks(self.held().saturating_add(bytes));
        if needed > self.charged {
            let limit = if needed <= BLOCK {
                self.budget.limit()
            } else {
                self.budget.0.threshold()
            };
            if !self.budget.0.try_reserve(needed - self.charged, limit) {
                return false;
            }
            self.charged = needed;
        }
        self.queued = self.queued.saturating_add(bytes);
        true
    }

    /// Charges bytes that were queued before there was a budget, even without room.
    pub(crate) fn begin(&mut self, bytes: usize) {
        self.queued = bytes;
        self.update();
    }

    /// Charges `new` bytes that will be queued in place of `old` bytes. Returns `false` if the
    /// budget has no room.
    pub(crate) fn replace(&mut self, old: usize, new: usize) -> bool {
        if new > old {
            return self.queue(new - old);
        }
        self.unqueue(old - new);
        true
    }

    /// Releases bytes that were removed from the queue.
    pub(crate) fn unqueue(&mut self, bytes: usize) {
        self.queued = self.queued.saturating_sub(bytes);
        self.update();
    }

    /// Records that the driver has taken the queue.
    pub(crate) fn take(&mut self) {
        let queued = std::mem::take(&mut self.queued);
        self.taken = self.taken.saturating_add(queued);
    }

    /// Releases what the driver took and has encoded. It returns `bytes` to the queue.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.taken = 0;
        self.queued = self.queued.saturating_add(bytes);
    }

    /// Sets the number of bytes in the write buffer.
    pub(crate) fn write(&mut self, bytes: usize) {
        self.written = bytes;
        self.update();
    }

    fn update(&mut self) {
        let needed = blocks(self.held());
        let charged = std::mem::replace(&mut self.charged, needed);
        if needed > charged {
            self.budget.0.reserve(needed - charged);
        } else if needed < charged {
            self.budget.0.release(charged - needed);
        }
    }
}

impl Drop for BudgetUsage {
    fn drop(&mut self) {
        self.budget.0.unregister(self.id);
        if self.charged > 0 {
            self.budget.0.release(self.charged);
        }
    }
}

/// Returns `true` if the two sizes take different numbers of blocks. Smaller changes need not
/// be reported.
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
    fn usage_is_charged_in_whole_blocks_and_released_on_drop() {
        let budget = MemoryBudget::new(80 * BLOCK);
        let mut usage = BudgetUsage::new(budget.clone(), 1);
        assert!(usage.queue(1));
        assert_eq!(budget.used(), BLOCK);
        assert!(usage.queue(BLOCK - 1));
        assert_eq!(budget.used(), BLOCK, "the block was already charged");
        assert!(usage.queue(1));
        assert_eq!(budget.used(), 2 * BLOCK);
        usage.take();
        usage.release(10);
        usage.write(3 * BLOCK);
        assert_eq!(budget.used(), 4 * BLOCK);
        usage.unqueue(10);
        assert_eq!(budget.used(), 3 * BLOCK);
        drop(usage);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn last_eighth_is_reserved_for_sessions_that_hold_less_than_a_block() {
        let budget = MemoryBudget::new(16 * BLOCK);
        let mut rich = BudgetUsage::new(budget.clone(), 1);
        assert!(rich.queue(14 * BLOCK));
        assert!(budget.is_used_up());
        assert!(!rich.queue(1));
        let [mut first, mut second, mut third] =
            [2, 3, 4].map(|id| BudgetUsage::new(budget.clone(), id));
        assert!(first.queue(10) && second.queue(10));
        assert!(!third.queue(10), "the whole budget is used up");
        rich.take();
        rich.release(0);
        rich.write(0);
        assert!(third.queue(10) && !budget.is_used_up());
    }

    #[test]
    fn replies_are_charged_even_without_room_and_waiting_sessions_are_woken() {
        use tokio_test::task;

        let budget = MemoryBudget::new(8 * BLOCK);
        let mut usage = BudgetUsage::new(budget.clone(), 1);
        usage.write(20 * BLOCK);
        assert_eq!(budget.used(), 20 * BLOCK);
        let mut waits = task::spawn(());
        assert!(waits.enter(|cx, _| budget.register(2, cx)));
        usage.write(10 * BLOCK);
        assert!(!waits.is_woken());
        usage.write(6 * BLOCK);
        assert!(waits.is_woken());
        assert!(!waits.enter(|cx, _| budget.register(2, cx)));
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::{future::poll_fn, task::Poll};

    use loom::{future::block_on, thread};

    use super::*;

    /// Neither of the two sessions releases enough alone.
    #[test]
    fn session_is_woken_once_two_others_have_released_the_budget() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let budget = MemoryBudget::new(8 * BLOCK);
            let usages = [1, 2].map(|id| {
                let mut usage = BudgetUsage::new(budget.clone(), id);
                usage.write(4 * BLOCK);
                usage
            });
            let ends = usages.map(|usage| thread::spawn(move || drop(usage)));
            block_on(poll_fn(|cx| {
                if budget.is_used_up() && budget.register(3, cx) {
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
