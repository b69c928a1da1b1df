//! Random changes of inputs, and the reduction of those that fail.

use std::time::{Duration, Instant};

/// Deterministic numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        if n == 0 {
            return 0;
        }
        usize::try_from(self.next() >> 33).expect("31 bits fit") % n
    }

    fn byte(&mut self) -> u8 {
        const LIKELY: &[u8] = b"\0\x01\x02\x7f\x80\xfe\xff \r\n\t:;,.=\"\\/-+_*>09aAzZ";
        match self.below(2) {
            0 => LIKELY[self.below(LIKELY.len())],
            _ => self.next().to_be_bytes()[0],
        }
    }

    /// Returns a part of `bytes`, which is more likely short.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = [1, 4, 32, length][self.below(4)].min(length - start);
        start..start + self.below(most + 1)
    }
}

/// Returns a changed input of the corpus.
pub(crate) fn mutated(corpus: &[Vec<u8>], max: usize, random: &mut Random) -> Vec<u8> {
    let mut input = match random.below(50) {
        0 => Vec::new(),
        _ => corpus
            .get(random.below(corpus.len()))
            .cloned()
            .unwrap_or_default(),
    };
    for _ in 0..=random.below(5) {
        change(&mut input, corpus, random);
    }
    input.truncate(max);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let range = random.range(input.len());
    let at = range.start;
    match random.below(11) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.byte();
            }
        }
        2 => {
            let step = [1, u8::MAX, 16, 240][random.below(4)];
            if let Some(byte) = input.get_mut(at) {
                *byte = byte.wrapping_add(step);
            }
        }
        3 => input.insert(at, random.byte()),
        4 => drop(input.drain(range)),
        5 => {
            let part = input[range].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, part);
        }
        // A part of another input, inserted or in the place of this one's.
        6 | 7 => {
            let Some(other) = corpus.get(random.below(corpus.len())) else {
                return;
            };
            let part = other[random.range(other.len())].to_vec();
            let end = if random.below(2) == 0 { at } else { range.end };
            input.splice(at..end, part);
        }
        // The settings of this input, and the rest of another.
        8 => {
            let Some(other) = corpus.get(random.below(corpus.len())) else {
                return;
            };
            let keep = random.below(8).min(input.len()).min(other.len());
            input.splice(keep.., other[keep..].to_vec());
        }
        9 => {
            let part = input[range].to_vec();
            let times = random.below(20);
            input.splice(at..at, part.repeat(times));
        }
        _ => {
            let bytes: Vec<u8> = (0..random.below(9)).map(|_| random.byte()).collect();
            input.splice(at..at, bytes);
        }
    }
}

/// Maximum number of attempts to reduce an input.
const ATTEMPTS: usize = 2000;
/// Maximum time of these attempts.
const TIME: Duration = Duration::from_secs(20);

/// Removes parts of an input and simplifies its bytes while it fails.
pub(crate) fn reduced(input: &[u8], fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut input = input.to_vec();
    let (mut attempts, start) = (0, Instant::now());
    let mut size = input.len();
    while size > 0 && attempts < ATTEMPTS && start.elapsed() < TIME {
        let mut at = 0;
        let mut shorter = false;
        while at < input.len() && attempts < ATTEMPTS && start.elapsed() < TIME {
            let mut candidate = input.clone();
            candidate.drain(at..(at + size).min(input.len()));
            attempts += 1;
            if fails(&candidate) {
                input = candidate;
                shorter = true;
            } else {
                at += size;
            }
        }
        if !shorter || size > 1 {
            size /= 2;
        }
    }
    for at in 0..input.len().min(ATTEMPTS) {
        for simple in [0, b'a'] {
            let mut candidate = input.clone();
            candidate[at] = simple;
            let is_simple = input[at] == 0 || input[at] == simple;
            if !is_simple && start.elapsed() < TIME && fails(&candidate) {
                input = candidate;
                break;
            }
        }
    }
    input
}
