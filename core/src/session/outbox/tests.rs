use std::{
    collections::VecDeque,
    task::{Context, Waker},
};

use super::{
    state::{RETAINED_CAPACITY, SHRINK_AFTER},
    *,
};

const CAPACITY: u32 = 64;

fn message(n: u64) -> Payload<u64> {
    Payload::Message(n)
}

#[test]
fn queue_entry_is_no_larger_than_bytes_and_two_words() {
    assert!(size_of::<Queued<bytes::Bytes>>() <= 6 * size_of::<usize>());
    assert!(size_of::<Queued<String>>() <= 6 * size_of::<usize>());
}

/// Acts as one poll of the driver, with this many sends: queued, taken, encoded, sent, and
/// their outcomes polled.
fn poll(outbox: &Outbox<u64>, batch: &mut VecDeque<Queued<u64>>, messages: u32) {
    let cx = Context::from_waker(Waker::noop());
    for n in 0..messages {
        let pushed = outbox.poll_push(&cx, &mut Some(message(n.into())), &mut None, true);
        assert!(pushed.is_ready());
    }
    outbox.take(batch);
    assert_eq!(batch.len(), messages as usize);
    while let Some(Queued { completion, .. }) = batch.pop_front() {
        let ticket = completion.ticket().unwrap();
        outbox.complete(ticket, Ok(1));
        assert!(outbox.poll_outcome(&cx, ticket).is_ready());
    }
    outbox.report(&mut VecDeque::new(), false);
}

/// Returns the capacities of the queues: messages, batch, completions, waiters.
fn memory(outbox: &Outbox<u64>, batch: &VecDeque<Queued<u64>>) -> [usize; 4] {
    let state = outbox.0.lock();
    [
        state.messages.capacity(),
        batch.capacity(),
        state
            .senders
            .get()
            .map_or(0, |senders| senders.completions.capacity()),
        state
            .senders
            .get()
            .map_or(0, |senders| senders.waiters.capacity()),
    ]
}

#[test]
fn queues_allocate_nothing_before_the_first_message() {
    let outbox = Outbox::new(CAPACITY);
    assert_eq!(memory(&outbox, &VecDeque::new()), [0; 4]);
}

#[test]
fn busy_polls_allocate_nothing_once_the_queues_are_warm() {
    let (outbox, mut batch) = (Outbox::new(CAPACITY), VecDeque::new());
    (0..2).for_each(|_| poll(&outbox, &mut batch, CAPACITY));
    let warm = memory(&outbox, &batch);
    assert!(warm[0] >= CAPACITY as usize && warm[1] >= CAPACITY as usize);
    for busy in [CAPACITY, 9, 1, CAPACITY] {
        for _ in 1..SHRINK_AFTER {
            poll(&outbox, &mut batch, busy);
            let mut now = memory(&outbox, &batch);
            now[..2].sort_unstable(); // the two buffers are swapped
            assert_eq!(now, warm);
        }
    }
}

#[test]
fn quiet_polls_free_the_memory_of_a_busy_time() {
    let (outbox, mut batch) = (Outbox::new(CAPACITY), VecDeque::new());
    (0..2).for_each(|_| poll(&outbox, &mut batch, CAPACITY));
    (0..SHRINK_AFTER).for_each(|_| poll(&outbox, &mut batch, 1));
    for capacity in memory(&outbox, &batch) {
        assert!(capacity <= RETAINED_CAPACITY, "{capacity}");
    }
    // short queues keep their memory
    let short = memory(&outbox, &batch);
    (0..SHRINK_AFTER).for_each(|_| poll(&outbox, &mut batch, 1));
    assert_eq!(memory(&outbox, &batch), short);
}

#[test]
fn memory_of_many_waiting_senders_is_freed() {
    let (outbox, mut batch) = (Outbox::new(1), VecDeque::new());
    let cx = Context::from_waker(Waker::noop());
    poll(&outbox, &mut batch, 1);
    outbox.report(&mut VecDeque::new(), true);
    let mut waiters = [None; 100];
    for waiter in &mut waiters {
        assert!(
            outbox
                .poll_push(&cx, &mut Some(message(0)), waiter, false)
                .is_pending()
        );
    }
    // one half gives up, the other is served
    for waiter in waiters.iter().skip(1).step_by(2) {
        outbox.cancel_push(waiter.unwrap());
    }
    outbox.report(&mut VecDeque::new(), false);
    for waiter in waiters.iter_mut().step_by(2) {
        assert!(
            outbox
                .poll_push(&cx, &mut Some(message(0)), waiter, false)
                .is_ready()
        );
        outbox.take(&mut batch);
        batch.clear();
        outbox.report(&mut VecDeque::new(), false);
    }
    (0..SHRINK_AFTER).for_each(|_| poll(&outbox, &mut batch, 1));
    assert!(memory(&outbox, &batch)[3] <= RETAINED_CAPACITY);
}

#[test]
fn waiting_sender_is_woken_once_for_the_same_room() {
    use tokio_test::task;

    let outbox = Outbox::new(1);
    outbox.report(&mut VecDeque::new(), true);
    let mut waiting = task::spawn(());
    let mut waiter = None;
    let push = |cx: &Context<'_>, waiter: &mut _| {
        outbox.poll_push(cx, &mut Some(message(0)), waiter, false)
    };
    assert!(waiting.enter(|cx, _| push(cx, &mut waiter)).is_pending());
    outbox.report(&mut VecDeque::new(), false);
    assert!(waiting.is_woken());
    // the room is taken before the sender is polled, and freed again: the sender must be woken
    // again
    outbox.report(&mut VecDeque::new(), true);
    assert!(waiting.enter(|cx, _| push(cx, &mut waiter)).is_pending());
    assert!(!waiting.is_woken());
    outbox.report(&mut VecDeque::new(), false);
    assert!(waiting.is_woken());
    assert!(waiting.enter(|cx, _| push(cx, &mut waiter)).is_ready());
}
