//! Sessions without sockets.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use getty_core::{
    Connection, Session,
    driver::{self, Driver, Payload},
};

/// Session without a socket.
pub(crate) struct Guest {
    pub(crate) session: Session<String>,
    driver: Driver<String>,
    _connection: Connection<()>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let connection = Connection::new(());
        let (session, driver) = driver::pair(connection.handle().clone());
        Self {
            session,
            driver,
            _connection: connection,
        }
    }

    /// Returns the messages that were sent to this session since the last call.
    pub(crate) fn received(&mut self) -> Vec<String> {
        self.driver.register(&Context::from_waker(Waker::noop()));
        let received = std::iter::from_fn(|| self.driver.next_outgoing())
            .map(|outgoing| match outgoing.payload {
                Payload::Message(message) => message,
                Payload::Shared(message) => message.message(),
                other => panic!("unexpected payload: {other:?}"),
            })
            .collect();
        self.driver.set_backpressure(false);
        received
    }
}

/// Lets other tasks run until `condition` is true, at most for a minute.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    for n in 0..61_000 {
        if condition() {
            return;
        }
        // Without a pause the clock of the bus in memory stands still.
        if n < 1000 {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    panic!("the condition has not become true");
}
