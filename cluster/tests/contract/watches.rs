//! Members of a topic that come and go, as a watcher on another node sees them.

use std::{collections::BTreeMap, time::Duration};

use getty_cluster::{ClusterTopics, Watch, WatchEvent, bus::Fault, form::Plain};
use tokio::time::{Instant, timeout};

use crate::{
    engine::{Net, WAIT, contract},
    support::{Guest, until},
};

type Rooms = ClusterTopics<String, String>;

const SECOND: Duration = Duration::from_secs(1);
/// Longest time until a change is seen. A watcher requests the lists again after 15 s or more.
const SOON: Duration = Duration::from_secs(10);
/// Kind of a frame with members.
const LIST: u8 = 11;

contract! {
    servers: [
        watcher_gets_the_members_of_all_nodes_and_then_each_change,
        members_with_equal_cards_are_counted_and_a_replaced_card_is_another_member,
        lists_longer_than_a_frame_come_in_parts,
        list_that_exceeds_its_share_of_the_queue_arrives,
        node_that_starts_later_is_watched_and_one_that_leaves_takes_its_members,
        members_stay_while_the_bus_is_away_and_are_compared_afterwards,
        slow_watcher_gets_the_difference,
        many_watchers_see_the_same_members,
        watcher_that_is_dropped_early_leaves_nothing_behind,
    ],
    long: [
        members_of_a_node_that_crashes_leave_within_ten_seconds,
        lost_lists_are_repaired,
        watcher_whose_end_was_lost_is_forgotten,
    ],
    memory: [
        topics_that_are_dropped_take_their_members,
        stream_ends_with_its_node,
    ],
}

/// Cards that a watcher knows, with the number of members.
#[derive(Default)]
struct View(BTreeMap<String, usize>);

impl View {
    fn apply(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Joined(member) => *self.0.entry(member.card.clone()).or_default() += 1,
            WatchEvent::Left(member) => {
                let count = self.0.get_mut(&member.card).expect("it has joined before");
                *count -= 1;
                self.0.retain(|_, count| *count > 0);
            }
            _ => {}
        }
    }

    async fn become_complete(&mut self, watch: &mut Watch) {
        let read = async {
            loop {
                let event = watch.next().await.expect("the node is alive");
                self.apply(&event);
                if event == WatchEvent::Complete {
                    break;
                }
            }
        };
        timeout(SOON, read).await.expect("all nodes answer");
    }

    fn cards(&self) -> Vec<&str> {
        let cards = self.0.iter();
        let cards = cards.flat_map(|(card, n)| std::iter::repeat_n(&**card, *n));
        cards.collect()
    }

    /// Reads events until the cards are these, before the lists are requested again.
    async fn become_these(&mut self, watch: &mut Watch, cards: &[&str]) {
        self.become_within(SOON, watch, cards).await;
    }

    async fn become_within(&mut self, time: Duration, watch: &mut Watch, cards: &[&str]) {
        let read = async {
            while self.cards() != cards {
                let event = watch.next().await.expect("the node is alive");
                self.apply(&event);
            }
        };
        let read = timeout(time, read).await;
        assert!(read.is_ok(), "{:?} instead of {cards:?}", self.cards());
    }
}

/// Reads events until all lists have arrived.
async fn complete(watch: &mut Watch) -> View {
    let mut view = View::default();
    view.become_complete(watch).await;
    view
}

/// Returns the event that is there, if any.
fn now(watch: &mut Watch) -> Option<WatchEvent> {
    use futures_util::FutureExt;
    watch.next().now_or_never().flatten()
}

async fn watcher_gets_the_members_of_all_nodes_and_then_each_change(net: Net) {
    let [one, two, three] = net.nodes().await;
    let rooms: [Rooms; 3] = [&one, &two, &three].map(|node| node.topics("rooms", Plain));
    let guests: Vec<_> = (0..3).map(|_| Guest::new()).collect();
    for ((rooms, guest), card) in rooms.iter().zip(&guests).zip(["ada", "bob", "cat"]) {
        rooms.join_as("tea".to_owned(), &guest.session, card);
    }
    // without a card, and in another room
    let (silent, other) = (Guest::new(), Guest::new());
    rooms[1].join("tea".to_owned(), &silent.session);
    rooms[1].join_as("milk".to_owned(), &other.session, "dan");

    let mut watch = rooms[0].watch("tea");
    let mut view = complete(&mut watch).await;
    assert_eq!(view.cards(), ["ada", "bob", "cat"]);

    rooms[0].leave("tea", &guests[0].session);
    view.become_these(&mut watch, &["bob", "cat"]).await;
    rooms[1].leave_all(&guests[1].session);
    view.become_these(&mut watch, &["cat"]).await;
    for (n, rooms) in rooms.iter().enumerate() {
        let guest = Guest::new();
        rooms.join_as("tea".to_owned(), &guest.session, format!("new {n}"));
        view.become_these(&mut watch, &["cat", &format!("new {n}")])
            .await;
        // its session closes
        drop(guest);
        view.become_these(&mut watch, &["cat"]).await;
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(now(&mut watch), None, "nothing else has happened");
}

async fn members_with_equal_cards_are_counted_and_a_replaced_card_is_another_member(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let mut watch = rooms.watch("tea");
    let mut view = complete(&mut watch).await;
    let guests = [Guest::new(), Guest::new()];
    for guest in &guests {
        others.join_as("tea".to_owned(), &guest.session, "ada");
    }
    view.become_these(&mut watch, &["ada", "ada"]).await;
    others.join_as("tea".to_owned(), &guests[0].session, "bob");
    view.become_these(&mut watch, &["ada", "bob"]).await;
    others.leave("tea", &guests[1].session);
    view.become_these(&mut watch, &["bob"]).await;
}

async fn lists_longer_than_a_frame_come_in_parts(net: Net) {
    let start = |place| net.node_with(place, |builder| builder.with_max_frame(1024));
    let (one, two) = (start(0), start(1));
    until(|| one.nodes().len() == 1 && two.nodes().len() == 1).await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guests: Vec<_> = (0..200).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        others.join_as("tea".to_owned(), &guest.session, format!("guest {n}"));
    }
    let mut watch = rooms.watch("tea");
    let mut view = complete(&mut watch).await;
    assert_eq!(view.cards().len(), 200);
    drop(guests);
    view.become_these(&mut watch, &[]).await;
}

async fn list_that_exceeds_its_share_of_the_queue_arrives(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    // 2 MB. A subject may use an eighth of the queue, which is 1 MiB.
    let guests: Vec<_> = (0..200).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        let card = format!("{n:0>10000}");
        others.join_as("tea".to_owned(), &guest.session, card);
    }
    let mut watch = rooms.watch("tea");
    let view = complete(&mut watch).await;
    assert_eq!(view.cards().len(), 200);
}

async fn node_that_starts_later_is_watched_and_one_that_leaves_takes_its_members(net: Net) {
    let [one] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let mut watch = rooms.watch("tea");
    let mut view = complete(&mut watch).await;
    let two = net.node(1);
    let others: Rooms = two.topics("rooms", Plain);
    let guest = Guest::new();
    others.join_as("tea".to_owned(), &guest.session, "ada");
    view.become_these(&mut watch, &["ada"]).await;
    two.leave().await;
    view.become_these(&mut watch, &[]).await;
}

async fn members_stay_while_the_bus_is_away_and_are_compared_afterwards(net: Net) {
    // The bus is back for some time before the lists arrive.
    net.set_fate(|_, _, frame| {
        if frame[1] == LIST {
            return Fault::Delay(SECOND / 10);
        }
        Fault::None
    });
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let (stays, leaves, comes) = (Guest::new(), Guest::new(), Guest::new());
    others.join_as("tea".to_owned(), &stays.session, "stays");
    others.join_as("tea".to_owned(), &leaves.session, "leaves");
    // one watcher on each side of the cut
    let (mut watch, mut on_two) = (rooms.watch("tea"), others.watch("tea"));
    let mut view = complete(&mut watch).await;
    let mut view_of_two = complete(&mut on_two).await;
    one.cut().await;
    let here = Guest::new();
    rooms.join_as("tea".to_owned(), &here.session, "here");
    view.become_these(&mut watch, &["here", "leaves", "stays"])
        .await;
    others.leave("tea", &leaves.session);
    others.join_as("tea".to_owned(), &comes.session, "comes");
    view_of_two
        .become_these(&mut on_two, &["comes", "stays"])
        .await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(now(&mut watch), None, "members of the other node stay");
    one.reconnect().await;
    // Only then, and with the lists of the time after the outage.
    view.become_complete(&mut watch).await;
    assert_eq!(view.cards(), ["comes", "here", "stays"]);
    view_of_two
        .become_these(&mut on_two, &["comes", "here", "stays"])
        .await;
}

async fn slow_watcher_gets_the_difference(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let mut watch = rooms.watch("tea");
    complete(&mut watch).await;
    let mut fast = rooms.watch("tea");
    let mut view = complete(&mut fast).await;
    let mut last = None;
    for n in 0..30 {
        drop(last.take());
        let guest = Guest::new();
        others.join_as("tea".to_owned(), &guest.session, format!("guest {n}"));
        view.become_these(&mut fast, &[&format!("guest {n}")]).await;
        last = Some(guest);
    }
    // The slow one sees the current list, and perhaps the one before.
    let (mut view, mut events) = (View::default(), 0);
    while view.cards() != ["guest 29"] {
        let event = watch.next().await.expect("the node is alive");
        view.apply(&event);
        events += 1;
    }
    assert!(events <= 3, "{events}");
}

async fn many_watchers_see_the_same_members(net: Net) {
    let nodes: [_; 3] = net.nodes().await;
    let rooms: [Rooms; 3] = nodes.each_ref().map(|node| node.topics("rooms", Plain));
    let guests: Vec<_> = (0..20).map(|_| Guest::new()).collect();
    for (n, guest) in guests.iter().enumerate() {
        let card = format!("guest {n}");
        rooms[n % 3].join_as(format!("room {}", n % 2), &guest.session, card);
    }
    let mut watches: Vec<_> = (0..100)
        .map(|n| rooms[n % 3].watch(&format!("room {}", n % 2)))
        .collect();
    let mut views = Vec::new();
    for watch in &mut watches {
        let view = complete(watch).await;
        assert_eq!(view.cards().len(), 10);
        views.push(view);
    }
    drop(guests);
    for (watch, view) in watches.iter_mut().zip(&mut views) {
        view.become_these(watch, &[]).await;
    }
}

async fn watcher_that_is_dropped_early_leaves_nothing_behind(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guest = Guest::new();
    others.join_as("tea".to_owned(), &guest.session, "ada");
    let alive = || {
        let metrics = tokio::runtime::Handle::current().metrics();
        metrics.num_alive_tasks()
    };
    let before = alive();
    for polls in 0..20 {
        let mut watch = rooms.watch("tea");
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        now(&mut watch);
    }
    if net.is_memory() {
        // neither a task of the watcher nor one that sends lists
        until(|| alive() == before).await;
    }
    let mut watch = rooms.watch("tea");
    assert_eq!(complete(&mut watch).await.cards(), ["ada"]);
}

async fn members_of_a_node_that_crashes_leave_within_ten_seconds(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guest = Guest::new();
    others.join_as("tea".to_owned(), &guest.session, "ada");
    let mut watch = rooms.watch("tea");
    let mut view = complete(&mut watch).await;
    assert_eq!(view.cards(), ["ada"]);
    two.cut_at_once();
    let cut = Instant::now();
    view.become_within(WAIT, &mut watch, &[]).await;
    assert!(
        cut.elapsed() <= 10 * SECOND + net.soon(),
        "{:?}",
        cut.elapsed()
    );
    two.reconnect().await;
    view.become_these(&mut watch, &["ada"]).await;
}

async fn lost_lists_are_repaired(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let mut watch = rooms.watch("tea");
    let mut view = complete(&mut watch).await;
    let end = Instant::now() + 2 * SECOND;
    net.set_fate(move |_, _, frame| {
        if frame[1] == LIST && Instant::now() < end {
            return Fault::Drop;
        }
        Fault::None
    });
    let guest = Guest::new();
    others.join_as("tea".to_owned(), &guest.session, "ada");
    tokio::time::sleep(SECOND).await;
    assert_eq!(now(&mut watch), None, "the list is lost");
    view.become_within(WAIT, &mut watch, &["ada"]).await;
    assert!(end.elapsed() < 20 * SECOND + net.soon());
}

async fn watcher_whose_end_was_lost_is_forgotten(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let lists = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let seen = std::sync::Arc::clone(&lists);
    net.set_fate(move |_, _, frame| {
        const UNWATCH: u8 = 10;
        if frame[1] == LIST {
            seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if frame[1] == UNWATCH {
            Fault::Drop
        } else {
            Fault::None
        }
    });
    let mut watch = rooms.watch("tea");
    complete(&mut watch).await;
    drop(watch);
    let sent = || lists.load(std::sync::atomic::Ordering::Relaxed);
    let before = sent();
    let guest = Guest::new();
    others.join_as("tea".to_owned(), &guest.session, "ada");
    until(|| sent() > before).await;
    tokio::time::sleep(70 * SECOND).await;
    let before = sent();
    others.leave("tea", &guest.session);
    tokio::time::sleep(SECOND).await;
    assert_eq!(sent(), before);
}

async fn topics_that_are_dropped_take_their_members(net: Net) {
    let [one, two] = net.nodes().await;
    let (rooms, others): (Rooms, Rooms) = (one.topics("r", Plain), two.topics("r", Plain));
    let guest = Guest::new();
    others.join_as("tea".to_owned(), &guest.session, "ada");
    let mut watch = rooms.watch("tea");
    let mut view = complete(&mut watch).await;
    drop(others);
    view.become_these(&mut watch, &[]).await;
}

async fn stream_ends_with_its_node(net: Net) {
    let [one] = net.nodes().await;
    let rooms: Rooms = one.topics("rooms", Plain);
    let mut watch = rooms.watch("tea");
    complete(&mut watch).await;
    drop(rooms);
    tokio::time::sleep(SECOND).await;
    assert_eq!(now(&mut watch), None);
    drop(one);
    let end = timeout(WAIT, watch.next()).await.expect("it ends");
    assert_eq!(end, None);
}
