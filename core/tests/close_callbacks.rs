//! Close callbacks: order, number of calls, and use of the connection from a callback.

use std::{
    future::pending,
    hash::{Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind, panic_any},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use getty_core::{
    Address, CallbackAdded, CloseReason, Closed, Connection, ConnectionHandle, Endpoints,
    TransportKind, driver,
};
use tokio::{runtime, task::JoinHandle};

/// Notes in the order in which they were added.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    /// Returns a callback that adds this note.
    fn noting(&self, note: impl Into<String>) -> impl FnOnce(&Closed) + Send + 'static {
        let (log, note) = (self.clone(), note.into());
        move |_| log.note(note)
    }

    #[track_caller]
    fn assert(&self, notes: &[&str]) {
        assert_eq!(*self.0.lock().unwrap(), notes);
    }
}

fn connection() -> (Connection<()>, ConnectionHandle, Log) {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    (connection, handle, Log::default())
}

#[test]
fn callbacks_run_in_the_order_added() {
    let (connection, handle, log) = connection();
    for n in 0..5 {
        let added = handle.add_close_callback("order", n, log.noting(n.to_string()));
        assert_eq!(added, CallbackAdded::Appended);
    }
    log.assert(&[]);
    drop(connection);
    log.assert(&["0", "1", "2", "3", "4"]);
}

#[test]
fn equal_pair_of_keys_replaces_the_callback_in_place() {
    let (connection, handle, log) = connection();
    handle.add_close_callback("a", 1, log.noting("first"));
    handle.add_close_callback("b", 1, log.noting("second"));
    handle.add_close_callback("c", 1, log.noting("third"));
    let added = handle.add_close_callback("b", 1, log.noting("second, replaced"));
    assert_eq!(added, CallbackAdded::Replaced);
    drop(connection);
    log.assert(&["first", "second, replaced", "third"]);
}

#[test]
fn keys_of_different_types_do_not_collide() {
    #[derive(PartialEq, Eq, Hash)]
    struct Mine(u8);

    let (connection, handle, log) = connection();
    handle.add_close_callback("1", 1_u8, log.noting("str, u8"));
    handle.add_close_callback("1", 1_u16, log.noting("str, u16"));
    handle.add_close_callback("1".to_owned(), 1_u8, log.noting("String, u8"));
    handle.add_close_callback(1_u8, "1", log.noting("u8, str"));
    handle.add_close_callback(Mine(1), Mine(1), log.noting("Mine, Mine"));
    handle.add_close_callback((), (), log.noting("unit, unit"));

    // each is found only with keys of the same types
    assert!(!handle.remove_close_callback("1", 1_u32));
    assert!(!handle.remove_close_callback(Mine(1), 1_u8));
    assert!(handle.remove_close_callback("1", 1_u16));
    assert_eq!(
        handle.add_close_callback(Mine(1), Mine(1), log.noting("Mine again")),
        CallbackAdded::Replaced
    );
    drop(connection);
    log.assert(&[
        "str, u8",
        "String, u8",
        "u8, str",
        "Mine again",
        "unit, unit",
    ]);
}

#[test]
fn removing_an_absent_callback_does_nothing() {
    let (connection, handle, log) = connection();
    assert!(!handle.remove_close_callback("a", 1));
    handle.add_close_callback("a", 1, log.noting("a"));
    assert!(!handle.remove_close_callback("a", 2));
    assert!(!handle.remove_close_callback("b", 1));
    assert!(handle.remove_close_callback("a", 1));
    assert!(!handle.remove_close_callback("a", 1));
    drop(connection);
    log.assert(&[]);
    assert!(!handle.remove_close_callback("a", 1));
}

#[test]
fn callback_may_add_and_remove_callbacks() {
    let (connection, handle, log) = connection();
    let (inside, inner) = (handle.clone(), log.clone());
    handle.add_close_callback("first", 0, move |_| {
        inner.note("first");
        assert!(
            !inside.remove_close_callback("first", 0),
            "the callback is already running"
        );
        assert!(inside.remove_close_callback("second", 0));
        assert_eq!(
            inside.add_close_callback("third", 0, inner.noting("third, replaced")),
            CallbackAdded::Replaced
        );
        assert_eq!(
            inside.add_close_callback("fourth", 0, inner.noting("fourth")),
            CallbackAdded::Appended
        );
    });
    handle.add_close_callback("second", 0, log.noting("second"));
    handle.add_close_callback("third", 0, log.noting("third"));
    drop(connection);
    log.assert(&["first", "third, replaced", "fourth"]);
}

#[test]
fn callback_added_by_another_thread_during_the_close_runs() {
    let (connection, handle, log) = connection();
    let (inside, inner) = (handle.clone(), log.clone());
    handle.add_close_callback("first", 0, move |_| {
        thread::spawn(move || {
            assert!(inside.is_closing() && !inside.is_closed());
            inside.add_close_callback("other thread", 0, inner.noting("other thread"))
        })
        .join()
        .unwrap();
    });
    drop(connection);
    log.assert(&["other thread"]);
}

#[test]
fn panic_in_a_callback_does_not_prevent_the_next() {
    let (connection, handle, log) = connection();
    handle.add_close_callback("a", 0, |_| panic!("this message is expected"));
    handle.add_close_callback("b", 0, log.noting("b"));
    drop(connection);
    log.assert(&["b"]);
    assert!(handle.is_closed());
}

#[test]
fn panic_whose_payload_panics_when_dropped_is_caught() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("this message is expected");
        }
    }

    let (connection, handle, log) = connection();
    handle.add_close_callback("a", 0, |_| panic_any(PanicsOnDrop));
    handle.add_close_callback("b", 0, log.noting("b"));
    drop(connection);
    log.assert(&["b"]);
    assert!(handle.is_closed());
}

#[test]
fn callback_added_after_the_close_runs_at_once() {
    let (connection, handle, log) = connection();
    handle.close_with(CloseReason::Shutdown);
    drop(connection);
    let inner = log.clone();
    let added = handle.add_close_callback("late", 0, move |closed| {
        inner.note(closed.reason.as_str());
    });
    assert_eq!(added, CallbackAdded::RanNow);
    log.assert(&["shutdown"]);
    // the callback was never in the list
    assert!(!handle.remove_close_callback("late", 0));

    let added = handle.add_close_callback("late", 0, |_| panic!("this message is expected"));
    assert_eq!(added, CallbackAdded::RanNow);
}

#[test]
fn requested_close_alone_runs_no_callback() {
    let (connection, handle, log) = connection();
    handle.add_close_callback("a", 0, log.noting("a"));
    handle.close();
    log.assert(&[]);
    assert_eq!(
        handle.add_close_callback("b", 0, log.noting("b")),
        CallbackAdded::Appended
    );
    drop(connection);
    log.assert(&["a", "b"]);
}

/// Adds a callback that counts its calls and notes the reason of the close.
fn count(handle: &ConnectionHandle) -> (Arc<AtomicUsize>, Log) {
    let (calls, reasons) = (Arc::new(AtomicUsize::new(0)), Log::default());
    let (counter, log) = (calls.clone(), reasons.clone());
    handle.add_close_callback("count", (), move |closed| {
        counter.fetch_add(1, Ordering::Relaxed);
        log.note(closed.reason.as_str());
    });
    (calls, reasons)
}

#[test]
fn callbacks_run_exactly_once_at_each_stage_of_a_drop() {
    type Stage = (&'static str, fn(Connection<()>));
    let stages: [Stage; 7] = [
        ("refused", drop),
        ("refused", |connection| {
            drop(connection.map_transport(|()| "another transport"));
        }),
        ("refused", |connection| {
            let ((), rest) = connection.take_transport();
            drop(rest);
        }),
        ("refused", |connection| {
            let ((), guard) = connection.into_parts();
            drop(guard);
        }),
        ("dropped", |connection| {
            let ((), mut guard) = connection.into_parts();
            guard.open();
            drop(guard);
        }),
        ("dropped", |connection| {
            let handle = connection.handle().clone();
            let ((), mut guard) = connection.into_parts();
            let (_session, driver) = driver::pair::<()>(handle);
            guard.open();
            drop(driver);
            drop(guard);
        }),
        ("local", |connection| {
            connection.handle().close();
            let ((), mut guard) = connection.into_parts();
            guard.open();
            let closed = guard.finish();
            assert_eq!(closed.reason, CloseReason::Local);
        }),
    ];
    for (stage, (reason, end)) in stages.into_iter().enumerate() {
        let (connection, handle, _) = connection();
        let (calls, reasons) = count(&handle);
        end(connection);
        assert_eq!(calls.load(Ordering::Relaxed), 1, "stage {stage}");
        reasons.assert(&[reason]);
        assert!(handle.is_closed());
    }
}

#[test]
fn callbacks_run_exactly_once_during_an_unwinding_panic() {
    let (connection, handle, log) = connection();
    let (calls, reasons) = count(&handle);
    handle.add_close_callback("panics, too", 0, |_| panic!("this message is expected"));
    handle.add_close_callback("after it", 0, log.noting("after it"));
    let outcome = catch_unwind(AssertUnwindSafe(move || {
        let _connection = connection;
        panic!("this message is expected");
    }));
    assert!(outcome.is_err());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    reasons.assert(&["panicked"]);
    log.assert(&["after it"]);
}

#[test]
fn callbacks_run_exactly_once_when_a_transport_cannot_be_changed() {
    let (connection, handle, _) = connection();
    let (calls, reasons) = count(&handle);
    let outcome = catch_unwind(AssertUnwindSafe(move || {
        connection.map_transport(|()| -> u8 { panic!("this message is expected") })
    }));
    assert!(outcome.is_err());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    reasons.assert(&["panicked"]);
}

/// Spawns a task that keeps an open connection.
fn keep_open(connection: Connection<()>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let ((), mut guard) = connection.into_parts();
        guard.open();
        pending::<()>().await;
        drop(guard);
    })
}

#[tokio::test]
async fn callbacks_run_exactly_once_when_the_task_is_aborted() {
    let (connection, handle, _) = connection();
    let (calls, reasons) = count(&handle);
    let task = keep_open(connection);
    assert!(handle.opened().await);
    task.abort();
    let closed = handle.closed().await;
    assert_eq!(closed.reason, CloseReason::Dropped);
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    reasons.assert(&["dropped"]);
}

#[tokio::test]
async fn callbacks_run_exactly_once_when_the_task_is_aborted_before_its_first_poll() {
    let (connection, handle, _) = connection();
    let (calls, reasons) = count(&handle);
    let task = keep_open(connection);
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    reasons.assert(&["refused"]);
}

#[test]
fn callbacks_run_exactly_once_at_the_shutdown_of_the_runtime() {
    let runtimes = [
        runtime::Builder::new_current_thread().build(),
        runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build(),
    ];
    for runtime in runtimes {
        let runtime = runtime.unwrap();
        let (connection, handle, _) = connection();
        let (calls, reasons) = count(&handle);
        runtime.block_on(async {
            keep_open(connection);
            handle.opened().await;
        });
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        drop(runtime);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        reasons.assert(&["dropped"]);
    }
}

#[test]
fn transport_is_dropped_before_callbacks_run() {
    struct Transport(Log);
    impl Drop for Transport {
        fn drop(&mut self) {
            self.0.note("transport");
        }
    }

    let log = Log::default();
    let connection = Connection::new(Transport(log.clone()));
    let handle = connection.handle().clone();
    handle.add_close_callback("a", 0, log.noting("callback"));
    drop(connection);
    log.assert(&["transport", "callback"]);
}

#[test]
fn handle_stays_readable_in_callbacks_and_after() {
    let peer = Address::Ip("192.0.2.1:7".parse().unwrap());
    let local = Address::Ip("192.0.2.2:7000".parse().unwrap());
    let endpoints = Endpoints::new(TransportKind::Tcp, local.clone(), peer.clone());
    let connection = Connection::with_endpoints((), endpoints);
    let handle = connection.handle().clone();
    handle.set_name("gateway");
    let (_session, driver) = driver::pair::<()>(handle.clone());
    let now = handle.opened_at() + std::time::Duration::from_millis(5);
    let timestamp = driver.timestamp(now);
    driver.record_received(10, timestamp);
    driver.record_messages_in(1, timestamp);

    let check = move |handle: &ConnectionHandle| {
        assert_eq!(*handle.peer_addr(), peer);
        assert_eq!(*handle.local_addr(), local);
        assert_eq!(handle.transport(), TransportKind::Tcp);
        assert_eq!(&*handle.name(), "gateway");
        assert_eq!(handle.last_read(), now);
        assert_eq!(handle.last_write(), handle.opened_at());
        assert_eq!(handle.stats().bytes_in, 10);
        assert_eq!(handle.stats().messages_in, 1);
        assert_eq!(handle.reason(), Some(CloseReason::Local));
        let text = handle.to_string();
        assert!(
            text.starts_with("gateway[tcp #") && text.ends_with("192.0.2.2:7000 <-> 192.0.2.1:7]"),
            "{text}"
        );
    };
    let (inside, seen) = (handle.clone(), Log::default());
    let (checking, log) = (check.clone(), seen.clone());
    handle.add_close_callback("a", 0, move |closed| {
        checking(&inside);
        assert_eq!(closed.stats, inside.stats());
        log.note("checked");
    });
    handle.close();
    drop(driver);
    drop(connection);
    seen.assert(&["checked"]);
    check(&handle);
}

#[test]
fn attributes_are_readable_in_callbacks_and_cleared_after_the_last() {
    let (connection, handle, log) = connection();
    handle.insert(7_u32);
    for n in 0..2 {
        let (inside, inner) = (handle.clone(), log.clone());
        handle.add_close_callback("a", n, move |_| {
            inner.note(format!("{:?}", inside.get::<u32>()));
        });
    }
    drop(connection);
    log.assert(&["Some(7)", "Some(7)"]);
    assert_eq!(handle.get::<u32>(), None);
}

/// A key whose destructor and comparison use the connection, as a key that contains a session
/// might.
struct Reentrant(ConnectionHandle, &'static str);

impl PartialEq for Reentrant {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name() && self.1 == other.1
    }
}

impl Eq for Reentrant {}

impl Hash for Reentrant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
        self.1.hash(state);
    }
}

impl Drop for Reentrant {
    fn drop(&mut self) {
        self.0.remove_close_callback("another", 0);
        let _ = self.0.get::<u32>();
    }
}

#[test]
fn keys_may_use_the_connection_when_compared_and_dropped() {
    let (connection, handle, log) = connection();
    let key = |name| Reentrant(handle.clone(), name);
    handle.add_close_callback(key("a"), 0, log.noting("a"));
    let added = handle.add_close_callback(key("a"), 0, log.noting("a again"));
    assert_eq!(added, CallbackAdded::Replaced);
    handle.add_close_callback(key("b"), 0, log.noting("b"));
    assert!(handle.remove_close_callback(key("b"), 0));
    drop(connection);
    log.assert(&["a again"]);
}

#[test]
fn key_that_panics_when_dropped_does_not_affect_other_callbacks() {
    #[derive(PartialEq, Eq, Hash)]
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("this message is expected");
            }
        }
    }

    let (connection, handle, log) = connection();
    handle.add_close_callback(PanicsOnDrop, 0, log.noting("a"));
    handle.add_close_callback("b", 0, log.noting("b"));
    drop(connection);
    log.assert(&["a", "b"]);
    assert!(handle.is_closed());
}

#[test]
fn panicking_comparison_leaves_the_callbacks_unchanged() {
    struct Panicking;
    impl PartialEq for Panicking {
        fn eq(&self, _: &Self) -> bool {
            panic!("this message is expected");
        }
    }
    impl Eq for Panicking {}
    impl Hash for Panicking {
        fn hash<H: Hasher>(&self, _: &mut H) {}
    }
    /// Captured by the callback that is never added. Its destructor uses the connection.
    struct Back(ConnectionHandle);
    impl Drop for Back {
        fn drop(&mut self) {
            self.0.remove_close_callback("another", 0);
        }
    }

    let (connection, handle, log) = connection();
    handle.add_close_callback(Panicking, 0, log.noting("kept"));
    let back = Back(handle.clone());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        handle.add_close_callback(Panicking, 0, move |_| drop(back))
    }));
    assert!(outcome.is_err());
    drop(connection);
    log.assert(&["kept"]);
}

/// A key that counts comparisons and hashes of all keys of its type.
struct Counting(u32, Arc<AtomicUsize>);

impl Counting {
    fn count(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

impl PartialEq for Counting {
    fn eq(&self, other: &Self) -> bool {
        self.count();
        self.0 == other.0
    }
}

impl Eq for Counting {}

impl Hash for Counting {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.count();
        self.0.hash(state);
    }
}

#[test]
fn ten_thousand_callbacks_are_added_replaced_and_removed_in_linear_time() {
    const MANY: u32 = 10_000;
    /// Maximum comparisons and hashes of one operation, on average.
    const MOST: usize = 8;

    let (connection, handle, _) = connection();
    let calls = Arc::new(AtomicUsize::new(0));
    let ran = Arc::new(Mutex::new(Vec::new()));
    let key = |n| Counting(n, Arc::clone(&calls));
    let add = |n, round| {
        let ran = Arc::clone(&ran);
        handle.add_close_callback(key(n), "count", move |_| {
            ran.lock().unwrap().push((n, round));
        })
    };
    let spent = || calls.swap(0, Ordering::Relaxed);
    let most = MOST * MANY as usize;

    (0..MANY).for_each(|n| assert_eq!(add(n, 0), CallbackAdded::Appended));
    assert!((1..most).contains(&spent()));
    (0..MANY).for_each(|n| assert_eq!(add(n, 1), CallbackAdded::Replaced));
    assert!((1..most).contains(&spent()));
    // removes entries at the front, at the end and in the middle
    let removed = |n: u32| n % 2 == 1 || !(100..MANY - 100).contains(&n);
    for n in (0..MANY).filter(|n| removed(*n)) {
        assert!(handle.remove_close_callback(key(n), "count"));
        assert!(!handle.remove_close_callback(key(n), "count"));
    }
    assert!((1..2 * most).contains(&spent()));
    drop(connection);
    assert_eq!(spent(), 0, "no key is compared at the close");
    let expected = (0..MANY).filter(|n| !removed(*n)).map(|n| (n, 1));
    assert!(ran.lock().unwrap().iter().copied().eq(expected));
}

/// A simple model of a list of callbacks.
#[derive(Default)]
struct Model(Vec<(u32, u32)>);

impl Model {
    fn add(&mut self, key: u32, value: u32) -> CallbackAdded {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.0 == key) {
            entry.1 = value;
            return CallbackAdded::Replaced;
        }
        self.0.push((key, value));
        CallbackAdded::Appended
    }

    fn remove(&mut self, key: u32) -> bool {
        let len = self.0.len();
        self.0.retain(|entry| entry.0 != key);
        self.0.len() < len
    }
}

/// A key that has one of `SAME` different hashes.
#[derive(PartialEq, Eq)]
struct Colliding<const SAME: u32>(u32);

impl<const SAME: u32> Hash for Colliding<SAME> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0 % SAME).hash(state);
    }
}

fn compare_with_the_model<const SAME: u32>() {
    let mut random = 0x9e37_79b9_u32;
    let mut next = move |below: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % below
    };
    for keys in [4, 40, 400] {
        let (connection, handle, _) = connection();
        let ran = Arc::new(Mutex::new(Vec::new()));
        let mut model = Model::default();
        for round in 0..4000 {
            // most additions are at first, and most removals are later
            let key = next(keys);
            if next(4000) >= round {
                let ran = Arc::clone(&ran);
                let added = handle.add_close_callback(Colliding::<SAME>(key), (), move |_| {
                    ran.lock().unwrap().push((key, round));
                });
                assert_eq!(added, model.add(key, round));
            } else {
                let removed = handle.remove_close_callback(Colliding::<SAME>(key), ());
                assert_eq!(removed, model.remove(key));
            }
        }
        drop(connection);
        assert_eq!(*ran.lock().unwrap(), model.0);
    }
}

#[test]
fn additions_and_removals_keep_order_and_positions() {
    compare_with_the_model::<1>();
    compare_with_the_model::<3>();
    compare_with_the_model::<{ u32::MAX }>();
}

#[test]
fn panicking_hash_leaves_the_callbacks_unchanged() {
    #[derive(PartialEq, Eq)]
    struct Panicking(u32);
    impl Hash for Panicking {
        fn hash<H: Hasher>(&self, _: &mut H) {
            assert!(self.0 != 7, "this message is expected");
        }
    }

    let (connection, handle, log) = connection();
    let mut refused = 0;
    for n in 0..100 {
        let note = log.noting(n.to_string());
        let add = AssertUnwindSafe(|| handle.add_close_callback(Panicking(n), (), note));
        refused += usize::from(catch_unwind(add).is_err());
    }
    assert!(refused > 0, "a long list is hashed");
    drop(connection);
    let ran = log.0.lock().unwrap();
    assert_eq!(ran.len(), 100 - refused);
    assert!(
        ran.iter()
            .take(8)
            .eq(["0", "1", "2", "3", "4", "5", "6", "7"])
    );
}
