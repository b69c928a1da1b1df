//! Typed attributes of a connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use getty_layers::{Connection, ConnectionHandle, Session, driver};

#[test]
fn there_is_one_attribute_of_each_type() {
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
fn what_cannot_be_cloned_can_be_kept_and_taken() {
    struct Token(&'static str);

    let connection = Connection::new(());
    connection.handle().insert(Token("secret"));
    let token = connection.handle().remove::<Token>();
    assert_eq!(token.map(|token| token.0), Some("secret"));
}

#[test]
fn nothing_is_kept_after_the_close() {
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
fn the_close_breaks_a_cycle_through_an_attribute() {
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
fn an_attribute_may_use_the_connection_when_cloned_and_dropped() {
    struct Nosy(ConnectionHandle);
    impl Clone for Nosy {
        fn clone(&self) -> Self {
            self.0.insert(self.0.name());
            self.0.remove_close_callback("absent", 0);
            Self(self.0.clone())
        }
    }
    impl Drop for Nosy {
        fn drop(&mut self) {
            let _ = self.0.get::<Arc<str>>();
            self.0.close();
        }
    }

    let connection = Connection::new(());
    let handle = connection.handle().clone();
    handle.insert(Nosy(handle.clone()));
    assert!(handle.get::<Nosy>().is_some());
    drop(handle.insert(Nosy(handle.clone())));
    drop(handle.remove::<Nosy>());
    handle.insert(Nosy(handle.clone()));
    drop(connection);
    assert!(handle.is_closed());
}

#[test]
fn an_attribute_that_panics_when_dropped_harms_no_other() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("this message is expected");
        }
    }
    struct First(Bomb);
    struct Last(Bomb);

    let connection = Connection::new(());
    let handle = connection.handle().clone();
    let value = Arc::new(());
    handle.insert(First(Bomb));
    handle.insert(value.clone());
    handle.insert(Last(Bomb));
    drop(connection);
    assert!(handle.is_closed());
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn a_value_is_taken_once_however_many_ask_for_it() {
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
