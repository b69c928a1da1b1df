//! Order of messages, and wake-ups of the driver.

use tokio_test::{assert_pending, assert_ready_ok, task};

use super::{drain, pair, poll, sending};

#[test]
fn messages_leave_in_order_for_all_kinds_of_sends() {
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
fn send_that_was_never_polled_sends_nothing() {
    let (session, mut driver, _connection) = pair(64);
    drop(session.send(1));
    drop(session.feed(2));
    assert_eq!(drain(&mut driver), []);
}

#[test]
fn message_wakes_the_driver() {
    let (session, driver, _connection) = pair(64);
    let mut driver = task::spawn(driver);
    driver.enter(|cx, mut driver| {
        driver.register(cx);
        assert!(!driver.has_outgoing());
    });
    session.try_send("a").unwrap();
    assert!(driver.is_woken());
    driver.enter(|cx, mut driver| {
        driver.register(cx);
        assert!(driver.has_outgoing());
        assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("a"));
        assert!(driver.next_outgoing().is_none());
        assert!(!driver.has_outgoing());
    });
    assert!(!driver.is_woken());
}

#[test]
fn message_queued_before_the_first_poll_is_found_by_it() {
    let (session, mut driver, _connection) = pair(64);
    session.try_send("early").unwrap();
    poll(&mut driver);
    assert_eq!(
        driver.next_outgoing().unwrap().into_message(),
        Some("early")
    );
}

#[test]
fn message_queued_during_a_poll_is_found() {
    let (session, mut driver, _connection) = pair(64);
    poll(&mut driver);
    session.try_send("a").unwrap();
    assert!(!driver.has_outgoing());
    driver.poll_signals();
    assert!(driver.has_outgoing());
    assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("a"));
}

#[test]
fn driver_that_moves_to_another_task_is_woken_there() {
    let (session, driver, _connection) = pair(64);
    let mut first = task::spawn(driver);
    first.enter(|cx, mut driver| driver.register(cx));
    let driver = first.into_inner();
    let mut second = task::spawn(driver);
    second.enter(|cx, mut driver| driver.register(cx));
    session.try_send("a").unwrap();
    assert!(second.is_woken());
}

#[test]
fn requested_close_wakes_the_driver() {
    let (session, driver, _connection) = pair::<()>(64);
    let mut driver = task::spawn(driver);
    driver.enter(|cx, mut driver| driver.register(cx));
    session.close();
    assert!(driver.is_woken());
}
