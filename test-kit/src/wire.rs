//! State that both ends of an in-memory transport share.

use std::{
    collections::VecDeque,
    io,
    panic::Location,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use getty::{CloseReason, transport::Framing};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// Time after which a wait of a test fails, by tokio's clock.
pub(crate) const DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// Input of the session.
#[derive(Debug)]
pub(crate) enum Incoming {
    Data(Bytes),
    Control(usize),
    Lost(u32),
}

/// Number of polls of the session's end of a transport; see [`Peer::counts`].
///
/// [`Peer::counts`]: crate::Peer::counts
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Polls of the input.
    pub reads: usize,
    /// Polls that had bytes to write.
    pub writes: usize,
    /// Polls that had to flush.
    pub flushes: usize,
    /// Polls that had to end the output.
    pub shutdowns: usize,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) framing: Framing,
    /// Input, each part with the time at which it arrives.
    pub(crate) incoming: VecDeque<(Option<Instant>, Incoming)>,
    pub(crate) endless: Option<Bytes>,
    pub(crate) end: Option<io::Result<()>>,
    /// Maximum bytes of one read.
    pub(crate) read_limit: usize,
    pub(crate) merges_reads: bool,
    /// After each piece one read is pending.
    pub(crate) pauses_reads: bool,
    /// The next read is pending.
    pub(crate) is_paused: bool,
    pub(crate) delay: Option<Duration>,
    /// The peer is gone without a trace: it sends nothing, and acknowledges nothing.
    pub(crate) half_open: bool,
    /// Number of bytes until a reset, in each direction.
    pub(crate) reads_until_reset: Option<usize>,
    pub(crate) writes_until_reset: Option<usize>,
    /// Number of bytes that the session may still write.
    pub(crate) room: usize,
    /// Maximum bytes of one write.
    pub(crate) write_limit: usize,
    pub(crate) write_error: Option<io::ErrorKind>,
    pub(crate) holds_flush: bool,
    pub(crate) holds_close: bool,
    /// The peer does not end its direction when the session has ended its own.
    pub(crate) stays_open: bool,
    /// The output is discarded.
    pub(crate) forgets: bool,
    pub(crate) random: Option<Random>,
    pub(crate) output: Vec<u8>,
    /// Number of flushed bytes of the output.
    pub(crate) flushed: usize,
    /// Number of bytes of the output that the test has received.
    pub(crate) seen: usize,
    /// Messages that are not flushed, and flushed messages that the test has not received.
    pub(crate) unflushed: VecDeque<Bytes>,
    pub(crate) messages: VecDeque<Bytes>,
    pub(crate) pings: usize,
    pub(crate) has_ping: bool,
    pub(crate) promises_more: bool,
    pub(crate) closed_with: Option<CloseReason>,
    pub(crate) shut: bool,
    pub(crate) gone: bool,
    pub(crate) counts: Counts,
    pub(crate) wakers: Vec<Waker>,
}

impl State {
    fn new(framing: Framing) -> Self {
        Self {
            framing,
            incoming: VecDeque::new(),
            endless: None,
            end: None,
            read_limit: usize::MAX,
            merges_reads: false,
            pauses_reads: false,
            is_paused: false,
            delay: None,
            half_open: false,
            reads_until_reset: None,
            writes_until_reset: None,
            room: usize::MAX,
            write_limit: usize::MAX,
            write_error: None,
            holds_flush: false,
            holds_close: false,
            stays_open: false,
            forgets: false,
            random: None,
            output: Vec::new(),
            flushed: 0,
            seen: 0,
            unflushed: VecDeque::new(),
            messages: VecDeque::new(),
            pings: 0,
            has_ping: framing == Framing::Messages,
            promises_more: false,
            closed_with: None,
            shut: false,
            gone: false,
            counts: Counts::default(),
            wakers: Vec::new(),
        }
    }

    /// Fails reads after the input that has arrived, and writes at once.
    pub(crate) fn reset(&mut self) {
        self.endless = None;
        self.end = Some(Err(io::ErrorKind::ConnectionReset.into()));
        self.write_error = Some(io::ErrorKind::ConnectionReset);
    }

    pub(crate) fn push(&mut self, incoming: Incoming) {
        if !self.half_open {
            let arrives = self.delay.map(|delay| Instant::now() + delay);
            self.incoming.push_back((arrives, incoming));
        }
    }

    pub(crate) fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    /// Returns `true` if this poll should be pending at random. Its task is woken.
    pub(crate) fn hesitates(&mut self, cx: &Context<'_>) -> bool {
        let hesitates = self
            .random
            .as_mut()
            .is_some_and(|random| random.below(4) == 0);
        if hesitates {
            cx.waker().wake_by_ref();
        }
        hesitates
    }

    /// Returns `true` if this read should be pending because a piece was read before. Its
    /// task is woken.
    pub(crate) fn pauses(&mut self, cx: &Context<'_>) -> bool {
        let pauses = self.pauses_reads && std::mem::take(&mut self.is_paused);
        if pauses {
            cx.waker().wake_by_ref();
        }
        pauses
    }

    /// Counts a write. It is ready if the write may proceed or fails.
    pub(crate) fn poll_write(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.counts.writes += 1;
        if self.hesitates(cx) {
            return Poll::Pending;
        }
        if self.writes_until_reset == Some(0) {
            self.reset();
        }
        Poll::Ready(self.write_error.map_or(Ok(()), |kind| Err(kind.into())))
    }

    /// Counts a flush. It is ready if the flush may proceed.
    pub(crate) fn poll_flush(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.counts.flushes += 1;
        if self.holds_flush {
            return self.wait(cx);
        }
        if self.hesitates(cx) {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Counts an end of the output. It is ready if the output may end.
    pub(crate) fn poll_shutdown(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.counts.shutdowns += 1;
        if self.holds_close {
            return self.wait(cx);
        }
        self.shut = true;
        Poll::Ready(())
    }

    /// Returns a random number from 1 to `most`, or `most` without random faults.
    pub(crate) fn random_part(&mut self, most: usize) -> usize {
        match &mut self.random {
            Some(random) if most > 1 => random.below(most) + 1,
            _ => most,
        }
    }

    /// Returns `true` if nothing can be sent to the peer any more.
    pub(crate) fn is_over(&self) -> bool {
        self.shut || self.gone
    }
}

/// The state of a transport and a notification of its output.
#[derive(Debug)]
pub(crate) struct Wire {
    state: Mutex<State>,
    pub(crate) changed: Notify,
}

impl Wire {
    pub(crate) fn new(framing: Framing) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(framing)),
            changed: Notify::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // a failed assertion in one test task must not hide behind the poison of another
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the session has dropped its transport.
    pub(crate) fn leave(&self) {
        self.lock().gone = true;
        self.changed.notify_waiters();
    }

    /// Changes the state and wakes the session.
    pub(crate) fn change<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = f(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    /// Waits until `f` returns a value. Fails the test if the session ends first, or if the value
    /// never comes.
    pub(crate) async fn until<R>(
        &self,
        what: &str,
        caller: &Location<'_>,
        mut f: impl FnMut(&mut State) -> Option<R>,
    ) -> R {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut state = self.lock();
                    if let Some(result) = f(&mut state) {
                        return result;
                    }
                    if state.is_over() {
                        let rest = output_of(&state);
                        drop(state);
                        panic!(
                            "{caller}: the session ended before the next {what}; not received: {rest}"
                        );
                    }
                }
                changed.await;
            }
        };
        match timeout(DEADLINE, wait).await {
            Ok(result) => result,
            Err(_) => {
                let rest = output_of(&self.lock());
                panic!("{caller}: no {what} within {DEADLINE:?}; not received: {rest}")
            }
        }
    }
}

fn output_of(state: &State) -> String {
    match state.framing {
        Framing::Stream => format!("{:?}", Bytes::copy_from_slice(&state.output[state.seen..])),
        _ => format!("{:?}", state.messages),
    }
}

/// Fails the test if `future` never resolves. With the clock paused that takes no time.
pub(crate) async fn within<F: Future>(what: &str, caller: &Location<'_>, future: F) -> F::Output {
    within_time(DEADLINE, what, caller, future).await
}

/// Fails the test if `future` does not resolve within `time` of tokio's clock.
pub(crate) async fn within_time<F: Future>(
    time: Duration,
    what: &str,
    caller: &Location<'_>,
    future: F,
) -> F::Output {
    match timeout(time, future).await {
        Ok(output) => output,
        Err(_) => panic!("{caller}: no {what} within {time:?}"),
    }
}

/// Deterministic random numbers: `SplitMix64`.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns a number below `bound`, which must not be 0.
    fn below(&mut self, bound: usize) -> usize {
        let number = self.next() % bound as u64;
        usize::try_from(number).expect("it is below a `usize`")
    }
}
