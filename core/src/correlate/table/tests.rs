use std::time::Duration;

use tokio_test::{assert_pending, assert_ready, task};

use super::{slots::QUIET, *};

const LIMITS: Limits = Limits {
    in_flight: 4,
    id_bits: 64,
    closes_at_deadline: false,
};

fn table() -> Table<&'static str> {
    Table::new(LIMITS)
}

fn begin(table: &Table<&'static str>, waiter: &mut task::Spawn<()>) -> u64 {
    waiter
        .enter(|cx, _| table.begin(cx, None, |_| {}))
        .unwrap()
        .id
}

fn poll(
    table: &Table<&'static str>,
    waiter: &mut task::Spawn<()>,
    id: u64,
) -> Poll<Outcome<&'static str>> {
    waiter.enter(|cx, _| table.poll(cx, id))
}

fn answer(table: &Table<&'static str>, id: u64) -> Result<(), Unasked<&'static str>> {
    table.answer(Answered::Request(id), "that", |_| {})
}

#[test]
fn an_answer_wakes_whoever_polled_last_and_is_taken_once() {
    let table = table();
    let (mut first, mut second) = (task::spawn(()), task::spawn(()));
    let id = begin(&table, &mut first);
    assert_pending!(poll(&table, &mut first, id));
    assert_pending!(poll(&table, &mut second, id));
    answer(&table, id).unwrap();
    assert!(second.is_woken() && !first.is_woken());
    assert!(matches!(
        assert_ready!(poll(&table, &mut second, id)),
        Outcome::Answer("that")
    ));
    assert_eq!(table.in_flight(), 0);
    assert_eq!(answer(&table, id), Err(Unasked::Late("that")));
}

#[test]
fn it_is_said_when_the_first_waits_and_when_the_last_does_not() {
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
    let answered = table.answer(Answered::Request(ids[1]), "that", |now| {
        awaits.set(Some(now));
    });
    answered.unwrap();
    assert_eq!(awaits.take(), Some(false));
    table.end(ids[1], None, |now| awaits.set(Some(now)));
    assert_eq!(awaits.take(), None);
}

#[test]
fn no_id_is_used_twice_and_slots_are() {
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
fn one_more_than_may_is_refused() {
    let table = table();
    let mut waiter = task::spawn(());
    let ids = [(); 4].map(|()| begin(&table, &mut waiter));
    let refused = waiter.enter(|cx, _| table.begin(cx, None, |_| {}));
    assert_eq!(refused, Err(Refused::Full));
    table.end(ids[2], None, |_| {});
    begin(&table, &mut waiter);

    table.input_ended();
    table.end(ids[0], None, |_| {});
    let refused = waiter.enter(|cx, _| table.begin(cx, None, |_| {}));
    assert_eq!(refused, Err(Refused::Over));
}

#[test]
fn the_end_of_the_input_wakes_all_and_spares_answers() {
    let table = table();
    let mut waiters = [task::spawn(()), task::spawn(())];
    let ids = waiters.each_mut().map(|waiter| begin(&table, waiter));
    answer(&table, ids[0]).unwrap();
    table.input_ended();
    assert!(waiters.iter().all(task::Spawn::is_woken));
    let outcomes = [0, 1].map(|n| assert_ready!(poll(&table, &mut waiters[n], ids[n])));
    assert!(matches!(outcomes, [Outcome::Answer("that"), Outcome::Over]));
}

#[test]
fn a_request_given_up_still_takes_its_turn_in_order() {
    let table = table();
    let mut waiter = task::spawn(());
    let ids = [(); 4].map(|()| {
        let id = begin(&table, &mut waiter);
        table.in_order(id, || ((), Some(id)));
        id
    });
    table.end(ids[0], None, |_| {});
    // its answer is outstanding, and nothing may pile up behind a peer that does not answer
    let refused = waiter.enter(|cx, _| table.begin(cx, None, |_| {}));
    assert_eq!(refused, Err(Refused::Full));
    let next = || table.answer(Answered::Oldest, "that", |_| {});
    assert_eq!(next(), Err(Unasked::Late("that")));
    for _ in 0..3 {
        next().unwrap();
    }
    assert_eq!(next(), Err(Unasked::Push("that")));
}

#[tokio::test(start_paused = true)]
async fn only_the_latest_look_goes_on() {
    let table = table();
    let mut waiter = task::spawn(());
    let now = Instant::now();
    let mut begin = |seconds: u64| {
        let deadline = Duration::from_secs(seconds);
        let begin = |cx: &Context<'_>| table.begin(cx, Some(deadline), |_| {});
        waiter.enter(|cx, _| begin(cx)).unwrap()
    };
    let at = |seconds| now + Duration::from_secs(seconds);
    let first = begin(10).look.unwrap();
    assert_eq!(first.0, at(10));
    assert_eq!(begin(11).look, None, "the first look sees it");
    let sooner = begin(5).look.unwrap();
    assert_eq!(sooner.0, at(5));
    assert_eq!(table.look(sooner.1, at(5), |_| {}), Ok(Some(at(10))));
    assert_eq!(table.look(first.1, at(10), |_| {}), Ok(None), "superseded");
    assert_eq!(table.look(sooner.1, at(10), |_| {}), Ok(Some(at(11))));
    assert_eq!(table.look(sooner.1, at(11), |_| {}), Ok(None));
    assert_eq!(table.state.lock().waiting, 0);
    assert!(begin(20).look.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_time_is_one_for_all_until_the_sessions_next_turn() {
    let table = Table::<()>::new(LIMITS);
    let mut waiter = task::spawn(());
    let mut begin = |turns, deadline| {
        let begin = |cx: &Context<'_>| {
            table.begin_in_order(cx, (Some(deadline), turns), |_| {}, || ((), None))
        };
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
    assert_eq!(begin(2, second), Instant::now(), "the session had a turn");

    let table = Table::<()>::new(LIMITS);
    let mut begin = |turns| {
        let begin = |cx: &Context<'_>| {
            table.begin_in_order(cx, (Some(second), turns), |_| {}, || ((), None))
        };
        let id = waiter.enter(|cx, _| begin(cx)).unwrap().0.id;
        let requests = table.state.lock();
        requests.slots.deadline(table.index(id)).unwrap() - second
    };
    begin(0);
    advance().await;
    assert_eq!(begin(0), Instant::now(), "it has not begun to have turns");
    begin(1);
    table.forget_time();
    advance().await;
    assert_eq!(begin(1), Instant::now(), "nothing was queued");
}

#[test]
fn memory_of_a_busy_time_is_given_back() {
    let table: Table<&str> = Table::new(Limits {
        in_flight: 1024,
        ..LIMITS
    });
    let mut waiter = task::spawn(());
    let many: Vec<_> = (0..1000).map(|_| begin(&table, &mut waiter)).collect();
    for id in many {
        table.end(id, None, |_| {});
    }
    assert!(table.state.lock().slots.memory().1 >= 1000);
    for _ in 0..QUIET {
        let id = begin(&table, &mut waiter);
        table.end(id, None, |_| {});
    }
    assert_eq!(table.state.lock().slots.memory().1, FEW);
}

#[tokio::test(start_paused = true)]
async fn once_an_answer_in_order_is_overdue_none_is_given_out() {
    let table: Table<&str> = Table::new(Limits {
        closes_at_deadline: true,
        ..LIMITS
    });
    let mut waiter = task::spawn(());
    let now = Instant::now();
    let mut begin = |seconds: u64| {
        let deadline = Some(Duration::from_secs(seconds));
        let begin = |cx: &Context<'_>| {
            table.begin_in_order(cx, (deadline, 0), |_| {}, || ((), Some(seconds)))
        };
        waiter.enter(|cx, _| begin(cx)).unwrap().0
    };
    let at = |seconds| now + Duration::from_secs(seconds);
    let (at_one, look) = begin(1).look.unwrap();
    let given_up = begin(2);
    begin(3);
    table.end(given_up.id, Some(2), |_| {});
    table.answer(Answered::Oldest, "first", |_| {}).unwrap();
    // nobody waits for the second, and it is still to be looked for
    assert_eq!(table.look(look, at_one, |_| {}), Ok(Some(at(2))));
    assert_eq!(table.look(look, at(2), |_| {}), Err(Overdue));
    let second_or_third = table.answer(Answered::Oldest, "that", |_| {});
    assert_eq!(second_or_third, Err(Unasked::Late("that")));
}

#[tokio::test(start_paused = true)]
async fn all_of_a_full_table_are_given_up_in_any_order_and_looked_for_until_they_are_answered() {
    const MANY: u32 = 1 << 16;
    let table: Table<&str> = Table::new(Limits {
        in_flight: MANY,
        closes_at_deadline: true,
        ..LIMITS
    });
    let mut waiter = task::spawn(());
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let ids: Vec<_> = (1..=u64::from(MANY))
        .map(|number| {
            let begin = |cx: &Context<'_>| {
                table.begin_in_order(cx, (Some(second), 0), |_| {}, || ((), Some(number)))
            };
            waiter.enter(|cx, _| begin(cx)).unwrap().0.id
        })
        .collect();
    // were each looked for from one end, this would take minutes
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
    assert_eq!(table.state.lock().given_up.len(), ids.len());
    for number in 1..=rest.len() as u64 {
        table.refused(number, |_| {});
    }
    for _ in 1..rest.len() {
        let late = table.answer(Answered::Oldest, "that", |_| {});
        assert_eq!(late, Err(Unasked::Late("that")));
    }
    assert_eq!(table.state.lock().given_up.len(), 1);
    assert_eq!(table.look(1, now + second, |_| {}), Err(Overdue));
}
