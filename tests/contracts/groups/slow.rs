//! Members that do not read: lost messages and waiting publishers.

use getty::{CloseReason, Connection, SlowConsumer, driver, layers::Group};
use tokio_test::{assert_pending, assert_ready, task};

use super::{Guest, counts, guests};

/// Bytes that each queued message counts beyond its size.
const PLACE: usize = 32;

#[test]
fn only_the_member_that_does_not_read_misses_messages() {
    let group = Group::new();
    let [mut slow, mut quick] = guests();
    group.join(&slow.session);
    group.join(&quick.session);
    slow.stall();
    for n in 0..10 {
        assert_eq!(counts(group.broadcast(n.to_string())), [1, 1, 0]);
    }
    assert_eq!(quick.received().len(), 10);
    assert!(slow.received().is_empty());
    assert_eq!(slow.session.stats().dropped, 10);
    assert_eq!(counts(group.broadcast("again".to_owned())), [2, 0, 0]);
}

#[test]
fn member_that_reads_again_first_gets_the_number_of_missed_messages() {
    let group = Group::builder()
        .with_notice(|missed| format!("missed {missed}"))
        .build();
    let mut guest = Guest::new();
    group.join(&guest.session);
    guest.stall();
    for _ in 0..3 {
        assert_eq!(group.broadcast("lost".to_owned()).dropped, 1);
    }
    assert!(guest.received().is_empty());
    group.broadcast("again".to_owned());
    group.broadcast("and again".to_owned());
    assert_eq!(guest.received(), ["missed 3", "again", "and again"]);

    // The same must hold if there is only room for broadcasts.
    guest.stall();
    assert_eq!(group.broadcast("lost".to_owned()).dropped, 1);
    guest.driver.set_queue_bytes(driver::DEFAULT_QUEUE_BYTES);
    assert!(!guest.session.is_writable());
    group.broadcast("again".to_owned());
    assert_eq!(guest.received(), ["missed 1", "again"]);
}

#[test]
fn broadcasts_before_the_session_is_polled_are_not_lost() {
    let group = Group::new();
    let mut guest = Guest::new();
    guest.driver.set_queue_capacity(1);
    group.join(&guest.session);
    let lines = || (0..20_000).map(|n| format!("{n:06}"));
    for line in lines() {
        assert_eq!(group.broadcast(line.clone()).delivered, 1, "{line}");
    }
    assert!(guest.session.try_send("own".to_owned()).is_err());
    assert_eq!(guest.session.queued(), 20_000);
    assert!(guest.received().into_iter().eq(lines()));
    assert_eq!(guest.session.stats().dropped, 0);

    let large = "x".repeat(1024);
    let delivered = (0..900).map(|_| group.broadcast(large.clone()).delivered);
    assert_eq!(delivered.sum::<usize>(), 900);
    assert!(guest.received().iter().all(|line| *line == large));
}

#[test]
fn member_that_does_not_read_holds_at_most_the_byte_bound() {
    const BOUND: usize = 100_000;
    for length in [1, 6, 1024, 40_000] {
        let group = Group::new();
        let mut guest = Guest::new();
        guest.driver.set_queue_bytes(BOUND);
        group.join(&guest.session);
        let most = BOUND / (length + PLACE);
        let line = "x".repeat(length);
        let reports = |n| (0..n).map(|_| group.broadcast(line.clone()));
        assert_eq!(
            reports(most).map(|report| report.delivered).sum::<usize>(),
            most
        );
        assert_eq!(counts(group.broadcast(line.clone())), [0, 1, 0]);

        // Messages that the driver has taken and not encoded count as well.
        guest.poll_driver();
        assert!(guest.driver.next_outgoing().is_some());
        assert_eq!(counts(group.broadcast(line.clone())), [0, 1, 0]);
        guest.driver.set_backpressure(true);
        assert_eq!(guest.session.queued(), most - 1);
        assert_eq!(counts(group.broadcast(line.clone())), [1, 0, 0]);
        let lost = reports(5_000).map(|report| report.dropped).sum::<usize>();
        assert_eq!(lost, 5_000);
        assert_eq!(guest.session.queued(), most);
        assert_eq!(guest.session.stats().dropped, 5_002);
    }
}

#[test]
fn message_that_exceeds_the_byte_bound_is_queued_alone() {
    let group = Group::new();
    let mut guest = Guest::new();
    guest.driver.set_queue_bytes(100);
    group.join(&guest.session);
    let large = "x".repeat(1000);
    assert_eq!(counts(group.broadcast(large.clone())), [1, 0, 0]);
    assert_eq!(counts(group.broadcast("y".to_owned())), [0, 1, 0]);
    assert_eq!(guest.received(), [large.as_str()]);
    assert_eq!(counts(group.broadcast("y".to_owned())), [1, 0, 0]);
    assert_eq!(counts(group.broadcast(large)), [0, 1, 0]);
    assert_eq!(guest.received(), ["y"]);
}

#[test]
fn broadcasts_take_no_room_from_a_sender_that_waits() {
    let group = Group::new();
    let mut guest = Guest::new();
    guest.driver.set_queue_capacity(2);
    group.join(&guest.session);
    let session = guest.session.clone();
    (0..2).for_each(|n| assert_eq!(group.broadcast(n.to_string()).delivered, 1));
    let mut feeding = task::spawn(session.feed("own".to_owned()));
    assert_pending!(feeding.poll());
    (2..5).for_each(|n| assert_eq!(group.broadcast(n.to_string()).delivered, 1));
    // A full write buffer delays the sender and not the broadcasts.
    guest.poll_driver();
    guest.driver.set_backpressure(true);
    assert_pending!(feeding.poll());
    (5..8).for_each(|n| assert_eq!(group.broadcast(n.to_string()).delivered, 1));
    assert_eq!(guest.received(), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    assert!(feeding.is_woken());
    assert_ready!(feeding.poll()).unwrap();
    group.broadcast("8".to_owned());
    assert_eq!(guest.received(), ["own", "8"]);
}

#[test]
fn waiting_publisher_gets_room_while_others_broadcast() {
    let group = Group::builder().with_policy(SlowConsumer::Wait).build();
    let mut guest = Guest::new();
    guest.driver.set_queue_bytes(4 * (1 + PLACE));
    group.join(&guest.session);
    guest.poll_driver();
    guest.driver.set_backpressure(true);
    (0..4).for_each(|n| assert_eq!(group.broadcast(n.to_string()).delivered, 1));
    let mut first = task::spawn(group.broadcast_and_wait("a".to_owned()));
    let mut second = task::spawn(group.broadcast_and_wait("b".to_owned()));
    assert_pending!(first.poll());
    assert_pending!(second.poll());

    // The driver makes room for one message.
    guest.poll_driver();
    assert!(guest.driver.next_outgoing().is_some());
    guest.driver.set_backpressure(true);
    assert!(first.is_woken() && !second.is_woken());
    assert_eq!(group.broadcast("others'".to_owned()).dropped, 1);
    assert_eq!(assert_ready!(first.poll()).delivered, 1);
    assert_pending!(second.poll());
    assert_eq!(guest.received(), ["1", "2", "3", "a"]);
    assert!(second.is_woken());

    // A publisher that is not polled may reserve at most half of the bound.
    assert_eq!(group.broadcast("4".to_owned()).delivered, 1);
    assert_eq!(group.broadcast("5".to_owned()).delivered, 1);
    assert_eq!(group.broadcast("6".to_owned()).dropped, 1);
    assert_eq!(assert_ready!(second.poll()).delivered, 1);
    assert_eq!(guest.received(), ["4", "5", "b"]);
}

#[test]
fn large_message_replaces_as_many_old_ones_as_needed() {
    let group = Group::builder()
        .with_notice(|missed| format!("missed {missed}"))
        .build();
    let mut guest = Guest::new();
    guest.driver.set_queue_bytes(200 * (1 + PLACE));
    group.join_with(&guest.session, SlowConsumer::DropOldest);
    guest.poll_driver();
    guest.driver.set_backpressure(true);
    (0..200).for_each(|_| assert!(group.broadcast("x".to_owned()).is_complete()));
    let large = "y".repeat(4 * (1 + PLACE) - PLACE);
    let report = group.broadcast(large.clone());
    assert_eq!((report.delivered, report.replaced), (1, 1));
    assert_eq!(guest.session.stats().dropped, 4);
    let messages = guest.received();
    assert_eq!(messages.len(), 197);
    assert_eq!(messages[196], large);
    group.broadcast("z".to_owned());
    assert_eq!(guest.received(), ["missed 4", "z"]);
}

#[test]
fn messages_whose_destructors_panic_affect_nothing_else() {
    #[derive(Clone)]
    struct Bomb(bool);

    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!self.0, "this message is expected");
        }
    }

    let connection = Connection::new(());
    let (session, mut driver) = driver::pair::<Bomb>(connection.handle().clone());
    driver.set_weight(|bomb| if bomb.0 { 10 } else { 1000 });
    driver.set_queue_bytes(100 * (10 + PLACE));
    let group = Group::builder()
        .with_policy(SlowConsumer::DropOldest)
        .build();
    group.join(&session);
    (0..100).for_each(|_| assert!(group.broadcast(Bomb(true)).is_complete()));
    assert_eq!(group.broadcast(Bomb(false)).replaced, 1);
    assert_eq!(session.stats().dropped, 25);
    drop(driver);
    drop(connection);
    assert!(session.is_closed() && group.is_empty());
}

#[test]
fn message_type_counts_with_the_weight_of_its_codec_layer() {
    #[derive(Clone)]
    struct Picture;

    let connection = Connection::new(());
    let (session, mut driver) = driver::pair::<Picture>(connection.handle().clone());
    driver.set_weight(|_| 1000 - PLACE);
    driver.set_queue_bytes(10_000);
    let group = Group::new();
    group.join(&session);
    let delivered = (0..20).map(|_| group.broadcast(Picture).delivered);
    assert_eq!(delivered.sum::<usize>(), 10);
}

#[test]
fn member_may_miss_old_messages_instead_of_new_ones() {
    let group = Group::new();
    let mut guest = Guest::new();
    group.join_with(&guest.session, SlowConsumer::DropOldest);
    guest.poll_driver();
    guest.driver.set_queue_bytes(3 * (1 + PLACE));
    guest.driver.set_backpressure(true);
    let reports: Vec<_> = (0..10).map(|n| group.broadcast(n.to_string())).collect();
    assert!(reports.iter().all(|report| report.delivered == 1));
    assert_eq!(
        reports
            .iter()
            .filter(|report| !report.is_complete())
            .count(),
        7
    );
    assert_eq!(guest.session.stats().dropped, 7);
    assert_eq!(guest.received(), ["7", "8", "9"]);
}

#[test]
fn slow_member_with_the_close_policy_is_closed() {
    let group = Group::new();
    let [mut strict, mut lax] = guests();
    group.join_with(&strict.session, SlowConsumer::Close);
    group.join(&lax.session);
    strict.stall();
    lax.stall();
    assert_eq!(counts(group.broadcast("too much".to_owned())), [0, 1, 1]);
    assert_eq!(strict.session.reason(), Some(CloseReason::SlowConsumer));
    assert!(!lax.session.is_closing());
}

#[test]
fn policy_of_a_member_can_be_changed() {
    let group = Group::builder().with_policy(SlowConsumer::Close).build();
    let mut guest = Guest::new();
    group.join(&guest.session);
    assert!(!group.join_with(&guest.session, SlowConsumer::DropNewest));
    assert!(!group.join(&guest.session), "joining again changes nothing");
    guest.stall();
    assert_eq!(counts(group.broadcast("dropped".to_owned())), [0, 1, 0]);
    assert!(!guest.session.is_closing());
}

#[test]
fn publisher_waits_only_for_members_with_the_wait_policy() {
    let group = Group::new();
    let [mut patient, mut hasty, mut quick] = guests();
    group.join_with(&patient.session, SlowConsumer::Wait);
    group.join(&hasty.session);
    group.join(&quick.session);
    patient.stall();
    hasty.stall();
    let mut broadcasting = task::spawn(group.broadcast_and_wait("hello".to_owned()));
    assert_pending!(broadcasting.poll());
    assert_eq!(
        quick.received(),
        ["hello"],
        "the message has already arrived"
    );
    assert!(patient.received().is_empty());
    assert!(broadcasting.is_woken());
    assert_eq!(counts(assert_ready!(broadcasting.poll())), [2, 1, 0]);
    assert_eq!(patient.received(), ["hello"]);

    // A publisher that does not wait drops messages.
    patient.stall();
    assert_eq!(counts(group.broadcast("again".to_owned())), [1, 2, 0]);
}

#[test]
fn dropped_broadcast_leaves_the_queue_of_waiters() {
    let group = Group::new();
    let mut guest = Guest::new();
    group.join_with(&guest.session, SlowConsumer::Wait);
    drop(group.broadcast_and_wait("never polled".to_owned()));
    guest.stall();
    let mut given_up = task::spawn(group.broadcast_and_wait("given up".to_owned()));
    let mut kept = task::spawn(group.broadcast_and_wait("kept".to_owned()));
    assert_pending!(given_up.poll());
    assert_pending!(kept.poll());
    drop(given_up);
    assert!(guest.received().is_empty());
    assert!(kept.is_woken());
    assert_eq!(assert_ready!(kept.poll()).delivered, 1);
    assert_eq!(guest.received(), ["kept"]);
}

#[test]
fn publisher_does_not_wait_for_a_session_that_ends() {
    let group = Group::new();
    let [mut one, mut two] = guests();
    group.join_with(&one.session, SlowConsumer::Wait);
    group.join_with(&two.session, SlowConsumer::Wait);
    one.stall();
    two.stall();
    let mut broadcasting = task::spawn(
        group
            .broadcast_and_wait("hello".to_owned())
            .except(&two.session),
    );
    assert_pending!(broadcasting.poll());
    one.hang_up();
    assert!(broadcasting.is_woken());
    assert_eq!(counts(assert_ready!(broadcasting.poll())), [0, 0, 1]);
}
