//! Bytes that are written from where they are, in between those of the write buffer.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// Shorter ones are copied into the write buffer.
///
/// Measured over TCP on the loopback device, batches of up to 64 KiB: a copy into a buffer that is in the processor's
/// cache costs less than a slice more in a vectored write up to some 4 KiB, and from there on as much, for it is the
/// kernel's own copy that counts. So what by-reference saves is memory, and the growing of the buffer; and a piece of
/// bytes by reference keeps the whole block alive that it is of.
pub(crate) const LEAST: usize = 16 * 1024;

/// How many slices are written at once.
pub(crate) const SLICES: usize = 32;

/// How many segments a message may consist of that has to be written at once: between each two there may be bytes of the
/// buffer.
pub(crate) const IN_A_UNIT: usize = (SLICES - 1) / 2;

/// Bytes by reference, each with its place among those of the write buffer. Takes one word until it is first used.
#[derive(Debug, Default)]
pub(crate) struct Segments(Option<Box<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Segment>,
    /// How many bytes all of them have.
    len: usize,
    /// How many bytes of the buffer go before the last of them.
    before_last: usize,
}

#[derive(Debug)]
struct Segment {
    /// How many bytes of the buffer go between the one before and this one.
    gap: usize,
    bytes: Bytes,
}

impl Segments {
    /// How many bytes they have.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| inner.len)
    }

    /// Adds `bytes`, which must not be empty, behind so many that are `buffered`.
    pub(crate) fn push(&mut self, buffered: usize, bytes: Bytes) {
        debug_assert!(!bytes.is_empty(), "an empty segment would never be written");
        let inner = self.0.get_or_insert_default();
        inner.len += bytes.len();
        inner.queue.push_back(Segment {
            gap: buffered - inner.before_last,
            bytes,
        });
        inner.before_last = buffered;
    }

    /// What is to be written next, after `front`: the first `limit` bytes at the most, as far as there are `slices` for them.
    pub(crate) fn gather<'a, 's>(
        &'a self,
        front: &'a [u8],
        buf: &'a [u8],
        limit: usize,
        slices: &'s mut [IoSlice<'a>; SLICES],
    ) -> &'s [IoSlice<'a>] {
        let (mut rest, mut left, mut filled) = (buf, limit, 0);
        let mut add = |bytes: &'a [u8]| {
            let bytes = &bytes[..bytes.len().min(left)];
            if !bytes.is_empty() && filled < SLICES {
                slices[filled] = IoSlice::new(bytes);
                left -= bytes.len();
                filled += 1;
            }
            left > 0 && filled < SLICES
        };
        if !add(front) {
            return &slices[..filled];
        }
        for Segment { gap, bytes } in self.0.iter().flat_map(|inner| &inner.queue) {
            let (before, after) = rest.split_at(*gap);
            if !add(before) || !add(bytes) {
                return &slices[..filled];
            }
            rest = after;
        }
        add(rest);
        &slices[..filled]
    }

    /// Drops so many bytes as were `taken`, and says how many of them were the buffer's.
    #[cold]
    pub(crate) fn advance(&mut self, taken: usize) -> usize {
        match &mut self.0 {
            Some(inner) => inner.advance(taken),
            None => taken,
        }
    }
}

impl Inner {
    fn advance(&mut self, taken: usize) -> usize {
        let (mut left, mut buffered) = (taken, 0);
        while let Some(segment) = self.queue.front_mut() {
            let before = left.min(segment.gap);
            segment.gap -= before;
            self.before_last -= before;
            buffered += before;
            left -= before;

            let of_segment = left.min(segment.bytes.len());
            segment.bytes.advance(of_segment);
            self.len -= of_segment;
            left -= of_segment;
            if !segment.bytes.is_empty() {
                return buffered;
            }
            self.queue.pop_front();
        }
        buffered + left
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    fn written(segments: &Segments, buf: &[u8], limit: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let slices = segments.gather(&[], buf, limit, &mut slices);
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        slices.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_in_which_they_came(
            // what is added, by reference or not, and how much of what waits is taken after it
            steps in prop::collection::vec((any::<bool>(), 1..40_usize, 0..80_usize), 1..60)
        ) {
            let (mut segments, mut buf) = (Segments::default(), BytesMut::new());
            let (mut all, mut out) = (Vec::new(), Vec::new());
            for (n, (referred, len, taken)) in steps.into_iter().enumerate() {
                let bytes = vec![u8::try_from(n).unwrap(); len];
                all.extend_from_slice(&bytes);
                if referred {
                    segments.push(buf.len(), bytes.into());
                } else {
                    buf.extend_from_slice(&bytes);
                }
                let next = written(&segments, &buf, taken);
                prop_assert!(next.len() <= taken);
                let of_buffer = segments.advance(next.len());
                buf.advance(of_buffer);
                out.extend(next);
                prop_assert_eq!(all.len() - out.len(), buf.len() + segments.len());
            }
            while out.len() < all.len() {
                let next = written(&segments, &buf, usize::MAX);
                let of_buffer = segments.advance(next.len());
                buf.advance(of_buffer);
                out.extend(next);
            }
            prop_assert_eq!(out, all);
            prop_assert!(segments.len() == 0 && buf.is_empty());
        }
    }
}
