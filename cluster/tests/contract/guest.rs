//! Sessions without sockets. The fuzz targets of the cluster use them as well.

use std::task::{Context, Waker};

use getty_core::{
    Connection, Session,
    driver::{self, Driver, Payload},
};

/// Session without a socket.
pub(crate) struct Guest<Out> {
    pub(crate) session: Session<Out>,
    driver: Driver<Out>,
    _connection: Connection<()>,
}

impl<Out: Clone + Send + Sync + 'static> Guest<Out> {
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
    pub(crate) fn received(&mut self) -> Vec<Out> {
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
