//! A bus of two shards: a shard that is away affects its topics and claims only.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use getty_cluster::{
    BusResult, ClaimError, Cluster, ClusterTopics, NodeEvent, Previous, State,
    bus::{Bus, Memory, Sharded},
    form::Plain,
};
use getty_core::CloseReason;

use crate::{
    engine::{Net, WAIT, contract},
    spy::{Faults, Spy},
    support::{Guest, until},
};

type Rooms = ClusterTopics<String, String>;

const SECOND: Duration = Duration::from_secs(1);

contract! {
    shards: 2,
    servers: [
        only_topics_of_a_shard_that_is_away_are_away_and_have_gaps,
        questions_and_closes_use_the_remaining_shard,
        claims_of_a_shard_that_is_away_are_admitted_and_all_others_are_taken,
    ],
    long: [
        nodes_stay_alive_on_one_shard_and_a_crash_is_noticed_there,
    ],
    memory: [
        subscription_on_a_shard_that_is_away_is_not_in_effect,
    ],
}

/// Returns the names of rooms, about half on each shard.
fn names() -> Vec<String> {
    (0..40).map(|n| format!("room {n}")).collect()
}

fn shard(rooms: &Rooms, name: &str) -> usize {
    rooms.subject(name).shard(2)
}

async fn only_topics_of_a_shard_that_is_away_are_away_and_have_gaps(net: Net) {
    let [one, two] = net.nodes().await;
    assert_eq!(one.shards().len(), 2);
    let rooms: Rooms = one.topics("rooms", Plain);
    let builder = two.topics_builder("rooms", Plain);
    let others: Rooms = builder.with_notice(|n| format!("missed {n}")).build();
    let names = names();
    let on_second = names.iter().filter(|name| shard(&rooms, name) == 1).count();
    assert!((10..=30).contains(&on_second), "{on_second}");
    let mut guests: Vec<_> = names.iter().map(|_| Guest::new()).collect();
    for (name, guest) in names.iter().zip(&guests) {
        others.join(name.clone(), &guest.session);
    }
    for name in &names {
        assert!(others.subscribed(name, WAIT).await);
    }
    let round = |text: &str, is_away: bool| {
        for name in &names {
            let sent = rooms.broadcast(name, text.to_owned()).unwrap();
            let expected = match shard(&rooms, name) {
                1 if is_away => BusResult::Away,
                _ => BusResult::Queued,
            };
            assert_eq!(sent.bus, expected, "{name}");
        }
    };
    round("before", false);
    until(|| two.snapshot().received == 40).await;

    one.set_shard(1, false).await;
    assert_eq!(one.state(), State::Partial { away: 1 });
    assert_eq!(two.state(), State::Up);
    let shards = one.shards();
    assert!(shards[0].state.is_up() && matches!(shards[1].state, State::Down { .. }));
    for _ in 0..3 {
        round("away", true);
    }
    let there = 3 * (40 - on_second as u64);
    until(|| two.snapshot().received == 40 + there).await;

    one.set_shard(1, true).await;
    assert_eq!(one.state(), State::Up);
    round("after", false);
    until(|| two.snapshot().received == 80 + there).await;
    for (name, guest) in names.iter().zip(&mut guests) {
        if shard(&rooms, name) == 1 {
            assert_eq!(guest.received(), ["before", "missed 3", "after"]);
        } else {
            assert_eq!(
                guest.received(),
                ["before", "away", "away", "away", "after"]
            );
        }
    }
    let (here, there) = (one.snapshot(), two.snapshot());
    let refused = 3 * on_second as u64;
    assert_eq!((here.refused_away, there.lost), (refused, refused));
    assert_eq!((here.disconnects, there.disconnects), (1, 0));
    let disconnects: Vec<_> = one.shards().iter().map(|it| it.disconnects).collect();
    assert_eq!(disconnects, [0, 1]);
}

async fn questions_and_closes_use_the_remaining_shard(net: Net) {
    let [one, two] = net.nodes().await;
    let rooms: [Rooms; 2] = [&one, &two].map(|node| node.topics("rooms", Plain));
    for away in [0, 1] {
        one.set_shard(away, false).await;
        for name in names() {
            let guest = Guest::new();
            rooms[1].join_as(name.clone(), &guest.session, "a card");
            let answers = rooms[0].ask(&name, WAIT).await;
            assert_eq!((answers.members.len(), answers.missing.len()), (1, 0));
            rooms[0].close(&name, CloseReason::Shutdown);
            until(|| guest.session.reason() == Some(CloseReason::Shutdown)).await;
        }
        one.set_shard(away, true).await;
    }
}

async fn claims_of_a_shard_that_is_away_are_admitted_and_all_others_are_taken(net: Net) {
    let [one, two] = net.nodes().await;
    let (users, others) = (one.claims("users"), two.claims("users"));
    let names = names();
    let first: Vec<_> = names.iter().map(|_| Guest::new()).collect();
    for (name, guest) in names.iter().zip(&first) {
        others.take(name, &guest.session).await.unwrap();
    }
    one.set_shard(1, false).await;
    let second: Vec<_> = names.iter().map(|_| Guest::new()).collect();
    let mut on_first = Vec::new();
    for (name, guest) in names.iter().zip(&second) {
        let previous = users.take(name, &guest.session).await.unwrap().previous;
        assert!(matches!(previous, Previous::Closed | Previous::Unknown));
        on_first.push(previous == Previous::Closed);
    }
    let closed = on_first.iter().filter(|is_on_first| **is_on_first).count();
    assert!((10..=30).contains(&closed), "{closed}");
    let open = || {
        let open = first
            .iter()
            .filter(|guest| guest.session.reason().is_none());
        open.count()
    };
    assert_eq!(open(), 40 - closed);
    one.set_shard(1, true).await;
    until(|| open() == 0).await;
    assert!(second.iter().all(|guest| guest.session.reason().is_none()));
    assert_eq!((users.len(), others.len()), (40, 0));

    // Names whose sessions end now become free on the shard that is left, and the others later.
    // No first attempt succeeds.
    one.set_shard(1, false).await;
    one.faults.refuses_removals.store(true, Relaxed);
    drop(second);
    tokio::time::sleep(SECOND / 10).await;
    one.faults.refuses_removals.store(false, Relaxed);
    let take = async |name: &str| {
        let guest = Guest::new();
        while let Err(error) = others.take_free(name, &guest.session).await {
            assert!(matches!(error, ClaimError::Taken), "{error}");
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    for (name, is_on_first) in names.iter().zip(&on_first) {
        if *is_on_first {
            tokio::time::timeout(WAIT, take(name)).await.unwrap();
        } else {
            let taken = others.take_free(name, &Guest::new().session).await;
            assert!(matches!(taken, Err(ClaimError::Taken)), "{taken:?}");
        }
    }
    one.set_shard(1, true).await;
    for name in &names {
        tokio::time::timeout(WAIT, take(name)).await.unwrap();
    }
}

async fn nodes_stay_alive_on_one_shard_and_a_crash_is_noticed_there(net: Net) {
    let [one, two, three, four] = net.nodes().await;
    let mut events = one.node_events();
    for _ in 0..3 {
        assert!(matches!(events.next().await, Some(NodeEvent::Joined(_))));
    }
    for away in [0, 1] {
        one.set_shard(away, false).await;
        assert!(
            tokio::time::timeout(15 * SECOND, events.next())
                .await
                .is_err()
        );
        assert_eq!((one.nodes().len(), two.nodes().len()), (3, 3));
        one.set_shard(away, true).await;
    }
    let has_left = |event: &Result<_, _>, cluster: &Cluster| matches!(event, Ok(Some(NodeEvent::Left(node))) if node.id == cluster.id());
    let limit = 11 * SECOND + net.soon();
    // A crash while a shard is away.
    one.set_shard(1, false).await;
    four.cut_at_once();
    let event = tokio::time::timeout(limit, events.next()).await;
    assert!(has_left(&event, &four), "{event:?}");
    one.set_shard(1, true).await;
    // A shard that comes and goes must not put off the end of a node.
    three.cut_at_once();
    let dead = async {
        loop {
            one.set_shard(1, false).await;
            one.set_shard(1, true).await;
            tokio::time::sleep(SECOND).await;
        }
    };
    let event = tokio::select! {
        () = dead => unreachable!(),
        event = tokio::time::timeout(limit, events.next()) => event,
    };
    assert!(has_left(&event, &three), "{event:?}");
    assert_eq!(two.state(), State::Up);
}

async fn subscription_on_a_shard_that_is_away_is_not_in_effect(net: Net) {
    let [one] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let guest = Guest::new();
    for name in names() {
        rooms.join(name, &guest.session);
    }
    one.set_shard(1, false).await;
    for name in names() {
        let is_here = shard(&rooms, &name) == 0;
        assert_eq!(rooms.subscribed(&name, SECOND).await, is_here, "{name}");
    }
    one.set_shard(1, true).await;
    for name in names() {
        assert!(rooms.subscribed(&name, SECOND).await, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn shard_that_panics_is_down_and_the_others_go_on() {
    let faults = Arc::<Faults>::default();
    let buses = [Memory::new(), Memory::new()];
    let spied = buses.each_ref().map(|bus| Box::new(bus.clone()));
    let [first, second] = spied;
    let first = Spy::new(first, 0, Arc::default(), Arc::clone(&faults));
    let shards: [Box<dyn Bus>; 2] = [Box::new(first), second];
    let one = Cluster::of("test").over(Sharded::new(shards)).start();
    let two = Cluster::of("test").over(Sharded::new(buses)).start();
    one.up().await;
    two.up().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guest = Guest::new();
    for name in names() {
        others.join(name.clone(), &guest.session);
        assert!(others.subscribed(&name, WAIT).await);
    }
    faults.panic.notify_one();
    until(|| !one.state().is_up()).await;
    assert_eq!(one.state(), State::Partial { away: 1 });
    let mut queued = 0;
    for name in names() {
        let sent = rooms.broadcast(&name, name.clone()).unwrap();
        let is_here = shard(&rooms, &name) == 1;
        assert_eq!(sent.bus == BusResult::Queued, is_here, "{name}");
        queued += u64::from(is_here);
    }
    until(|| two.snapshot().received == queued).await;
    one.leave().await;
    until(|| two.nodes().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn another_order_of_shards_is_noticed() {
    let start = |buses: [&Memory; 3]| {
        let bus = Sharded::new(buses.map(Memory::clone));
        Cluster::of("test").over(bus).start()
    };
    let [a, b, c] = [Memory::new(), Memory::new(), Memory::new()];
    for (order, known) in [([&a, &b, &c], 1), ([&a, &c, &b], 1), ([&b, &c, &a], 0)] {
        let one = start([&a, &b, &c]);
        let two = start(order);
        one.up().await;
        two.up().await;
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!((one.nodes().len(), two.nodes().len()), (known, known));
        let is_same = order.map(std::ptr::from_ref) == [&a, &b, &c].map(std::ptr::from_ref);
        for node in [&one, &two] {
            assert_eq!(node.snapshot().invalid == 0, is_same, "{node:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn node_with_a_shard_more_is_known() {
    let shards = [Memory::new(), Memory::new()];
    let more = [shards[0].clone(), shards[1].clone(), Memory::new()];
    let one = Cluster::of("test").over(Sharded::new(shards)).start();
    let two = Cluster::of("test").over(Sharded::new(more)).start();
    one.up().await;
    two.up().await;
    until(|| one.nodes().len() == 1 && two.nodes().len() == 1).await;
    assert_eq!((one.snapshot().invalid, two.snapshot().invalid), (0, 0));
}

#[test]
#[should_panic(expected = "at least one shard")]
fn bus_without_shards_panics() {
    let _ = Sharded::<Memory>::new([]);
}
