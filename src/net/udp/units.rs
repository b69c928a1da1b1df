//! Datagrams that wait to be read: their bytes in one block, and where each ends.

use std::{cell::RefCell, collections::VecDeque};

use bytes::{Buf, BytesMut};

/// Datagrams in the order of their arrival, each with something of `M` about it.
///
/// Empty ones are kept by nobody: they come from the thread's pool, and go back there.
#[derive(Debug)]
pub(super) struct Units<M> {
    bytes: BytesMut,
    each: VecDeque<(u16, M)>,
}

impl<M> Units<M> {
    pub(super) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            each: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.each.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a datagram. No datagram is longer than a length of 16 bits can say; the rest of one that is would be lost.
    pub(super) fn push(&mut self, datagram: &[u8], about: M) {
        let len = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&datagram[..len.into()]);
        self.each.push_back((len, about));
    }

    /// Appends the next datagram to `buf`; its length, and what is said about it.
    pub(super) fn pop(&mut self, buf: &mut BytesMut) -> Option<(usize, M)> {
        let (len, about) = self.each.pop_front()?;
        let len = usize::from(len);
        buf.extend_from_slice(&self.bytes[..len]);
        self.skip(len);
        Some((len, about))
    }

    /// Drops the next datagram.
    pub(super) fn drop_next(&mut self) {
        if let Some((len, _)) = self.each.pop_front() {
            self.skip(len.into());
        }
    }

    fn skip(&mut self, len: usize) {
        if len == self.bytes.len() {
            self.bytes.clear(); // unlike an advance, this leaves the whole block to be used again
        } else {
            self.bytes.advance(len);
        }
    }

    /// Frees what an empty queue takes, if that is more than so many bytes.
    pub(super) fn shrink(&mut self, most: usize) {
        if self.is_empty() && self.capacity() > most {
            *self = Self::new();
        }
    }

    fn capacity(&self) -> usize {
        self.bytes.capacity() + self.each.capacity() * size_of::<(u16, M)>()
    }
}

/// What a peer's queue says of each datagram.
pub(super) type PeerUnits = Units<super::Ecn>;

/// More than this is freed rather than kept.
const KEPT_CAPACITY: usize = 4 * 1024;
/// A reader may take one for each datagram of a batch before the sessions give them back.
const KEPT: usize = 64;

thread_local! {
    #[allow(clippy::vec_box, reason = "they move between here and the peers, which keep one word for theirs")]
    static POOL: RefCell<Vec<Box<PeerUnits>>> = const { RefCell::new(Vec::new()) };
}

/// An empty queue.
pub(super) fn take() -> Box<PeerUnits> {
    // during the destruction of a thread there is no pool any more
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop());
    pooled
        .ok()
        .flatten()
        .unwrap_or_else(|| Box::new(Units::new()))
}

/// Gives an empty queue back.
pub(super) fn give(units: Box<PeerUnits>) {
    if units.capacity() > KEPT_CAPACITY || !units.is_empty() {
        return;
    }
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(units);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_out_whole_in_the_order_of_their_arrival() {
        let mut units = Units::new();
        let mut buf = BytesMut::new();
        for (n, datagram) in ["one", "", "three"].into_iter().enumerate() {
            units.push(datagram.as_bytes(), n);
        }
        assert_eq!((units.len(), units.bytes()), (3, 8));
        assert_eq!(units.pop(&mut buf), Some((3, 0)));
        assert_eq!(units.pop(&mut buf), Some((0, 1)));
        units.push(b"four", 3);
        units.drop_next();
        assert_eq!(units.pop(&mut buf), Some((4, 3)));
        assert_eq!(buf, "onefour");
        assert_eq!(units.pop(&mut buf), None);
        assert!(units.is_empty());
    }

    #[test]
    fn queue_that_has_grown_is_not_kept() {
        while POOL.with(|pool| !pool.borrow().is_empty()) {
            drop(take());
        }
        let mut large = take();
        large.push(&[0; 2 * KEPT_CAPACITY], super::super::Ecn::NotCapable);
        large.drop_next();
        give(large);
        assert!(POOL.with(|pool| pool.borrow().is_empty()));
        give(take());
        assert_eq!(POOL.with(|pool| pool.borrow().len()), 1);
    }
}
