use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use getty_cluster::{
    BusResult, ClusterTopics,
    bus::Fault,
    form::{Plain, from_fns},
};
use getty_core::{ApplicationClose, CloseReason};

use crate::{
    engine::{Net, Node, WAIT, contract},
    support::{Guest, until},
};

type Rooms = ClusterTopics<String, String>;

const SECOND: Duration = Duration::from_secs(1);

contract! {
    servers: [
        message_reaches_members_on_all_nodes_once_and_in_order,
        sender_gets_nothing_and_members_on_other_nodes_do,
        group_is_a_topic_without_a_key,
        duplicates_are_dropped,
        lost_messages_are_told_exactly_with_the_next_message,
        gap_hook_is_called_once_on_a_node_with_the_publisher_and_the_number,
        away_is_reported_and_told_as_a_gap_once_the_bus_is_back,
        quiet_topics_lose_nothing_beside_a_hot_one,
        rooms_with_names_of_wildcards_and_line_breaks_are_rooms_like_others,
        topics_of_one_bucket_receive_their_own_messages_only,
        message_that_cannot_be_written_or_is_too_long_reaches_nobody,
        unreadable_messages_and_panics_of_a_form_end_nothing,
        close_ends_the_members_on_all_nodes_although_copies_are_lost,
        new_topics_are_refused_at_their_maximum,
        subscriptions_of_several_sets_are_counted_together,
        of_many_topics_without_members_a_tenth_keeps_its_subscription,
        subscribed_waits_until_the_subscription_is_in_effect,
        messages_are_in_order_at_a_member_that_leaves_and_joins_again,
    ],
    long: [
        subscription_outlives_the_last_member_for_half_a_minute,
        subscriptions_are_equal_to_topics_after_any_joins_and_leaves,
    ],
    memory: [
        hot_topic_is_refused_and_quiet_ones_lose_nothing,
        dropped_topics_are_unsubscribed_and_their_name_is_free,
    ],
}

async fn message_reaches_members_on_all_nodes_once_and_in_order(net: Net) {
    let [one, two, three] = net.nodes().await;
    let rooms = [&one, &two, &three].map(|node| node.topics("rooms", Plain));
    let mut guests = [Guest::new(), Guest::new(), Guest::new()];
    for (rooms, guest) in rooms.iter().zip(&guests) {
        assert!(rooms.join("tea".to_owned(), &guest.session));
        rooms.subscribed("tea", WAIT).await;
    }
    for n in 0..100 {
        let sent = rooms[0].broadcast("tea", n.to_string()).unwrap();
        assert_eq!((sent.local.delivered, sent.bus), (1, BusResult::Queued));
    }
    rooms[1].broadcast("milk", "nobody".to_owned()).unwrap();
    until(|| two.snapshot().received == 100 && three.snapshot().received == 100).await;
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    for guest in &mut guests {
        assert_eq!(guest.received(), expected);
    }
    assert_eq!(one.snapshot().received, 0, "its own messages do not return");
    assert_eq!((one.snapshot().published, two.snapshot().lost), (100, 0));
}

async fn sender_gets_nothing_and_members_on_other_nodes_do(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let (mut sender, mut other) = (Guest::new(), Guest::new());
    rooms.join("tea".to_owned(), &sender.session);
    others.join("tea".to_owned(), &other.session);
    others.subscribed("tea", WAIT).await;
    rooms
        .broadcast_except("tea", &sender.session, "hello".to_owned())
        .unwrap();
    until(|| two.snapshot().received == 1).await;
    assert_eq!((sender.received().len(), other.received().len()), (0, 1));
}

async fn group_is_a_topic_without_a_key(net: Net) {
    let [one, two] = net.nodes().await;
    let (group, others) = (one.group("all", Plain), two.group("all", Plain));
    let (mut here, mut there) = (Guest::new(), Guest::new());
    assert!(group.join(&here.session) && !group.join(&here.session));
    assert!(others.join_as(&there.session, "there"));
    assert!(group.subscribed(WAIT).await && others.subscribed(WAIT).await);
    let sent = group.broadcast("hello".to_owned()).unwrap();
    assert_eq!((sent.local.delivered, sent.bus), (1, BusResult::Queued));
    let hello = "but me".to_owned();
    group.broadcast_except(&here.session, hello).unwrap();
    until(|| others.snapshot().received == 2).await;
    assert_eq!(here.received(), ["hello"]);
    assert_eq!(there.received(), ["hello", "but me"]);
    assert_eq!(group.ask(WAIT).await.members[0].card, "there");
    assert_eq!(others.local().count(&()), 1);
    assert!(group.leave(&here.session));
    assert_eq!(group.close(CloseReason::Local), 0);
    until(|| there.session.reason() == Some(CloseReason::Local)).await;
}

async fn duplicates_are_dropped(net: Net) {
    net.set_fate(|_, _, _| Fault::Duplicate);
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let mut guest = Guest::new();
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea", WAIT).await;
    for n in 0..10 {
        rooms.broadcast("tea", n.to_string()).unwrap();
    }
    until(|| two.snapshot().duplicates == 10).await;
    assert_eq!(guest.received().len(), 10);
}

async fn lost_messages_are_told_exactly_with_the_next_message(net: Net) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    net.set_fate(move |_, subject, _| {
        if !subject.contains(".t.") {
            return Fault::None;
        }
        // the first and the last message arrive
        match counted.fetch_add(1, Relaxed) {
            n if n > 0 && n < 99 && n % 3 == 0 => Fault::Drop,
            _ => Fault::None,
        }
    });
    let [one, two] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let builder = two.topics_builder("rooms", Plain);
    let others: Rooms = builder.with_notice(|n| format!("missed {n}")).build();
    let mut guest = Guest::new();
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea", WAIT).await;
    for n in 0..100 {
        rooms.broadcast("tea", n.to_string()).unwrap();
    }
    until(|| count.load(Relaxed) == 100 && two.snapshot().lost == 32).await;
    let received = guest.received();
    let notices = received.iter().filter(|line| *line == "missed 1").count();
    assert_eq!((received.len() - notices, notices), (68, 32));
}

async fn gap_hook_is_called_once_on_a_node_with_the_publisher_and_the_number(net: Net) {
    let count = Arc::new(AtomicUsize::new(0));
    net.set_fate(move |_, subject, _| {
        let is_message = subject.contains(".t.");
        match count.fetch_add(usize::from(is_message), Relaxed) {
            2..5 if is_message => Fault::Drop,
            _ => Fault::None,
        }
    });
    let [one, two] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let gaps = Arc::<Mutex<Vec<_>>>::default();
    let seen = Arc::clone(&gaps);
    let builder = two.topics_builder("rooms", Plain);
    let others: Rooms = builder
        .with_gap_hook(move |key: &String, gap| {
            let gap = (key.clone(), gap.node, gap.missed);
            seen.lock().unwrap().push(gap);
        })
        .build();
    let mut guests = [Guest::new(), Guest::new()];
    for guest in &guests {
        others.join("tea".to_owned(), &guest.session);
    }
    others.subscribed("tea", WAIT).await;
    for n in 0..8 {
        rooms.broadcast("tea", n.to_string()).unwrap();
    }
    until(|| two.snapshot().received == 5).await;
    for guest in &mut guests {
        assert_eq!(guest.received(), ["0", "1", "5", "6", "7"]);
    }
    let gaps = gaps.lock().unwrap();
    assert_eq!(*gaps, [("tea".to_owned(), one.id(), 3)]);
    let (here, there) = (rooms.snapshot(), others.snapshot());
    assert_eq!((here.published, there.received, there.lost), (8, 5, 3));
    assert_eq!((there.topics, there.subscriptions), (1, 1));
}

async fn away_is_reported_and_told_as_a_gap_once_the_bus_is_back(net: Net) {
    let [one, two] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let builder = two.topics_builder("rooms", Plain);
    let others: Rooms = builder.with_notice(|n| format!("missed {n}")).build();
    let (mut local, mut guest) = (Guest::new(), Guest::new());
    rooms.join("tea".to_owned(), &local.session);
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea", WAIT).await;
    rooms.broadcast("tea", "before".to_owned()).unwrap();
    until(|| two.snapshot().received == 1).await;

    one.cut().await;
    for _ in 0..5 {
        let sent = rooms.broadcast("tea", "away".to_owned()).unwrap();
        assert_eq!((sent.local.delivered, sent.bus), (1, BusResult::Away));
    }
    // a topic that begins meanwhile
    rooms.join("milk".to_owned(), &local.session);
    one.reconnect().await;
    rooms.subscribed("milk", WAIT).await;
    rooms.broadcast("tea", "after".to_owned()).unwrap();
    others.broadcast("milk", "too".to_owned()).unwrap();
    until(|| two.snapshot().received == 2 && one.snapshot().received == 1).await;
    assert_eq!(guest.received(), ["before", "missed 5", "after"]);
    assert_eq!(local.received().len(), 8);
    let snapshot = one.snapshot();
    // each shard has a connection
    assert_eq!(snapshot.refused_away, 5);
    assert_eq!(snapshot.disconnects, net.len() as u64);
}

async fn hot_topic_is_refused_and_quiet_ones_lose_nothing(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guests: Vec<_> = (0..101).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        others.join(format!("room {n}"), &guest.session);
        others.subscribed(&format!("room {n}"), WAIT).await;
    }
    // no other task runs meanwhile, so the queues fill
    let mut refused = 0;
    for n in 0..20_000 {
        let sent = rooms.broadcast("room 0", n.to_string()).unwrap();
        refused += usize::from(sent.bus == BusResult::Full);
    }
    assert_eq!(refused, 20_000 - 16 * 1024 / 8);
    for n in 1..101 {
        let key = format!("room {n}");
        let sent = rooms.broadcast(&*key, "quiet".to_owned()).unwrap();
        assert_eq!(sent.bus, BusResult::Queued);
    }
    until(|| two.snapshot().received + two.snapshot().dropped == 2148).await;
    for mut guest in guests.into_iter().skip(1) {
        assert_eq!(guest.received(), ["quiet"]);
    }
    assert!(
        two.snapshot().dropped > 0,
        "a queue of 256 has lost messages"
    );
}

async fn quiet_topics_lose_nothing_beside_a_hot_one(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guests: Vec<_> = (0..51).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        others.join(format!("room {n}"), &guest.session);
    }
    for n in 0..51 {
        others.subscribed(&format!("room {n}"), WAIT).await;
    }
    for n in 0..20_000 {
        rooms.broadcast("room 0", n.to_string()).unwrap();
        if n % 400 == 0 {
            let quiet = format!("room {}", 1 + n / 400);
            rooms.broadcast(&quiet, "quiet".to_owned()).unwrap();
        }
    }
    // the hot one, and then the number of those that are missing
    let last = || others.snapshot().received + others.snapshot().lost;
    let complete = async {
        while last() < 20_050 {
            tokio::time::sleep(SECOND / 10).await;
            rooms.broadcast("room 0", "last".to_owned()).unwrap();
        }
    };
    tokio::time::timeout(WAIT, complete).await.unwrap();
    for mut guest in guests.into_iter().skip(1) {
        assert_eq!(guest.received(), ["quiet"]);
    }
}

async fn subscription_outlives_the_last_member_for_half_a_minute(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let mut guest = Guest::new();
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea", WAIT).await;
    others.leave("tea", &guest.session);
    tokio::time::sleep(24 * SECOND).await;
    assert_eq!(two.snapshot().subscriptions, 1);
    // a return within that time costs the bus nothing, and misses nothing
    others.join("tea".to_owned(), &guest.session);
    rooms.broadcast("tea", "hello".to_owned()).unwrap();
    until(|| two.snapshot().received == 1).await;
    assert_eq!(guest.received(), ["hello"]);
    others.leave("tea", &guest.session);
    tokio::time::sleep(36 * SECOND).await;
    assert_eq!(two.snapshot().subscriptions, 0);
}

async fn subscriptions_are_equal_to_topics_after_any_joins_and_leaves(net: Net) {
    let [one] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    for round in 0..20 {
        let guests: Vec<_> = (0..50).map(|_| Guest::new()).collect();
        for (n, guest) in guests.iter().enumerate() {
            rooms.join(format!("room {}", (n * 7 + round) % 300), &guest.session);
            if n % 3 == 0 {
                rooms.leave_all(&guest.session);
            }
            tokio::task::yield_now().await;
        }
    }
    let stays = Guest::new();
    rooms.join("room 1".to_owned(), &stays.session);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(one.snapshot().subscriptions, 1);
    assert!(rooms.local().count("room 1") == 1);
}

async fn rooms_with_names_of_wildcards_and_line_breaks_are_rooms_like_others(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let names = [">", "*", "a.b", "a\r\nPUB x 0\r\n", "", " ", "\u{1f375}"];
    let mut guests: Vec<_> = names
        .iter()
        .map(|name| {
            let guest = Guest::new();
            others.join((*name).to_owned(), &guest.session);
            guest
        })
        .collect();
    for name in names {
        others.subscribed(name, WAIT).await;
        rooms.broadcast(name, name.to_owned()).unwrap();
    }
    until(|| two.snapshot().received == names.len() as u64).await;
    for (guest, name) in guests.iter_mut().zip(names) {
        assert_eq!(guest.received(), [name]);
    }
}

async fn topics_of_one_bucket_receive_their_own_messages_only(net: Net) {
    let [one, two] = net.nodes().await;
    let build = |node: &Node| -> Rooms { node.topics_builder("r", Plain).with_buckets(2).build() };
    let (rooms, others) = (build(&one), build(&two));
    let mut guests: Vec<_> = (0..10).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        others.join(n.to_string(), &guest.session);
        others.subscribed(&n.to_string(), WAIT).await;
    }
    for n in 0..20 {
        rooms.broadcast(&n.to_string(), n.to_string()).unwrap();
    }
    until(|| two.snapshot().received == 10).await;
    for (n, guest) in guests.iter_mut().enumerate() {
        assert_eq!(guest.received(), [n.to_string()]);
    }
}

async fn message_that_cannot_be_written_or_is_too_long_reaches_nobody(net: Net) {
    let [one] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let mut guest = Guest::new();
    rooms.join("tea".to_owned(), &guest.session);
    let long = "x".repeat(256 * 1024);
    let error = rooms.broadcast("tea", long.clone()).unwrap_err();
    assert_eq!(error.message, long);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.ends_with("the maximum is 262144"), "{source}");
    let error = rooms
        .broadcast(&"k".repeat(4097), String::new())
        .unwrap_err();
    assert_eq!(error.message, "");

    let form = from_fns(|_: &String, _| Err("no".into()), |_| Err("no".into()));
    let unwritable: Rooms = one.topics("unwritable", form);
    unwritable.join("tea".to_owned(), &guest.session);
    assert!(unwritable.broadcast("tea", "hello".to_owned()).is_err());
    assert!(guest.received().is_empty());
}

async fn unreadable_messages_and_panics_of_a_form_end_nothing(net: Net) {
    let [one, two] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let form = from_fns(
        |_: &String, _| Ok(()),
        |form| match &form[..] {
            b"bad" => Err("bad".into()),
            b"panic" => panic!("a form"),
            other => Ok(String::from_utf8(other.to_vec())?),
        },
    );
    let others: Rooms = two.topics("rooms", form);
    let mut guest = Guest::new();
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea", WAIT).await;
    for message in ["one", "bad", "panic", "two"] {
        rooms.broadcast("tea", message.to_owned()).unwrap();
    }
    until(|| two.snapshot().received == 2).await;
    assert_eq!(guest.received(), ["one", "two"]);
    assert_eq!(two.snapshot().invalid, 2);
}

async fn close_ends_the_members_on_all_nodes_although_copies_are_lost(net: Net) {
    const KICKED: ApplicationClose = ApplicationClose::new(1, "kicked");
    const CLOSE_TOPIC: u8 = 1;
    let mut first = true;
    net.set_fate(move |node, _, frame| {
        if node == 1 && frame[1] == CLOSE_TOPIC && std::mem::take(&mut first) {
            return Fault::Drop;
        }
        Fault::None
    });
    let [one, two] = net.nodes().await;
    let (users, others): (Rooms, Rooms) = (one.topics("u", Plain), two.topics("u", Plain));
    let (here, there, bystander) = (Guest::new(), Guest::new(), Guest::new());
    users.join("ada".to_owned(), &here.session);
    others.join("ada".to_owned(), &there.session);
    others.join("bob".to_owned(), &bystander.session);
    others.subscribed("bob", WAIT).await;
    assert_eq!(users.close("ada", KICKED), 1);
    assert_eq!(here.session.reason(), Some(KICKED.into()));
    until(|| there.session.reason().is_some()).await;
    let kicked = CloseReason::Protocol {
        code: 4001,
        reason: "kicked".into(),
    };
    assert_eq!(there.session.reason(), Some(kicked));
    assert_eq!(bystander.session.reason(), None);
    // The third copy closes no session that has opened since.
    let later = Guest::new();
    others.join("ada".to_owned(), &later.session);
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(later.session.reason(), None);
}

async fn new_topics_are_refused_at_their_maximum(net: Net) {
    let [one] = net.nodes().await;
    let rooms: Rooms = one.topics_builder("r", Plain).with_max_topics(2).build();
    let guest = Guest::new();
    assert!(rooms.join("one".to_owned(), &guest.session));
    assert!(rooms.join_as("two".to_owned(), &guest.session, "a card"));
    assert!(!rooms.join("three".to_owned(), &guest.session));
    assert!(!rooms.join_as("three".to_owned(), &guest.session, "a card"));
    let other = Guest::new();
    assert!(rooms.join("two".to_owned(), &other.session));
    rooms.leave("one", &guest.session);
    assert!(rooms.join("three".to_owned(), &guest.session));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "this node has topics with the name rooms")]
async fn second_set_with_a_name_panics() {
    let [one] = Net::memory().nodes().await;
    let _rooms: Rooms = one.topics("rooms", Plain);
    let _same: Rooms = one.topics("rooms", Plain);
}

async fn dropped_topics_are_unsubscribed_and_their_name_is_free(net: Net) {
    for (place, buckets) in [None, Some(4)].into_iter().enumerate() {
        let one = net.node(place);
        one.up().await;
        let idle = one.port();
        for _ in 0..3 {
            let builder = one.topics_builder("rooms", Plain);
            let rooms: Rooms = match buckets {
                Some(buckets) => builder.with_buckets(buckets).build(),
                None => builder.build(),
            };
            let guest = Guest::new();
            for n in 0..10 {
                rooms.join(n.to_string(), &guest.session);
                rooms.subscribed(&n.to_string(), WAIT).await;
            }
            assert_eq!(one.snapshot().subscriptions, 10);
            assert_ne!(one.port(), idle);
            drop(rooms);
            until(|| one.port() == idle).await;
            assert_eq!(one.snapshot().subscriptions, 0);
        }
    }
}

async fn subscriptions_of_several_sets_are_counted_together(net: Net) {
    let [one] = net.nodes().await;
    let (rooms, users): (Rooms, Rooms) = (one.topics("rooms", Plain), one.topics("users", Plain));
    let guest = Guest::new();
    rooms.join("tea".to_owned(), &guest.session);
    users.join("ada".to_owned(), &guest.session);
    rooms.subscribed("tea", WAIT).await;
    users.subscribed("ada", WAIT).await;
    assert_eq!(one.snapshot().subscriptions, 2);
}

async fn of_many_topics_without_members_a_tenth_keeps_its_subscription(net: Net) {
    let [one] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let (stays, goes) = (Guest::new(), Guest::new());
    for n in 0..2000 {
        rooms.join(n.to_string(), &goes.session);
        if n < 1000 {
            rooms.join(n.to_string(), &stays.session);
        }
    }
    until(|| one.snapshot().subscriptions == 2000).await;
    drop(goes);
    until(|| (1064..=1120).contains(&one.snapshot().subscriptions)).await;
    assert_eq!(one.snapshot().topics, 1000);
}

/// Most topics end at once, because all are without members, while messages to them wait.
async fn messages_are_in_order_at_a_member_that_leaves_and_joins_again(net: Net) {
    const TOPICS: usize = 200;
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let keys: Vec<_> = (0..TOPICS).map(|n| n.to_string()).collect();
    let mut guests: Vec<_> = keys.iter().map(|_| Guest::new()).collect();
    let publish = |numbers: Range<u32>| {
        for n in numbers {
            for key in &keys {
                rooms.broadcast(key, n.to_string()).unwrap();
            }
        }
    };
    for (key, guest) in keys.iter().zip(&guests) {
        others.join(key.clone(), &guest.session);
    }
    for key in &keys {
        assert!(others.subscribed(key, WAIT).await);
    }
    publish(0..64);
    until(|| two.snapshot().received > 0).await;
    let arrived = two.snapshot().received;
    assert!(!net.is_memory() || arrived < 64 * 200, "{arrived}");
    for guest in &guests {
        others.leave_all(&guest.session);
    }
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    for (key, guest) in keys.iter().zip(&guests) {
        others.join(key.clone(), &guest.session);
    }
    publish(64..80);
    for key in &keys {
        assert!(others.subscribed(key, WAIT).await);
    }
    publish(80..81);
    for guest in &mut guests {
        let mut received = Vec::new();
        let complete = async {
            while received.last() != Some(&80) {
                tokio::time::sleep(SECOND / 100).await;
                let more = guest.received().into_iter().map(|n| n.parse::<u32>());
                received.extend(more.map(Result::unwrap));
            }
        };
        tokio::time::timeout(WAIT, complete).await.unwrap();
        assert!(received.is_sorted_by(|a, b| a < b), "{received:?}");
    }
}

async fn subscribed_waits_until_the_subscription_is_in_effect(net: Net) {
    let [one] = net.nodes().await;
    let confirms = &one.faults.confirms;
    confirms.forget_permits(1);
    let rooms: Rooms = one.topics("rooms", Plain);
    let guest = Guest::new();
    // without a member it is never in effect
    assert!(!rooms.subscribed("tea", SECOND).await);
    rooms.join("tea".to_owned(), &guest.session);
    assert!(!rooms.subscribed("tea", SECOND).await);
    let mut subscribed = Box::pin(rooms.subscribed("tea", WAIT));
    let waited = tokio::time::timeout(SECOND, &mut subscribed).await;
    assert!(waited.is_err());
    confirms.add_permits(1);
    assert!(subscribed.await);
    // while the bus is away, too
    one.cut().await;
    assert!(!rooms.subscribed("tea", SECOND).await);
}
