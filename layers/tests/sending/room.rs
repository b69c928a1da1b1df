//! The bounded queue: senders that wait for room, and senders that get it.

use tokio_test::{assert_pending, assert_ready_ok, task};

use super::{drain, encode, pair, sending, turn};

#[test]
fn the_queue_is_bounded_in_messages() {
    let (session, mut driver, _connection) = pair(2);
    session.try_send(1).unwrap();
    session.try_send(2).unwrap();
    let full = session.try_send(3).unwrap_err();
    assert!(full.is_full());
    assert_eq!(full.into_message(), Some(3));
    assert_pending!(task::spawn(session.feed(4)).poll());

    // messages that the driver has taken count until they are encoded
    turn(&mut driver);
    assert_eq!(driver.next_outgoing().unwrap().into_message(), Some(1));
    assert!(session.try_send(5).unwrap_err().is_full());
    driver.settle(false);
    assert_eq!(session.queued(), 1);
    session.try_send(6).unwrap();
    assert!(session.try_send(7).unwrap_err().is_full());
    assert_eq!(drain(&mut driver), [2, 6]);
}

#[test]
fn a_queue_holds_at_least_one_message() {
    let (session, mut driver, _connection) = pair(0);
    session.try_send(1).unwrap();
    assert!(session.try_send(2).unwrap_err().is_full());
    assert_eq!(drain(&mut driver), [1]);
}

#[test]
fn a_queue_made_larger_wakes_senders_that_wait_for_room() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(1).unwrap();
    let mut second = task::spawn(session.feed(2));
    let mut third = task::spawn(session.feed(3));
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    driver.set_queue_capacity(3);
    assert!(second.is_woken());
    assert_ready_ok!(second.poll());
    assert!(third.is_woken());
    assert_ready_ok!(third.poll());
}

#[test]
fn senders_get_room_in_the_order_in_which_they_came() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(0).unwrap();
    let mut waiting: Vec<_> = (1..=4).map(|n| task::spawn(session.feed(n))).collect();
    for sender in &mut waiting {
        assert_pending!(sender.poll());
    }
    for n in 0..4 {
        assert_eq!(encode(&mut driver).unwrap().0, n);
        // the last in the queue asks first, and is not served
        for late in waiting.iter_mut().skip(1).rev() {
            assert!(!late.is_woken());
            assert_pending!(late.poll());
        }
        let mut first = waiting.remove(0);
        assert!(first.is_woken());
        assert_ready_ok!(first.poll());
    }
    assert_eq!(drain(&mut driver), [4]);
}

#[test]
fn room_for_many_wakes_one_after_another() {
    let (session, mut driver, _connection) = pair(3);
    (0..3).for_each(|n| session.try_send(n).unwrap());
    let mut waiting: Vec<_> = (3..7).map(|n| task::spawn(session.feed(n))).collect();
    for sender in &mut waiting {
        assert_pending!(sender.poll());
    }
    assert_eq!(drain(&mut driver), [0, 1, 2]);
    for sender in waiting.iter_mut().take(3) {
        assert!(sender.is_woken());
        assert_ready_ok!(sender.poll());
    }
    assert!(!waiting[3].is_woken());
    assert_eq!(drain(&mut driver), [3, 4, 5]);
    assert!(waiting[3].is_woken());
    assert_ready_ok!(waiting[3].poll());
    assert_eq!(drain(&mut driver), [6]);
}

#[test]
fn a_sender_that_waits_is_not_overtaken() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(1).unwrap();
    let mut second = task::spawn(session.feed(2));
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [1]);
    // there is room, and it is another's turn
    assert!(session.try_send(3).unwrap_err().is_full());
    let mut third = task::spawn(session.feed(3));
    assert_pending!(third.poll());
    assert_ready_ok!(second.poll());
    assert_eq!(drain(&mut driver), [2]);
    assert_ready_ok!(third.poll());
}

#[test]
fn nothing_is_taken_above_the_high_watermark() {
    let (session, mut driver, _connection) = pair(64);
    turn(&mut driver);
    driver.settle(true);
    assert!(session.try_send(1).unwrap_err().is_full());
    let mut second = task::spawn(session.feed(2));
    let mut third = sending(&session, 3);
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    assert_eq!(drain(&mut driver), [], "a turn that settles below");
    assert!(second.is_woken());
    assert_ready_ok!(second.poll());
    assert!(third.is_woken());
    assert_pending!(third.poll());
    assert_eq!(drain(&mut driver), [2, 3]);
}

#[test]
fn a_waiting_sender_that_is_dropped_wakes_the_next() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(0).unwrap();
    let mut first = sending(&session, 1);
    let mut second = sending(&session, 2);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [0]);
    assert!(first.is_woken() && !second.is_woken());
    // woken, and dropped without a poll
    drop(first);
    assert!(second.is_woken());
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [2]);
}

#[test]
fn a_waiting_sender_that_is_dropped_from_the_middle_changes_nothing_for_the_others() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(0).unwrap();
    let mut first = task::spawn(session.feed(1));
    let mut second = task::spawn(session.feed(2));
    let mut third = task::spawn(session.feed(3));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    drop(second);
    assert!(!first.is_woken() && !third.is_woken());
    assert_eq!(drain(&mut driver), [0]);
    assert_ready_ok!(first.poll());
    assert_eq!(drain(&mut driver), [1]);
    assert!(third.is_woken());
    assert_ready_ok!(third.poll());
    assert_eq!(drain(&mut driver), [3]);
}

#[test]
fn a_sender_that_moves_to_another_task_is_woken_there() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(0).unwrap();
    let mut first = sending(&session, 1);
    assert_pending!(first.poll());
    let mut second = task::spawn(first.into_inner());
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [0]);
    assert!(second.is_woken());
    assert_pending!(second.poll());
    // now for its outcome
    let mut third = task::spawn(second.into_inner());
    assert_pending!(third.poll());
    let (_, ticket) = encode(&mut driver).unwrap();
    driver.complete(&ticket.unwrap(), 3);
    assert!(third.is_woken());
    assert_eq!(assert_ready_ok!(third.poll()).bytes, 3);
}
