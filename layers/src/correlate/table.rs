//! The requests of one session that wait for their answers.
//!
//! One mutex guards the slots. None of the user's code runs under it: messages and wakers are woken and dropped after it is
//! released. The slots hold no memory until the first request, allocate nothing once warm, and give back what a busy time
//! made of them.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::matching::Answered;
use crate::{
    session::Number,
    sync::{Mutex, MutexGuard},
};

/// A deadline that is no shorter may count from a time that is older by as long as the session waits for its turn.
const COARSE: Duration = Duration::from_secs(1);
/// So many slots are kept when none is in use.
const FEW: usize = 8;
/// After so many times that none was in use and few had been, the memory of many is given back.
const QUIET: u8 = 32;

/// Why a request cannot wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many wait already as may.
    Full,
    /// Nothing more will be received.
    Over,
}

/// What has become of a request that waits.
#[derive(Debug)]
pub(super) enum Outcome<In> {
    Answer(In),
    /// Its deadline has passed.
    Expired,
    /// Nothing more will be received.
    Over,
}

#[derive(Debug)]
enum State<In> {
    /// With the next free one.
    Free(Option<u32>),
    Waiting(Option<Waker>),
    Answered(In),
    Expired,
}

#[derive(Debug)]
struct Slot<In> {
    /// The id of the request that is, or was last, in it.
    id: u64,
    deadline: Option<Instant>,
    state: State<In>,
}

/// What a table is made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) in_flight: u32,
    /// Ids take no more bits than these.
    pub(super) id_bits: u32,
}

impl Limits {
    /// How many bits of an id say in which slot the request waits; those above count requests.
    const fn slot_bits(self) -> u32 {
        u32::BITS - (self.in_flight - 1).leading_zeros()
    }
}

#[derive(Debug)]
pub(super) struct Table<In> {
    limits: Limits,
    state: Mutex<Slots<In>>,
}

#[derive(Debug)]
struct Slots<In> {
    slots: Vec<Slot<In>>,
    first_free: Option<u32>,
    /// How many slots are not free.
    used: u32,
    /// How many requests have neither an answer nor any other outcome.
    waiting: u32,
    /// How many requests there were.
    count: u64,
    /// The requests whose answers come in their order, from the oldest that is not answered on, and under which numbers they
    /// were queued.
    order: VecDeque<(u64, Number)>,
    /// When the latest look for deadlines is to be.
    look_at: Option<Instant>,
    /// Which look that is: earlier ones are superseded.
    look: u32,
    /// Somebody will say when the input has ended.
    guarded: bool,
    /// The time when a request began, and how many turns the session had had by then. It holds for those that begin until
    /// the next turn, which all of them cause.
    now: Option<(Instant, u64)>,
    over: bool,
    /// How many times in a row few slots had been used when none was any more.
    quiet: u8,
}

/// What is to be done for a request that has just begun to wait, once the lock is released.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) id: u64,
    /// A look for deadlines at this time, under this number.
    pub(super) look: Option<(Instant, u32)>,
    /// Somebody is to say when the input has ended: nobody does as yet.
    pub(super) unguarded: bool,
    /// It is the first.
    pub(super) is_first: bool,
}

impl<In> Table<In> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: Mutex::new(Slots {
                slots: Vec::new(),
                first_free: None,
                used: 0,
                waiting: 0,
                count: 0,
                order: VecDeque::new(),
                look_at: None,
                look: 0,
                guarded: false,
                now: None,
                over: false,
                quiet: 0,
            }),
        }
    }

    fn index(&self, id: u64) -> usize {
        let mask = (1_u64 << self.limits.slot_bits()) - 1;
        usize::try_from(id & mask).unwrap_or(usize::MAX)
    }

    fn id(&self, count: u64, slot: u32) -> u64 {
        let mask = u64::MAX >> (u64::BITS - self.limits.id_bits);
        ((count << self.limits.slot_bits()) & mask) | u64::from(slot)
    }

    #[cfg(all(test, not(getty_loom)))]
    fn begin(
        &self,
        cx: &Context<'_>,
        deadline: Option<Duration>,
        awaits: impl FnOnce(bool),
    ) -> Result<Begun, Refused> {
        let begun = self.begin_in_order(cx, (deadline, 0), awaits, || ((), None));
        begun.map(|(begun, ())| begun)
    }

    /// Lets a request wait, and wakes `cx` when something has become of it. `awaits` is called when it is the first, under
    /// the lock, so that it and its opposite are seen in the right order. `push` is that of [`in_order`](Self::in_order), `turns` how many the session has had:
    /// where the request is not queued, [`forget_time`](Self::forget_time) is to follow.
    #[inline]
    pub(super) fn begin_in_order<R>(
        &self,
        cx: &Context<'_>,
        (deadline, turns): (Option<Duration>, u64),
        awaits: impl FnOnce(bool),
        push: impl FnOnce() -> (R, Option<Number>),
    ) -> Result<(Begun, R), Refused> {
        let waker = cx.waker().clone();
        let mut slots = self.state.lock();
        if slots.over {
            drop(slots);
            return Err(Refused::Over);
        }
        let outstanding = slots.order.len().max(slots.used as usize);
        if outstanding >= self.limits.in_flight as usize {
            drop(slots);
            return Err(Refused::Full);
        }
        slots.count += 1;
        slots.used += 1;
        slots.waiting += 1;
        if slots.waiting == 1 {
            awaits(true);
        }
        let count = slots.count;
        let deadline =
            deadline.and_then(|deadline| slots.now(deadline, turns).checked_add(deadline));
        let slot = |id| Slot {
            id,
            deadline,
            state: State::Waiting(Some(waker)),
        };
        let id = match slots.first_free {
            Some(free) => {
                let id = self.id(count, free);
                let old = &mut slots.slots[free as usize];
                let State::Free(next) = old.state else {
                    unreachable!("the list of free slots has free slots only")
                };
                *old = slot(id);
                slots.first_free = next;
                id
            }
            None => {
                let new = u32::try_from(slots.slots.len()).unwrap_or(u32::MAX);
                let id = self.id(count, new);
                slots.slots.push(slot(id));
                id
            }
        };
        let mut begun = Begun {
            id,
            look: None,
            unguarded: !std::mem::replace(&mut slots.guarded, true),
            is_first: count == 1,
        };
        if let Some(deadline) = deadline
            && slots.look_at.is_none_or(|at| deadline < at)
        {
            slots.look_at = Some(deadline);
            slots.look = slots.look.wrapping_add(1);
            begun.look = Some((deadline, slots.look));
        }
        let (result, pushed) = push();
        if let Some(number) = pushed {
            slots.order.push_back((id, number));
        }
        Ok((begun, result))
    }

    /// A request has begun and is not queued: so it causes no turn.
    #[cold]
    pub(super) fn forget_time(&self) {
        self.state.lock().now = None;
    }

    /// Runs `push`, which queues the request `id`, so that requests are answered in the order in which they were queued.
    pub(super) fn in_order<R>(&self, id: u64, push: impl FnOnce() -> (R, Option<Number>)) -> R {
        let mut slots = self.state.lock();
        let (result, pushed) = push();
        if let Some(number) = pushed {
            slots.order.push_back((id, number));
        }
        result
    }

    /// The request that was queued under this number was not sent: there will be no answer to it.
    pub(super) fn refused(&self, number: Number) {
        let mut slots = self.state.lock();
        slots.order.retain(|(_, asked)| *asked != number);
    }

    /// Somebody says when the input has ended.
    pub(super) fn guarded(&self) {
        self.state.lock().guarded = true;
    }

    /// What has become of the request `id`; `cx` is woken when something does. One that is answered is gone.
    #[inline]
    pub(super) fn poll(&self, cx: &Context<'_>, id: u64) -> Poll<Outcome<In>> {
        let index = self.index(id);
        let mut slots = self.state.lock();
        if let State::Answered(_) = slots.slots[index].state {
            // as a rule it is polled once it is woken
            return match slots.free(index) {
                State::Answered(answer) => Poll::Ready(Outcome::Answer(answer)),
                _ => unreachable!("it was looked at above"),
            };
        }
        Self::poll_unanswered(cx, slots, index)
    }

    #[cold]
    fn poll_unanswered(
        cx: &Context<'_>,
        mut slots: MutexGuard<'_, Slots<In>>,
        index: usize,
    ) -> Poll<Outcome<In>> {
        let over = slots.over;
        match &mut slots.slots[index].state {
            State::Waiting(_) if over => Poll::Ready(Outcome::Over),
            State::Waiting(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Waiting(waker) => {
                let old = waker.replace(cx.waker().clone());
                drop(slots);
                drop(old);
                Poll::Pending
            }
            State::Expired => Poll::Ready(Outcome::Expired),
            State::Answered(_) => unreachable!("it was looked at before"),
            State::Free(_) => unreachable!("a slot is free once its request is gone"),
        }
    }

    /// The request `id` is given up. `awaits` is called when it was the last to wait.
    pub(super) fn end(&self, id: u64, awaits: impl FnOnce(bool)) {
        let index = self.index(id);
        let mut slots = self.state.lock();
        slots.now = None; // it may not have come to be queued
        let old = slots.free(index);
        if let State::Waiting(_) = old {
            slots.waits_no_more(awaits);
        }
        drop(slots);
        drop(old); // may hold the user's message or waker
    }

    /// Gives the request that `message` answers its answer, or gives `message` back.
    pub(super) fn answer(
        &self,
        which: Answered,
        message: In,
        awaits: impl FnOnce(bool),
    ) -> Result<(), Unasked<In>> {
        let mut slots = self.state.lock();
        let id = match which {
            Answered::Request(id) => id,
            Answered::Oldest => match slots.order.pop_front() {
                Some((id, _)) => id,
                None => return Err(Unasked::Push(message)),
            },
        };
        let index = self.index(id);
        let slot = slots.slots.get_mut(index).filter(|slot| slot.id == id);
        let Some(Slot { state, .. }) = slot else {
            return Err(Unasked::Late(message));
        };
        if !matches!(state, State::Waiting(_)) {
            return Err(Unasked::Late(message));
        }
        let waker = match std::mem::replace(state, State::Answered(message)) {
            State::Waiting(waker) => waker,
            _ => None,
        };
        slots.waits_no_more(awaits);
        drop(slots);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Ends the waits whose deadlines have passed; when to look again, for the latest look only.
    pub(super) fn look(&self, look: u32, now: Instant, awaits: impl Fn(bool)) -> Option<Instant> {
        let mut slots = self.state.lock();
        if look != slots.look {
            return None;
        }
        let mut wakers = Vec::new();
        let (mut next, mut expired) = (None, 0);
        for Slot {
            deadline, state, ..
        } in &mut slots.slots
        {
            let (Some(deadline), State::Waiting(_)) = (*deadline, &*state) else {
                continue;
            };
            if deadline > now {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            } else if let State::Waiting(waker) = std::mem::replace(state, State::Expired) {
                wakers.extend(waker);
                expired += 1;
            }
        }
        for _ in 0..expired {
            slots.waits_no_more(&awaits);
        }
        slots.look_at = next;
        drop(slots);
        wakers.into_iter().for_each(Waker::wake);
        next
    }

    /// Nothing more will be received.
    pub(super) fn input_ended(&self) {
        self.state.lock().over = true;
        self.wake_all();
    }

    /// Has all that wait look whether their requests have failed.
    pub(super) fn wake_all(&self) {
        let mut slots = self.state.lock();
        let waiting = slots
            .slots
            .iter_mut()
            .filter_map(|slot| match &mut slot.state {
                State::Waiting(waker) => waker.take(),
                _ => None,
            });
        let wakers: Vec<_> = waiting.collect();
        drop(slots);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How many requests are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.state.lock().used as usize
    }

    /// Whether nothing more will be received.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().over
    }
}

/// A message that answers no request that waits.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unasked<In> {
    /// Its request is gone, was answered before, or never was.
    Late(In),
    /// Nobody has asked anything.
    Push(In),
}

impl<In> Slots<In> {
    /// The time, for a deadline that is so far away. The clock costs as much as all else that is done here, so it is read
    /// once for the requests between two turns of the session. Before its first turn anything may keep the session waiting.
    #[inline]
    fn now(&mut self, deadline: Duration, turns: u64) -> Instant {
        match self.now {
            Some((now, then)) if then == turns && turns > 0 && deadline >= COARSE => now,
            _ => {
                let now = Instant::now();
                self.now = Some((now, turns));
                now
            }
        }
    }

    fn waits_no_more(&mut self, awaits: impl FnOnce(bool)) {
        self.waiting -= 1;
        if self.waiting == 0 {
            awaits(false);
        }
    }

    /// Frees the slot at `index`, and gives back what was in it.
    #[inline]
    fn free(&mut self, index: usize) -> State<In> {
        let free = State::Free(self.first_free);
        let old = std::mem::replace(&mut self.slots[index].state, free);
        self.first_free = u32::try_from(index).ok();
        self.used -= 1;
        if self.used == 0 {
            self.rest();
        }
        old
    }

    /// No slot is in use: all of them are as good as new.
    fn rest(&mut self) {
        let most = self.slots.len();
        self.slots.clear();
        self.first_free = None;
        if most > FEW {
            self.quiet = 0;
        } else {
            self.quiet = self.quiet.saturating_add(1);
        }
        if self.quiet == QUIET {
            self.slots.shrink_to(FEW);
            self.order.shrink_to(FEW);
        }
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::time::Duration;

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    const LIMITS: Limits = Limits {
        in_flight: 4,
        id_bits: 64,
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
        table.end(ids[0], |now| awaits.set(Some(now)));
        assert_eq!(awaits.take(), None);
        let answered = table.answer(Answered::Request(ids[1]), "that", |now| {
            awaits.set(Some(now));
        });
        answered.unwrap();
        assert_eq!(awaits.take(), Some(false));
        table.end(ids[1], |now| awaits.set(Some(now)));
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
            table.end(id, |_| {});
        }
        assert_eq!(table.in_flight(), 1);
        assert_eq!(table.state.lock().slots.len(), 2);
    }

    #[test]
    fn one_more_than_may_is_refused() {
        let table = table();
        let mut waiter = task::spawn(());
        let ids = [(); 4].map(|()| begin(&table, &mut waiter));
        let refused = waiter.enter(|cx, _| table.begin(cx, None, |_| {}));
        assert_eq!(refused, Err(Refused::Full));
        table.end(ids[2], |_| {});
        begin(&table, &mut waiter);

        table.input_ended();
        table.end(ids[0], |_| {});
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
        table.end(ids[0], |_| {});
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
        assert_eq!(table.look(sooner.1, at(5), |_| {}), Some(at(10)));
        assert_eq!(table.look(first.1, at(10), |_| {}), None, "superseded");
        assert_eq!(table.look(sooner.1, at(10), |_| {}), Some(at(11)));
        assert_eq!(table.look(sooner.1, at(11), |_| {}), None);
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
            let slots = table.state.lock();
            let at = slots.slots[table.index(id)].deadline.unwrap() - deadline;
            drop(slots);
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
            let slots = table.state.lock();
            slots.slots[table.index(id)].deadline.unwrap() - second
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
            table.end(id, |_| {});
        }
        assert!(table.state.lock().slots.capacity() >= 1000);
        for _ in 0..QUIET {
            let id = begin(&table, &mut waiter);
            table.end(id, |_| {});
        }
        assert_eq!(table.state.lock().slots.capacity(), FEW);
    }
}

#[cfg(all(test, getty_loom))]
mod loom_model {
    use std::{future::poll_fn, sync::Arc, task::Wake};

    use loom::{future::block_on, thread};

    use super::*;
    use crate::session::{Watched, error::SendFailure};

    const LIMITS: Limits = Limits {
        in_flight: 2,
        id_bits: 64,
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
            table.end(id, |_| {});
            answers.join().unwrap();
            assert_eq!(table.in_flight(), 0);
            assert_eq!(table.state.lock().waiting, 0);
        });
    }

    struct Asks(Arc<Table<u8>>);

    impl Wake for Asks {
        fn wake(self: Arc<Self>) {
            self.0.wake_all();
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
                    watched.ask(Waker::from(Arc::new(Asks(Arc::clone(table)))));
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
}
