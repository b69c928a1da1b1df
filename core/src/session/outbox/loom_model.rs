use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Waker},
};

use loom::{future::block_on, sync::Arc, thread};

use super::*;

/// Acts as the driver: takes all messages and encodes them.
fn make_room(outbox: &Outbox<u8>) -> usize {
    let mut batch = VecDeque::new();
    outbox.take(&mut batch);
    let taken = batch.len();
    for Queued { completion, .. } in batch.drain(..) {
        let ticket = completion.ticket().into_iter();
        ticket.for_each(|ticket| outbox.complete(ticket, Ok(1)));
    }
    outbox.report(&mut VecDeque::new(), false);
    taken
}

/// The driver makes room once. Independent of which sender it wakes and when the other gives
/// up, the remaining one gets the room.
#[test]
fn sender_that_gives_up_passes_its_wake_up_to_the_next() {
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
                gives_up.cancel_push(waiter);
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
            // it was served: there is room for the other once its message is encoded
            make_room(&outbox);
        }
        stays.join().unwrap();
    });
}

/// A task that waits for room is woken even if the sender before it gives up, and takes no
/// room from the next.
#[test]
fn room_that_a_sender_gives_up_wakes_writable_waiters() {
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
                gives_up.cancel_push(waiter);
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

/// Room below the byte limit reaches the remaining publisher even if the other is woken and
/// gives up.
#[test]
fn publisher_that_gives_up_wakes_the_next() {
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
                gives_up.cancel_publish(waiter);
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
            // its message must be encoded before there is room for the other
            make_room(&outbox);
        }
        stays.join().unwrap();
    });
}

/// Two sends race with the close, with room for one. Each is either refused with its message,
/// or sent, and its sender receives the outcome.
#[test]
fn send_that_races_with_the_close_is_refused_or_sent() {
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
        outbox.fail_all(Lazy::new(), |_| unreachable!("the batch was empty"));
        let sent = senders.map(|sender| sender.join().unwrap());
        assert_eq!(sent.into_iter().filter(|sent| *sent).count(), taken);
    });
}
