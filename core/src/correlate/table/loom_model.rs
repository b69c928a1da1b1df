use std::{future::poll_fn, sync::Arc};

use loom::{future::block_on, thread};

use super::*;
use crate::session::{PendingRequests, Watched, error::SendFailure};

const LIMITS: Limits = Limits {
    in_flight: 2,
    id_bits: 64,
    closes_at_deadline: false,
};

fn begin(table: &Table<u8>, cx: &Context<'_>) -> u64 {
    let begun = table.begin_in_order(cx, (None, 0), |_| {}, || ((), None));
    begun.unwrap().0.id
}

/// An answer that meets the end of the input is had or is not, but nobody sleeps for ever.
#[test]
fn a_request_learns_of_its_answer_or_of_the_end() {
    loom::model(|| {
        let table = Arc::new(Table::new(LIMITS));
        let (mut id, mut driver) = (None, None);
        let outcome = block_on(poll_fn(|cx| {
            let id = *id.get_or_insert_with(|| begin(&table, cx));
            driver.get_or_insert_with(|| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    table.answer(Answered::Request(id), 7, |_| {}).unwrap();
                    table.input_ended();
                })
            });
            table.poll(cx, id)
        }));
        driver.unwrap().join().unwrap();
        match outcome {
            Outcome::Answer(answer) => assert_eq!(answer, 7),
            other => panic!("the answer came before the end: {other:?}"),
        }
    });
}

/// One that is given up while it is answered leaves its slot free and nobody waiting.
#[test]
fn an_answer_that_meets_a_cancel_leaves_nothing_behind() {
    loom::model(|| {
        let table = Arc::new(Table::new(LIMITS));
        let cx = Context::from_waker(Waker::noop());
        let id = begin(&table, &cx);
        let answers = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.answer(Answered::Request(id), 7, |_| {}).is_ok())
        };
        table.end(id, None, |_| {});
        answers.join().unwrap();
        assert_eq!(table.in_flight(), 0);
        assert_eq!(table.state.lock().waiting, 0);
    });
}

struct Asks(Arc<Table<u8>>);

impl PendingRequests for Asks {
    fn wake_all(&self) {
        self.0.wake_all();
    }

    fn unanswered(&self) -> usize {
        self.0.in_flight()
    }
}

/// A message that fails wakes its request, also when it fails before anybody was named to be woken.
#[test]
fn a_failure_is_never_slept_through() {
    loom::model(|| {
        let shared = Arc::new((Arc::new(Table::new(LIMITS)), Watched::<u8>::new()));
        let (table, watched) = &*shared;
        let (mut id, mut driver) = (None, None);
        block_on(poll_fn(|cx| {
            let id = *id.get_or_insert_with(|| begin(table, cx));
            driver.get_or_insert_with(|| {
                let shared = Arc::clone(&shared);
                let driver = thread::spawn(move || {
                    shared.1.fail(1, SendFailure::Closed(None));
                });
                watched.add(&Arc::new(Asks(Arc::clone(table))));
                driver
            });
            assert!(table.poll(cx, id).is_pending());
            match watched.failure(1) {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
        }));
        driver.unwrap().join().unwrap();
        watched.end(); // which lets go of the table
    });
}

/// Once nothing more is received, who waits for a message to leave learns it, or that it will not.
#[test]
fn who_waits_for_the_flush_is_told() {
    loom::model(|| {
        let watched = Arc::new(Watched::<u8>::new());
        let driver = {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                watched.leave(1, true);
                watched.end();
            })
        };
        let first = block_on(poll_fn(|cx| watched.poll(cx, 1)));
        assert!(first.is_ok());
        let second = block_on(poll_fn(|cx| watched.poll(cx, 2)));
        assert!(second.is_err());
        driver.join().unwrap();
    });
}
