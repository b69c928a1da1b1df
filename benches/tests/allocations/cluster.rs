//! Tests that a message of a cluster allocates no more than a broadcast does.

use getty_benches::workload::cluster::{Kind, Node};

use crate::{LONG, SHORT, allocations, beyond_short};

/// Checks broadcasts and messages of another node.
pub(crate) fn allocates_as_a_broadcast_does() {
    let messages = LONG - SHORT;
    let [topics, broadcast, publish, receive] = Kind::ALL.map(|kind| {
        beyond_short(|times| {
            let node = Node::new(kind);
            // The first messages create counters and queues.
            node.run(64);
            let messages = usize::try_from(times).unwrap();
            allocations(|| node.run(messages))
        })
    });
    // The message that the members of a topic share.
    assert_eq!(topics, messages, "without a cluster");
    assert_eq!(broadcast, messages, "with a cluster");
    assert_eq!(publish, messages, "without a member on this node");
    assert_eq!(receive, messages, "from another node");
}
