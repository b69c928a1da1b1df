//! The life of a connection from accept to its last callback: reason, record, waiting tasks.

use getty_core::Close;
use getty_core::hooks::HandleExt;
use std::{
    error::Error,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Duration,
};

use getty_core::{
    CloseReason, Connection, ConnectionHandle, DrainDeadlineExceeded, Session, SessionIo, Stats,
    driver,
};
use tokio_test::{assert_pending, assert_ready, task};
use tokio_util::codec::LinesCodec;

fn connection() -> (Connection<()>, ConnectionHandle) {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    (connection, handle)
}

#[test]
fn session_io_can_be_split_and_rebuilt_from_its_parts() {
    let (connection, handle) = connection();
    let (session, driver) = driver::pair::<String>(handle);
    let framed = SessionIo::new("transport", LinesCodec::new(), driver, 1024);
    let mut parts = framed.into_parts();
    parts.transport = "another";
    parts.codec = LinesCodec::new_with_max_length(10);
    parts.max_frame = 64;
    let framed = SessionIo::from_parts(parts);
    assert_eq!(*framed.transport(), "another");
    assert_eq!(framed.codec().max_length(), 10);
    assert_eq!((framed.max_frame(), framed.codec_id()), (64, None));
    assert_eq!(getty_core::HasSession::session(&framed).id(), session.id());
    drop(connection);
}

#[test]
fn first_close_reason_wins() {
    let (connection, handle) = connection();
    assert_eq!(handle.reason(), None);
    handle.close_with(Close::new(CloseReason::Io).with_source(io::Error::other("cable cut")));
    handle.close();
    handle.close_with(CloseReason::Shutdown);
    handle.close_with(Close::new(CloseReason::Handler).with_source("too late"));
    assert_eq!(handle.reason(), Some(CloseReason::Io));

    let ((), guard) = connection.into_parts();
    let closed = guard.finish();
    assert_eq!(closed.reason, CloseReason::Io);
    assert_eq!(closed.source.unwrap().to_string(), "cable cut");
}

#[test]
fn handle_returns_the_reason_recorded_at_the_end() {
    // no close was requested
    let (connection, handle) = connection();
    let ((), mut guard) = connection.into_parts();
    guard.open();
    let closed = guard.finish();
    assert_eq!(closed.reason, CloseReason::Dropped);
    assert_eq!(handle.reason(), Some(CloseReason::Dropped));
    handle.close();
    assert_eq!(handle.reason(), Some(CloseReason::Dropped));
}

#[test]
fn default_reason_depends_on_the_stage_of_the_drop() {
    let (refused, handle) = connection();
    drop(refused);
    assert_eq!(handle.reason(), Some(CloseReason::Refused));

    let (open, handle) = connection();
    let ((), mut guard) = open.into_parts();
    guard.open();
    drop(guard);
    assert_eq!(handle.reason(), Some(CloseReason::Dropped));

    let (panicked, handle) = connection();
    catch_unwind(AssertUnwindSafe(|| {
        let _panicked = panicked;
        panic!("this message is expected");
    }))
    .unwrap_err();
    assert_eq!(handle.reason(), Some(CloseReason::Panicked));
}

#[test]
fn closing_resolves_when_a_close_is_requested() {
    let (_connection, handle) = connection();
    let mut closing = task::spawn(handle.closing());
    let mut other = task::spawn(handle.closing());
    assert_pending!(closing.poll());
    assert_pending!(other.poll());
    handle.close();
    assert!(closing.is_woken() && other.is_woken());
    assert_ready!(closing.poll());
    assert_ready!(other.poll());
    assert!(handle.is_closing() && !handle.is_closed());
    assert_ready!(task::spawn(handle.closing()).poll());
}

#[test]
fn closing_resolves_when_the_connection_is_dropped() {
    let (connection, handle) = connection();
    let mut closing = task::spawn(handle.closing());
    assert_pending!(closing.poll());
    drop(connection);
    assert!(closing.is_woken());
    assert_ready!(closing.poll());
}

#[test]
fn peer_finished_resolves_at_the_end_of_the_peers_direction() {
    let (_connection, handle) = connection();
    let (_session, driver) = driver::pair::<()>(handle.clone());
    let mut finished = task::spawn(handle.peer_finished());
    let mut closing = task::spawn(handle.closing());
    assert_pending!(finished.poll());
    assert_pending!(closing.poll());
    driver.record_peer_finished();
    assert!(finished.is_woken());
    assert_ready!(finished.poll());
    // a half-closed session is not closing
    assert_pending!(closing.poll());
    assert!(!handle.is_closing());
}

#[test]
fn peer_finished_resolves_at_a_close() {
    let (_connection, handle) = connection();
    let mut finished = task::spawn(handle.peer_finished());
    assert_pending!(finished.poll());
    handle.close();
    assert!(finished.is_woken());
    assert_ready!(finished.poll());
}

#[test]
fn opened_resolves_when_the_session_opens() {
    let (connection, handle) = connection();
    let mut opened = task::spawn(handle.opened());
    assert_pending!(opened.poll());
    let ((), mut guard) = connection.into_parts();
    guard.open();
    assert!(opened.is_woken());
    assert!(assert_ready!(opened.poll()));
}

#[test]
fn opened_returns_false_for_a_connection_that_closes_before() {
    let (connection, handle) = connection();
    let mut opened = task::spawn(handle.opened());
    assert_pending!(opened.poll());
    handle.close();
    assert_pending!(opened.poll(), "the session may still open");
    drop(connection);
    assert!(opened.is_woken());
    assert!(!assert_ready!(opened.poll()));
}

#[test]
fn closed_resolves_after_the_callbacks_and_not_before() {
    let (connection, handle) = connection();
    let mut closed = task::spawn(handle.closed());
    assert_pending!(closed.poll());
    let inside = handle.clone();
    handle.add_close_callback("check", 0, move |_| {
        assert_pending!(task::spawn(inside.closed()).poll());
        inside.insert("checked");
        inside.set_name("checked");
    });
    handle.close_with(CloseReason::Shutdown);
    assert_pending!(closed.poll());
    drop(connection);
    assert!(closed.is_woken());
    let record = assert_ready!(closed.poll());
    assert_eq!(record.reason, CloseReason::Shutdown);
    assert_eq!(&*handle.name(), "checked");
    // also later
    let again = assert_ready!(task::spawn(handle.closed()).poll());
    assert_eq!(again.reason, CloseReason::Shutdown);
}

#[test]
fn dropped_waiter_does_not_affect_others() {
    let (_connection, handle) = connection();
    let mut first = task::spawn(handle.closing());
    let mut second = task::spawn(handle.closing());
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    drop(first);
    handle.close();
    assert!(second.is_woken());
    assert_ready!(second.poll());
}

#[tokio::test(start_paused = true)]
async fn record_contains_statistics_and_lifetime() {
    let (connection, handle) = connection();
    let (_session, driver) = driver::pair::<()>(handle.clone());
    let opened_at = handle.opened_at();
    tokio::time::advance(Duration::from_secs(2)).await;
    let now = driver.timestamp(tokio::time::Instant::now());
    driver.record_received(5, now);
    driver.record_messages_in(1, now);
    driver.record_sent(7, now);
    driver.record_messages_out(1);
    driver.record_skipped();
    handle.touch();
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(driver);
    drop(connection);

    let closed = handle.closed().await;
    assert_eq!(closed.lifetime, Duration::from_secs(3));
    let mut stats = Stats::default();
    (stats.bytes_in, stats.messages_in) = (5, 1);
    (stats.bytes_out, stats.messages_out) = (7, 1);
    stats.skipped = 1;
    assert_eq!(closed.stats, stats);
    assert_eq!(
        closed.to_string(),
        "refused after 3.000s (in 1 messages, 5 bytes; out 1 messages, 7 bytes; 1 skipped)"
    );
    for time in [
        handle.last_read(),
        handle.last_write(),
        handle.last_active(),
    ] {
        assert_eq!(time - opened_at, Duration::from_secs(2));
    }
}

#[test]
fn cut_off_drain_is_the_source_if_there_is_no_other() {
    let (connection, handle) = connection();
    let (_session, mut driver) = driver::pair::<()>(handle.clone());
    handle.close_with(Close::new(CloseReason::Shutdown).with_deadline(Duration::from_secs(1)));
    assert_eq!(driver.requested_deadline(), Some(Duration::from_secs(1)));
    driver.add_source(Arc::new(DrainDeadlineExceeded));
    drop(driver);
    let ((), guard) = connection.into_parts();
    let source = guard.finish().source.unwrap();
    assert!(source.is::<DrainDeadlineExceeded>());
}

#[test]
fn earlier_source_is_kept_when_a_drain_is_cut_off() {
    let (connection, handle) = connection();
    let (_session, mut driver) = driver::pair::<()>(handle.clone());
    handle.close_with(Close::new(CloseReason::Handler).with_source("the cause"));
    assert_eq!(driver.requested_deadline(), None);
    driver.add_source(Arc::new(DrainDeadlineExceeded));
    drop(driver);
    let ((), guard) = connection.into_parts();
    assert_eq!(guard.finish().source.unwrap().to_string(), "the cause");
}

#[test]
fn source_may_use_the_connection_when_dropped() {
    #[derive(Debug)]
    struct Reentrant(ConnectionHandle);
    impl fmt::Display for Reentrant {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("reentrant")
        }
    }
    impl Error for Reentrant {}
    impl Drop for Reentrant {
        fn drop(&mut self) {
            let _ = self.0.reason();
        }
    }

    let (_connection, handle) = connection();
    handle.close();
    handle.close_with(Close::new(CloseReason::Handler).with_source(Reentrant(handle.clone())));
    assert_eq!(handle.reason(), Some(CloseReason::Local));
}

#[test]
fn handle_kept_after_the_close_keeps_no_task_alive() {
    struct Task;
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    let task = Arc::new(Task);
    let (connection, handle) = connection();
    let (session, mut driver) = driver::pair::<()>(handle);
    driver.register(&Context::from_waker(&Waker::from(task.clone())));
    drop(driver);
    drop(connection);
    assert_eq!(Arc::strong_count(&task), 1);
    assert!(session.is_closed());
}

#[test]
fn handles_and_sessions_may_be_used_from_any_thread() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<ConnectionHandle>();
    // a message that is only `Send` suffices
    check::<Session<std::cell::Cell<u8>>>();
}

#[tokio::test(start_paused = true)]
async fn open_since_returns_the_time_of_the_opening() {
    let (connection, handle) = connection();
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(handle.open_since(), None);
    let ((), mut guard) = connection.into_parts();
    guard.open();
    let since = handle.open_since().unwrap();
    assert_eq!(since - handle.opened_at(), Duration::from_secs(3));
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(guard);
    assert_eq!(handle.open_since(), Some(since), "readable after the close");
}

#[test]
fn open_guard_may_outlive_the_close() {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    let early = handle.delay_open();
    drop(connection);
    let late = handle.delay_open();
    drop(early);
    drop(late);
    assert!(handle.is_closed() && !handle.is_open());
}
