use std::{
    convert::Infallible,
    future::ready,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use getty_core::{
    Framed,
    driver::{self, Driver, Lease},
};
use tokio::sync::Notify;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower_test::mock;

use super::*;
use crate::testing::assert_transparent;

type Framing = Framed<(), (), &'static str>;

const PERIOD: Duration = Duration::from_secs(10);

fn connection() -> Connection<Framing> {
    let connection = Connection::new(());
    let (_, driver) = driver::pair(connection.handle().clone());
    connection.map_transport(|transport| Framed::new(transport, (), driver, 1))
}

fn open(connection: Connection<Framing>) -> (Driver<&'static str>, Lease) {
    let (framed, mut lease) = connection.into_parts();
    let mut driver = framed.into_parts().driver;
    lease.open();
    driver.look();
    (driver, lease)
}

/// Lets time pass and has the driver look at its checks when they are due, as the session loop does. Gives the
/// seconds at which it did.
async fn pass(driver: &mut Driver<&'static str>, time: Duration) {
    let end = Instant::now() + time;
    while let Some(next) = driver.next_check().filter(|next| *next <= end) {
        tokio::time::sleep_until(next).await;
        driver.run_checks(Instant::now());
    }
    tokio::time::sleep_until(end).await;
}

fn counting() -> (Arc<AtomicUsize>, impl Fn() -> usize + Clone + Send) {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    (runs, move || count.fetch_add(1, SeqCst))
}

#[tokio::test(start_paused = true)]
async fn it_runs_once_a_period_from_the_opening_on() {
    let (runs, count) = counting();
    let layer = CronLayer::new(PERIOD, move |session: &Session<&'static str>| {
        count();
        session.try_send("tick")
    });
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
    tokio::time::advance(Duration::from_secs(7)).await; // a handshake
    let (mut driver, _lease) = open(connection);
    pass(&mut driver, Duration::from_millis(9_999)).await;
    assert_eq!(runs.load(SeqCst), 0);
    pass(&mut driver, Duration::from_millis(1)).await;
    assert_eq!(runs.load(SeqCst), 1);
    pass(&mut driver, Duration::from_secs(30)).await;
    assert_eq!(runs.load(SeqCst), 4);
    driver.look();
    assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("tick"));

    // never after the close
    driver.session().close();
    pass(&mut driver, Duration::from_millis(5)).await;
    driver.run_checks(Instant::now() + PERIOD);
    assert_eq!(runs.load(SeqCst), 4);
    inner.send_response(());
    assert_ready_ok!(response.poll());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_opens_late_counts_from_there() {
    let (runs, count) = counting();
    let layer = CronLayer::new(PERIOD, move |_| {
        count();
        Ok::<_, Infallible>(())
    });
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let _response = task::spawn(service.call(connection()));
    let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
    let (framed, mut lease) = connection.into_parts();
    let mut driver = framed.into_parts().driver;
    driver.look();
    pass(&mut driver, Duration::from_secs(34)).await;
    assert_eq!(runs.load(SeqCst), 0);
    lease.open();
    pass(&mut driver, Duration::from_millis(9_999)).await;
    assert_eq!(runs.load(SeqCst), 0);
    pass(&mut driver, Duration::from_millis(1)).await;
    assert_eq!(runs.load(SeqCst), 1);
}

#[test]
fn a_punctual_run_shifts_nothing_and_a_late_one_shifts_the_next() {
    let due = Instant::now();
    let late = |late| next(due, PERIOD, due + late).map(|next| next - due);
    assert_eq!(late(Duration::ZERO), Some(PERIOD));
    assert_eq!(late(Duration::from_millis(2)), Some(PERIOD));
    for millis in [6, 9_999, 35_000] {
        let by = Duration::from_millis(millis);
        assert_eq!(late(by), Some(by + PERIOD), "no burst");
    }
}

#[tokio::test(start_paused = true)]
async fn any_period_is_accepted() {
    for (period, expected) in [
        (Duration::ZERO, 3),
        (Duration::from_micros(1), 3),
        (Duration::MAX, 0),
    ] {
        let (runs, count) = counting();
        let layer = CronLayer::new(period, move |_| {
            count();
            Ok::<_, Infallible>(())
        });
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let _response = task::spawn(service.call(connection()));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        let (mut driver, _lease) = open(connection);
        pass(&mut driver, Duration::from_millis(3)).await;
        assert_eq!(runs.load(SeqCst), expected, "{period:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_closes_the_session_if_asked_to() {
    for closes in [false, true] {
        let layer = CronLayer::new(PERIOD, |_| Err("no quorum"));
        let layer = if closes {
            layer.closing_on_error()
        } else {
            layer
        };
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let _response = task::spawn(service.call(connection()));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        let (mut driver, _lease) = open(connection);
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
async fn an_async_run_is_polled_by_the_connections_task_and_never_twice_at_once() {
    let (runs, count) = counting();
    let go_on = Arc::new(Notify::new());
    let layer = CronLayer::new_async(PERIOD, {
        let go_on = go_on.clone();
        move |session: Session<&'static str>| {
            count();
            let go_on = go_on.clone();
            async move {
                go_on.notified().await;
                session.try_send("done")
            }
        }
    })
    .closing_on_error();
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    assert_pending!(response.poll());
    let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
    // driven here, as by another task, so that it is the layer that has to wake the future
    let (mut driver, _lease) = open(connection);
    pass(&mut driver, PERIOD).await;
    assert!(response.is_woken());
    assert_eq!(runs.load(SeqCst), 0);
    assert_pending!(response.poll());
    assert_eq!(runs.load(SeqCst), 1);
    pass(&mut driver, 3 * PERIOD).await;
    assert_pending!(response.poll());
    assert_eq!(runs.load(SeqCst), 1, "the first is not done");
    go_on.notify_one();
    assert!(response.is_woken());
    assert_pending!(response.poll());
    driver.look();
    assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("done"));
    assert_eq!(runs.load(SeqCst), 1, "what was left out is not made up for");
    pass(&mut driver, PERIOD).await;
    assert_pending!(response.poll());
    assert_eq!(runs.load(SeqCst), 2);

    // a run that is not done keeps nothing from its end
    inner.send_response(());
    assert!(response.is_woken());
    assert_ready_ok!(response.poll());
}

#[tokio::test(start_paused = true)]
async fn an_async_run_does_not_start_once_the_session_closes() {
    let (runs, count) = counting();
    let layer = CronLayer::new_async(PERIOD, move |_| {
        count();
        ready(Ok::<_, Infallible>(()))
    });
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    assert_pending!(response.poll());
    let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
    let (mut driver, _lease) = open(connection);
    pass(&mut driver, PERIOD).await;
    driver.session().close();
    assert_pending!(response.poll());
    assert_eq!(runs.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_async_run_closes_its_session() {
    let layer = CronLayer::new_async(PERIOD, |_| -> std::future::Ready<Result<(), Infallible>> {
        panic!("a bad callback")
    });
    let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
    let (mut driver, _lease) = open(connection);
    pass(&mut driver, PERIOD).await;
    assert_pending!(response.poll());
    let session = driver.session();
    assert_eq!(session.reason(), Some(CloseReason::Panicked));
    assert_eq!(session.source().unwrap().to_string(), "a bad callback");
}

#[test]
fn around_a_service_it_is_transparent() {
    let layer = CronLayer::new_async(PERIOD, |_| ready(Ok::<_, Infallible>(())));
    assert_transparent(&layer, connection);
}
