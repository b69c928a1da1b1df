//! Time of a paused clock.

use std::{
    panic::{AssertUnwindSafe, Location, catch_unwind},
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use getty::{CloseReason, Closed, ConnectionHandle};
use tokio::{
    task::yield_now,
    time::{self, Instant},
};

use crate::wire::{DEADLINE, within, within_time};

/// Lets all tasks run until each one waits. The clock does not advance.
///
/// It yields 128 times, and each time polls the tasks that are ready. A longer chain of tasks
/// that wake each other needs a second call, or [`advance`].
pub async fn settle() {
    for _ in 0..128 {
        yield_now().await;
    }
}

/// Advances the paused clock, in steps from one timer to the next. All tasks run until they
/// wait.
///
/// tokio's own `advance` moves the clock in one step, so that a periodic timer fires once.
///
/// # Panics
///
/// Panics if the clock is not paused.
pub async fn advance(time: Duration) {
    require_paused_clock();
    settle().await;
    time::sleep(time).await;
    settle().await;
}

/// Panics if the clock of the runtime is not paused.
#[track_caller]
pub(crate) fn require_paused_clock() {
    let poll = || {
        let advance = pin!(time::advance(Duration::ZERO));
        // the clock is checked in the first poll
        let _ = advance.poll(&mut Context::from_waker(Waker::noop()));
    };
    let paused = catch_unwind(AssertUnwindSafe(poll)).is_ok();
    assert!(
        paused,
        "the test kit needs a paused clock: #[tokio::test(start_paused = true)]"
    );
}

/// Timers of tokio may be late by this much.
const TOLERANCE: Duration = Duration::from_millis(1);

/// Asserts that `next` resolves once in each `period`, `beats` times from now on. Returns the
/// results.
///
/// The clock must be paused, and the random jitter of a layer must be disabled. Each beat may
/// be late by one millisecond, as tokio's timers are.
///
/// ```
/// use std::time::Duration;
///
/// use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
/// use getty::layers::HeartbeatLayer;
/// use getty_test::{TestSession, assert_beats_every};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let period = Duration::from_secs(10);
/// let session = TestSession::stream(
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(HeartbeatLayer::new(period, |_| "beat".to_owned()).with_jitter(0.0))
///         .layer(SessionLayer::new())
///         .service(handle(async |line: String| line)),
/// );
/// let beats = assert_beats_every(period, 3, || session.line()).await;
/// assert_eq!(beats, ["beat", "beat", "beat"]);
/// # }
/// ```
///
/// # Panics
///
/// Panics if a beat is early, late or never comes, and if the clock is not paused.
#[track_caller]
pub fn assert_beats_every<T>(
    period: Duration,
    beats: usize,
    mut next: impl AsyncFnMut() -> T,
) -> impl Future<Output = Vec<T>> {
    let caller = Location::caller();
    async move {
        require_paused_clock();
        let mut results = Vec::new();
        while results.len() < beats {
            let start = Instant::now();
            let what = format!("beat {} of {beats}", results.len() + 1);
            // a late beat is reported with its time, and one that never comes fails the test
            let beat = within_time(period.saturating_add(DEADLINE), &what, caller, next());
            results.push(beat.await);
            let (n, elapsed) = (results.len(), start.elapsed());
            // a beat that was late by a tick lets the next one be early
            assert!(
                elapsed + TOLERANCE >= period && elapsed <= period + TOLERANCE,
                "{caller}: beat {n} came after {elapsed:?} instead of {period:?}"
            );
        }
        results
    }
}

/// Asserts that the connection closes after `time` from now, and with this reason. Returns its
/// record. The clock must be paused.
///
/// The time is that of the decision to close. The transport may need longer, up to the drain
/// deadline.
///
/// ```
/// use std::time::Duration;
///
/// use getty::{CloseReason, CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
/// use getty::layers::IdleTimeoutLayer;
/// use getty_test::{TestSession, assert_closes_after};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let minute = Duration::from_secs(60);
/// let session = TestSession::stream(
///     ServiceBuilder::new()
///         .layer(IdleTimeoutLayer::new(minute))
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(SessionLayer::new())
///         .service(handle(async |line: String| line)),
/// );
/// assert_closes_after(session.handle(), minute, CloseReason::IdleTimeout).await;
/// # }
/// ```
///
/// # Panics
///
/// Panics if the connection closes earlier, later or for another reason, and if the clock is
/// not paused. It also panics if the connection is not dropped within 24 hours of the close.
#[track_caller]
pub fn assert_closes_after(
    handle: &ConnectionHandle,
    time: Duration,
    reason: CloseReason,
) -> impl Future<Output = Closed> {
    let caller = Location::caller();
    async move {
        require_paused_clock();
        let start = Instant::now();
        let limit = time + TOLERANCE;
        if time::timeout(limit, handle.closing()).await.is_err() {
            panic!("{caller}: open after {limit:?} instead of closing as {reason:?}");
        }
        let (elapsed, actual) = (start.elapsed(), handle.reason());
        let expected = Some(reason);
        assert_eq!(
            actual, expected,
            "{caller}: closed after {elapsed:?} for another reason"
        );
        assert!(
            elapsed + TOLERANCE >= time,
            "{caller}: closed after {elapsed:?} instead of {time:?}"
        );
        within(
            "end of the connection after its close",
            caller,
            handle.closed(),
        )
        .await
    }
}
