//! Outcomes of sends, and sends that are dropped.

use std::{error::Error, io, sync::Arc};

use getty_core::SendError;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};

use super::{drain, encode, pair, sending};

#[test]
fn send_resolves_when_its_message_is_flushed() {
    let (session, mut driver, _connection) = pair(64);
    let mut first = sending(&session, "first");
    let mut second = sending(&session, "second");
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let (_, ticket) = encode(&mut driver).unwrap();
    let first_ticket = ticket.unwrap();
    let (_, ticket) = encode(&mut driver).unwrap();
    // encoding does not complete a send
    assert_pending!(first.poll());
    // completed in any order
    driver.complete(&ticket.unwrap(), 8);
    assert!(second.is_woken() && !first.is_woken());
    assert_eq!(assert_ready_ok!(second.poll()).bytes, 8);
    driver.complete(&first_ticket, 7);
    assert_eq!(assert_ready_ok!(first.poll()).bytes, 7);
}

#[test]
fn queued_message_is_sent_even_if_the_send_is_dropped() {
    let (session, mut driver, _connection) = pair(64);
    let mut first = sending(&session, 1);
    let mut second = sending(&session, 2);
    let mut third = sending(&session, 3);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    drop(second);
    let mut tickets = Vec::new();
    for n in 1..=3 {
        let (message, ticket) = encode(&mut driver).unwrap();
        assert_eq!(message, n);
        tickets.push(ticket.unwrap());
    }
    drop(first);
    // no sender waits for its outcome
    tickets
        .iter()
        .for_each(|ticket| driver.complete(ticket, 10));
    assert_eq!(assert_ready_ok!(third.poll()).bytes, 10);
}

#[test]
fn dropping_a_completed_send_does_not_affect_other_outcomes() {
    let (session, mut driver, _connection) = pair(64);
    let mut first = sending(&session, 1);
    let mut second = sending(&session, 2);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let (_, first_ticket) = encode(&mut driver).unwrap();
    let (_, second_ticket) = encode(&mut driver).unwrap();
    driver.complete(&first_ticket.unwrap(), 1);
    drop(first);
    let mut third = sending(&session, 3);
    assert_pending!(third.poll());
    let (_, third_ticket) = encode(&mut driver).unwrap();
    driver.complete(&third_ticket.unwrap(), 3);
    driver.complete(&second_ticket.unwrap(), 2);
    assert_eq!(assert_ready_ok!(second.poll()).bytes, 2);
    assert_eq!(assert_ready_ok!(third.poll()).bytes, 3);
}

#[test]
fn sender_receives_the_error_of_a_codec_that_refuses_its_message() {
    let (session, mut driver, _connection) = pair(64);
    let mut send = sending(&session, "unspeakable");
    assert_pending!(send.poll());
    let (_, ticket) = encode(&mut driver).unwrap();
    driver.fail(&ticket.unwrap(), Arc::new(io::Error::other("too long")));
    assert!(send.is_woken());
    let error = assert_ready_err!(send.poll());
    assert!(matches!(error, SendError::Encode(_)));
    assert_eq!(error.to_string(), "the message could not be encoded");
    assert_eq!(error.source().unwrap().to_string(), "too long");
    // the session continues
    session.try_send("next").unwrap();
    assert_eq!(drain(&mut driver), ["next"]);
}
