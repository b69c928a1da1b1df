use std::time::Duration;

use tokio_test::{assert_pending, assert_ready, task};

use super::{slots::SHRINK_AFTER, *};

const LIMITS: Limits = Limits {
    in_flight: 4,
    id_bits: 64,
    closes_at_deadline: false,
};

fn table() -> RequestTable<&'static str> {
    RequestTable::new(LIMITS)
}

fn begin(table: &RequestTable<&'static str>, waiter: &mut task::Spawn<()>) -> u64 {
    waiter
        .enter(|cx, _| table.begin(cx, None, |_| {}))
        .unwrap()
        .id
}

fn poll(
    table: &RequestTable<&'static str>,
    waiter: &mut task::Spawn<()>,
    id: u64,
) -> Poll<Outcome<&'static str>> {
    waiter.enter(|cx, _| table.poll(cx, id))
}

fn deliver(table: &RequestTable<&'static str>, id: u64) -> Result<(), Unsolicited<&'static str>> {
    table.deliver(ResponseTo::Request(id), "that", |_| {})
}

#[test]
fn response_wakes_the_task_that_polled_last_and_is_taken_once() {
    let table = table();
    let (mut first, mut second) = (task::spawn(()), task::spawn(()));
    let id = begin(&table, &mut first);
    assert_pending!(poll(&table, &mut first, id));
    assert_pending!(poll(&table, &mut second, id));
    deliver(&table, id).unwrap();
    assert!(second.is_woken() && !first.is_woken());
    assert!(matches!(
        assert_ready!(poll(&table, &mut second, id)),
        Outcome::Response("that")
    ));
    assert_eq!(table.in_flight(), 0);
    assert_eq!(deliver(&table, id), Err(Unsolicited::Late("that")));
}

#[test]
fn observer_is_notified_by_the_first_and_the_last_waiting_request() {
    let table = table();
    let waiter = task::spawn(());
    let awaits = std::cell::Cell::new(None);
    let mut waiters = [waiter, task::spawn(())];
    let ids = waiters.each_mut().map(|waiter| {
        let begin = |cx: &Context<'_>| table.begin(cx, None, |now| awaits.set(Some(now)));
        waiter.enter(|cx, _| begin(cx)).unwrap().id
    });
    assert_eq!(awaits.take(), Some(true));
    table.end(ids[0], None, |now| awaits.set(Some(now)));
    assert_eq!(awaits.take(), None);
    let delivered = table.deliver(ResponseTo::Request(ids[1]), "that", |now| {
        awaits.set(Some(now));
    });
    delivered.unwrap();
    assert_eq!(awaits.take(), Some(false));
    table.end(ids[1], None, |now| awaits.set(Some(now)));
    assert_eq!(awaits.take(), None);
}

#[test]
fn slots_are_reused_and_ids_are_not() {
    let table = table();
    let mut waiter = task::spawn(());
    let mut ids = std::collections::HashSet::new();
    let kept = begin(&table, &mut waiter);
    for _ in 0..1000 {
        let id = begin(&table, &mut waiter);
        assert!(ids.insert(id) && id != kept);
        assert!(table.index(id) < 4);
        table.end(id, None, |_| {});
    }
    assert_eq!(table.in_flight(), 1);
    assert_eq!(table.state.lock().slots.memory().0, 2);
}

#[test]
fn request_beyond_the_limit_is_refused() {
    let table = table();
    let mut waiter = task::spawn(());
    let ids = [(); 4].map(|()| begin(&table, &mut waiter));
    let refused = waiter.enter(|cx, _| table.begin(cx, None, |_| {}));
    assert_eq!(refused, Err(BeginError::Full));
    table.end(ids[2], None, |_| {});
    begin(&table, &mut waiter);

    table.input_ended();
    table.end(ids[0], None, |_| {});
    let refused = waiter.enter(|cx, _| table.begin(cx, None, |_| {}));
    assert_eq!(refused, Err(BeginError::InputEnded));
}

#[test]
fn end_of_input_wakes_all_requests_and_keeps_responses() {
    let table = table();
    let mut waiters = [task::spawn(()), task::spawn(())];
    let ids = waiters.each_mut().map(|waiter| begin(&table, waiter));
    deliver(&table, ids[0]).unwrap();
    table.input_ended();
    assert!(waiters.iter().all(task::Spawn::is_woken));
    let outcomes = [0, 1].map(|n| assert_ready!(poll(&table, &mut waiters[n], ids[n])));
    assert!(matches!(
        outcomes,
        [Outcome::Response("that"), Outcome::InputEnded]
    ));
}

#[test]
fn abandoned_request_keeps_its_position_in_order() {
    let table = table();
    let mut waiter = task::spawn(());
    let ids = [(); 4].map(|()| {
        let id = begin(&table, &mut waiter);
        table.in_order(id, || ((), Some(id)));
        id
    });
    table.end(ids[0], None, |_| {});
    // its response is outstanding: requests must not pile up behind a peer that does not respond
    let refused = waiter.enter(|cx, _| table.begin(cx, None, |_| {}));
    assert_eq!(refused, Err(BeginError::Full));
    let next = || table.deliver(ResponseTo::Oldest, "that", |_| {});
    assert_eq!(next(), Err(Unsolicited::Late("that")));
    for _ in 0..3 {
        next().unwrap();
    }
    assert_eq!(next(), Err(Unsolicited::Push("that")));
}

#[tokio::test(start_paused = true)]
async fn only_the_latest_scan_continues() {
    let table = table();
    let mut waiter = task::spawn(());
    let now = Instant::now();
    let mut begin = |seconds: u64| {
        let deadline = Duration::from_secs(seconds);
        let begin = |cx: &Context<'_>| table.begin(cx, Some(deadline), |_| {});
        waiter.enter(|cx, _| begin(cx)).unwrap()
    };
    let at = |seconds| now + Duration::from_secs(seconds);
    let first = begin(10).scan.unwrap();
    assert_eq!(first.0, at(10));
    assert_eq!(begin(11).scan, None, "the first scan covers it");
    let sooner = begin(5).scan.unwrap();
    assert_eq!(sooner.0, at(5));
    assert_eq!(table.expire(sooner.1, at(5), |_| {}), Ok(Some(at(10))));
    assert_eq!(
        table.expire(first.1, at(10), |_| {}),
        Ok(None),
        "superseded"
    );
    assert_eq!(table.expire(sooner.1, at(10), |_| {}), Ok(Some(at(11))));
    assert_eq!(table.expire(sooner.1, at(11), |_| {}), Ok(None));
    assert_eq!(table.state.lock().waiting, 0);
    assert!(begin(20).scan.is_some());
}

#[tokio::test(start_paused = true)]
async fn long_deadlines_share_a_start_time_until_the_next_poll() {
    let table = RequestTable::<()>::new(LIMITS);
    let mut waiter = task::spawn(());
    let mut begin = |polls, deadline| {
        let begin =
            |cx: &Context<'_>| table.begin_with(cx, (Some(deadline), polls), |_| {}, || ((), None));
        let id = waiter.enter(|cx, _| begin(cx)).unwrap().0.id;
        let requests = table.state.lock();
        let at = requests.slots.deadline(table.index(id)).unwrap() - deadline;
        drop(requests);
        at
    };
    let second = Duration::from_secs(1);
    let advance = || tokio::time::advance(Duration::from_millis(10));
    let first = begin(1, second);
    advance().await;
    assert_eq!(begin(1, second), first);
    let now = Instant::now();
    assert_eq!(begin(1, second / 2), now, "a short deadline is exact");
    advance().await;
    assert_eq!(begin(2, second), Instant::now(), "the session was polled");

    let table = RequestTable::<()>::new(LIMITS);
    let mut begin = |polls| {
        let begin =
            |cx: &Context<'_>| table.begin_with(cx, (Some(second), polls), |_| {}, || ((), None));
        let id = waiter.enter(|cx, _| begin(cx)).unwrap().0.id;
        let requests = table.state.lock();
        requests.slots.deadline(table.index(id)).unwrap() - second
    };
    begin(0);
    advance().await;
    assert_eq!(begin(0), Instant::now(), "the session was not polled yet");
    begin(1);
    table.reset_clock();
    advance().await;
    assert_eq!(begin(1), Instant::now(), "nothing was queued");
}

#[test]
fn memory_of_a_busy_time_is_freed() {
    let table: RequestTable<&str> = RequestTable::new(Limits {
        in_flight: 1024,
        ..LIMITS
    });
    let mut waiter = task::spawn(());
    let many: Vec<_> = (0..1000).map(|_| begin(&table, &mut waiter)).collect();
    for id in many {
        table.end(id, None, |_| {});
    }
    assert!(table.state.lock().slots.memory().1 >= 1000);
    for _ in 0..SHRINK_AFTER {
        let id = begin(&table, &mut waiter);
        table.end(id, None, |_| {});
    }
    assert_eq!(table.state.lock().slots.memory().1, RETAINED_SLOTS);
}

#[tokio::test(start_paused = true)]
async fn no_response_is_delivered_once_one_in_order_is_overdue() {
    let table: RequestTable<&str> = RequestTable::new(Limits {
        closes_at_deadline: true,
        ..LIMITS
    });
    let mut waiter = task::spawn(());
    let now = Instant::now();
    let mut begin = |seconds: u64| {
        let deadline = Some(Duration::from_secs(seconds));
        let begin =
            |cx: &Context<'_>| table.begin_with(cx, (deadline, 0), |_| {}, || ((), Some(seconds)));
        waiter.enter(|cx, _| begin(cx)).unwrap().0
    };
    let at = |seconds| now + Duration::from_secs(seconds);
    let (at_one, scan) = begin(1).scan.unwrap();
    let given_up = begin(2);
    begin(3);
    table.end(given_up.id, Some(2), |_| {});
    table.deliver(ResponseTo::Oldest, "first", |_| {}).unwrap();
    // the second is abandoned, and its response is still due
    assert_eq!(table.expire(scan, at_one, |_| {}), Ok(Some(at(2))));
    assert_eq!(table.expire(scan, at(2), |_| {}), Err(Overdue));
    let second_or_third = table.deliver(ResponseTo::Oldest, "that", |_| {});
    assert_eq!(second_or_third, Err(Unsolicited::Late("that")));
}

#[tokio::test(start_paused = true)]
async fn full_table_is_abandoned_in_any_order_in_linear_time() {
    const MANY: u32 = 1 << 16;
    let table: RequestTable<&str> = RequestTable::new(Limits {
        in_flight: MANY,
        closes_at_deadline: true,
        ..LIMITS
    });
    let mut waiter = task::spawn(());
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let ids: Vec<_> = (1..=u64::from(MANY))
        .map(|number| {
            let begin = |cx: &Context<'_>| {
                table.begin_with(cx, (Some(second), 0), |_| {}, || ((), Some(number)))
            };
            waiter.enter(|cx, _| begin(cx)).unwrap().0.id
        })
        .collect();
    // a linear search from one end would take minutes here
    let (first_half, rest) = ids.split_at(ids.len() / 2);
    let numbered = || (1..).zip(&ids);
    for (number, id) in numbered().skip(first_half.len()) {
        table.end(*id, Some(number), |_| {});
    }
    for (number, id) in numbered()
        .take(first_half.len())
        .collect::<Vec<_>>()
        .iter()
        .rev()
    {
        table.end(**id, Some(*number), |_| {});
    }
    assert_eq!(table.state.lock().abandoned.len(), ids.len());
    for number in 1..=rest.len() as u64 {
        table.remove_unsent(number, |_| {});
    }
    for _ in 1..rest.len() {
        let late = table.deliver(ResponseTo::Oldest, "that", |_| {});
        assert_eq!(late, Err(Unsolicited::Late("that")));
    }
    assert_eq!(table.state.lock().abandoned.len(), 1);
    assert_eq!(table.expire(1, now + second, |_| {}), Err(Overdue));
}
