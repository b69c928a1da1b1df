//! Messages in their order, and what wakes the driver.

use tokio_test::{assert_pending, assert_ready_ok, task};

use super::{drain, pair, sending, turn};

#[test]
fn messages_leave_first_in_first_out_however_they_were_sent() {
    let (session, mut driver, _connection) = pair(64);
    let mut first = sending(&session, 1);
    assert_pending!(first.poll());
    session.try_send(2).unwrap();
    assert_ready_ok!(task::spawn(session.feed(3)).poll());
    let mut fourth = sending(&session, 4);
    assert_pending!(fourth.poll());
    assert_eq!(session.queued(), 4);
    assert_eq!(drain(&mut driver), [1, 2, 3, 4]);
    assert_eq!(session.queued(), 0);
}

#[test]
fn a_send_that_was_never_polled_sends_nothing() {
    let (session, mut driver, _connection) = pair(64);
    drop(session.send(1));
    drop(session.feed(2));
    assert_eq!(drain(&mut driver), []);
}

#[test]
fn a_message_wakes_the_driver() {
    let (session, driver, _connection) = pair(64);
    let mut driver = task::spawn(driver);
    driver.enter(|cx, mut driver| {
        driver.turn(cx);
        assert!(!driver.has_outgoing());
    });
    session.try_send("a").unwrap();
    assert!(driver.is_woken());
    driver.enter(|cx, mut driver| {
        driver.turn(cx);
        assert!(driver.has_outgoing());
        assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("a"));
        assert!(driver.next_outgoing().is_none());
        assert!(!driver.has_outgoing());
    });
    assert!(!driver.is_woken());
}

#[test]
fn a_message_queued_before_the_first_poll_is_seen_by_it() {
    let (session, mut driver, _connection) = pair(64);
    session.try_send("early").unwrap();
    turn(&mut driver);
    assert_eq!(
        driver.next_outgoing().unwrap().into_message(),
        Some("early")
    );
}

#[test]
fn a_message_queued_during_a_poll_is_found() {
    let (session, mut driver, _connection) = pair(64);
    turn(&mut driver);
    session.try_send("a").unwrap();
    assert!(!driver.has_outgoing());
    driver.look();
    assert!(driver.has_outgoing());
    assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("a"));
}

#[test]
fn a_driver_that_moves_to_another_task_is_woken_there() {
    let (session, driver, _connection) = pair(64);
    let mut first = task::spawn(driver);
    first.enter(|cx, mut driver| driver.turn(cx));
    let driver = first.into_inner();
    let mut second = task::spawn(driver);
    second.enter(|cx, mut driver| driver.turn(cx));
    session.try_send("a").unwrap();
    assert!(second.is_woken());
}

#[test]
fn a_requested_close_wakes_the_driver() {
    let (session, driver, _connection) = pair::<()>(64);
    let mut driver = task::spawn(driver);
    driver.enter(|cx, mut driver| driver.turn(cx));
    session.close();
    assert!(driver.is_woken());
}
