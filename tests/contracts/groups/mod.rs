//! Broadcasts to many sessions: recipients, order and cost.

mod sessions;
mod slow;
mod topics;

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Waker},
    thread,
};

use getty::{
    BoxError, CloseReason, Connection, Request, Session, SessionLayer, SlowConsumer,
    driver::{self, Driver},
    layers::{Group, Topics, group::Report},
    service_fn,
};
use getty_test::stream;
use tokio_test::{assert_ready, task};

use crate::support::{lines, open, soon};

/// Number of messages that fill a queue.
const FILLER: &str = "filler";

/// A session without a transport. The test polls its driver.
struct Guest {
    session: Session<String>,
    driver: Driver<String>,
    connection: Connection<()>,
    /// The bounds of the queue are those of a guest that stalls.
    stalled: bool,
}

impl Guest {
    fn new() -> Self {
        let connection = Connection::new(());
        let (session, driver) = driver::pair(connection.handle().clone());
        Self {
            session,
            driver,
            connection,
            stalled: false,
        }
    }

    fn poll_driver(&mut self) {
        self.driver.register(&Context::from_waker(Waker::noop()));
    }

    /// Returns the messages that the next poll would write.
    fn received(&mut self) -> Vec<String> {
        self.poll_driver();
        let mut messages = Vec::new();
        while let Some(outgoing) = self.driver.next_outgoing() {
            messages.push(match outgoing.payload {
                driver::Payload::Message(message) => message,
                driver::Payload::Shared(shared) => shared.message(),
                other => panic!("{other:?}"),
            });
        }
        if std::mem::take(&mut self.stalled) {
            self.driver.set_queue_bytes(driver::DEFAULT_QUEUE_BYTES);
        }
        self.driver.set_backpressure(false);
        messages.retain(|line| line != FILLER);
        messages
    }

    /// The peer reads nothing, so the write buffer and the queue must be full.
    fn stall(&mut self) {
        self.poll_driver();
        self.driver.set_backpressure(true);
        self.driver.set_queue_capacity(1);
        let offer = self
            .session
            .offer(FILLER.to_owned(), SlowConsumer::DropNewest);
        assert_ready!(task::spawn(offer).poll()).unwrap();
        self.driver.set_queue_bytes(0);
        let others = Group::new();
        others.join(&self.session);
        assert_eq!(others.broadcast(FILLER.to_owned()).delivered, 1);
        self.stalled = true;
    }

    fn hang_up(self) {
        self.connection.handle().close_with(CloseReason::PeerClosed);
    }
}

fn guests<const N: usize>() -> [Guest; N] {
    [(); N].map(|()| Guest::new())
}

fn counts(report: Report) -> [usize; 3] {
    [report.delivered, report.dropped, report.closed]
}

#[test]
fn broadcast_reaches_all_members_except_the_sender() {
    let group = Group::new();
    let [mut one, mut two, mut three] = guests();
    assert!(group.join(&one.session));
    assert!(group.join(&two.session));
    assert!(!group.join(&two.session), "the session is already a member");
    assert_eq!(counts(group.broadcast("all".to_owned())), [2, 0, 0]);
    let report = group.broadcast_except(&one.session, "others".to_owned());
    assert_eq!(counts(report), [1, 0, 0]);
    assert_eq!(one.received(), ["all"]);
    assert_eq!(
        two.received(),
        ["all", "others"],
        "each message arrives once"
    );
    assert!(three.received().is_empty());

    assert!(group.leave(&one.session));
    assert!(!group.leave(&one.session));
    assert!(!group.leave(&three.session));
    assert!(!group.contains(&one.session));
    group.broadcast("left".to_owned());
    assert!(one.received().is_empty());
    let members = group.members();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].id(), two.session.id());
}

#[test]
fn list_of_sessions_gets_a_message_without_a_group() {
    let [mut one, mut two, mut three] = guests();
    three.stall();
    let list = [&one.session, &three.session];
    let report = Group::broadcast_to(list, "near".to_owned(), SlowConsumer::DropNewest);
    assert_eq!(counts(report), [1, 1, 0]);
    assert_eq!(three.session.stats().dropped, 1);
    // It does not wait, and the policy may close.
    let report = Group::broadcast_to([&three.session], "far".to_owned(), SlowConsumer::Wait);
    assert_eq!(counts(report), [0, 1, 0]);
    let sessions = vec![two.session.clone(), three.session.clone()];
    let report = Group::broadcast_to(sessions, "owned".to_owned(), SlowConsumer::Close);
    assert_eq!(counts(report), [1, 0, 1]);
    assert_eq!(three.session.reason(), Some(CloseReason::SlowConsumer));
    let none: [Session<String>; 0] = [];
    let report = Group::broadcast_to(none, "nothing".to_owned(), SlowConsumer::Wait);
    assert_eq!(report.members(), 0);
    assert_eq!(one.received(), ["near"]);
    assert_eq!(two.received(), ["owned"]);
}

#[test]
fn membership_ends_with_the_session_without_a_broadcast() {
    let group = Group::new();
    let [one, two, three] = guests();
    for guest in [&one, &two, &three] {
        group.join(&guest.session);
    }
    one.hang_up();
    assert_eq!(group.len(), 2);
    let weak = two.session.downgrade();
    drop(two);
    assert!(
        weak.upgrade().is_none(),
        "the group must not keep the session alive"
    );
    assert_eq!(group.len(), 1);

    let closed = three.session.clone();
    three.hang_up();
    assert!(group.is_empty());
    assert!(!group.join(&closed), "a closed session would stay a member");
    assert!(group.is_empty());
}

#[test]
fn closing_session_is_reported_as_closed() {
    let group = Group::new();
    let guest = Guest::new();
    group.join(&guest.session);
    guest.session.close();
    assert_eq!(counts(group.broadcast("too late".to_owned())), [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn membership_ends_with_every_end_of_the_session() {
    let group = Group::new();
    let topics = Topics::new();
    for end in 0..4 {
        let (transport, peer) = stream();
        let handler = service_fn(|request: Request<String>| async move {
            match request.message().as_str() {
                "panic" => panic!("as asked for"),
                _ => Err::<Option<String>, BoxError>("refused".into()),
            }
        });
        let (session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
        assert!(group.join(&session));
        assert!(topics.join(end, &session));
        match end {
            0 => peer.finish(),
            1 => peer.send("panic\n"),
            2 => peer.send("fail\n"),
            _ => task.abort(),
        }
        soon(session.closed()).await;
        assert!(group.is_empty(), "{end}");
        assert!(topics.is_empty(), "{end}");
    }
}

#[test]
fn sends_and_broadcasts_of_one_task_arrive_in_order() {
    let group = Group::new();
    let mut guest = Guest::new();
    group.join(&guest.session);
    for n in 0..10 {
        guest.session.try_send(format!("own {n}")).unwrap();
        group.broadcast(format!("all {n}"));
    }
    let expected = (0..10).flat_map(|n| [format!("own {n}"), format!("all {n}")]);
    assert_eq!(guest.received(), expected.collect::<Vec<_>>());
}

#[test]
fn close_callback_may_join_leave_and_broadcast() {
    let group: Group<String> = Group::new();
    let topics: Topics<u8, String> = Topics::new();
    let [one, mut two] = guests();
    for guest in [&one, &two] {
        group.join(&guest.session);
        topics.join(1, &guest.session);
    }
    let (ours, theirs, other, own) = (
        group.clone(),
        topics.clone(),
        two.session.clone(),
        one.session.clone(),
    );
    one.session.add_close_callback("test", 1, move |_| {
        ours.broadcast("one has left".to_owned());
        theirs.broadcast(&1, "one has left".to_owned());
        assert!(ours.leave(&other));
        assert!(theirs.leave(&1, &other));
        assert!(ours.join(&other));
        assert!(theirs.join(2, &other));
        assert!(!ours.contains(&own), "the group's own callback came first");
        theirs.leave_all(&other);
    });
    one.hang_up();
    assert_eq!(two.received(), ["one has left", "one has left"]);
    assert_eq!(group.len(), 1);
    assert!(topics.is_empty());
}

#[test]
fn session_may_be_in_ten_thousand_groups() {
    let groups: Vec<_> = (0..10_000).map(|_| Group::new()).collect();
    let guest = Guest::new();
    let session = guest.session.clone();
    assert!(groups.iter().all(|group| group.join(&session)));
    assert!(groups.iter().all(|group| !group.join(&session)));
    let (left, kept) = groups.split_at(5_000);
    assert!(left.iter().rev().all(|group| group.leave(&session)));
    assert!(kept.iter().all(|group| group.len() == 1));
    assert!(left.iter().all(|group| group.join(&session)));
    guest.hang_up();
    assert!(groups.iter().all(Group::is_empty));
}

#[test]
fn group_may_be_stored_in_an_attribute_of_its_session() {
    let guest = Guest::new();
    let group = Group::new();
    group.join(&guest.session);
    guest.session.insert(group);
    let topics: Topics<u8, String> = Topics::new();
    topics.join(1, &guest.session);
    guest.session.insert(topics);
    let weak = guest.session.downgrade();
    guest.hang_up();
    assert!(weak.upgrade().is_none());
}

#[test]
fn steady_member_misses_nothing_while_others_join_and_leave() {
    // Even four times as many stay below the byte bound. So there must be room for all, however
    // late the steady session is polled.
    const BROADCASTS: usize = 200;
    let group = Group::new();
    let topics: Topics<u8, String> = Topics::new();
    let mut steady = Guest::new();
    group.join(&steady.session);
    topics.join(0, &steady.session);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..2 {
            let (group, topics, done) = (&group, &topics, &done);
            scope.spawn(move || {
                for m in 0..BROADCASTS {
                    assert!(group.broadcast(format!("group {n} {m}")).delivered >= 1);
                    assert!(topics.broadcast(&0, format!("topic {n} {m}")).delivered >= 1);
                    thread::yield_now();
                }
                done.fetch_add(1, SeqCst);
            });
        }
        for n in 0..2 {
            let (group, topics, done) = (&group, &topics, &done);
            scope.spawn(move || {
                let mut rounds = 0;
                while done.load(SeqCst) < 2 || rounds < 100 {
                    let guest = Guest::new();
                    assert!(group.join(&guest.session));
                    assert!(topics.join(0, &guest.session));
                    assert!(topics.join(1, &guest.session));
                    match rounds % 4 {
                        n if n < 2 => assert!(group.leave(&guest.session)),
                        _ => assert_eq!(topics.leave_all(&guest.session), 2),
                    }
                    rounds += n + 1;
                    guest.hang_up();
                }
            });
        }
        let mut messages = Vec::new();
        while messages.len() < 4 * BROADCASTS {
            messages.extend(steady.received());
            thread::yield_now();
        }
        for kind in ["group 0", "group 1", "topic 0", "topic 1"] {
            let of_kind: Vec<_> = messages
                .iter()
                .filter(|line| line.starts_with(kind))
                .collect();
            let expected: Vec<_> = (0..BROADCASTS).map(|m| format!("{kind} {m}")).collect();
            assert_eq!(of_kind, expected.iter().collect::<Vec<_>>());
        }
    });
    assert_eq!((group.len(), topics.count(&0)), (1, 1));
    assert_eq!(topics.len(), 1);
}

#[test]
fn session_joined_and_removed_by_several_threads_is_removed_at_its_close() {
    let (group, topics) = (Group::new(), Topics::new());
    for _ in 0..200 {
        let guest = Guest::new();
        let session = guest.session.clone();
        thread::scope(|scope| {
            for n in 0..3 {
                let (group, topics, session) = (&group, &topics, &session);
                scope.spawn(move || {
                    for m in 0..5 {
                        group.join(session);
                        topics.join(m % 2, session);
                        if n > 0 {
                            group.leave(session);
                            topics.leave(&(m % 2), session);
                        }
                    }
                });
            }
            scope.spawn(|| guest.hang_up());
        });
        assert!(group.is_empty());
        assert!(topics.is_empty());
    }
}
