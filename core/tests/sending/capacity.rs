//! The bounded queue and its waiting senders.

use tokio_test::{assert_pending, assert_ready_ok, task};

use super::{drain, encode, pair, poll, sending};

#[test]
fn queue_is_bounded_in_messages() {
    let (session, mut driver, _connection) = pair(2);
    session.try_send(1).unwrap();
    session.try_send(2).unwrap();
    let full = session.try_send(3).unwrap_err();
    assert!(full.is_full());
    assert_eq!(full.into_message(), Some(3));
    assert_pending!(task::spawn(session.feed(4)).poll());

    // taken messages count until they are encoded
    poll(&mut driver);
    assert_eq!(driver.next_outgoing().unwrap().into_message(), Some(1));
    assert!(session.try_send(5).unwrap_err().is_full());
    driver.set_backpressure(false);
    assert_eq!(session.queued(), 1);
    session.try_send(6).unwrap();
    assert!(session.try_send(7).unwrap_err().is_full());
    assert_eq!(drain(&mut driver), [2, 6]);
}

#[test]
fn queue_holds_at_least_one_message() {
    let (session, mut driver, _connection) = pair(0);
    session.try_send(1).unwrap();
    assert!(session.try_send(2).unwrap_err().is_full());
    assert_eq!(drain(&mut driver), [1]);
}

#[test]
fn larger_capacity_wakes_waiting_senders() {
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
fn senders_get_room_in_order() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(0).unwrap();
    let mut waiting: Vec<_> = (1..=4).map(|n| task::spawn(session.feed(n))).collect();
    for sender in &mut waiting {
        assert_pending!(sender.poll());
    }
    for n in 0..4 {
        assert_eq!(encode(&mut driver).unwrap().0, n);
        // the last sender is polled first, and must wait
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
fn room_for_many_wakes_senders_one_by_one() {
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
fn waiting_sender_is_not_overtaken() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(1).unwrap();
    let mut second = task::spawn(session.feed(2));
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [1]);
    // there is room, but an earlier sender waits for it
    assert!(session.try_send(3).unwrap_err().is_full());
    let mut third = task::spawn(session.feed(3));
    assert_pending!(third.poll());
    assert_ready_ok!(second.poll());
    assert_eq!(drain(&mut driver), [2]);
    assert_ready_ok!(third.poll());
}

#[test]
fn queue_accepts_nothing_above_the_high_watermark() {
    let (session, mut driver, _connection) = pair(64);
    poll(&mut driver);
    driver.set_backpressure(true);
    assert!(session.try_send(1).unwrap_err().is_full());
    let mut second = task::spawn(session.feed(2));
    let mut third = sending(&session, 3);
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    assert_eq!(
        drain(&mut driver),
        [],
        "a poll that ends below the watermark"
    );
    assert!(second.is_woken());
    assert_ready_ok!(second.poll());
    assert!(third.is_woken());
    assert_pending!(third.poll());
    assert_eq!(drain(&mut driver), [2, 3]);
}

#[test]
fn dropped_waiting_sender_wakes_the_next() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(0).unwrap();
    let mut first = sending(&session, 1);
    let mut second = sending(&session, 2);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [0]);
    assert!(first.is_woken() && !second.is_woken());
    // dropped after its wake-up without a poll
    drop(first);
    assert!(second.is_woken());
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [2]);
}

#[test]
fn dropping_a_sender_in_the_middle_of_the_queue_does_not_affect_others() {
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
fn sender_that_moves_to_another_task_is_woken_there() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(0).unwrap();
    let mut first = sending(&session, 1);
    assert_pending!(first.poll());
    let mut second = task::spawn(first.into_inner());
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [0]);
    assert!(second.is_woken());
    assert_pending!(second.poll());
    // waits for its outcome now
    let mut third = task::spawn(second.into_inner());
    assert_pending!(third.poll());
    let (_, ticket) = encode(&mut driver).unwrap();
    driver.complete(&ticket.unwrap(), 3);
    assert!(third.is_woken());
    assert_eq!(assert_ready_ok!(third.poll()).bytes, 3);
}
