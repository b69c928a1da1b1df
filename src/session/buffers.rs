//! Read and write buffers, lent while there are bytes in them: an idle session holds none.

use std::cell::RefCell;

use bytes::BytesMut;

/// What a buffer holds at first. A read takes what has arrived up to this, so that a burst of messages costs few reads.
pub(crate) const BUFFER: usize = 64 * 1024;

/// A buffer that has grown beyond this is freed rather than kept.
const KEPT_CAPACITY: usize = 2 * BUFFER;

/// How many buffers a thread keeps. A session holds two at the most while it is polled, and sessions that wait for the
/// rest of a frame or for a slow peer hold theirs, so few suffice.
const KEPT: usize = 16;

/// Buffers change places with those that are lent, so that nothing is moved twice: the places from `kept` on hold empty
/// ones.
struct Pool {
    places: Vec<BytesMut>,
    kept: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool {
            places: Vec::new(),
            kept: 0,
        })
    };
}

/// Puts an empty buffer where none is.
pub(crate) fn lend(to: &mut BytesMut) {
    debug_assert_eq!(to.capacity(), 0, "there is a buffer already");
    // during the destruction of a thread there is no pool any more
    let lent = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let Some(last) = pool.kept.checked_sub(1) else {
            return false;
        };
        pool.kept = last;
        pool.places
            .get_mut(last)
            .map(|place| std::mem::swap(place, to))
            .is_some()
    });
    if lent != Ok(true) {
        *to = BytesMut::with_capacity(BUFFER);
    }
}

/// Takes a buffer back, with whatever is in it, and leaves none behind. One that messages still refer to is left to them.
pub(crate) fn take_back(buffer: &mut BytesMut) {
    buffer.clear();
    let whole = buffer.capacity() >= BUFFER || buffer.try_reclaim(BUFFER);
    let kept = whole
        && buffer.capacity() <= KEPT_CAPACITY
        && POOL.try_with(|pool| pool.borrow_mut().keep(buffer)) == Ok(true);
    if !kept {
        *buffer = BytesMut::new();
    }
}

/// An empty buffer.
pub(crate) fn take() -> BytesMut {
    let mut buffer = BytesMut::new();
    lend(&mut buffer);
    buffer
}

/// Takes a buffer back, with whatever is in it.
pub(crate) fn give(mut buffer: BytesMut) {
    take_back(&mut buffer);
}

impl Pool {
    #[inline]
    fn keep(&mut self, buffer: &mut BytesMut) -> bool {
        if self.kept == self.places.len() {
            if self.kept == KEPT {
                return false;
            }
            self.places.push(BytesMut::new());
        }
        let Some(place) = self.places.get_mut(self.kept) else {
            return false;
        };
        std::mem::swap(place, buffer);
        self.kept += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_unless_a_message_refers_to_it() {
        let mut buffer = take();
        buffer.extend_from_slice(b"message and rest");
        let block = buffer.as_ptr();
        let message = buffer.split_to(7).freeze();
        take_back(&mut buffer);
        assert_eq!(buffer.capacity(), 0);
        let mut other = take();
        assert_ne!(other.as_ptr(), block);

        other.extend_from_slice(b"gone");
        drop(other.split_to(4));
        let block = other.capacity();
        take_back(&mut other);
        lend(&mut other);
        assert!(other.capacity() > block, "the whole block is there again");
        assert_eq!(message, "message");
    }
}
