use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use getty_cluster::{
    BusResult, Cluster, ClusterTopics,
    bus::{Fault, Memory},
    form::{Plain, from_fns},
};
use getty_core::{ApplicationClose, CloseReason};

use crate::{
    spy::Spy,
    support::{Guest, nodes, until},
};

type Rooms = ClusterTopics<String, String>;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn message_reaches_members_on_all_nodes_once_and_in_order() {
    let [(one, _), (two, _), (three, _)] = nodes(&Memory::new()).await;
    let rooms = [&one, &two, &three].map(|node| node.topics("rooms", Plain));
    let mut guests = [Guest::new(), Guest::new(), Guest::new()];
    for (rooms, guest) in rooms.iter().zip(&guests) {
        assert!(rooms.join("tea".to_owned(), &guest.session));
        rooms.subscribed("tea").await;
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

#[tokio::test(start_paused = true)]
async fn sender_gets_nothing_and_members_on_other_nodes_do() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let (mut sender, mut other) = (Guest::new(), Guest::new());
    rooms.join("tea".to_owned(), &sender.session);
    others.join("tea".to_owned(), &other.session);
    others.subscribed("tea").await;
    rooms
        .broadcast_except("tea", &sender.session, "hello".to_owned())
        .unwrap();
    until(|| two.snapshot().received == 1).await;
    assert_eq!((sender.received().len(), other.received().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn duplicates_are_dropped() {
    let bus = Memory::new().with_faults(|_, _| Fault::Duplicate);
    let [(one, _), (two, _)] = nodes(&bus).await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let mut guest = Guest::new();
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea").await;
    for n in 0..10 {
        rooms.broadcast("tea", n.to_string()).unwrap();
    }
    until(|| two.snapshot().duplicates == 10).await;
    assert_eq!(guest.received().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn lost_messages_are_told_exactly_with_the_next_message() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let bus = Memory::new().with_faults(move |subject, _| {
        if subject.is_control() {
            return Fault::None;
        }
        // the first and the last message arrive
        match counted.fetch_add(1, Relaxed) {
            n if n > 0 && n < 99 && n % 3 == 0 => Fault::Drop,
            _ => Fault::None,
        }
    });
    let [(one, _), (two, _)] = nodes(&bus).await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let builder = two.topics_builder("rooms", Plain);
    let others: Rooms = builder.with_notice(|n| format!("missed {n}")).build();
    let mut guest = Guest::new();
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea").await;
    for n in 0..100 {
        rooms.broadcast("tea", n.to_string()).unwrap();
    }
    until(|| count.load(Relaxed) == 100 && two.snapshot().lost == 32).await;
    let received = guest.received();
    let notices = received.iter().filter(|line| *line == "missed 1").count();
    assert_eq!((received.len() - notices, notices), (68, 32));
}

#[tokio::test(start_paused = true)]
async fn away_is_reported_and_told_as_a_gap_once_the_bus_is_back() {
    let [(one, port), (two, _)] = nodes(&Memory::new()).await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let builder = two.topics_builder("rooms", Plain);
    let others: Rooms = builder.with_notice(|n| format!("missed {n}")).build();
    let (mut local, mut guest) = (Guest::new(), Guest::new());
    rooms.join("tea".to_owned(), &local.session);
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea").await;
    rooms.broadcast("tea", "before".to_owned()).unwrap();
    until(|| two.snapshot().received == 1).await;

    port.set_connected(false);
    one.down().await;
    for _ in 0..5 {
        let sent = rooms.broadcast("tea", "away".to_owned()).unwrap();
        assert_eq!((sent.local.delivered, sent.bus), (1, BusResult::Away));
    }
    // a topic that begins meanwhile
    rooms.join("milk".to_owned(), &local.session);
    port.set_connected(true);
    one.up().await;
    rooms.subscribed("milk").await;
    rooms.broadcast("tea", "after".to_owned()).unwrap();
    others.broadcast("milk", "too".to_owned()).unwrap();
    until(|| two.snapshot().received == 2 && one.snapshot().received == 1).await;
    assert_eq!(guest.received(), ["before", "missed 5", "after"]);
    assert_eq!(local.received().len(), 8);
    let snapshot = one.snapshot();
    assert_eq!((snapshot.refused_away, snapshot.disconnects), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn hot_topic_is_refused_and_quiet_ones_lose_nothing() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guests: Vec<_> = (0..101).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        others.join(format!("room {n}"), &guest.session);
        others.subscribed(&format!("room {n}")).await;
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

#[tokio::test(start_paused = true)]
async fn subscription_outlives_the_last_member_for_half_a_minute() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let mut guest = Guest::new();
    others.join("tea".to_owned(), &guest.session);
    others.subscribed("tea").await;
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

#[tokio::test(start_paused = true)]
async fn subscriptions_are_equal_to_topics_after_any_joins_and_leaves() {
    let [(one, _)] = nodes(&Memory::new()).await;
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

#[tokio::test(start_paused = true)]
async fn rooms_with_names_of_wildcards_and_line_breaks_are_rooms_like_others() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
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
        others.subscribed(name).await;
        rooms.broadcast(name, name.to_owned()).unwrap();
    }
    until(|| two.snapshot().received == names.len() as u64).await;
    for (guest, name) in guests.iter_mut().zip(names) {
        assert_eq!(guest.received(), [name]);
    }
}

#[tokio::test(start_paused = true)]
async fn topics_of_one_bucket_receive_their_own_messages_only() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
    let build = |node: &getty_cluster::Cluster| -> Rooms {
        node.topics_builder("r", Plain).with_buckets(2).build()
    };
    let (rooms, others) = (build(&one), build(&two));
    let mut guests: Vec<_> = (0..10).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        others.join(n.to_string(), &guest.session);
        others.subscribed(&n.to_string()).await;
    }
    for n in 0..20 {
        rooms.broadcast(&n.to_string(), n.to_string()).unwrap();
    }
    until(|| two.snapshot().received == 10).await;
    for (n, guest) in guests.iter_mut().enumerate() {
        assert_eq!(guest.received(), [n.to_string()]);
    }
}

#[tokio::test(start_paused = true)]
async fn message_that_cannot_be_written_or_is_too_long_reaches_nobody() {
    let [(one, _)] = nodes(&Memory::new()).await;
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

#[tokio::test(start_paused = true)]
async fn unreadable_messages_and_panics_of_a_form_end_nothing() {
    let [(one, _), (two, _)] = nodes(&Memory::new()).await;
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
    others.subscribed("tea").await;
    for message in ["one", "bad", "panic", "two"] {
        rooms.broadcast("tea", message.to_owned()).unwrap();
    }
    until(|| two.snapshot().received == 2).await;
    assert_eq!(guest.received(), ["one", "two"]);
    assert_eq!(two.snapshot().invalid, 2);
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_members_on_all_nodes_although_copies_are_lost() {
    const KICKED: ApplicationClose = ApplicationClose::new(1, "kicked");
    let is_on = Arc::new(AtomicBool::new(false));
    let (dropping, mut first) = (Arc::clone(&is_on), true);
    let bus = Memory::new().with_faults(move |_, _| {
        if dropping.load(Relaxed) && std::mem::take(&mut first) {
            return Fault::Drop;
        }
        Fault::None
    });
    let [(one, _), (two, _)] = nodes(&bus).await;
    let (users, others): (Rooms, Rooms) = (one.topics("u", Plain), two.topics("u", Plain));
    let (here, there, bystander) = (Guest::new(), Guest::new(), Guest::new());
    users.join("ada".to_owned(), &here.session);
    others.join("ada".to_owned(), &there.session);
    others.join("bob".to_owned(), &bystander.session);
    others.subscribed("bob").await;
    is_on.store(true, Relaxed);
    assert_eq!(users.close("ada", KICKED), 1);
    assert_eq!(here.session.reason(), Some(KICKED.into()));
    tokio::time::sleep(2 * SECOND).await;
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

#[tokio::test(start_paused = true)]
async fn new_topics_are_refused_at_their_maximum() {
    let [(one, _)] = nodes(&Memory::new()).await;
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
    let [(one, _)] = nodes(&Memory::new()).await;
    let _rooms: Rooms = one.topics("rooms", Plain);
    let _same: Rooms = one.topics("rooms", Plain);
}

#[tokio::test(start_paused = true)]
async fn dropped_topics_are_unsubscribed_and_their_name_is_free() {
    for buckets in [None, Some(4)] {
        let [(one, port)] = nodes(&Memory::new()).await;
        let idle = format!("{port:?}");
        for _ in 0..3 {
            let builder = one.topics_builder("rooms", Plain);
            let rooms: Rooms = match buckets {
                Some(buckets) => builder.with_buckets(buckets).build(),
                None => builder.build(),
            };
            let guest = Guest::new();
            for n in 0..10 {
                rooms.join(n.to_string(), &guest.session);
                rooms.subscribed(&n.to_string()).await;
            }
            assert_eq!(one.snapshot().subscriptions, 10);
            assert_ne!(format!("{port:?}"), idle);
            drop(rooms);
            until(|| format!("{port:?}") == idle).await;
            assert_eq!(one.snapshot().subscriptions, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn subscriptions_of_several_sets_are_counted_together() {
    let [(one, _)] = nodes(&Memory::new()).await;
    let (rooms, users): (Rooms, Rooms) = (one.topics("rooms", Plain), one.topics("users", Plain));
    let guest = Guest::new();
    rooms.join("tea".to_owned(), &guest.session);
    users.join("ada".to_owned(), &guest.session);
    rooms.subscribed("tea").await;
    users.subscribed("ada").await;
    assert_eq!(one.snapshot().subscriptions, 2);
}

#[tokio::test(start_paused = true)]
async fn of_many_topics_without_members_a_tenth_keeps_its_subscription() {
    let [(one, _)] = nodes(&Memory::new()).await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let (stays, goes) = (Guest::new(), Guest::new());
    for n in 0..2000 {
        rooms.join(n.to_string(), &goes.session);
        if n < 1000 {
            rooms.join(n.to_string(), &stays.session);
        }
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(one.snapshot().subscriptions, 2000);
    drop(goes);
    tokio::time::sleep(SECOND).await;
    let held = one.snapshot().subscriptions;
    assert!((1064..=1120).contains(&held), "{held}");
}

#[tokio::test(start_paused = true)]
async fn subscribed_waits_until_the_subscription_is_in_effect() {
    let (spy, _) = Spy::new(&Memory::new());
    let (spy, confirms) = spy.with_confirmation();
    let one = Cluster::of("test").over(spy).start();
    let rooms: Rooms = one.topics("rooms", Plain);
    let guest = Guest::new();
    rooms.join("tea".to_owned(), &guest.session);
    let mut subscribed = Box::pin(rooms.subscribed("tea"));
    let waited = tokio::time::timeout(SECOND, &mut subscribed).await;
    assert!(waited.is_err());
    confirms.add_permits(1);
    subscribed.await;
}
