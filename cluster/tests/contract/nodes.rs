use std::time::Duration;

use getty_cluster::{Cluster, ClusterTopics, bus::Memory, form::Plain};
use tokio::time::Instant;

use crate::{
    spy::Spy,
    support::{Guest, nodes, nodes_beside, until},
};

type Rooms = ClusterTopics<String, String>;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn dead_node_is_noticed_within_ten_seconds_and_an_orderly_end_at_once() {
    let [(one, _), (two, port), (three, _)] = nodes(&Memory::new()).await;
    three.leave().await;
    until(|| one.nodes().len() == 1).await;
    port.set_connected(false);
    let cut = Instant::now();
    while one.nodes().len() == 1 {
        tokio::time::sleep(SECOND / 10).await;
    }
    // and a step of this loop
    let time = cut.elapsed() - SECOND / 10;
    assert!(time <= 10 * SECOND, "{time:?}");
    assert_eq!(
        two.nodes().len(),
        1,
        "a node that is cut off calls nobody dead"
    );
    port.set_connected(true);
    two.up().await;
    until(|| one.nodes().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_node_ends_its_tasks() {
    let bus = Memory::new();
    let [(one, _)] = nodes(&bus).await;
    let two = Cluster::of("test").over(bus.clone()).named("two").start();
    let rooms: Rooms = two.topics("rooms", Plain);
    until(|| one.nodes().len() == 1).await;
    assert_eq!(&*one.nodes()[0].name, "two");
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    drop((two, rooms));
    let metrics = tokio::runtime::Handle::current().metrics();
    // four dispatchers, the bus, the control frames, the beats and the subscriptions
    until(|| metrics.num_alive_tasks() == before - 8).await;
}

#[tokio::test(start_paused = true)]
async fn all_nodes_answer_who_is_there_with_the_cards_of_their_members() {
    let [(one, _), (two, port), (three, _)] = nodes(&Memory::new()).await;
    let rooms: [Rooms; 3] = [&one, &two, &three].map(|node| node.topics("rooms", Plain));
    let (ada, bob, cat) = (Guest::new(), Guest::new(), Guest::new());
    rooms[0].join_as("tea".to_owned(), &ada.session, "ada");
    rooms[1].join_as("tea".to_owned(), &bob.session, "bob");
    rooms[1].join_as("milk".to_owned(), &cat.session, "cat");
    let names = |answers: &getty_cluster::Answers| {
        let mut names: Vec<_> = answers.members.iter().map(|m| m.card.clone()).collect();
        names.sort();
        names
    };
    let answers = rooms[2].ask("tea", SECOND).await;
    assert_eq!(names(&answers), ["ada", "bob"]);
    assert!(answers.missing.is_empty());

    // a card is replaced, and goes with its session
    rooms[0].join_as("tea".to_owned(), &ada.session, "ada l.");
    drop(cat);
    assert_eq!(names(&rooms[2].ask("tea", SECOND).await), ["ada l.", "bob"]);
    assert!(rooms[2].ask("milk", SECOND).await.members.is_empty());

    // a node that does not answer is named
    port.set_connected(false);
    let answers = rooms[2].ask("tea", SECOND).await;
    assert_eq!(names(&answers), ["ada l."]);
    let missing: Vec<_> = answers.missing.iter().map(|node| node.id).collect();
    assert_eq!(missing, [two.id()]);
}

#[tokio::test(start_paused = true)]
async fn answers_longer_than_a_frame_come_in_parts() {
    let bus = Memory::new();
    let start = || {
        Cluster::of("test")
            .over(bus.clone())
            .with_max_frame(1024)
            .start()
    };
    let (one, two) = (start(), start());
    until(|| one.nodes().len() == 1 && two.nodes().len() == 1).await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guests: Vec<_> = (0..100).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        others.join_as("tea".to_owned(), &guest.session, format!("guest {n}"));
    }
    let answers = rooms.ask("tea", SECOND).await;
    assert_eq!((answers.members.len(), answers.missing.len()), (100, 0));
}

#[tokio::test(start_paused = true)]
async fn new_node_is_known_at_once() {
    let bus = Memory::new();
    let [(one, _)] = nodes(&bus).await;
    let began = Instant::now();
    let [(_two, _)] = nodes_beside(&one, &bus).await;
    assert!(began.elapsed() < SECOND / 100, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bus_that_has_panicked_is_down_and_members_here_still_get_messages() {
    let (spy, faults) = Spy::new(&Memory::new());
    let one = Cluster::of("test").over(spy).start();
    one.up().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let mut guest = Guest::new();
    rooms.join("tea".to_owned(), &guest.session);
    faults.panic.notify_one();
    one.down().await;
    let _ = rooms.broadcast("tea", "hello".to_owned()).unwrap();
    assert_eq!(guest.received(), ["hello"]);
}

#[tokio::test(start_paused = true)]
async fn garbled_frames_of_all_kinds_end_nothing() {
    let bus = Memory::new();
    let (spy, faults) = Spy::new(&bus);
    let one = Cluster::of("test").over(spy).start();
    let [(two, _)] = nodes_beside(&one, &bus).await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let (users, claims) = (one.claims("users").build(), two.claims("users").build());
    faults.garbles.store(true, std::sync::atomic::Ordering::Relaxed);
    for n in 0..1000 {
        let guest = Guest::new();
        others.join_as("tea".to_owned(), &guest.session, "a guest");
        rooms.broadcast("tea", n.to_string()).unwrap();
        rooms.close("tea", getty_core::CloseReason::Local);
        let _ = rooms.ask("tea", SECOND / 100).await;
        let (here, there) = (Guest::new(), Guest::new());
        let _ = claims.take("ada", &there.session).await;
        let _ = users.take("ada", &here.session).await;
    }
    faults.garbles.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(two.snapshot().invalid > 100, "{:?}", two.snapshot());
    // Invented nodes are dead after some time, and all else works.
    tokio::time::sleep(20 * SECOND).await;
    let mut guest = Guest::new();
    others.join("milk".to_owned(), &guest.session);
    others.subscribed("milk").await;
    rooms.broadcast("milk", "hello".to_owned()).unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(guest.received(), ["hello"]);
    assert_eq!(rooms.ask("milk", SECOND).await.missing, []);
    let metrics = tokio::runtime::Handle::current().metrics();
    assert!(metrics.num_alive_tasks() < 40, "{}", metrics.num_alive_tasks());
}
