//! The helpers for a paused clock fail when they should.

use std::{future::pending, time::Duration};

use getty::{CloseReason, Connection};
use getty_test::{advance, assert_beats_every, assert_closes_after};
use tokio::time::{Instant, interval, sleep};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn periodic_timer_beats_in_each_step_of_an_advance() {
    let beats = tokio::spawn(async {
        let mut timer = interval(SECOND);
        let mut beats = 0;
        for _ in 0..4 {
            timer.tick().await;
            beats += 1;
        }
        beats
    });
    let start = Instant::now();
    advance(3 * SECOND).await;
    assert_eq!(start.elapsed(), 3 * SECOND);
    assert!(beats.is_finished());
    assert_eq!(beats.await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn beats_are_returned() {
    let mut n = 0;
    let beats = assert_beats_every(SECOND, 3, async || {
        sleep(SECOND).await;
        n += 1;
        n
    });
    assert_eq!(beats.await, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "beat 2 came after 2s instead of 1s")]
async fn late_beat_fails() {
    let mut pause = Duration::ZERO;
    assert_beats_every(SECOND, 3, async || {
        pause += SECOND;
        sleep(pause).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "beat 1 came after")]
async fn early_beat_fails() {
    assert_beats_every(SECOND, 3, async || sleep(SECOND / 2).await).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no beat 2 of 3 within 86401s")]
async fn beat_that_never_comes_fails() {
    let mut first = true;
    assert_beats_every(SECOND, 3, async || {
        sleep(SECOND).await;
        if !std::mem::take(&mut first) {
            pending::<()>().await;
        }
    })
    .await;
}

/// Closes a connection after a time.
fn closing(after: Duration) -> Connection<()> {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    tokio::spawn(async move {
        sleep(after).await;
        handle.close_with(CloseReason::IdleTimeout);
    });
    connection
}

/// Drops the connection once it is closing.
fn serve(connection: Connection<()>) -> getty::ConnectionHandle {
    let handle = connection.handle().clone();
    let closing = handle.clone();
    tokio::spawn(async move {
        closing.closing().await;
        drop(connection);
    });
    handle
}

#[tokio::test(start_paused = true)]
async fn close_in_time_is_returned() {
    let handle = serve(closing(SECOND));
    let closed = assert_closes_after(&handle, SECOND, CloseReason::IdleTimeout).await;
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "instead of 2s")]
async fn early_close_fails() {
    let handle = serve(closing(SECOND));
    assert_closes_after(&handle, 2 * SECOND, CloseReason::IdleTimeout).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "open after")]
async fn late_close_fails() {
    let handle = serve(closing(2 * SECOND));
    assert_closes_after(&handle, SECOND, CloseReason::IdleTimeout).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "for another reason")]
async fn close_for_another_reason_fails() {
    let handle = serve(closing(SECOND));
    assert_closes_after(&handle, SECOND, CloseReason::ReadTimeout).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no end of the connection after its close within 86400s")]
async fn connection_that_is_never_dropped_fails() {
    let connection = closing(SECOND);
    let handle = connection.handle();
    assert_closes_after(handle, SECOND, CloseReason::IdleTimeout).await;
}
