//! From accept to the last callback: what is recorded, and who is told.

use std::{
    error::Error,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Duration,
};

use getty_core::{
    CloseReason, Connection, ConnectionHandle, DrainDeadlineExceeded, Framed, Session, Stats,
    driver,
};
use getty_layers::CodecLayer;
use tokio_test::{assert_pending, assert_ready, task};
use tokio_util::codec::LinesCodec;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

fn connection() -> (Connection<()>, ConnectionHandle) {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    (connection, handle)
}

#[test]
fn parts_of_a_framed_transport_can_be_changed_and_put_together() {
    let (connection, handle) = connection();
    let (session, driver) = driver::pair::<String>(handle);
    let framed = Framed::new("transport", LinesCodec::new(), driver, 1024);
    let mut parts = framed.into_parts();
    parts.transport = "another";
    parts.codec = LinesCodec::new_with_max_length(10);
    parts.max_frame = 64;
    let framed = Framed::from_parts(parts);
    assert_eq!(*framed.transport(), "another");
    assert_eq!(framed.codec().max_length(), 10);
    assert_eq!((framed.max_frame(), framed.codec_id()), (64, None));
    assert_eq!(getty_core::HasSession::session(&framed).id(), session.id());
    drop(connection);
}

#[test]
fn the_first_reason_wins() {
    let (connection, handle) = connection();
    assert_eq!(handle.reason(), None);
    handle.close_because(CloseReason::Io, io::Error::other("cable cut"));
    handle.close();
    handle.close_with(CloseReason::Shutdown);
    handle.close_because(CloseReason::Handler, "too late");
    assert_eq!(handle.reason(), Some(CloseReason::Io));

    let ((), lease) = connection.into_parts();
    let closed = lease.finish();
    assert_eq!(closed.reason, CloseReason::Io);
    assert_eq!(closed.source.unwrap().to_string(), "cable cut");
}

#[test]
fn the_reason_recorded_at_the_end_is_the_one_the_handle_tells() {
    // nobody has closed it
    let (connection, handle) = connection();
    let ((), mut lease) = connection.into_parts();
    lease.open();
    let closed = lease.finish();
    assert_eq!(closed.reason, CloseReason::Dropped);
    assert_eq!(handle.reason(), Some(CloseReason::Dropped));
    handle.close();
    assert_eq!(handle.reason(), Some(CloseReason::Dropped));
}

#[test]
fn a_connection_without_a_reason_is_recorded_by_the_stage_at_which_it_was_dropped() {
    let (refused, handle) = connection();
    drop(refused);
    assert_eq!(handle.reason(), Some(CloseReason::Refused));

    let (open, handle) = connection();
    let ((), mut lease) = open.into_parts();
    lease.open();
    drop(lease);
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
fn a_framed_connection_dropped_before_its_session_opens_was_refused() {
    type Request = Connection<Framed<(), LinesCodec, String>>;

    let (connection, handle) = connection();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(tower::layer::layer_fn(|_| {
            service_fn(|connection: Request| async move {
                drop(connection);
                Err::<(), _>(BoxError::from("not you"))
            })
        }))
        .service(());
    let mut refused = task::spawn(stack.oneshot(connection));
    assert!(assert_ready!(refused.poll()).is_err());
    assert_eq!(handle.reason(), Some(CloseReason::Refused));
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
fn closing_resolves_for_a_connection_that_is_dropped() {
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
    driver.peer_finished();
    assert!(finished.is_woken());
    assert_ready!(finished.poll());
    // half-closed is not closing
    assert_pending!(closing.poll());
    assert!(!handle.is_closing());
}

#[test]
fn peer_finished_resolves_at_a_close_too() {
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
    let ((), mut lease) = connection.into_parts();
    lease.open();
    assert!(opened.is_woken());
    assert!(assert_ready!(opened.poll()));
}

#[test]
fn opened_says_no_for_a_connection_that_closes_before() {
    let (connection, handle) = connection();
    let mut opened = task::spawn(handle.opened());
    assert_pending!(opened.poll());
    handle.close();
    assert_pending!(opened.poll(), "it may open yet");
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
    // for ever after
    let again = assert_ready!(task::spawn(handle.closed()).poll());
    assert_eq!(again.reason, CloseReason::Shutdown);
}

#[test]
fn a_waiter_that_is_dropped_leaves_the_others_waiting() {
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
async fn the_record_carries_what_moved_and_how_long_it_took() {
    let (connection, handle) = connection();
    let (_session, driver) = driver::pair::<()>(handle.clone());
    let opened_at = handle.opened_at();
    tokio::time::advance(Duration::from_secs(2)).await;
    let now = driver.moment(tokio::time::Instant::now());
    driver.received(5, now);
    driver.messages_in(1, now);
    driver.sent(7, now);
    driver.messages_out(1);
    driver.skipped();
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
    for mark in [
        handle.last_read(),
        handle.last_write(),
        handle.last_active(),
    ] {
        assert_eq!(mark - opened_at, Duration::from_secs(2));
    }
}

#[test]
fn a_drain_that_was_cut_off_is_the_source_unless_there_is_another() {
    let (connection, handle) = connection();
    let (_session, mut driver) = driver::pair::<()>(handle.clone());
    handle.close_within(CloseReason::Shutdown, Duration::from_secs(1));
    assert_eq!(driver.requested_deadline(), Some(Duration::from_secs(1)));
    driver.note_source(Arc::new(DrainDeadlineExceeded));
    drop(driver);
    let ((), lease) = connection.into_parts();
    let source = lease.finish().source.unwrap();
    assert!(source.is::<DrainDeadlineExceeded>());
}

#[test]
fn a_source_outlives_a_drain_that_was_cut_off() {
    let (connection, handle) = connection();
    let (_session, mut driver) = driver::pair::<()>(handle.clone());
    handle.close_because(CloseReason::Handler, "the cause");
    assert_eq!(driver.requested_deadline(), None);
    driver.note_source(Arc::new(DrainDeadlineExceeded));
    drop(driver);
    let ((), lease) = connection.into_parts();
    assert_eq!(lease.finish().source.unwrap().to_string(), "the cause");
}

#[test]
fn a_source_may_use_the_connection_when_dropped() {
    #[derive(Debug)]
    struct Nosy(ConnectionHandle);
    impl fmt::Display for Nosy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("nosy")
        }
    }
    impl Error for Nosy {}
    impl Drop for Nosy {
        fn drop(&mut self) {
            let _ = self.0.reason();
        }
    }

    let (_connection, handle) = connection();
    handle.close();
    handle.close_because(CloseReason::Handler, Nosy(handle.clone()));
    assert_eq!(handle.reason(), Some(CloseReason::Local));
}

#[test]
fn a_handle_kept_after_the_close_keeps_no_task_alive() {
    struct Task;
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    let task = Arc::new(Task);
    let (connection, handle) = connection();
    let (session, mut driver) = driver::pair::<()>(handle);
    driver.turn(&Context::from_waker(&Waker::from(task.clone())));
    drop(driver);
    drop(connection);
    assert_eq!(Arc::strong_count(&task), 1);
    assert!(session.is_closed());
}

#[test]
fn handles_and_sessions_may_be_used_from_any_thread() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<ConnectionHandle>();
    // a message that is only `Send` is enough
    check::<Session<std::cell::Cell<u8>>>();
}

#[tokio::test(start_paused = true)]
async fn a_handle_tells_since_when_its_session_is_open() {
    let (connection, handle) = connection();
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(handle.open_since(), None);
    let ((), mut lease) = connection.into_parts();
    lease.open();
    let since = handle.open_since().unwrap();
    assert_eq!(since - handle.opened_at(), Duration::from_secs(3));
    tokio::time::advance(Duration::from_secs(1)).await;
    drop(lease);
    assert_eq!(handle.open_since(), Some(since), "readable after the close");
}

#[test]
fn a_hold_may_outlast_the_close() {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    let early = handle.hold();
    drop(connection);
    let late = handle.hold();
    drop(early);
    drop(late);
    assert!(handle.is_closed() && !handle.is_open());
}
