//! Read and write buffers, lent while there are bytes in them: an idle session holds none.

use std::cell::RefCell;

use bytes::BytesMut;

/// What a buffer holds at first. A read takes what has arrived up to this, so that a burst of messages costs few reads.
pub(crate) const BUFFER: usize = 64 * 1024;

/// What a large buffer holds, for a session in [bulk](super::bulk): four frames of 64 KiB with their headers. Over TCP on the
/// loopback device twice as much makes no difference any more, and with four times as much what is to be written is no
/// longer in the processor's cache.
pub(crate) const LARGE: usize = 4 * (BUFFER + 1024);

/// A buffer that has grown beyond this is no ordinary one any more.
const KEPT_CAPACITY: usize = 2 * BUFFER;

/// How many buffers a thread keeps. A session holds two at the most while it is polled, and sessions that wait for the
/// rest of a frame or for a slow peer hold theirs, so few suffice.
const KEPT: usize = 16;

/// How many large ones it keeps: few sessions are in bulk at a time.
const KEPT_LARGE: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static LARGE_POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Puts an empty buffer where none is.
pub(crate) fn lend(to: &mut BytesMut) {
    // during the destruction of a thread there is no pool any more
    let lent = POOL.try_with(|pool| match pool.borrow_mut().pop() {
        Some(buffer) => {
            *to = buffer;
            true
        }
        None => false,
    });
    if !lent.unwrap_or(false) {
        *to = BytesMut::with_capacity(BUFFER);
    }
}

/// Takes a buffer back, with whatever is in it, and leaves none behind. One that messages still refer to is left to them.
pub(crate) fn take_back(buffer: &mut BytesMut) {
    buffer.clear();
    let whole = buffer.capacity() >= BUFFER || buffer.try_reclaim(BUFFER);
    if whole && buffer.capacity() > BUFFER {
        keep_larger(buffer);
    } else if whole {
        keep(buffer);
    }
    if buffer.capacity() > 0 {
        *buffer = BytesMut::new();
    }
}

/// Keeps an empty buffer, if there is a place, and leaves none behind then.
#[inline]
fn keep(buffer: &mut BytesMut) {
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            // moved once: each further move of what has just been written would make the processor wait
            pool.push(std::mem::take(buffer));
        }
    });
}

/// Keeps an empty buffer that has grown a little with the ordinary ones, and a large one with the large; others are freed. A
/// peer may have taken a part of a large one: it is large all the same.
#[cold]
fn keep_larger(buffer: &mut BytesMut) {
    let _whole = buffer.try_reclaim(LARGE);
    if buffer.capacity() <= KEPT_CAPACITY {
        return keep(buffer);
    }
    if !(LARGE..=2 * LARGE).contains(&buffer.capacity()) {
        return;
    }
    let _ = LARGE_POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT_LARGE {
            pool.push(std::mem::take(buffer));
        }
    });
}

/// An empty large buffer.
#[cold]
pub(crate) fn take_large() -> BytesMut {
    let kept = LARGE_POOL.try_with(|pool| pool.borrow_mut().pop());
    let kept = kept.ok().flatten();
    kept.unwrap_or_else(|| BytesMut::with_capacity(LARGE))
}

/// Takes back one that was large: the whole block of it, however much of that has been used.
#[cold]
pub(crate) fn take_back_large(buffer: &mut BytesMut) {
    buffer.clear();
    let _whole = buffer.try_reclaim(LARGE); // or as much of it as messages leave
    take_back(buffer);
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

#[cfg(test)]
mod tests {
    use bytes::Buf;

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

    #[test]
    fn a_large_buffer_of_which_a_slow_peer_has_taken_a_part_is_no_ordinary_one() {
        let mut buffer = take_large();
        buffer.resize(LARGE, 0);
        buffer.advance(LARGE - BUFFER - BUFFER / 2);
        take_back(&mut buffer);
        assert_eq!(take().capacity(), BUFFER);
        assert_eq!(take_large().capacity(), LARGE);
    }
}
