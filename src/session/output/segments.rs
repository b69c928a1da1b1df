//! Payloads that are written by reference, between the bytes of the write buffer.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};
use getty_core::sync::Lazy;

/// Minimum size of a segment, in bytes. Shorter payloads are copied into the write buffer.
///
/// Measured over TCP on the loopback device with batches of up to 64 KiB. Up to about 4 KiB, a
/// copy into a cached buffer costs less than one more slice in a vectored write. Above that
/// both cost the same, because the kernel's copy dominates. A reference saves memory and the
/// growth of the buffer, but it keeps the whole block of its bytes alive (design.md: Why are
/// large raw payloads written by reference?).
pub(crate) const MIN_SEGMENT: usize = 16 * 1024;

/// Maximum slices of one vectored write.
pub(crate) const MAX_SLICES: usize = 32;

/// Maximum segments of a message that must be written in one call. Bytes of the buffer may be
/// between any two segments.
pub(crate) const MAX_SEGMENTS_PER_MESSAGE: usize = (MAX_SLICES - 1) / 2;

/// Bytes by reference, with their positions between the bytes of the write buffer.
#[derive(Debug, Default)]
pub(crate) struct Segments(Lazy<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Segment>,
    /// Sum of the segments' lengths, in bytes.
    len: usize,
    /// Number of bytes of the buffer before the last segment.
    before_last: usize,
}

#[derive(Debug)]
struct Segment {
    /// Number of bytes of the buffer between the previous segment and this one.
    gap: usize,
    bytes: Bytes,
}

impl Segments {
    /// Returns the sum of the segments' lengths, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.get().map_or(0, |inner| inner.len)
    }

    /// Appends `bytes` behind `buffered` bytes of the write buffer. `bytes` must not be empty.
    pub(crate) fn push(&mut self, buffered: usize, bytes: Bytes) {
        debug_assert!(!bytes.is_empty(), "an empty segment would never be written");
        let inner = self.0.get_or_default();
        inner.len += bytes.len();
        inner.queue.push_back(Segment {
            gap: buffered - inner.before_last,
            bytes,
        });
        inner.before_last = buffered;
    }

    /// Fills `slices` with the next bytes to write: `front`, the segments and `buf`. Returns the
    /// filled part. It has at most `limit` bytes.
    pub(crate) fn gather<'a, 's>(
        &'a self,
        front: &'a [u8],
        buf: &'a [u8],
        limit: usize,
        slices: &'s mut [IoSlice<'a>; MAX_SLICES],
    ) -> &'s [IoSlice<'a>] {
        let (mut rest, mut left, mut filled) = (buf, limit, 0);
        let mut add = |bytes: &'a [u8]| {
            let bytes = &bytes[..bytes.len().min(left)];
            if !bytes.is_empty() && filled < MAX_SLICES {
                slices[filled] = IoSlice::new(bytes);
                left -= bytes.len();
                filled += 1;
            }
            left > 0 && filled < MAX_SLICES
        };
        if !add(front) {
            return &slices[..filled];
        }
        for Segment { gap, bytes } in self.0.get().iter().flat_map(|inner| &inner.queue) {
            let (before, after) = rest.split_at(*gap);
            if !add(before) || !add(bytes) {
                return &slices[..filled];
            }
            rest = after;
        }
        add(rest);
        &slices[..filled]
    }

    /// Drops the next `taken` bytes. Returns how many were in the buffer.
    #[cold]
    pub(crate) fn advance(&mut self, taken: usize) -> usize {
        match self.0.get_mut() {
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
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let slices = segments.gather(&[], buf, limit, &mut slices);
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        slices.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    proptest! {
        #[test]
        fn bytes_are_written_in_the_order_in_which_they_were_added(
            // `true` if a payload is added by reference, its length, and the bytes taken after it.
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
