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
    // The message that the members of a topic share. A block for frames is allocated now and then.
    // With the feature `metrics` a node publishes its counters once, before the messages: that
    // takes some 85 allocations.
    let some = messages / 100;
    assert_eq!(topics, messages, "without a cluster");
    assert!(broadcast <= messages + some, "with a cluster: {broadcast}");
    // An empty list of members as well.
    assert!(publish <= 2 * messages + some, "no member here: {publish}");
    // The copy of a short message out of the read buffer as well.
    assert!(receive <= 2 * messages + some, "of another node: {receive}");
}
