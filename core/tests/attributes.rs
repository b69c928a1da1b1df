//! Attributes of a connection, by type and by key.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use getty_core::{Connection, ConnectionHandle, Session, driver};

#[test]
fn one_attribute_is_stored_for_each_type() {
    let connection = Connection::new(());
    let handle = connection.handle();
    assert_eq!(handle.get::<u32>(), None);
    assert_eq!(handle.remove::<u32>(), None);
    assert_eq!(handle.insert(1_u32), None);
    assert_eq!(handle.insert(2_u64), None);
    assert_eq!(handle.insert(3_u32), Some(1));
    assert_eq!(handle.get::<u32>(), Some(3));
    assert_eq!(handle.remove::<u32>(), Some(3));
    assert_eq!(handle.remove::<u32>(), None);
    assert_eq!(handle.get::<u64>(), Some(2));
}

#[test]
fn value_without_clone_can_be_stored_and_removed() {
    struct Token(&'static str);

    let connection = Connection::new(());
    connection.handle().insert(Token("secret"));
    let token = connection.handle().remove::<Token>();
    assert_eq!(token.map(|token| token.0), Some("secret"));
}

#[test]
fn no_attribute_is_stored_after_the_close() {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    let value = Arc::new(());
    handle.insert(value.clone());
    drop(connection);
    assert_eq!(Arc::strong_count(&value), 1);
    assert!(handle.insert(value.clone()).is_none());
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn close_breaks_a_cycle_through_an_attribute() {
    struct Mine {
        _session: Session<String>,
        _counted: Arc<()>,
    }

    let counted = Arc::new(());
    let connection = Connection::new(());
    let (session, driver) = driver::pair::<String>(connection.handle().clone());
    connection.handle().insert(Mine {
        _session: session,
        _counted: counted.clone(),
    });
    drop(driver);
    drop(connection);
    assert_eq!(Arc::strong_count(&counted), 1);
}

#[test]
fn attribute_may_use_the_connection_when_cloned_and_dropped() {
    struct Reentrant(ConnectionHandle);
    impl Clone for Reentrant {
        fn clone(&self) -> Self {
            self.0.insert(self.0.name());
            self.0.remove_close_callback("absent", 0);
            Self(self.0.clone())
        }
    }
    impl Drop for Reentrant {
        fn drop(&mut self) {
            let _ = self.0.get::<Arc<str>>();
            self.0.close();
        }
    }

    let connection = Connection::new(());
    let handle = connection.handle().clone();
    handle.insert(Reentrant(handle.clone()));
    assert!(handle.get::<Reentrant>().is_some());
    drop(handle.insert(Reentrant(handle.clone())));
    drop(handle.remove::<Reentrant>());
    handle.insert(Reentrant(handle.clone()));
    drop(connection);
    assert!(handle.is_closed());
}

#[test]
fn attribute_that_panics_when_dropped_does_not_affect_others() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("this message is expected");
        }
    }
    struct First(PanicsOnDrop);
    struct Last(PanicsOnDrop);

    let connection = Connection::new(());
    let handle = connection.handle().clone();
    let value = Arc::new(());
    handle.insert(First(PanicsOnDrop));
    handle.insert(value.clone());
    handle.insert(Last(PanicsOnDrop));
    drop(connection);
    assert!(handle.is_closed());
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn value_is_removed_by_one_of_several_threads() {
    #[derive(Clone)]
    struct Value(Arc<AtomicUsize>);

    let connection = Connection::new(());
    let handle = connection.handle();
    let counter = Arc::new(AtomicUsize::new(0));
    for _ in 0..100 {
        handle.insert(Value(counter.clone()));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let _ = handle.get::<Value>();
                    if let Some(value) = handle.remove::<Value>() {
                        value.0.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    }
    assert_eq!(counter.load(Ordering::Relaxed), 100);
}

#[test]
fn no_value_is_kept_that_is_inserted_while_the_connection_closes() {
    let value = Arc::new(());
    for _ in 0..200 {
        let connection = Connection::new(());
        let handle = connection.handle().clone();
        thread::scope(|scope| {
            scope.spawn(|| {
                handle.insert(value.clone());
                handle.insert_at(1, value.clone());
            });
            drop(connection);
        });
        assert_eq!(Arc::strong_count(&value), 1);
    }
}

#[test]
fn types_inserted_by_several_threads_are_all_stored() {
    for _ in 0..200 {
        let connection = Connection::new(());
        let handle = connection.handle();
        thread::scope(|scope| {
            scope.spawn(|| handle.insert(1_u8).or(handle.insert(2_u8)));
            scope.spawn(|| handle.insert(1_u16));
            scope.spawn(|| handle.insert(1_u32));
        });
        assert_eq!(handle.get::<u8>(), Some(2));
        assert_eq!(handle.get::<u16>(), Some(1));
        assert_eq!(handle.get::<u32>(), Some(1));
    }
}

#[test]
fn one_attribute_is_stored_for_each_key_and_type() {
    #[derive(PartialEq, Eq)]
    enum Field {
        Visits,
        Errors,
    }

    let connection = Connection::new(());
    let handle = connection.handle();
    assert_eq!(handle.get_at::<u32>(&"visits"), None);
    assert_eq!(handle.remove_at::<u32>(&"visits"), None);

    assert_eq!(handle.insert_at("visits", 1_u32), None);
    assert_eq!(handle.insert_at("errors", 2_u32), None);
    assert_eq!(handle.insert_at("visits", 3_u32), Some(1));
    // values of another type, values under a key of another type, and values without a key are
    // separate
    assert_eq!(handle.insert_at("visits", 4_u64), None);
    assert_eq!(handle.insert_at("visits".to_owned(), 5_u32), None);
    assert_eq!(handle.insert_at(Field::Visits, 6_u32), None);
    assert_eq!(handle.insert(7_u32), None);

    assert_eq!(handle.get_at::<u32>(&"visits"), Some(3));
    assert_eq!(handle.get_at::<u64>(&"visits"), Some(4));
    assert_eq!(handle.get_at::<u32>(&"visits".to_owned()), Some(5));
    assert_eq!(handle.get_at::<u32>(&Field::Visits), Some(6));
    assert_eq!(handle.get_at::<u32>(&Field::Errors), None);
    assert_eq!(handle.get::<u32>(), Some(7));

    assert_eq!(handle.remove_at::<u32>(&"visits"), Some(3));
    assert_eq!(handle.remove_at::<u32>(&"visits"), None);
    assert_eq!(handle.get_at::<u32>(&"errors"), Some(2));
    assert_eq!(handle.get_at::<u64>(&"visits"), Some(4));
}

#[test]
fn no_keyed_attribute_is_stored_after_the_close() {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    let value = Arc::new(());
    handle.insert_at(value.clone(), value.clone());
    drop(connection);
    assert_eq!(Arc::strong_count(&value), 1);
    assert!(handle.insert_at(value.clone(), value.clone()).is_none());
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn callbacks_can_read_keyed_attributes() {
    let connection = Connection::new(());
    let handle = connection.handle().clone();
    handle.insert_at("user", "ada".to_owned());
    let found = Arc::new(Mutex::new(None));
    let seen = (handle.clone(), found.clone());
    handle.add_close_callback("test", 0, move |_| {
        *seen.1.lock().unwrap() = seen.0.get_at::<String>(&"user");
    });
    drop(connection);
    assert_eq!(found.lock().unwrap().as_deref(), Some("ada"));
    assert_eq!(handle.get_at::<String>(&"user"), None);
}

#[test]
fn key_may_use_the_connection_when_compared_and_dropped() {
    struct Reentrant(u32, ConnectionHandle);
    impl PartialEq for Reentrant {
        fn eq(&self, other: &Self) -> bool {
            self.1.insert(self.1.name());
            self.0 == other.0
        }
    }
    impl Eq for Reentrant {}
    impl Drop for Reentrant {
        fn drop(&mut self) {
            // deadlocks if a lock is held
            assert_eq!(self.1.get_at::<u64>(&"absent"), None);
            self.1.close();
        }
    }

    let connection = Connection::new(());
    let handle = connection.handle().clone();
    let key = |n| Reentrant(n, handle.clone());
    assert_eq!(handle.insert_at(key(1), 1_u32), None);
    assert_eq!(handle.insert_at(key(2), 2_u32), None);
    assert_eq!(handle.insert_at(key(1), 3_u32), Some(1));
    assert_eq!(handle.get_at::<u32>(&key(1)), Some(3));
    assert_eq!(handle.remove_at::<u32>(&key(1)), Some(3));
    drop(connection);
    assert!(handle.is_closed());
}

#[test]
fn concurrent_inserts_under_keys_lose_no_value() {
    let connection = Connection::new(());
    let handle = connection.handle();
    thread::scope(|scope| {
        for thread in 0..4_u32 {
            scope.spawn(move || {
                for n in 0..100_u32 {
                    assert_eq!(handle.insert_at((thread, n), n), None);
                }
            });
        }
    });
    for thread in 0..4_u32 {
        for n in 0..100_u32 {
            assert_eq!(handle.get_at::<u32>(&(thread, n)), Some(n));
        }
    }
}
