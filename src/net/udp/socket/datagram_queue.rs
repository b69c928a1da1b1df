//! A queue of received datagrams and a pool of empty queues.
//!
//! The queue keeps the bytes of all datagrams in one buffer.

use std::{cell::RefCell, collections::VecDeque};

use bytes::{Buf, BytesMut};

use super::ecn::Ecn;

/// Received datagrams in the order of arrival, each with metadata `M`.
#[derive(Debug)]
pub(crate) struct DatagramQueue<M> {
    bytes: BytesMut,
    /// Length and metadata of each datagram.
    entries: VecDeque<(u16, M)>,
}

impl<M> DatagramQueue<M> {
    pub(crate) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            entries: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of queued bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a datagram. UDP's length field has 16 bits, so every datagram fits; a longer slice
    /// would be cut.
    pub(crate) fn push(&mut self, datagram: &[u8], meta: M) {
        let len = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&datagram[..len.into()]);
        self.entries.push_back((len, meta));
    }

    /// Appends the next datagram to `buf`. Returns its length and its metadata.
    pub(crate) fn pop(&mut self, buf: &mut BytesMut) -> Option<(usize, M)> {
        let (len, meta) = self.entries.pop_front()?;
        let len = usize::from(len);
        buf.extend_from_slice(&self.bytes[..len]);
        self.skip(len);
        Some((len, meta))
    }

    /// Drops the next datagram.
    pub(crate) fn drop_next(&mut self) {
        if let Some((len, _)) = self.entries.pop_front() {
            self.skip(len.into());
        }
    }

    fn skip(&mut self, len: usize) {
        if len == self.bytes.len() {
            self.bytes.clear(); // unlike an advance, this frees the whole buffer for reuse
        } else {
            self.bytes.advance(len);
        }
    }

    /// Frees the memory of an empty queue if it takes more than `max` bytes.
    pub(crate) fn shrink(&mut self, max: usize) {
        if self.is_empty() && self.capacity() > max {
            *self = Self::new();
        }
    }

    fn capacity(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<(u16, M)>()
    }
}

/// Queue of one peer of a listener.
pub(crate) type PeerQueue = DatagramQueue<Ecn>;

/// Maximum capacity of a pooled queue, in bytes. Larger ones are freed.
const MAX_POOLED_CAPACITY: usize = 4 * 1024;
/// Maximum number of queues in a thread's pool. A reader takes up to one per datagram of a
/// batch before the sessions return them.
const MAX_POOLED: usize = 64;

thread_local! {
    #[allow(clippy::vec_box, reason = "the boxes move between pool and peers")]
    static POOL: RefCell<Vec<Box<PeerQueue>>> = const { RefCell::new(Vec::new()) };
}

/// Takes an empty queue from the pool or creates one.
pub(crate) fn take_queue() -> Box<PeerQueue> {
    // the pool is gone while its thread is destroyed
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop());
    pooled
        .ok()
        .flatten()
        .unwrap_or_else(|| Box::new(DatagramQueue::new()))
}

/// Returns an empty queue to the pool. Frees it if it is large or the pool is full.
pub(crate) fn recycle(queue: Box<PeerQueue>) {
    if queue.capacity() > MAX_POOLED_CAPACITY || !queue.is_empty() {
        return;
    }
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < MAX_POOLED {
            pool.push(queue);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_popped_whole_in_the_order_of_arrival() {
        let mut queue = DatagramQueue::new();
        let mut buf = BytesMut::new();
        for (n, datagram) in ["one", "", "three"].into_iter().enumerate() {
            queue.push(datagram.as_bytes(), n);
        }
        assert_eq!((queue.len(), queue.bytes()), (3, 8));
        assert_eq!(queue.pop(&mut buf), Some((3, 0)));
        assert_eq!(queue.pop(&mut buf), Some((0, 1)));
        queue.push(b"four", 3);
        queue.drop_next();
        assert_eq!(queue.pop(&mut buf), Some((4, 3)));
        assert_eq!(buf, "onefour");
        assert_eq!(queue.pop(&mut buf), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn queue_that_has_grown_is_not_pooled() {
        while POOL.with(|pool| !pool.borrow().is_empty()) {
            drop(take_queue());
        }
        let mut large = take_queue();
        large.push(&[0; 2 * MAX_POOLED_CAPACITY], Ecn::NotCapable);
        large.drop_next();
        recycle(large);
        assert!(POOL.with(|pool| pool.borrow().is_empty()));
        recycle(take_queue());
        assert_eq!(POOL.with(|pool| pool.borrow().len()), 1);
    }
}
