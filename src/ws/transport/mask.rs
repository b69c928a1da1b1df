//! Masks of frames. A client combines its frames with random masks so that a script cannot
//! choose the bytes on the wire.

use std::hash::{BuildHasher, RandomState};

/// Combines `bytes` with a repeated `mask`.
#[inline]
pub(super) fn apply(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Source of unpredictable masks: a keyed pseudo-random function of their sequence number. The
/// key comes from the operating system's randomness.
#[derive(Debug)]
pub(super) struct Masks {
    keys: RandomState,
    next: u64,
}

impl Masks {
    pub(super) fn new() -> Self {
        Self {
            keys: RandomState::new(),
            next: 0,
        }
    }

    pub(super) fn next(&mut self) -> [u8; 4] {
        self.next = self.next.wrapping_add(1);
        let [a, b, c, d, ..] = self.keys.hash_one(self.next).to_ne_bytes();
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_applies_to_each_byte_for_any_length() {
        let mask = [1, 2, 4, 8];
        for length in 0..40_usize {
            let mut bytes = vec![0x55; length];
            apply(&mut bytes, mask);
            for (at, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, 0x55 ^ mask[at % 4]);
            }
        }
    }

    #[test]
    fn masks_differ() {
        let (mut one, mut other) = (Masks::new(), Masks::new());
        let first: Vec<_> = (0..4).map(|_| one.next()).collect();
        let second: Vec<_> = (0..4).map(|_| other.next()).collect();
        assert_ne!(first, second);
        assert!(first.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
