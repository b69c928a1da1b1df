//! Pool of read and write buffers, one for each thread.
//!
//! A session holds a buffer only while there are bytes in it. An idle session holds none
//! (design.md: Why do buffers come from a pool?).

use std::cell::RefCell;

use bytes::BytesMut;

/// Capacity of an ordinary buffer, in bytes. A read takes up to this much, so that a burst of
/// messages costs few reads.
pub(crate) const BUFFER: usize = 64 * 1024;

/// Capacity of a large buffer, in bytes: four frames of 64 KiB with their headers. Over TCP on
/// the loopback device twice as much makes no difference. With four times as much, the bytes to
/// write are no longer in the processor's cache (design.md: Why do some sessions get larger
/// buffers?).
pub(crate) const LARGE: usize = 4 * (BUFFER + 1024);

/// Maximum capacity of an ordinary buffer in the pool, in bytes. The buffer may have grown.
const MAX_ORDINARY: usize = 2 * BUFFER;

/// Maximum ordinary buffers in the pool of a thread. A session holds at most two while it is
/// polled. Sessions that wait for the rest of a frame or for a slow peer keep theirs.
const MAX_POOLED: usize = 16;

/// Maximum large buffers in the pool of a thread. Few sessions use large buffers at a time.
const MAX_POOLED_LARGE: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static LARGE_POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Sets `to` to an empty buffer. `to` must have no capacity.
pub(crate) fn take_into(to: &mut BytesMut) {
    // The pool is gone while its thread is destroyed.
    let pooled = POOL.try_with(|pool| match pool.borrow_mut().pop() {
        Some(buffer) => {
            *to = buffer;
            true
        }
        None => false,
    });
    if !pooled.unwrap_or(false) {
        *to = BytesMut::with_capacity(BUFFER);
    }
}

/// Returns a buffer to the pool, discards its content and leaves one without capacity. A buffer
/// that messages still refer to is not pooled.
pub(crate) fn put_back(buffer: &mut BytesMut) {
    buffer.clear();
    let whole = buffer.capacity() >= BUFFER || buffer.try_reclaim(BUFFER);
    if whole && buffer.capacity() > BUFFER {
        pool_larger(buffer);
    } else if whole {
        pool_ordinary(buffer);
    }
    if buffer.capacity() > 0 {
        *buffer = BytesMut::new();
    }
}

/// Moves an empty buffer to the pool, if the pool has room.
#[inline]
fn pool_ordinary(buffer: &mut BytesMut) {
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < MAX_POOLED {
            // The bytes are moved once. A second move would read bytes that were just written,
            // which stalls the processor.
            pool.push(std::mem::take(buffer));
        }
    });
}

/// Pools an empty buffer that has grown: a slightly larger one with the ordinary buffers, a
/// large one with the large buffers. Others are freed. A large buffer that was written in part
/// is reclaimed first.
#[cold]
fn pool_larger(buffer: &mut BytesMut) {
    let _whole = buffer.try_reclaim(LARGE);
    if buffer.capacity() <= MAX_ORDINARY {
        return pool_ordinary(buffer);
    }
    if !(LARGE..=2 * LARGE).contains(&buffer.capacity()) {
        return;
    }
    let _ = LARGE_POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < MAX_POOLED_LARGE {
            pool.push(std::mem::take(buffer));
        }
    });
}

/// Returns an empty large buffer.
#[cold]
pub(crate) fn take_large() -> BytesMut {
    let pooled = LARGE_POOL.try_with(|pool| pool.borrow_mut().pop());
    let pooled = pooled.ok().flatten();
    pooled.unwrap_or_else(|| BytesMut::with_capacity(LARGE))
}

/// Returns a buffer that was taken as a large one. Its whole block is reclaimed first.
#[cold]
pub(crate) fn put_back_large(buffer: &mut BytesMut) {
    buffer.clear();
    let _whole = buffer.try_reclaim(LARGE); // messages may still refer to a part
    put_back(buffer);
}

/// Returns an empty ordinary buffer.
pub(crate) fn take() -> BytesMut {
    let mut buffer = BytesMut::new();
    take_into(&mut buffer);
    buffer
}

/// Returns a buffer to the pool and discards its content.
pub(crate) fn put(mut buffer: BytesMut) {
    put_back(&mut buffer);
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn a_buffer_returns_to_the_pool_unless_a_message_refers_to_it() {
        let mut buffer = take();
        buffer.extend_from_slice(b"message and rest");
        let block = buffer.as_ptr();
        let message = buffer.split_to(7).freeze();
        put_back(&mut buffer);
        assert_eq!(buffer.capacity(), 0);
        let mut other = take();
        assert_ne!(other.as_ptr(), block);

        other.extend_from_slice(b"gone");
        drop(other.split_to(4));
        let block = other.capacity();
        put_back(&mut other);
        take_into(&mut other);
        assert!(
            other.capacity() > block,
            "the whole block is available again"
        );
        assert_eq!(message, "message");
    }

    #[test]
    fn a_partly_written_large_buffer_returns_to_the_large_pool() {
        let mut buffer = take_large();
        buffer.resize(LARGE, 0);
        buffer.advance(LARGE - BUFFER - BUFFER / 2);
        put_back(&mut buffer);
        assert_eq!(take().capacity(), BUFFER);
        assert_eq!(take_large().capacity(), LARGE);
    }
}
