//! Periodic callbacks: when they should, as often as they should, and never after the close.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, Session, SessionLayer,
    layers::{CronLayer, OnOpenLayer},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    kit::run,
    support::{echo, lines, panic_message, soon, stream},
};

const PERIOD: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);

/// When something happened, since a start, in whole milliseconds and a tick at most too late.
#[derive(Clone)]
struct Log(Instant, Arc<Mutex<Vec<Duration>>>);

impl Log {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    fn note(&self) {
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
async fn the_first_run_comes_a_full_period_after_the_opening_and_none_after_the_close() {
    for asynchronous in [false, true] {
        let (transport, peer) = stream::pair();
        let log = Log::new();
        let runs = log.clone();
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(OnOpenLayer::new(|_| async {
                sleep(Duration::from_secs(7)).await;
                Ok::<_, BoxError>(())
            }));
        let (handle, task) = if asynchronous {
            let cron = CronLayer::new_async(PERIOD, move |session: Session<String>| {
                runs.note();
                async move { session.send("tick".to_owned()).await.map(drop) }
            });
            let stack = stack.layer(cron).layer(SessionLayer::new());
            run(transport, stack.service_fn(echo))
        } else {
            let cron = CronLayer::new(PERIOD, move |session: &Session<String>| {
                runs.note();
                session.try_send("tick".to_owned())
            });
            let stack = stack.layer(cron).layer(SessionLayer::new());
            run(transport, stack.service_fn(echo))
        };
        sleep_until(log.0 + Duration::from_secs(200)).await;
        log.assert(&[67, 127, 187]);
        assert_eq!(peer.output(), "tick\n".repeat(3));
        sleep_until(log.0 + Duration::from_secs(246)).await;
        peer.stall();
        peer.send("unanswered\n");
        sleep_until(log.0 + Duration::from_millis(246_500)).await;
        // the close drains for five seconds, the next run would come in that time
        handle.close();
        let closed = soon(task).await.unwrap().unwrap();
        assert!(closed.lifetime > Duration::from_secs(251));
        sleep(10 * PERIOD).await;
        log.assert(&[67, 127, 187]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_runs_as_punctually_as_an_idle_one() {
    let (transport, peer) = stream::pair();
    let log = Log::new();
    let runs = log.clone();
    let (_handle, _task) = run(
        transport,
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(CronLayer::new(PERIOD, move |_| {
                runs.note();
                Ok::<_, BoxError>(())
            }))
            .layer(SessionLayer::new())
            .service_fn(echo),
    );
    for _ in 0..400 {
        peer.send("busy\n");
        sleep(Duration::from_millis(501)).await;
    }
    log.assert(&[60, 120, 180]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_takes_longer_than_a_period_is_not_run_twice_nor_made_up_for() {
    let (transport, peer) = stream::pair();
    let (begins, ends) = (Log::new(), Log::new());
    let at_work = Arc::new(AtomicUsize::new(0));
    let (began, ended) = (begins.clone(), ends.clone());
    let (_handle, _task) = run(
        transport,
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(CronLayer::new_async(PERIOD, move |_| {
                began.note();
                assert_eq!(at_work.fetch_add(1, SeqCst), 0, "one at a time");
                let (at_work, ended) = (at_work.clone(), ended.clone());
                async move {
                    sleep(Duration::from_secs(150)).await;
                    at_work.fetch_sub(1, SeqCst);
                    ended.note();
                    Ok::<_, BoxError>(())
                }
            }))
            .layer(SessionLayer::new())
            .service_fn(echo),
    );
    sleep(Duration::from_secs(100)).await;
    peer.send("meanwhile\n");
    assert_eq!(soon(peer.line()).await, "meanwhile");
    sleep_until(begins.0 + Duration::from_secs(400)).await;
    begins.assert(&[60, 240]);
    ends.assert(&[210, 390]);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_passed_over_or_closes_the_session_as_asked() {
    for closes in [false, true] {
        for asynchronous in [false, true] {
            let (transport, peer) = stream::pair();
            let stack = ServiceBuilder::new().layer(CodecLayer::new(lines()));
            let (handle, task) = if asynchronous {
                let cron = CronLayer::new_async(PERIOD, |_| async { Err::<(), _>("no quorum") });
                let cron = if closes {
                    cron.closing_on_error()
                } else {
                    cron
                };
                let stack = stack.layer(cron).layer(SessionLayer::new());
                run(transport, stack.service_fn(echo))
            } else {
                let cron = CronLayer::new(PERIOD, |_| Err("no quorum"));
                let cron = if closes {
                    cron.closing_on_error()
                } else {
                    cron
                };
                let stack = stack.layer(cron).layer(SessionLayer::new());
                run(transport, stack.service_fn(echo))
            };
            sleep(PERIOD / 2).await;
            peer.send("hello\n");
            sleep(2 * PERIOD).await;
            assert_eq!(handle.is_closed(), closes);
            handle.close();
            let closed = soon(task).await.unwrap().unwrap();
            if closes {
                assert_eq!(closed.reason, CloseReason::Handler);
                assert_eq!(closed.source.unwrap().to_string(), "no quorum");
                assert!(closed.lifetime < PERIOD + Duration::from_secs(1));
            }
            assert_eq!(peer.output(), "hello\n");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_its_session_alone() {
    let stack = |asynchronous: bool| {
        let cron = CronLayer::new(PERIOD, move |session: &Session<String>| {
            assert!(
                asynchronous || session.get() != Some("bad"),
                "a bad callback"
            );
            Ok::<_, BoxError>(())
        });
        let cron_async = CronLayer::new_async(PERIOD, move |session: Session<String>| async move {
            assert!(
                !asynchronous || session.get() != Some("bad"),
                "a bad callback"
            );
            Ok::<_, BoxError>(())
        });
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(cron)
            .layer(cron_async)
            .layer(SessionLayer::new())
            .service_fn(|request: Request<String>| echo(request))
    };
    for asynchronous in [false, true] {
        let (transport, _peer) = stream::pair();
        let (bad, bad_task) = run(transport, stack(asynchronous));
        let (transport, _good_peer) = stream::pair();
        let (good, _good_task) = run(transport, stack(asynchronous));
        bad.insert("bad");
        let closed = soon(bad_task).await.unwrap().unwrap();
        assert_eq!(closed.reason, CloseReason::Panicked);
        assert_eq!(panic_message(closed.source.as_ref()), "a bad callback");
        sleep(3 * PERIOD).await;
        assert!(!good.is_closing());
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_sessions_run_each_in_its_own_time() {
    let log = Log::new();
    let runs = log.clone();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(CronLayer::new(PERIOD, move |session: &Session<String>| {
            runs.note();
            let late = session.open_since().unwrap().elapsed().as_millis() % PERIOD.as_millis();
            assert!(late <= 2, "{late} ms late");
            Ok::<_, BoxError>(())
        }))
        .layer(SessionLayer::new())
        .service_fn(echo);
    let mut sessions = Vec::new();
    for _ in 0..1000 {
        let (transport, peer) = stream::pair();
        sessions.push((run(transport, stack.clone()), peer));
        sleep(TICK).await;
    }
    sleep_until(log.0 + 2 * PERIOD + PERIOD / 2).await;
    assert_eq!(log.1.lock().unwrap().len(), 2000);
    for ((handle, _), _) in &sessions {
        assert!(!handle.is_closing());
    }
}
