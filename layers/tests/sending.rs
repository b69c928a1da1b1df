//! Sending: a session against a driver that is turned by hand.

use std::{
    collections::BTreeSet,
    error::Error,
    future::poll_fn,
    io,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use getty_layers::{
    CloseReason, Connection, MemoryBudget, Offered, SendError, Sending, Session, SlowConsumer,
    driver::{self, Driver, Payload, Ticket},
};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};

/// A session whose queue holds `capacity` messages, its driver and its connection.
fn pair<Out>(capacity: u32) -> (Session<Out>, Driver<Out>, Connection<()>) {
    let connection = Connection::new(());
    let (session, mut driver) = driver::pair(connection.handle().clone());
    driver.set_queue_capacity(capacity);
    (session, driver, connection)
}

/// Begins a turn that nothing wakes.
fn turn<Out>(driver: &mut Driver<Out>) {
    driver.turn(&Context::from_waker(Waker::noop()));
}

/// The next message, which is encoded at once.
fn encode<Out>(driver: &mut Driver<Out>) -> Option<(Out, Option<Ticket>)> {
    turn(driver);
    let outgoing = driver.next_outgoing();
    driver.settle(false);
    outgoing.map(|outgoing| match outgoing.payload {
        Payload::Message(message) => (message, outgoing.ticket),
        other => panic!("{other:?}"),
    })
}

/// All the messages there are.
fn drain<Out>(driver: &mut Driver<Out>) -> Vec<Out> {
    std::iter::from_fn(|| encode(driver).map(|(message, _)| message)).collect()
}

fn sending<Out>(session: &Session<Out>, message: Out) -> task::Spawn<Sending<'_, Out>> {
    task::spawn(session.send(message))
}

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
fn a_message_queued_before_the_first_turn_is_seen_by_it() {
    let (session, mut driver, _connection) = pair(64);
    session.try_send("early").unwrap();
    turn(&mut driver);
    assert_eq!(
        driver.next_outgoing().unwrap().into_message(),
        Some("early")
    );
}

#[test]
fn a_message_queued_during_a_turn_is_found_by_a_look() {
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

#[test]
fn the_queue_is_bounded_in_messages() {
    let (session, mut driver, _connection) = pair(2);
    session.try_send(1).unwrap();
    session.try_send(2).unwrap();
    let full = session.try_send(3).unwrap_err();
    assert!(full.is_full());
    assert_eq!(full.into_message(), Some(3));
    assert_pending!(task::spawn(session.feed(4)).poll());

    // what the driver has taken counts until it is encoded
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
fn a_queue_made_larger_wakes_who_waits_for_room() {
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
fn nobody_overtakes_a_sender_that_waits() {
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
fn a_waiting_sender_that_is_dropped_passes_its_turn_on() {
    let (session, mut driver, _connection) = pair(1);
    session.try_send(0).unwrap();
    let mut first = sending(&session, 1);
    let mut second = sending(&session, 2);
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_eq!(drain(&mut driver), [0]);
    assert!(first.is_woken() && !second.is_woken());
    // woken, and gone without a word
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

#[test]
fn a_send_resolves_when_its_message_has_left() {
    let (session, mut driver, _connection) = pair(64);
    let mut first = sending(&session, "first");
    let mut second = sending(&session, "second");
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let (_, ticket) = encode(&mut driver).unwrap();
    let first_ticket = ticket.unwrap();
    let (_, ticket) = encode(&mut driver).unwrap();
    // encoded is not sent
    assert_pending!(first.poll());
    // in whatever order
    driver.complete(&ticket.unwrap(), 8);
    assert!(second.is_woken() && !first.is_woken());
    assert_eq!(assert_ready_ok!(second.poll()).bytes, 8);
    driver.complete(&first_ticket, 7);
    assert_eq!(assert_ready_ok!(first.poll()).bytes, 7);
}

#[test]
fn a_queued_send_that_is_dropped_is_sent_all_the_same() {
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
    // its outcome is nobody's
    tickets
        .iter()
        .for_each(|ticket| driver.complete(ticket, 10));
    assert_eq!(assert_ready_ok!(third.poll()).bytes, 10);
}

#[test]
fn a_send_dropped_after_its_outcome_was_known_leaves_the_others_theirs() {
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
fn a_codec_that_refuses_a_message_is_told_to_its_sender() {
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
    // and the session goes on
    session.try_send("next").unwrap();
    assert_eq!(drain(&mut driver), ["next"]);
}

#[test]
fn a_closing_session_hands_every_message_back() {
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
fn what_was_queued_before_the_close_still_goes_out() {
    let (session, mut driver, _connection) = pair(2);
    let mut first = sending(&session, 1);
    assert_pending!(first.poll());
    session.try_send(2).unwrap();
    let mut third = sending(&session, 3);
    assert_pending!(third.poll());
    session.close();
    driver.close_queue();
    // who waited for room is told at once
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
fn a_sender_that_waits_is_answered_even_if_it_asks_before_the_queue_is_closed() {
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
fn a_driver_that_is_dropped_answers_sends_in_every_state() {
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
    // bytes of this one may have left
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
fn a_transport_that_failed_is_told_to_those_whose_bytes_may_have_left() {
    let (session, mut driver, _connection) = pair(64);
    let mut encoded = sending(&session, "encoded");
    let mut queued = sending(&session, "queued");
    assert_pending!(encoded.poll());
    assert_pending!(queued.poll());
    let _ = encode(&mut driver);
    session.close_because(CloseReason::Io, io::Error::other("reset"));
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
fn messages_that_nobody_attends_go_with_the_driver() {
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
fn a_message_may_use_the_session_when_dropped() {
    #[derive(Debug)]
    struct Nosy(Session<Nosy>);
    impl Drop for Nosy {
        fn drop(&mut self) {
            let _ = self.0.queued();
            self.0.close();
        }
    }

    let (session, driver, _connection) = pair(2);
    let nosy = || Nosy(session.clone());
    let mut dropped = sending(&session, nosy());
    assert_pending!(dropped.poll());
    let mut queued = sending(&session, nosy());
    assert_pending!(queued.poll());
    let mut waiting = sending(&session, nosy());
    assert_pending!(waiting.poll());
    drop(dropped);
    drop(driver);
    drop(queued);
    drop(waiting);
    assert!(session.is_closing());
}

#[test]
fn a_waker_may_use_the_session() {
    /// What is woken looks at the session at once.
    struct Nosy(Session<u8>, Mutex<usize>);
    impl Wake for Nosy {
        fn wake(self: Arc<Self>) {
            let _ = self.0.queued();
            let _ = self.0.try_send(9);
            *self.1.lock().unwrap() += 1;
        }
    }

    let (session, mut driver, _connection) = pair(1);
    let nosy = Arc::new(Nosy(session.clone(), Mutex::default()));
    let waker = Waker::from(nosy.clone());
    let mut cx = Context::from_waker(&waker);
    driver.turn(&cx);
    let mut first = Box::pin(session.send(1));
    let mut second = Box::pin(session.send(2));
    assert!(first.as_mut().poll(&mut cx).is_pending()); // wakes the driver
    assert!(second.as_mut().poll(&mut cx).is_pending());
    assert!(encode(&mut driver).is_some()); // wakes the second
    assert!(second.as_mut().poll(&mut cx).is_pending());
    drop(driver); // wakes both
    assert!(matches!(first.as_mut().poll(&mut cx), Poll::Ready(Err(_))));
    assert!(matches!(second.as_mut().poll(&mut cx), Poll::Ready(Err(_))));
    assert!(*nosy.1.lock().unwrap() >= 4);
}

/// Encodes whatever there is, until the session closes or so many messages have left; gives them back.
async fn drive(mut driver: Driver<(u32, u32)>, until: usize) -> Vec<(u32, u32)> {
    let mut left = Vec::new();
    poll_fn(|cx| {
        driver.turn(cx);
        if driver.session().is_closing() {
            driver.close_queue();
        }
        while left.len() < until
            && let Some(outgoing) = driver.next_outgoing()
        {
            if let Some(ticket) = &outgoing.ticket {
                driver.complete(ticket, 1);
            }
            left.extend(outgoing.into_message());
        }
        driver.settle(false);
        if left.len() == until || driver.session().is_closing() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    left
}

const TASKS: u32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_send_in_order_and_lose_nothing() {
    const EACH: u32 = 500;

    let (session, driver, _connection) = pair(4);
    let driving = tokio::spawn(drive(driver, usize::MAX));
    let senders = (0..TASKS).map(|task| {
        let session = session.clone();
        tokio::spawn(async move {
            let mut given_up = BTreeSet::new();
            for n in 0..EACH {
                match n % 3 {
                    0 => drop(session.send((task, n)).await.unwrap()),
                    1 => session.feed((task, n)).await.unwrap(),
                    _ => {
                        // one that gives up after the first look, wherever it stands then
                        let mut send = Box::pin(session.send((task, n)));
                        if poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx).is_pending())).await {
                            given_up.insert((task, n));
                        }
                    }
                }
            }
            given_up
        })
    });
    let senders: Vec<_> = senders.collect();
    let mut given_up = BTreeSet::new();
    for sender in senders {
        given_up.append(&mut sender.await.unwrap());
    }
    session.close();
    let left = driving.await.unwrap();
    for task in 0..TASKS {
        let of_task: Vec<_> = left.iter().filter(|(from, _)| *from == task).collect();
        assert!(of_task.is_sorted(), "out of order: {of_task:?}");
    }
    let unique: BTreeSet<_> = left.iter().copied().collect();
    assert_eq!(unique.len(), left.len(), "sent twice");
    let all = (0..TASKS).flat_map(|task| (0..EACH).map(move |n| (task, n)));
    let missing: Vec<_> = all.filter(|message| !unique.contains(message)).collect();
    assert!(
        missing.iter().all(|message| given_up.contains(message)),
        "lost: {missing:?}"
    );
    assert_eq!(session.queued(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_ends_among_many_senders_leaves_no_outcome_in_doubt() {
    const UNTIL: usize = 400;

    let (session, driver, _connection) = pair(4);
    let driving = tokio::spawn(drive(driver, UNTIL));
    let senders = (0..TASKS).map(|task| {
        let session = session.clone();
        tokio::spawn(async move {
            let mut sent = Vec::new();
            for n in 0.. {
                match session.send((task, n)).await {
                    Ok(_) => sent.push((task, n)),
                    Err(error) => {
                        assert!(error.is_closed());
                        assert_eq!(error.into_message(), Some((task, n)));
                        break;
                    }
                }
            }
            sent
        })
    });
    let senders: Vec<_> = senders.collect();
    let mut sent = BTreeSet::new();
    for sender in senders {
        sent.extend(sender.await.unwrap());
    }
    let left: BTreeSet<_> = driving.await.unwrap().into_iter().collect();
    // nothing is both sent and handed back, nothing neither
    assert_eq!(left.len(), UNTIL);
    assert_eq!(sent, left);
}

/// What an offer that may be dropped in favour of a later one comes to.
fn offer(session: &Session<String>, message: &str) -> Result<Offered, SendError<String>> {
    let offer = session.offer(message.to_owned(), SlowConsumer::DropOldest);
    match task::spawn(offer).poll() {
        Poll::Ready(offered) => offered,
        Poll::Pending => panic!("it never waits"),
    }
}

#[test]
fn what_was_queued_before_a_budget_came_is_charged_to_it_though_it_is_used_up() {
    let budget = MemoryBudget::new(32 * 1024);
    let mut hogs = [27 * 1024, 1].map(|bytes| {
        let (session, mut driver, connection) = pair::<String>(64);
        driver.set_memory_budget(budget.clone());
        let sending = async move { session.send_raw(Bytes::from(vec![0; bytes])).await };
        let mut sending = task::spawn(Box::pin(sending));
        assert_pending!(sending.poll());
        (driver, connection, sending)
    });
    assert_eq!(budget.used(), budget.limit());

    let (session, mut driver, _connection) = pair::<String>(1);
    assert_eq!(offer(&session, "old").unwrap(), Offered::Queued);
    driver.set_memory_budget(budget.clone());
    assert!(budget.used() > budget.limit(), "it is there, come what may");
    assert_eq!(offer(&session, "new").unwrap(), Offered::Replaced);
    assert_eq!(drain(&mut driver), ["new"]);
    driver.charge_written(0);
    assert_eq!(budget.used(), budget.limit());
    for (driver, ..) in &mut hogs {
        turn(driver);
    }
    drop((driver, hogs));
    assert_eq!(budget.used(), 0);
}

#[test]
fn news_for_which_there_is_no_memory_drop_nothing() {
    let budget = MemoryBudget::new(64 * 1024);
    let (session, mut driver, _connection) = pair::<String>(1);
    driver.set_weight(String::len);
    driver.set_memory_budget(budget.clone());
    assert_eq!(offer(&session, "old").unwrap(), Offered::Queued);
    let used = budget.used();
    let large = "x".repeat(100 * 1024);
    match offer(&session, &large) {
        Err(SendError::Budget(message)) => assert_eq!(message, large),
        other => panic!("{other:?}"),
    }
    assert_eq!(budget.used(), used);
    assert_eq!(drain(&mut driver), ["old"]);
    assert_eq!(session.stats().dropped, 0);
    driver.charge_written(0);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_message_of_more_bytes_than_can_be_counted_is_refused() {
    let budget = MemoryBudget::new(64 * 1024);
    let (session, mut driver, _connection) = pair::<String>(4);
    driver.set_weight(|message| {
        if message == "endless" {
            usize::MAX
        } else {
            message.len()
        }
    });
    driver.set_memory_budget(budget.clone());
    session.try_send("one".to_owned()).unwrap();
    let refused = session.try_send("endless".to_owned());
    assert!(matches!(refused, Err(SendError::Budget(_))), "{refused:?}");
    assert_eq!(drain(&mut driver), ["one"]);
    driver.charge_written(0);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_message_whose_destructor_panics_keeps_nobody_from_learning_the_end() {
    #[derive(Debug)]
    struct Bomb(bool);

    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!self.0, "boom");
        }
    }

    let (session, driver, _connection) = pair(64);
    // nobody waits for either of these any more
    let mut given_up = sending(&session, Bomb(true));
    assert_pending!(given_up.poll());
    drop(given_up);
    assert!(session.try_send(Bomb(true)).is_ok());
    let mut waits = [false; 2].map(|bomb| sending(&session, Bomb(bomb)));
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
    assert!(ended.is_ok(), "it goes no further");
}
