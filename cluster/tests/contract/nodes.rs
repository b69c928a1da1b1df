use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use getty_cluster::{ClusterTopics, NodeEvent, bus::Fault, form::Plain};
use tokio::time::Instant;

use crate::{
    engine::{Net, WAIT, contract},
    support::{Guest, until},
};

type Rooms = ClusterTopics<String, String>;

const SECOND: Duration = Duration::from_secs(1);

contract! {
    servers: [
        all_nodes_answer_who_is_there_with_the_cards_of_their_members,
        answers_longer_than_a_frame_come_in_parts,
        duplicates_of_questions_and_answers_are_dropped,
        new_node_is_known_at_once,
        bus_that_has_panicked_is_down_and_members_here_still_get_messages,
    ],
    long: [
        dead_node_is_noticed_within_ten_seconds_and_an_orderly_end_at_once,
        garbled_frames_of_all_kinds_end_nothing,
        nodes_that_come_and_go_are_events,
    ],
    memory: [dropped_node_ends_its_tasks],
}

async fn dead_node_is_noticed_within_ten_seconds_and_an_orderly_end_at_once(net: Net) {
    let [one, two, three] = net.nodes().await;
    three.leave().await;
    until(|| one.nodes().len() == 1).await;
    two.cut_at_once();
    let cut = Instant::now();
    while one.nodes().len() == 1 {
        tokio::time::sleep(SECOND / 10).await;
    }
    // and a step of this loop
    let time = cut.elapsed() - SECOND / 10;
    assert!(time <= 10 * SECOND + net.soon(), "{time:?}");
    assert_eq!(
        two.nodes().len(),
        1,
        "a node that is cut off calls nobody dead"
    );
    two.reconnect().await;
    until(|| one.nodes().len() == 1).await;
}

async fn dropped_node_ends_its_tasks(net: Net) {
    let [one] = net.nodes().await;
    let two = net.node_with(1, |builder| builder.named("two"));
    let rooms: Rooms = two.topics("rooms", Plain);
    until(|| one.nodes().len() == 1).await;
    assert_eq!(&*one.nodes()[0].name, "two");
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    drop((two, rooms));
    let metrics = tokio::runtime::Handle::current().metrics();
    // four dispatchers, the bus, the control frames, the beats, the subscriptions and the metrics
    let tasks = 8 + usize::from(cfg!(feature = "metrics"));
    until(|| metrics.num_alive_tasks() == before - tasks).await;
}

async fn all_nodes_answer_who_is_there_with_the_cards_of_their_members(net: Net) {
    let [one, two, three] = net.nodes().await;
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
    let answers = rooms[2].ask("tea", WAIT).await;
    assert_eq!(names(&answers), ["ada", "bob"]);
    assert!(answers.missing.is_empty());

    // a card is replaced, and goes with its session
    rooms[0].join_as("tea".to_owned(), &ada.session, "ada l.");
    drop(cat);
    assert_eq!(names(&rooms[2].ask("tea", WAIT).await), ["ada l.", "bob"]);
    assert!(rooms[2].ask("milk", WAIT).await.members.is_empty());

    // a node that does not answer is named
    two.cut().await;
    let answers = rooms[2].ask("tea", SECOND).await;
    assert_eq!(names(&answers), ["ada l."]);
    let missing: Vec<_> = answers.missing.iter().map(|node| node.id).collect();
    assert_eq!(missing, [two.id()]);
}

async fn answers_longer_than_a_frame_come_in_parts(net: Net) {
    let start = |place| net.node_with(place, |builder| builder.with_max_frame(1024));
    let (one, two) = (start(0), start(1));
    until(|| one.nodes().len() == 1 && two.nodes().len() == 1).await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guests: Vec<_> = (0..100).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        others.join_as("tea".to_owned(), &guest.session, format!("guest {n}"));
    }
    let answers = rooms.ask("tea", WAIT).await;
    assert_eq!((answers.members.len(), answers.missing.len()), (100, 0));
}

async fn duplicates_of_questions_and_answers_are_dropped(net: Net) {
    net.set_fate(|_, _, _| Fault::Duplicate);
    let [one, two, three] = net.nodes().await;
    let rooms: [Rooms; 3] = [&one, &two, &three].map(|node| node.topics("rooms", Plain));
    let guests = [Guest::new(), Guest::new()];
    for (rooms, guest) in rooms[1..].iter().zip(&guests) {
        rooms.join_as("tea".to_owned(), &guest.session, "a guest");
    }
    for _ in 0..20 {
        let answers = rooms[0].ask("tea", WAIT).await;
        assert_eq!((answers.members.len(), answers.missing.len()), (2, 0));
    }
}

async fn new_node_is_known_at_once(net: Net) {
    let [one] = net.nodes().await;
    let two = net.node(1);
    two.up().await;
    let began = Instant::now();
    until(|| one.nodes().len() == 1 && two.nodes().len() == 1).await;
    assert!(began.elapsed() < net.soon(), "{:?}", began.elapsed());
}

async fn bus_that_has_panicked_is_down_and_members_here_still_get_messages(net: Net) {
    let [one] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let mut guest = Guest::new();
    rooms.join("tea".to_owned(), &guest.session);
    one.faults.panic.notify_one();
    one.down().await;
    let _ = rooms.broadcast("tea", "hello".to_owned()).unwrap();
    assert_eq!(guest.received(), ["hello"]);
}

async fn garbled_frames_of_all_kinds_end_nothing(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let (users, claims) = (one.claims("users"), two.claims("users"));
    one.faults.garbles.store(true, Relaxed);
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
    one.faults.garbles.store(false, Relaxed);
    assert!(two.snapshot().invalid > 100, "{:?}", two.snapshot());
    // Invented nodes are dead after some time, and all else works.
    tokio::time::sleep(20 * SECOND).await;
    let mut guest = Guest::new();
    others.join("milk".to_owned(), &guest.session);
    others.subscribed("milk", WAIT).await;
    rooms.broadcast("milk", "hello".to_owned()).unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(guest.received(), ["hello"]);
    assert_eq!(rooms.ask("milk", SECOND).await.missing, []);
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert!(tasks < 40 || !net.is_memory(), "{tasks}");
}

async fn nodes_that_come_and_go_are_events(net: Net) {
    let [one, two] = net.nodes().await;
    let mut events = one.node_events();
    let joined =
        |id| move |event: &NodeEvent| matches!(event, NodeEvent::Joined(node) if node.id == id);
    let left =
        |id| move |event: &NodeEvent| matches!(event, NodeEvent::Left(node) if node.id == id);
    assert!(
        events
            .next()
            .await
            .is_some_and(|event| joined(two.id())(&event))
    );
    let mut next = Box::pin(events.next());
    assert!(futures_util::poll!(&mut next).is_pending());
    drop(next);
    let three = net.node(2);
    assert!(
        events
            .next()
            .await
            .is_some_and(|event| joined(three.id())(&event))
    );
    two.leave().await;
    assert!(
        events
            .next()
            .await
            .is_some_and(|event| left(two.id())(&event))
    );
    // a crash, ten seconds later
    three.cut_at_once();
    assert!(
        events
            .next()
            .await
            .is_some_and(|event| left(three.id())(&event))
    );
    three.reconnect().await;
    assert!(
        events
            .next()
            .await
            .is_some_and(|event| joined(three.id())(&event))
    );
    drop(one);
    assert_eq!(events.next().await, None);
}
