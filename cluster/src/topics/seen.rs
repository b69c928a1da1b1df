//! Last frames of each publisher to each topic, which show duplicates and gaps.

use std::collections::HashMap;

use bytes::Bytes;

use crate::{NodeId, frame::Frame};

/// Numbers of the last frames, by topic and publisher.
#[derive(Default)]
pub(super) struct Seen(HashMap<Bytes, Vec<Last>>);

/// Last frame of a publisher to a topic.
struct Last {
    origin: NodeId,
    number: u64,
    sequence: u64,
}

impl Seen {
    /// Takes note of a frame. Returns the number of messages that are missing before it, or `None`
    /// if it is a duplicate.
    ///
    /// The first message of a publisher is compared with none, and so is one whose publisher has
    /// restarted its count.
    pub(super) fn check(&mut self, frame: &Frame) -> Option<u64> {
        let Frame {
            origin,
            number,
            sequence,
            fresh,
            ..
        } = *frame;
        let publishers = if let Some(publishers) = self.0.get_mut(&frame.key) {
            publishers
        } else {
            // A copy, because the key shares the memory of its frame.
            let key = Bytes::copy_from_slice(&frame.key);
            self.0.entry(key).or_default()
        };
        let Some(last) = publishers.iter_mut().find(|last| last.origin == origin) else {
            publishers.push(Last {
                origin,
                number,
                sequence,
            });
            return Some(0);
        };
        if number <= last.number {
            return None;
        }
        let expected = last.sequence.saturating_add(1);
        let missed = if fresh {
            0
        } else {
            sequence.saturating_sub(expected)
        };
        (last.number, last.sequence) = (number, sequence);
        Some(missed)
    }

    /// Forgets a topic whose messages no longer arrive.
    pub(super) fn forget(&mut self, key: &[u8]) {
        self.0.remove(key);
        if self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(2 * self.0.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;

    fn frame(origin: u64, number: u64, sequence: u64, fresh: bool) -> Frame {
        Frame {
            kind: Kind::Message,
            fresh,
            origin: NodeId(origin),
            number,
            sequence,
            key: Bytes::from_static(b"room"),
            payload: Bytes::new(),
        }
    }

    #[test]
    fn gaps_and_duplicates_of_each_publisher_show() {
        let mut seen = Seen::default();
        assert_eq!(seen.check(&frame(1, 10, 5, false)), Some(0));
        assert_eq!(seen.check(&frame(1, 10, 5, false)), None);
        assert_eq!(seen.check(&frame(1, 17, 6, false)), Some(0));
        assert_eq!(seen.check(&frame(2, 3, 1, true)), Some(0));
        assert_eq!(seen.check(&frame(1, 30, 10, false)), Some(3));
        assert_eq!(seen.check(&frame(1, 17, 6, false)), None);
        assert_eq!(seen.check(&frame(1, 31, 1, true)), Some(0));
        assert_eq!(seen.check(&frame(1, 32, 2, false)), Some(0));
        seen.forget(b"room");
        assert_eq!(seen.check(&frame(1, 99, 50, false)), Some(0));
    }
}
