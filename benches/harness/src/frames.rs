//! The frames that are sent and expected back: a header and the payload, which are the same in each form of a stream.

use std::io::IoSlice;

/// The bytes of a length field.
pub const HEADER: usize = 4;

/// The mask of all WebSocket frames: servers take off whatever mask there is.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x0f];

/// What is before each payload, and done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A 4-byte big-endian length.
    Length,
    /// A WebSocket client's frame: binary, whole, masked.
    Masked,
    /// A WebSocket server's frame.
    Unmasked,
}

impl Form {
    fn header(self, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("bounded by MAX_PAYLOAD");
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

/// The longest payload that any of the servers accepts.
pub const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// What one write takes at most; larger windows leave in several.
const SLICES: usize = 16;

/// An endless stream of frames that are told apart by their content, addressed by byte position.
///
/// The frames repeat after some 64 KiB, so that neither sending nor checking costs more than a copy or a comparison of
/// bytes that stay in the cache; frames that a server loses, repeats, swaps or hands to another connection show up as
/// differing bytes.
#[derive(Clone, Debug)]
pub struct Frames {
    ring: Vec<u8>,
    frame: usize,
}

impl Frames {
    /// A stream of frames with `payload` bytes each behind their length.
    ///
    /// # Panics
    ///
    /// If `payload` exceeds [`MAX_PAYLOAD`].
    #[must_use]
    pub fn new(payload: usize) -> Self {
        Self::in_form(Form::Length, payload)
    }

    /// A stream of frames in this form with `payload` bytes each: the same payloads in every form.
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
        // xorshift: cheap, never zero, and every frame differs from its neighbours in every word.
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

    /// The bytes of one frame, its header included.
    #[must_use]
    pub fn frame_len(&self) -> u64 {
        self.frame as u64
    }

    /// Whether `received` is what stands in the stream from `position` on.
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

    /// The bytes between two positions as slices for one vectored write; of a long stretch only its beginning.
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

    /// `count` frames from the beginning of the stream, in one piece.
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
        usize::try_from(offset).expect("less than the ring's length")
    }
}

/// A stretch of the stream, ready for a vectored write.
#[derive(Debug)]
pub struct Slices<'a> {
    slices: [IoSlice<'a>; SLICES],
    count: usize,
}

impl<'a> Slices<'a> {
    /// The slices, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[IoSlice<'a>] {
        &self.slices[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_matches_at_its_own_position_only() {
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
    fn frames_larger_than_the_ring_still_differ_from_one_another() {
        let frames = Frames::new(65_536);
        let all = frames.concatenated(3);
        assert!(frames.matches(0, &all));
        assert_ne!(all[..65_540], all[65_540..2 * 65_540]);
    }

    #[test]
    fn the_forms_carry_the_same_payloads() {
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
    fn a_changed_byte_is_noticed() {
        let frames = Frames::new(10);
        let mut bytes = frames.concatenated(5);
        bytes[33] ^= 1;
        assert!(!frames.matches(0, &bytes));
    }
}
