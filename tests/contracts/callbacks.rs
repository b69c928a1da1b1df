//! Close callbacks of a session run once, in order and after the transport is dropped.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use getty::{
    BoxError, CallbackAdded, CloseReason, Closed, Request, SendError, Session, SessionLayer,
    service_fn,
};
use getty_test::stream;

use crate::support::{echo, idle, lines, open, soon};

type Log = Arc<Mutex<Vec<String>>>;

/// Returns a callback that records `what`.
fn note(log: &Log, what: &str) -> impl FnOnce(&Closed) + Send + 'static {
    let (log, what) = (Arc::clone(log), what.to_owned());
    move |_| log.lock().unwrap().push(what)
}

#[tokio::test(start_paused = true)]
async fn callbacks_run_in_the_order_added_and_a_replacement_keeps_its_position() {
    let (transport, _peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let log = Log::default();
    let added = [
        session.add_close_callback("user", 1, note(&log, "replaced")),
        session.add_close_callback("user", 2_u64, note(&log, "other key type")),
        session.add_close_callback(7, "x", note(&log, "removed")),
        session.add_close_callback("user", "x".to_owned(), note(&log, "last")),
        session.add_close_callback("user", 1, note(&log, "first")),
    ];
    assert_eq!(added[..4], [CallbackAdded::Appended; 4]);
    assert_eq!(added[4], CallbackAdded::Replaced);
    assert!(session.remove_close_callback(7, "x"));
    assert!(!session.remove_close_callback(7, "x"));
    assert!(
        !session.remove_close_callback("user", 1_u8),
        "the key has another type"
    );

    session.close();
    let _ = soon(task).await;
    assert_eq!(*log.lock().unwrap(), ["first", "other key type", "last"]);
}

#[tokio::test(start_paused = true)]
async fn callbacks_run_after_the_transport_is_dropped_and_senders_are_notified() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    session.insert("attribute");
    let mut sending = Box::pin({
        let session = session.clone();
        async move { session.send("unsent".to_owned()).await }
    });
    let mut context = Context::from_waker(Waker::noop());
    assert!(sending.as_mut().poll(&mut context).is_pending());
    idle().await;

    let seen = Arc::new(Mutex::new(None));
    session.add_close_callback("test", (), {
        let (seen, peer, session) = (Arc::clone(&seen), peer.clone(), session.clone());
        move |closed: &Closed| {
            let mut context = Context::from_waker(Waker::noop());
            let outcome = sending.as_mut().poll(&mut context);
            *seen.lock().unwrap() = Some((
                peer.is_gone(),
                matches!(outcome, Poll::Ready(Err(SendError::Closed { .. }))),
                session.get::<&str>(),
                session.stats() == closed.stats && session.is_closing(),
                session.is_closed(),
            ));
        }
    });
    session.close();
    let _ = soon(task).await;
    let seen = seen.lock().unwrap().take();
    assert_eq!(seen, Some((true, true, Some("attribute"), true, false)));
    assert!(session.is_closed());
    assert_eq!(
        session.get::<&str>(),
        None,
        "attributes are cleared after the last callback"
    );
}

#[tokio::test(start_paused = true)]
async fn closed_resolves_after_the_callbacks() {
    let (transport, _peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let log = Log::default();
    session.add_close_callback("test", 0, note(&log, "callback"));
    let waits = tokio::spawn({
        let (session, log) = (session.clone(), Arc::clone(&log));
        async move {
            let closed = session.closed().await;
            log.lock().unwrap().push("closed".to_owned());
            closed
        }
    });
    idle().await;
    session.close();
    assert_eq!(soon(waits).await.unwrap().reason, CloseReason::Local);
    assert_eq!(*log.lock().unwrap(), ["callback", "closed"]);
}

#[tokio::test(start_paused = true)]
async fn next_callback_runs_after_a_callback_panics() {
    let (transport, _peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let log = Log::default();
    session.add_close_callback("test", 0, note(&log, "before"));
    session.add_close_callback("test", 1, |_| panic!("a bad callback"));
    session.add_close_callback("test", 2, note(&log, "after"));
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(*log.lock().unwrap(), ["before", "after"]);
}

#[tokio::test(start_paused = true)]
async fn callback_may_add_and_remove_callbacks() {
    let (transport, _peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let log = Log::default();
    session.add_close_callback("test", 0, {
        let (session, log) = (session.clone(), Arc::clone(&log));
        move |_| {
            assert!(session.remove_close_callback("test", 1));
            session.add_close_callback("test", 3, note(&log, "added"));
            log.lock().unwrap().push("first".to_owned());
        }
    });
    session.add_close_callback("test", 1, note(&log, "removed"));
    session.add_close_callback("test", 2, note(&log, "second"));
    session.close();
    let _ = soon(task).await;
    assert_eq!(*log.lock().unwrap(), ["first", "second", "added"]);
}

#[tokio::test(start_paused = true)]
async fn callback_that_is_added_after_the_close_runs_at_once() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.finish();
    let _ = soon(task).await;
    let reason = Arc::new(Mutex::new(None));
    let added = session.add_close_callback("test", 0, {
        let reason = Arc::clone(&reason);
        move |closed| *reason.lock().unwrap() = Some(closed.reason.clone())
    });
    assert_eq!(added, CallbackAdded::RanNow);
    assert_eq!(*reason.lock().unwrap(), Some(CloseReason::PeerClosed));
}

/// Registers a callback that records the reason each time it runs.
fn count(session: &Session<String>) -> Arc<Mutex<Vec<CloseReason>>> {
    let reasons: Arc<Mutex<Vec<_>>> = Arc::default();
    let seen = Arc::clone(&reasons);
    session.add_close_callback("count", 0, move |closed| {
        seen.lock().unwrap().push(closed.reason.clone());
    });
    reasons
}

#[tokio::test(start_paused = true)]
async fn callbacks_run_once_when_the_task_is_aborted() {
    let (transport, peer) = stream();
    let stuck = service_fn(|_: Request<String>| async {
        std::future::pending::<()>().await;
        Ok::<Option<String>, BoxError>(None)
    });
    let (session, task) = open(transport, lines(), SessionLayer::new(), stuck).await;
    let reasons = count(&session);
    peer.send("stuck\n");
    idle().await;
    task.abort();
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Dropped);
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::Dropped]);
    assert!(peer.is_gone());
    assert!(soon(task).await.is_err());
    assert!(session.try_send(String::new()).unwrap_err().is_closed());
}

#[tokio::test(start_paused = true)]
async fn callbacks_run_once_after_a_close_and_an_abort_of_its_drain() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let reasons = count(&session);
    peer.stall();
    session.feed("unsent".to_owned()).await.unwrap();
    session.close();
    idle().await;
    task.abort();
    soon(session.closed()).await;
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::Local]);
}

#[test]
fn callbacks_run_once_when_the_runtime_is_dropped_with_sessions_open() {
    for workers in [0, 2] {
        let mut builder = match workers {
            0 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.enable_time().build().unwrap();
        let sessions = runtime.block_on(async {
            let mut sessions = Vec::new();
            for _ in 0..10 {
                let (transport, peer) = stream();
                let layer = SessionLayer::new();
                let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
                let reasons = count(&session);
                sessions.push((session, peer, reasons));
            }
            sessions
        });
        drop(runtime);
        for (session, peer, reasons) in sessions {
            assert_eq!(*reasons.lock().unwrap(), [CloseReason::Dropped]);
            assert!(session.is_closed() && peer.is_gone());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn session_may_be_stored_in_its_own_attributes_and_callbacks() {
    let (transport, _peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let witness = Arc::new(());
    let kept = Arc::downgrade(&witness);
    session.insert((session.clone(), witness));
    session.add_close_callback("cycle", 0, {
        let session = session.clone();
        move |_| drop(session)
    });
    session.close();
    let _ = soon(task).await;
    assert!(kept.upgrade().is_none(), "the close breaks the cycle");
    assert!(session.opened_at().elapsed() < Duration::from_secs(1));
}
