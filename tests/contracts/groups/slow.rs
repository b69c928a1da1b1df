//! Members that do not read: what they miss, and who waits for them.

use getty::{
    CloseReason,
    layers::{Group, SlowConsumer},
};
use tokio_test::{assert_pending, assert_ready, task};

use super::{Guest, counts, guests};

#[test]
fn a_member_that_reads_nothing_misses_messages_and_nobody_else_does() {
    let group = Group::new();
    let [mut slow, mut quick] = guests();
    group.join(&slow.session);
    group.join(&quick.session);
    slow.stalls();
    for n in 0..10 {
        assert_eq!(counts(group.broadcast(n.to_string())), [1, 1, 0]);
    }
    assert_eq!(quick.hears().len(), 10);
    assert!(slow.hears().is_empty());
    assert_eq!(slow.session.stats().dropped, 10);
    assert_eq!(counts(group.broadcast("again".to_owned())), [2, 0, 0]);
}

#[test]
fn a_member_that_reads_again_is_told_first_what_it_missed() {
    let group = Group::new().with_notice(|missed| format!("missed {missed}"));
    let mut guest = Guest::new();
    group.join(&guest.session);
    guest.stalls();
    for _ in 0..3 {
        assert_eq!(group.broadcast("lost".to_owned()).dropped, 1);
    }
    assert!(guest.hears().is_empty());
    group.broadcast("again".to_owned());
    group.broadcast("and again".to_owned());
    assert_eq!(guest.hears(), ["missed 3", "again", "and again"]);
}

#[test]
fn what_is_broadcast_before_the_session_has_its_turn_is_not_lost() {
    let group = Group::new();
    let mut guest = Guest::new();
    guest.driver.set_queue_capacity(1);
    group.join(&guest.session);
    for n in 0..1000 {
        assert_eq!(group.broadcast(n.to_string()).delivered, 1, "{n}");
    }
    assert!(guest.session.try_send("own".to_owned()).is_err());
    let heard = guest.hears();
    assert_eq!(heard, (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());

    // but there is an end to it
    let delivered: usize = (0..10_000)
        .map(|n| group.broadcast(n.to_string()).delivered)
        .sum();
    assert!((1000..2000).contains(&delivered), "{delivered}");
}

#[test]
fn a_member_may_rather_miss_old_messages_than_new_ones() {
    let group = Group::new();
    let mut guest = Guest::new();
    group.join_with(&guest.session, SlowConsumer::DropOldest);
    guest.turn();
    guest.driver.set_queue_capacity(3);
    guest.driver.settle(true);
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
    assert_eq!(guest.hears(), ["7", "8", "9"]);
    // nobody is slow who has not had a turn
    (0..10).for_each(|n| assert!(group.broadcast(n.to_string()).is_complete()));
    assert_eq!(guest.hears().len(), 10);
}

#[test]
fn a_member_that_is_to_be_closed_when_it_is_slow_is() {
    let group = Group::new();
    let [mut strict, mut lax] = guests();
    group.join_with(&strict.session, SlowConsumer::Close);
    group.join(&lax.session);
    strict.stalls();
    lax.stalls();
    assert_eq!(counts(group.broadcast("too much".to_owned())), [0, 1, 1]);
    assert_eq!(strict.session.reason(), Some(CloseReason::SlowConsumer));
    assert!(!lax.session.is_closing());
}

#[test]
fn the_policy_of_a_member_can_be_changed() {
    let group = Group::new().with_policy(SlowConsumer::Close);
    let mut guest = Guest::new();
    group.join(&guest.session);
    assert!(!group.join_with(&guest.session, SlowConsumer::DropNewest));
    assert!(!group.join(&guest.session), "which changes nothing");
    guest.stalls();
    assert_eq!(counts(group.broadcast("dropped".to_owned())), [0, 1, 0]);
    assert!(!guest.session.is_closing());
}

#[test]
fn only_members_that_are_to_be_waited_for_are_waited_for() {
    let group = Group::new();
    let [mut patient, mut hasty, mut quick] = guests();
    group.join_with(&patient.session, SlowConsumer::Wait);
    group.join(&hasty.session);
    group.join(&quick.session);
    patient.stalls();
    hasty.stalls();
    let mut broadcasting = task::spawn(group.broadcast_and_wait("hello".to_owned()));
    assert_pending!(broadcasting.poll());
    assert_eq!(quick.hears(), ["hello"], "it has it already");
    assert!(patient.hears().is_empty());
    assert!(broadcasting.is_woken());
    assert_eq!(counts(assert_ready!(broadcasting.poll())), [2, 1, 0]);
    assert_eq!(patient.hears(), ["hello"]);

    // who does not wait drops
    patient.stalls();
    assert_eq!(counts(group.broadcast("again".to_owned())), [1, 2, 0]);
}

#[test]
fn a_broadcast_that_is_given_up_leaves_no_place_in_line_behind() {
    let group = Group::new();
    let mut guest = Guest::new();
    group.join_with(&guest.session, SlowConsumer::Wait);
    drop(group.broadcast_and_wait("never polled".to_owned()));
    guest.stalls();
    let mut given_up = task::spawn(group.broadcast_and_wait("given up".to_owned()));
    let mut kept = task::spawn(group.broadcast_and_wait("kept".to_owned()));
    assert_pending!(given_up.poll());
    assert_pending!(kept.poll());
    drop(given_up);
    assert!(guest.hears().is_empty());
    assert!(kept.is_woken());
    assert_eq!(assert_ready!(kept.poll()).delivered, 1);
    assert_eq!(guest.hears(), ["kept"]);
}

#[test]
fn a_session_that_ends_is_no_longer_waited_for() {
    let group = Group::new();
    let [mut one, mut two] = guests();
    group.join_with(&one.session, SlowConsumer::Wait);
    group.join_with(&two.session, SlowConsumer::Wait);
    one.stalls();
    two.stalls();
    let mut broadcasting = task::spawn(
        group
            .broadcast_and_wait("hello".to_owned())
            .except(&two.session),
    );
    assert_pending!(broadcasting.poll());
    one.hangs_up();
    assert!(broadcasting.is_woken());
    assert_eq!(counts(assert_ready!(broadcasting.poll())), [0, 0, 1]);
}
