use std::{
    convert::Infallible,
    future::ready,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use getty_core::{
    SessionIo,
    driver::{self, CloseGuard, Driver},
};
use getty_test::assert_layer_contract;
use tokio::sync::Notify;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower_test::mock;

use super::*;

type Framing = SessionIo<(), (), &'static str>;

const PERIOD: Duration = Duration::from_secs(10);

fn connection() -> Connection<Framing> {
    let connection = Connection::new(());
    let (_, driver) = driver::pair(connection.handle().clone());
    connection.map_transport(|transport| SessionIo::new(transport, (), driver, 1))
}

fn open(connection: Connection<Framing>) -> (Driver<&'static str>, CloseGuard) {
    let (framed, mut guard) = connection.into_parts();
    let mut driver = framed.into_parts().driver;
    guard.open();
    driver.poll_signals();
    (driver, guard)
}

/// Lets `time` pass and runs the driver's deadlines when they are due, as the session loop
/// does.
async fn pass(driver: &mut Driver<&'static str>, time: Duration) {
    let end = Instant::now() + time;
    while let Some(next) = driver.next_deadline().filter(|next| *next <= end) {
        tokio::time::sleep_until(next).await;
        driver.run_deadlines(Instant::now());
    }
    tokio::time::sleep_until(end).await;
}

/// Returns a counter and a function that increments it.
fn counting() -> (Arc<AtomicUsize>, impl Fn() -> usize + Clone + Send) {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    (runs, move || count.fetch_add(1, SeqCst))
}

#[tokio::test(start_paused = true)]
async fn callback_runs_once_per_period_after_opening() {
    let (runs, count) = counting();
    let layer = IntervalLayer::new(PERIOD, move |session: &Session<&'static str>| {
        count();
        session.try_send("tick")
    });
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
    tokio::time::advance(Duration::from_secs(7)).await; // a handshake
    let (mut driver, _guard) = open(connection);
    pass(&mut driver, Duration::from_millis(9_999)).await;
    assert_eq!(runs.load(SeqCst), 0);
    pass(&mut driver, Duration::from_millis(1)).await;
    assert_eq!(runs.load(SeqCst), 1);
    pass(&mut driver, Duration::from_secs(30)).await;
    assert_eq!(runs.load(SeqCst), 4);
    driver.poll_signals();
    assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("tick"));

    // No run follows the close.
    driver.session().close();
    pass(&mut driver, Duration::from_millis(5)).await;
    driver.run_deadlines(Instant::now() + PERIOD);
    assert_eq!(runs.load(SeqCst), 4);
    inner.send_response(());
    assert_ready_ok!(response.poll());
}

#[tokio::test(start_paused = true)]
async fn period_starts_when_the_session_opens() {
    let (runs, count) = counting();
    let layer = IntervalLayer::new(PERIOD, move |_| {
        count();
        Ok::<_, Infallible>(())
    });
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let _response = task::spawn(service.call(connection()));
    let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
    let (framed, mut guard) = connection.into_parts();
    let mut driver = framed.into_parts().driver;
    driver.poll_signals();
    pass(&mut driver, Duration::from_secs(34)).await;
    assert_eq!(runs.load(SeqCst), 0);
    guard.open();
    pass(&mut driver, Duration::from_millis(9_999)).await;
    assert_eq!(runs.load(SeqCst), 0);
    pass(&mut driver, Duration::from_millis(1)).await;
    assert_eq!(runs.load(SeqCst), 1);
}

#[test]
fn late_run_shifts_the_next_and_punctual_run_does_not() {
    let due = Instant::now();
    let late = |late| next_run(due, PERIOD, due + late).map(|next| next - due);
    assert_eq!(late(Duration::ZERO), Some(PERIOD));
    assert_eq!(late(Duration::from_millis(2)), Some(PERIOD));
    for millis in [6, 9_999, 35_000] {
        let by = Duration::from_millis(millis);
        assert_eq!(late(by), Some(by + PERIOD), "runs come in a burst");
    }
}

#[tokio::test(start_paused = true)]
async fn all_periods_are_accepted() {
    for (period, expected) in [
        (Duration::ZERO, 3),
        (Duration::from_micros(1), 3),
        (Duration::MAX, 0),
    ] {
        let (runs, count) = counting();
        let layer = IntervalLayer::new(period, move |_| {
            count();
            Ok::<_, Infallible>(())
        });
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let _response = task::spawn(service.call(connection()));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        let (mut driver, _guard) = open(connection);
        pass(&mut driver, Duration::from_millis(3)).await;
        assert_eq!(runs.load(SeqCst), expected, "{period:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn error_closes_the_session_only_if_set() {
    for closes in [false, true] {
        let layer = IntervalLayer::new(PERIOD, |_| Err("no quorum")).with_close_on_error(closes);
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let _response = task::spawn(service.call(connection()));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        let (mut driver, _guard) = open(connection);
        pass(&mut driver, PERIOD).await;
        let session = driver.session();
        assert_eq!(session.is_closing(), closes);
        if closes {
            assert_eq!(session.reason(), Some(CloseReason::Handler));
            assert_eq!(session.source().unwrap().to_string(), "no quorum");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn async_run_is_polled_in_the_connections_task_and_never_concurrent() {
    let (runs, count) = counting();
    let reguard = Arc::new(Notify::new());
    let layer = IntervalLayer::from_async_fn(PERIOD, {
        let reguard = reguard.clone();
        move |session: Session<&'static str>| {
            count();
            let reguard = reguard.clone();
            async move {
                reguard.notified().await;
                session.try_send("done")
            }
        }
    })
    .with_close_on_error(true);
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    assert_pending!(response.poll());
    let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
    // Driven here, as by another task, so the layer must wake the future.
    let (mut driver, _guard) = open(connection);
    pass(&mut driver, PERIOD).await;
    assert!(response.is_woken());
    assert_eq!(runs.load(SeqCst), 0);
    assert_pending!(response.poll());
    assert_eq!(runs.load(SeqCst), 1);
    pass(&mut driver, 3 * PERIOD).await;
    assert_pending!(response.poll());
    assert_eq!(runs.load(SeqCst), 1, "the first run is not complete");
    reguard.notify_one();
    assert!(response.is_woken());
    assert_pending!(response.poll());
    driver.poll_signals();
    assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("done"));
    assert_eq!(runs.load(SeqCst), 1, "skipped runs are not repeated");
    pass(&mut driver, PERIOD).await;
    assert_pending!(response.poll());
    assert_eq!(runs.load(SeqCst), 2);

    // An incomplete run does not delay the end of the connection.
    inner.send_response(());
    assert!(response.is_woken());
    assert_ready_ok!(response.poll());
}

#[tokio::test(start_paused = true)]
async fn async_run_does_not_start_while_the_session_closes() {
    let (runs, count) = counting();
    let layer = IntervalLayer::from_async_fn(PERIOD, move |_| {
        count();
        ready(Ok::<_, Infallible>(()))
    });
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    assert_pending!(response.poll());
    let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
    let (mut driver, _guard) = open(connection);
    pass(&mut driver, PERIOD).await;
    driver.session().close();
    assert_pending!(response.poll());
    assert_eq!(runs.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn panic_of_an_async_run_closes_its_session() {
    let layer =
        IntervalLayer::from_async_fn(PERIOD, |_| -> std::future::Ready<Result<(), Infallible>> {
            panic!("a bad callback")
        });
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
    let (mut driver, _guard) = open(connection);
    pass(&mut driver, PERIOD).await;
    assert_pending!(response.poll());
    let session = driver.session();
    assert_eq!(session.reason(), Some(CloseReason::Panicked));
    assert_eq!(session.source().unwrap().to_string(), "a bad callback");
}

#[tokio::test(start_paused = true)]
async fn layer_follows_the_contract() {
    let layer = IntervalLayer::from_async_fn(PERIOD, |_| ready(Ok::<_, Infallible>(())));
    assert_layer_contract(&layer, connection).await;
}
