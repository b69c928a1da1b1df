//! Frames of the load. The payloads are the same in each form; only headers and masks differ.

use std::io::IoSlice;

/// Size of a length field, in bytes.
pub const HEADER: usize = 4;

/// Mask of all WebSocket frames. A server must handle any mask.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x0f];

/// The form of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A 4-byte big-endian length and the payload.
    Length,
    /// A complete and masked binary WebSocket frame of a client.
    Masked,
    /// A complete binary WebSocket frame of a server.
    Unmasked,
}

impl Form {
    fn header(self, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("the payload is at most MAX_PAYLOAD");
        let masked = match self {
            Self::Length => return length.to_be_bytes().to_vec(),
            Self::Masked => 0x80,
            Self::Unmasked => 0,
        };
        let [.., third, fourth] = length.to_be_bytes();
        let mut header = vec![0x82];
        match length {
            0..=125 => header.push(masked | fourth),
            126..=0xffff => header.extend([masked | 126, third, fourth]),
            _ => {
                header.push(masked | 127);
                header.extend(u64::from(length).to_be_bytes());
            }
        }
        if self == Self::Masked {
            header.extend(MASK);
        }
        header
    }
}

/// Maximum payload that the servers accept, in bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// Maximum number of slices in one write. Larger windows are written in several parts.
const SLICES: usize = 16;

/// An endless stream of frames with different contents. Bytes are addressed by their position.
///
/// The frames repeat after about 64 KiB. These bytes stay in the cache, so sending must cost
/// only a copy and checking a comparison. The bytes will differ if a server loses, repeats or
/// swaps frames, or sends them on another connection.
#[derive(Clone, Debug)]
pub struct Frames {
    ring: Vec<u8>,
    frame: usize,
}

impl Frames {
    /// Creates a stream of length-delimited frames with `payload` bytes each.
    ///
    /// # Panics
    ///
    /// If `payload` exceeds [`MAX_PAYLOAD`].
    #[must_use]
    pub fn new(payload: usize) -> Self {
        Self::in_form(Form::Length, payload)
    }

    /// Creates a stream of frames in this form with `payload` bytes each.
    ///
    /// # Panics
    ///
    /// If `payload` exceeds [`MAX_PAYLOAD`].
    #[must_use]
    pub fn in_form(form: Form, payload: usize) -> Self {
        assert!(
            payload <= MAX_PAYLOAD,
            "no server takes a payload of {payload} bytes"
        );
        let header = form.header(payload);
        let frame = header.len() + payload;
        let count = (64 * 1024 / (HEADER + payload)).max(3);
        let mut ring = Vec::with_capacity(count * frame);
        // xorshift is cheap and never zero. Each frame differs from its neighbours in every word.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..count {
            ring.extend_from_slice(&header);
            let start = ring.len();
            let end = start + payload;
            while ring.len() < end {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let word = state.to_be_bytes();
                ring.extend_from_slice(&word[..word.len().min(end - ring.len())]);
            }
            if form == Form::Masked {
                let mask = MASK.iter().cycle();
                ring[start..]
                    .iter_mut()
                    .zip(mask)
                    .for_each(|(byte, mask)| *byte ^= mask);
            }
        }
        Self { ring, frame }
    }

    /// Returns the size of a frame with its header, in bytes.
    #[must_use]
    pub fn frame_len(&self) -> u64 {
        self.frame as u64
    }

    /// Returns `true` if `received` equals the stream from `position` on.
    #[must_use]
    pub fn matches(&self, position: u64, mut received: &[u8]) -> bool {
        let mut offset = self.offset(position);
        while !received.is_empty() {
            let length = received.len().min(self.ring.len() - offset);
            let (head, rest) = received.split_at(length);
            if head != &self.ring[offset..offset + length] {
                return false;
            }
            received = rest;
            offset = 0;
        }
        true
    }

    /// Returns the bytes between two positions as slices for one vectored write. A long range may
    /// be cut.
    #[must_use]
    pub fn slices(&self, from: u64, to: u64) -> Slices<'_> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut offset = self.offset(from);
        let mut left = usize::try_from(to - from).unwrap_or(usize::MAX);
        while left > 0 && count < SLICES {
            let length = left.min(self.ring.len() - offset);
            slices[count] = IoSlice::new(&self.ring[offset..offset + length]);
            count += 1;
            left -= length;
            offset = 0;
        }
        Slices { slices, count }
    }

    /// Returns the first `count` frames of the stream in one vector.
    #[must_use]
    pub fn concatenated(&self, count: usize) -> Vec<u8> {
        self.ring
            .iter()
            .copied()
            .cycle()
            .take(count * self.frame)
            .collect()
    }

    fn offset(&self, position: u64) -> usize {
        let offset = position % self.ring.len() as u64;
        usize::try_from(offset).expect("the offset is less than the ring")
    }
}

/// A range of the stream for a vectored write.
#[derive(Debug)]
pub struct Slices<'a> {
    slices: [IoSlice<'a>; SLICES],
    count: usize,
}

impl<'a> Slices<'a> {
    /// Returns the slices in order.
    #[must_use]
    pub fn as_slice(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_matches_only_at_its_position() {
        let frames = Frames::new(64);
        let stretch: Vec<u8> = frames
            .slices(68 * 960, 68 * 970)
            .as_slice()
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect();
        assert_eq!(stretch.len(), 680);
        assert!(frames.matches(68 * 960, &stretch));
        assert!(!frames.matches(68 * 961, &stretch));
    }

    #[test]
    fn frames_larger_than_the_ring_differ() {
        let frames = Frames::new(65_536);
        let all = frames.concatenated(3);
        assert!(frames.matches(0, &all));
        assert_ne!(all[..65_540], all[65_540..2 * 65_540]);
    }

    #[test]
    fn all_forms_carry_the_same_payloads() {
        for payload in [0, 10, 125, 126, 65_535, 65_536] {
            let [plain, masked, unmasked] = [Form::Length, Form::Masked, Form::Unmasked]
                .map(|form| Frames::in_form(form, payload).concatenated(1));
            let payload_of = |frame: &[u8]| frame[frame.len() - payload..].to_vec();
            assert_eq!(payload_of(&plain), payload_of(&unmasked));
            let taken_off: Vec<u8> = payload_of(&masked)
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            assert_eq!(payload_of(&plain), taken_off);
        }
    }

    #[test]
    fn changed_byte_is_detected() {
        let frames = Frames::new(10);
        let mut bytes = frames.concatenated(5);
        bytes[33] ^= 1;
        assert!(!frames.matches(0, &bytes));
    }
}
