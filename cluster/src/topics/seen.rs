//! Last frames of each publisher to a topic, which show duplicates and gaps.

use crate::{NodeId, frame::Header, nodes::Nodes};

/// Number of publishers from which those that are gone are removed.
const PRUNED_FROM: usize = 8;

/// Numbers of the last frames to a topic, by publisher.
#[derive(Default)]
pub(crate) struct Seen(Vec<Last>);

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
    pub(crate) fn check(&mut self, header: &Header, nodes: &Nodes) -> Option<u64> {
        let Header {
            origin,
            number,
            sequence,
            fresh,
            ..
        } = *header;
        let Some(last) = self.0.iter_mut().find(|last| last.origin == origin) else {
            // Each start of a node is a new publisher.
            if self.0.len() >= PRUNED_FROM.max(2 * nodes.len()) {
                self.0.retain(|last| nodes.is_alive(last.origin));
            }
            // Most topics have few publishers.
            if self.0.len() < 2 {
                self.0.reserve_exact(1);
            }
            self.0.push(Last {
                origin,
                number,
                sequence,
            });
            return Some(0);
        };
        if number <= last.number {
            return None;
        }
        let missed = if fresh {
            0
        } else if sequence <= last.sequence {
            // The first messages of a new count are missing as well.
            sequence.saturating_sub(1)
        } else {
            sequence - last.sequence - 1
        };
        (last.number, last.sequence) = (number, sequence);
        Some(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;

    fn header(origin: u64, number: u64, sequence: u64, fresh: bool) -> Header {
        Header {
            kind: Kind::Message,
            fresh,
            origin: NodeId(origin),
            number,
            sequence,
        }
    }

    #[test]
    fn gaps_and_duplicates_of_each_publisher_show() {
        let nodes = Nodes::default();
        let mut seen = Seen::default();
        let mut check = |origin, number, sequence, fresh| {
            seen.check(&header(origin, number, sequence, fresh), &nodes)
        };
        assert_eq!(check(1, 10, 5, false), Some(0));
        assert_eq!(check(1, 10, 5, false), None);
        assert_eq!(check(1, 17, 6, false), Some(0));
        assert_eq!(check(2, 3, 1, true), Some(0));
        assert_eq!(check(1, 30, 10, false), Some(3));
        assert_eq!(check(1, 17, 6, false), None);
        assert_eq!(check(1, 31, 1, true), Some(0));
        assert_eq!(check(1, 32, 2, false), Some(0));
        // a new count whose first message is missing
        assert_eq!(check(1, 40, 2, false), Some(1));
    }

    #[test]
    fn publishers_that_are_gone_are_removed() {
        let nodes = Nodes::default();
        let mut seen = Seen::default();
        nodes.heard(NodeId(0), "stays");
        for origin in 0..1000 {
            assert_eq!(seen.check(&header(origin, 1, 1, true), &nodes), Some(0));
        }
        assert!(seen.0.len() <= PRUNED_FROM);
        assert_eq!(seen.check(&header(0, 2, 3, false), &nodes), Some(1));
    }
}
