//! Whether a session moves more at once than an ordinary buffer holds.
//!
//! How much is read at once decides what a byte costs. Small messages arrive a few at a time, and an ordinary buffer takes
//! them all; a peer that sends without a pause fills it, and then each read and each write is a system call, and packets,
//! that a larger buffer would have saved. So a session is given large ones when its reads fill ordinary ones, and only as
//! long as it keeps up with its peer and its peer with it: as soon as anything waits, a session holds no more than usual.

/// What a read counts that filled a buffer.
const FILLED: u8 = 8;
/// From where on buffers are large: after two such reads.
const LARGE_FROM: u8 = 2 * FILLED;
/// How far it goes: so many reads beyond where it began may bring less before buffers are ordinary again.
const MOST: u8 = LARGE_FROM + 32;

/// How well reads have filled their buffers of late. Scope: session.
#[derive(Debug, Default)]
pub(crate) struct Bulk(u8);

impl Bulk {
    /// Whether buffers are to be large.
    #[inline]
    pub(crate) const fn is_on(&self) -> bool {
        self.0 >= LARGE_FROM
    }

    /// A read has brought as much as an ordinary buffer holds.
    pub(crate) const fn filled(&mut self) {
        let score = self.0 + FILLED;
        self.0 = if score < MOST { score } else { MOST };
    }

    /// A read has brought less.
    #[inline]
    pub(crate) const fn fell_short(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// Something waits: for its handler, or for the peer to read.
    pub(crate) const fn end(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_full_reads_begin_it_and_many_small_ones_end_it() {
        let mut bulk = Bulk::default();
        bulk.filled();
        assert!(!bulk.is_on());
        // one that takes the rest is to be expected
        bulk.fell_short();
        bulk.filled();
        bulk.filled();
        assert!(bulk.is_on());
        for _ in 0..100 {
            bulk.filled();
        }
        for _ in 0..32 {
            assert!(bulk.is_on());
            bulk.fell_short();
        }
        bulk.fell_short();
        assert!(!bulk.is_on());
    }

    #[test]
    fn it_ends_at_once_when_anything_waits() {
        let mut bulk = Bulk::default();
        for _ in 0..100 {
            bulk.filled();
        }
        bulk.end();
        bulk.filled();
        assert!(!bulk.is_on());
    }
}
