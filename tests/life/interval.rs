//! `IntervalLayer`: periodic callbacks must run on time, once per period, and never after the
//! close.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, Session, SessionLayer,
    hooks::HandleExt,
    layers::{IntervalLayer, OnOpenLayer},
};
use getty_test::TestSession;
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::{echo, lines, panic_message, soon};

const PERIOD: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);

/// Times of events since the creation of the log. Each may be late by two ticks.
#[derive(Clone)]
struct Log(Instant, Arc<Mutex<Vec<Duration>>>);

impl Log {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    fn record(&self) {
        self.1.lock().unwrap().push(self.0.elapsed());
    }

    #[track_caller]
    fn assert(&self, seconds: &[u64]) {
        let log = self.1.lock().unwrap();
        assert_eq!(log.len(), seconds.len(), "{log:?}");
        for (at, seconds) in log.iter().zip(seconds) {
            let expected = Duration::from_secs(*seconds);
            assert!(*at >= expected && *at <= expected + 2 * TICK, "{log:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn first_run_is_one_period_after_the_open_and_no_run_follows_the_close() {
    for asynchronous in [false, true] {
        let log = Log::new();
        let runs = log.clone();
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(OnOpenLayer::new(|_| async {
                sleep(Duration::from_secs(7)).await;
                Ok::<_, BoxError>(())
            }));
        let session = if asynchronous {
            let interval = IntervalLayer::from_async_fn(PERIOD, move |session: Session<String>| {
                runs.record();
                async move { session.send("tick".to_owned()).await.map(drop) }
            });
            let stack = stack.layer(interval).layer(SessionLayer::new());
            TestSession::stream(stack.service_fn(echo))
        } else {
            let interval = IntervalLayer::new(PERIOD, move |session: &Session<String>| {
                runs.record();
                session.try_send("tick".to_owned())
            });
            let stack = stack.layer(interval).layer(SessionLayer::new());
            TestSession::stream(stack.service_fn(echo))
        };
        sleep_until(log.0 + Duration::from_secs(200)).await;
        log.assert(&[67, 127, 187]);
        assert_eq!(session.output(), "tick\n".repeat(3));
        sleep_until(log.0 + Duration::from_secs(246)).await;
        session.stall();
        session.send("unanswered\n");
        sleep_until(log.0 + Duration::from_millis(246_500)).await;
        // The close drains for five seconds. The next run would fall in that time.
        session.close();
        let closed = session.closed().await;
        assert!(closed.lifetime > Duration::from_secs(251));
        sleep(10 * PERIOD).await;
        log.assert(&[67, 127, 187]);
    }
}

#[tokio::test(start_paused = true)]
async fn runs_are_on_time_in_a_busy_session() {
    let log = Log::new();
    let runs = log.clone();
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(IntervalLayer::new(PERIOD, move |_| {
                runs.record();
                Ok::<_, BoxError>(())
            }))
            .layer(SessionLayer::new())
            .service_fn(echo),
    );
    for _ in 0..400 {
        session.send("busy\n");
        sleep(Duration::from_millis(501)).await;
    }
    log.assert(&[60, 120, 180]);
}

#[tokio::test(start_paused = true)]
async fn run_longer_than_the_period_does_not_overlap_and_missed_runs_are_skipped() {
    let (starts, ends) = (Log::new(), Log::new());
    let running = Arc::new(AtomicUsize::new(0));
    let (started, ended) = (starts.clone(), ends.clone());
    let session = TestSession::stream(
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(IntervalLayer::from_async_fn(PERIOD, move |_| {
                started.record();
                assert_eq!(running.fetch_add(1, SeqCst), 0, "runs do not overlap");
                let (running, ended) = (running.clone(), ended.clone());
                async move {
                    sleep(Duration::from_secs(150)).await;
                    running.fetch_sub(1, SeqCst);
                    ended.record();
                    Ok::<_, BoxError>(())
                }
            }))
            .layer(SessionLayer::new())
            .service_fn(echo),
    );
    sleep(Duration::from_secs(100)).await;
    session.send("meanwhile\n");
    assert_eq!(soon(session.line()).await, "meanwhile");
    sleep_until(starts.0 + Duration::from_secs(400)).await;
    starts.assert(&[60, 240]);
    ends.assert(&[210, 390]);
}

#[tokio::test(start_paused = true)]
async fn error_is_ignored_unless_closing_on_error_is_set() {
    for closes in [false, true] {
        for asynchronous in [false, true] {
            let stack = ServiceBuilder::new().layer(CodecLayer::new(lines()));
            let session = if asynchronous {
                let interval =
                    IntervalLayer::from_async_fn(PERIOD, |_| async { Err::<(), _>("not today") });
                let interval = if closes {
                    interval.with_close_on_error(true)
                } else {
                    interval
                };
                let stack = stack.layer(interval).layer(SessionLayer::new());
                TestSession::stream(stack.service_fn(echo))
            } else {
                let interval = IntervalLayer::new(PERIOD, |_| Err("not today"));
                let interval = if closes {
                    interval.with_close_on_error(true)
                } else {
                    interval
                };
                let stack = stack.layer(interval).layer(SessionLayer::new());
                TestSession::stream(stack.service_fn(echo))
            };
            sleep(PERIOD / 2).await;
            session.send("hello\n");
            sleep(2 * PERIOD).await;
            assert_eq!(session.handle().is_closed(), closes);
            session.close();
            let closed = session.closed().await;
            if closes {
                assert_eq!(closed.reason, CloseReason::Handler);
                assert_eq!(closed.source.unwrap().to_string(), "not today");
                assert!(closed.lifetime < PERIOD + Duration::from_secs(1));
            }
            assert_eq!(session.output(), "hello\n");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_callback_closes_only_its_session() {
    let stack = |asynchronous: bool| {
        let interval = IntervalLayer::new(PERIOD, move |session: &Session<String>| {
            assert!(
                asynchronous || session.get() != Some("bad"),
                "a bad callback"
            );
            Ok::<_, BoxError>(())
        });
        let interval_async =
            IntervalLayer::from_async_fn(PERIOD, move |session: Session<String>| async move {
                assert!(
                    !asynchronous || session.get() != Some("bad"),
                    "a bad callback"
                );
                Ok::<_, BoxError>(())
            });
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(interval)
            .layer(interval_async)
            .layer(SessionLayer::new())
            .service_fn(|request: Request<String>| echo(request))
    };
    for asynchronous in [false, true] {
        let bad = TestSession::stream(stack(asynchronous));
        let good = TestSession::stream(stack(asynchronous));
        bad.handle().insert("bad");
        let closed = bad.closed().await;
        assert_eq!(closed.reason, CloseReason::Panicked);
        assert_eq!(panic_message(closed.source.as_ref()), "a bad callback");
        sleep(3 * PERIOD).await;
        assert!(!good.handle().is_closing());
    }
}

#[tokio::test(start_paused = true)]
async fn thousand_sessions_each_run_on_their_own_schedule() {
    let log = Log::new();
    let runs = log.clone();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(IntervalLayer::new(
            PERIOD,
            move |session: &Session<String>| {
                runs.record();
                let late = session.open_since().unwrap().elapsed().as_millis() % PERIOD.as_millis();
                assert!(late <= 2, "{late} ms late");
                Ok::<_, BoxError>(())
            },
        ))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let mut sessions = Vec::new();
    for _ in 0..1000 {
        sessions.push(TestSession::stream(stack.clone()));
        sleep(TICK).await;
    }
    sleep_until(log.0 + 2 * PERIOD + PERIOD / 2).await;
    assert_eq!(log.1.lock().unwrap().len(), 2000);
    for session in &sessions {
        assert!(!session.handle().is_closing());
    }
}
