use std::{future::poll_fn, sync::Arc};

use loom::{future::block_on, thread};

use super::*;
use crate::session::{PendingRequests, RequestOutcomes, payload::SendFailure};

const LIMITS: Limits = Limits {
    in_flight: 2,
    id_bits: 64,
    closes_at_deadline: false,
};

fn begin(table: &RequestTable<u8>, cx: &Context<'_>) -> u64 {
    let started = table.begin_with(cx, (None, 0), |_| {}, || ((), None));
    started.unwrap().0.id
}

/// A response that races with the end of the input is received or not, but no task sleeps
/// forever.
#[test]
fn request_receives_its_response_or_the_end_of_input() {
    loom::model(|| {
        let table = Arc::new(RequestTable::new(LIMITS));
        let (mut id, mut driver) = (None, None);
        let outcome = block_on(poll_fn(|cx| {
            let id = *id.get_or_insert_with(|| begin(&table, cx));
            driver.get_or_insert_with(|| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    table.deliver(ResponseTo::Request(id), 7, |_| {}).unwrap();
                    table.input_ended();
                })
            });
            table.poll(cx, id)
        }));
        driver.unwrap().join().unwrap();
        match outcome {
            Outcome::Response(response) => assert_eq!(response, 7),
            other => panic!("the response came before the end: {other:?}"),
        }
    });
}

/// A request that is abandoned while its response arrives frees its slot and leaves no task
/// waiting.
#[test]
fn response_that_races_with_a_drop_frees_the_slot() {
    loom::model(|| {
        let table = Arc::new(RequestTable::new(LIMITS));
        let cx = Context::from_waker(Waker::noop());
        let id = begin(&table, &cx);
        let delivers = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.deliver(ResponseTo::Request(id), 7, |_| {}).is_ok())
        };
        table.end(id, None, |_| {});
        delivers.join().unwrap();
        assert_eq!(table.in_flight(), 0);
        assert_eq!(table.state.lock().waiting, 0);
    });
}

struct Asks(Arc<RequestTable<u8>>);

impl PendingRequests for Asks {
    fn wake_all(&self) {
        self.0.wake_all();
    }

    fn pending(&self) -> usize {
        self.0.in_flight()
    }
}

/// A failed message wakes its request even if it fails before the requests to wake were added.
#[test]
fn failed_message_wakes_its_request() {
    loom::model(|| {
        let shared = Arc::new((
            Arc::new(RequestTable::new(LIMITS)),
            RequestOutcomes::<u8>::new(),
        ));
        let (table, outcomes) = &*shared;
        let (mut id, mut driver) = (None, None);
        block_on(poll_fn(|cx| {
            let id = *id.get_or_insert_with(|| begin(table, cx));
            driver.get_or_insert_with(|| {
                let shared = Arc::clone(&shared);
                let driver = thread::spawn(move || {
                    shared.1.fail(1, SendFailure::Closed(None));
                });
                outcomes.add(&Arc::new(Asks(Arc::clone(table))));
                driver
            });
            assert!(table.poll(cx, id).is_pending());
            match outcomes.take_failure(1) {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
        }));
        driver.unwrap().join().unwrap();
        outcomes.end(); // drops its reference to the table
    });
}

/// Once the input has ended, a task that waits for the flush is woken by the flush or by the
/// end.
#[test]
fn task_that_waits_for_the_flush_is_woken() {
    loom::model(|| {
        let outcomes = Arc::new(RequestOutcomes::<u8>::new());
        let driver = {
            let outcomes = Arc::clone(&outcomes);
            thread::spawn(move || {
                outcomes.record_sent(1, true);
                outcomes.end();
            })
        };
        let first = block_on(poll_fn(|cx| outcomes.poll(cx, 1)));
        assert!(first.is_ok());
        let second = block_on(poll_fn(|cx| outcomes.poll(cx, 2)));
        assert!(second.is_err());
        driver.join().unwrap();
    });
}
