use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Waker},
};

use loom::{future::block_on, sync::Arc, thread};

use super::*;

/// The driver takes what there is and encodes it.
fn make_room(outbox: &Outbox<u8>) -> usize {
    let mut batch = VecDeque::new();
    outbox.take(&mut batch);
    let taken = batch.len();
    for Queued { attention, .. } in batch.drain(..) {
        let ticket = attention.ticket().into_iter();
        ticket.for_each(|ticket| outbox.complete(ticket, Ok(1)));
    }
    outbox.report(&mut VecDeque::new(), false);
    taken
}

/// Whichever of them is woken by the room that the driver makes once, and whenever the other gives up, the one that
/// stays gets the room.
#[test]
fn a_sender_that_gives_up_passes_its_turn_on() {
    loom::model(|| {
        let outbox = Arc::new(Outbox::new(1));
        outbox.try_push(Payload::Message(0)).unwrap();
        let (gives_up, stays) = (Arc::clone(&outbox), Arc::clone(&outbox));
        let gives_up = thread::spawn(move || {
            let cx = Context::from_waker(Waker::noop());
            let mut waiter = None;
            let pushed =
                gives_up.poll_push(&cx, &mut Some(Payload::Message(1)), &mut waiter, false);
            if let Some(waiter) = waiter {
                gives_up.leave(waiter);
            }
            pushed.is_ready()
        });
        let stays = thread::spawn(move || {
            let (mut message, mut waiter) = (Some(Payload::Message(2)), None);
            let pushed = block_on(poll_fn(|cx| {
                stays.poll_push(cx, &mut message, &mut waiter, false)
            }));
            assert_eq!(pushed, Ok(None));
        });
        make_room(&outbox);
        if gives_up.join().unwrap() {
            // it was served: there is room for the other when its message has gone, too
            make_room(&outbox);
        }
        stays.join().unwrap();
    });
}

/// Whoever wants to know of room learns it, though the sender before gives up, and takes none from the next.
#[test]
fn room_that_a_sender_gives_up_is_seen_by_those_who_watch() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let outbox = Arc::new(Outbox::new(1));
        outbox.try_push(Payload::Message(0)).unwrap();
        let (gives_up, watches) = (Arc::clone(&outbox), Arc::clone(&outbox));
        let gives_up = thread::spawn(move || {
            let cx = Context::from_waker(Waker::noop());
            let mut waiter = None;
            let message = &mut Some(Payload::Message(1));
            let pushed = gives_up.poll_push(&cx, message, &mut waiter, false);
            if let Some(waiter) = waiter {
                gives_up.leave(waiter);
            }
            pushed.is_ready()
        });
        let watches = thread::spawn(move || {
            let mut watcher = None;
            block_on(poll_fn(|cx| watches.poll_room(cx, &mut watcher))).unwrap();
        });
        make_room(&outbox);
        if gives_up.join().unwrap() {
            make_room(&outbox);
        }
        watches.join().unwrap();
    });
}

/// Room below the byte bound reaches the publisher that stays, even if the other is woken and gives
/// up.
#[test]
fn a_publisher_that_gives_up_wakes_the_next() {
    use std::sync::Arc as StdArc;

    use crate::driver::SharedMessage;

    fn message() -> StdArc<SharedMessage<u8>> {
        StdArc::new(SharedMessage::new(0))
    }

    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let outbox = Arc::new(Outbox::new(1));
        outbox.set_shared_bytes(1);
        assert!(outbox.publish(&message(), 1, false).is_ok());
        let (gives_up, stays) = (Arc::clone(&outbox), Arc::clone(&outbox));
        let gives_up = thread::spawn(move || {
            let cx = Context::from_waker(Waker::noop());
            let (mut payload, mut waiter) = (Some(Payload::Shared(message())), None);
            let published = gives_up.poll_publish(&cx, &mut payload, 1, &mut waiter);
            if let Some(waiter) = waiter {
                gives_up.leave_publishers(waiter);
            }
            published.is_ready()
        });
        let stays = thread::spawn(move || {
            let (mut payload, mut waiter) = (Some(Payload::Shared(message())), None);
            let published = block_on(poll_fn(|cx| {
                stays.poll_publish(cx, &mut payload, 1, &mut waiter)
            }));
            assert_eq!(published, Ok(()));
        });
        make_room(&outbox);
        if gives_up.join().unwrap() {
            // its message has to leave before there is room for the other
            make_room(&outbox);
        }
        stays.join().unwrap();
    });
}

/// Two sends that meet the close, with room for one: each is refused, with its message, or sent, and its sender
/// learns which.
#[test]
fn a_send_that_meets_the_close_is_refused_or_sent() {
    fn send(outbox: &Outbox<u8>) -> bool {
        let (mut message, mut waiter) = (Some(Payload::Message(1)), None);
        let pushed = block_on(poll_fn(|cx| {
            outbox.poll_push(cx, &mut message, &mut waiter, true)
        }));
        match pushed {
            Ok(ticket) => {
                let ticket = ticket.unwrap();
                let outcome = block_on(poll_fn(|cx| outbox.poll_outcome(cx, ticket)));
                assert!(matches!(outcome, Ok(1)));
                true
            }
            Err(refusal) => {
                assert_eq!(refusal, Refusal::Closed);
                assert_eq!(message.and_then(Payload::into_message), Some(1));
                false
            }
        }
    }

    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let outbox = Arc::new(Outbox::new(1));
        let senders = [(); 2].map(|()| {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || send(&outbox))
        });
        outbox.close();
        let taken = make_room(&outbox);
        outbox.fail_all(VecDeque::new(), |_| unreachable!("nothing was left"));
        let sent = senders.map(|sender| sender.join().unwrap());
        assert_eq!(sent.into_iter().filter(|sent| *sent).count(), taken);
    });
}
