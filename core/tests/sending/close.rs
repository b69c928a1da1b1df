//! Messages at the close and after the driver was dropped.

use getty_core::Close;
use std::{
    error::Error,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use getty_core::{CloseReason, SendError, Session};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

use super::{drain, encode, pair, sending};

#[test]
fn closing_session_returns_each_message() {
    let (session, _driver, _connection) = pair(64);
    session.close_with(CloseReason::Shutdown);
    let errors = [
        session.try_send(1).unwrap_err(),
        assert_ready_err!(task::spawn(session.feed(2)).poll()),
        assert_ready_err!(sending(&session, 3).poll()),
    ];
    for (error, expected) in errors.into_iter().zip(1..) {
        assert!(error.is_closed() && !error.is_full());
        assert_eq!(error.to_string(), "the session is closed: shut down");
        assert_eq!(error.into_message(), Some(expected));
    }
}

#[test]
fn messages_queued_before_the_close_are_still_sent() {
    let (session, mut driver, _connection) = pair(2);
    let mut first = sending(&session, 1);
    assert_pending!(first.poll());
    session.try_send(2).unwrap();
    let mut third = sending(&session, 3);
    assert_pending!(third.poll());
    session.close();
    driver.close_queue();
    // a sender that waits for room fails at once
    assert!(third.is_woken());
    assert_eq!(assert_ready_err!(third.poll()).into_message(), Some(3));
    assert_pending!(first.poll());
    assert!(driver.has_outgoing());
    let (_, ticket) = encode(&mut driver).unwrap();
    driver.complete(&ticket.unwrap(), 5);
    assert_eq!(assert_ready_ok!(first.poll()).bytes, 5);
    assert_eq!(drain(&mut driver), [2]);
}

#[test]
fn waiting_sender_fails_even_if_it_is_polled_before_the_queue_closes() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(1).unwrap();
    let mut second = sending(&session, 2);
    let mut third = sending(&session, 3);
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    session.close();
    assert_eq!(assert_ready_err!(second.poll()).into_message(), Some(2));
    driver.close_queue();
    assert!(third.is_woken());
    assert_eq!(assert_ready_err!(third.poll()).into_message(), Some(3));
}

#[test]
fn dropped_driver_completes_sends_in_every_state() {
    let (session, mut driver, _connection) = pair(3);
    let mut done = sending(&session, "done");
    let mut encoded = sending(&session, "encoded");
    let mut taken = sending(&session, "taken");
    for send in [&mut done, &mut encoded, &mut taken] {
        assert_pending!(send.poll());
    }
    let (_, ticket) = encode(&mut driver).unwrap();
    driver.complete(&ticket.unwrap(), 4);
    let (message, _) = encode(&mut driver).unwrap();
    assert_eq!(message, "encoded");
    let mut queued = sending(&session, "queued");
    assert_pending!(queued.poll());
    session.try_send("unattended").unwrap();
    let mut waiting = sending(&session, "waiting");
    assert_pending!(waiting.poll());

    drop(driver);

    for send in [&encoded, &taken, &queued, &waiting] {
        assert!(send.is_woken());
    }
    assert_eq!(assert_ready_ok!(done.poll()).bytes, 4);
    let refused = |error: SendError<&'static str>| match error {
        SendError::Closed { message, reason } => {
            assert_eq!(reason, CloseReason::Refused);
            message
        }
        other => panic!("unexpected: {other:?}"),
    };
    // bytes of this message may have been sent
    assert_eq!(refused(assert_ready_err!(encoded.poll())), None);
    assert_eq!(refused(assert_ready_err!(taken.poll())), Some("taken"));
    assert_eq!(refused(assert_ready_err!(queued.poll())), Some("queued"));
    assert_eq!(refused(assert_ready_err!(waiting.poll())), Some("waiting"));
    assert_eq!(refused(session.try_send("late").unwrap_err()), Some("late"));
    assert_eq!(
        refused(assert_ready_err!(sending(&session, "late").poll())),
        Some("late")
    );
}

#[test]
fn failed_transport_fails_sends_whose_bytes_may_have_been_sent() {
    let (session, mut driver, _connection) = pair(64);
    let mut encoded = sending(&session, "encoded");
    let mut queued = sending(&session, "queued");
    assert_pending!(encoded.poll());
    assert_pending!(queued.poll());
    let _ = encode(&mut driver);
    session.close_with(Close::new(CloseReason::Io).with_source(io::Error::other("reset")));
    drop(driver);
    let error = assert_ready_err!(encoded.poll());
    assert!(matches!(error, SendError::Io(_)));
    assert_eq!(error.source().unwrap().to_string(), "reset");
    let error = assert_ready_err!(queued.poll());
    assert!(matches!(
        error,
        SendError::Closed {
            message: Some("queued"),
            reason: CloseReason::Io
        }
    ));
}

#[test]
fn messages_without_a_waiting_sender_are_dropped_with_the_driver() {
    let (session, mut driver, _connection) = pair(64);
    let message = Arc::new(());
    session.try_send(message.clone()).unwrap();
    session.try_send(message.clone()).unwrap();
    let mut dropped = sending(&session, message.clone());
    assert_pending!(dropped.poll());
    drop(dropped);
    let _ = encode(&mut driver);
    assert_eq!(Arc::strong_count(&message), 3);
    drop(driver);
    assert_eq!(Arc::strong_count(&message), 1);
}

#[test]
fn destructor_of_a_message_may_use_the_session() {
    #[derive(Debug)]
    struct Reentrant(Session<Reentrant>);
    impl Drop for Reentrant {
        fn drop(&mut self) {
            let _ = self.0.queued();
            self.0.close();
        }
    }

    let (session, driver, _connection) = pair(2);
    let reentrant = || Reentrant(session.clone());
    let mut dropped = sending(&session, reentrant());
    assert_pending!(dropped.poll());
    let mut queued = sending(&session, reentrant());
    assert_pending!(queued.poll());
    let mut waiting = sending(&session, reentrant());
    assert_pending!(waiting.poll());
    drop(dropped);
    drop(driver);
    drop(queued);
    drop(waiting);
    assert!(session.is_closing());
}

#[test]
fn waker_may_use_the_session() {
    /// A waker that uses the session when it is woken.
    struct Reentrant(Session<u8>, Mutex<usize>);
    impl Wake for Reentrant {
        fn wake(self: Arc<Self>) {
            let _ = self.0.queued();
            let _ = self.0.try_send(9);
            *self.1.lock().unwrap() += 1;
        }
    }

    let (session, mut driver, _connection) = pair(1);
    let reentrant = Arc::new(Reentrant(session.clone(), Mutex::default()));
    let waker = Waker::from(reentrant.clone());
    let mut cx = Context::from_waker(&waker);
    driver.register(&cx);
    let mut first = Box::pin(session.send(1));
    let mut second = Box::pin(session.send(2));
    assert!(first.as_mut().poll(&mut cx).is_pending()); // wakes the driver
    assert!(second.as_mut().poll(&mut cx).is_pending());
    assert!(encode(&mut driver).is_some()); // wakes the second
    assert!(second.as_mut().poll(&mut cx).is_pending());
    drop(driver); // wakes both
    assert!(matches!(first.as_mut().poll(&mut cx), Poll::Ready(Err(_))));
    assert!(matches!(second.as_mut().poll(&mut cx), Poll::Ready(Err(_))));
    assert!(*reentrant.1.lock().unwrap() >= 4);
}

#[test]
fn senders_learn_the_end_even_if_a_message_panics_when_dropped() {
    #[derive(Debug)]
    struct PanicsOnDrop(bool);

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            assert!(!self.0, "boom");
        }
    }

    let (session, driver, _connection) = pair(64);
    // no sender waits for either of these
    let mut given_up = sending(&session, PanicsOnDrop(true));
    assert_pending!(given_up.poll());
    drop(given_up);
    assert!(session.try_send(PanicsOnDrop(true)).is_ok());
    let mut waits = [false; 2].map(|bomb| sending(&session, PanicsOnDrop(bomb)));
    waits
        .iter_mut()
        .for_each(|wait| assert_pending!(wait.poll()));
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(driver)));
    for wait in &mut waits {
        assert!(wait.is_woken());
        let error = assert_ready_err!(wait.poll());
        assert!(matches!(
            error,
            SendError::Closed {
                message: Some(_),
                ..
            }
        ));
    }
    assert!(ended.is_ok(), "the panic was caught");
}
