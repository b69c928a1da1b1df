//! Sends of a session whose driver is polled by hand.

mod budget;
mod capacity;
mod close;
mod concurrent;
mod order;
mod outcomes;

use std::task::{Context, Waker};

use getty_core::{
    Connection, Sending, Session,
    driver::{self, Driver, Payload, Ticket},
};
use tokio_test::task;

/// Creates a session whose queue holds `capacity` messages, with its driver and its connection.
fn pair<Out>(capacity: u32) -> (Session<Out>, Driver<Out>, Connection<()>) {
    let connection = Connection::new(());
    let (session, mut driver) = driver::pair(connection.handle().clone());
    driver.set_queue_capacity(capacity);
    (session, driver, connection)
}

/// Polls the driver with a waker that does nothing.
fn poll<Out>(driver: &mut Driver<Out>) {
    driver.register(&Context::from_waker(Waker::noop()));
}

/// Takes the next message and encodes it at once.
fn encode<Out>(driver: &mut Driver<Out>) -> Option<(Out, Option<Ticket>)> {
    poll(driver);
    let outgoing = driver.next_outgoing();
    driver.set_backpressure(false);
    outgoing.map(|outgoing| match outgoing.payload {
        Payload::Message(message) => (message, outgoing.ticket),
        other => panic!("{other:?}"),
    })
}

/// Takes all queued messages.
fn drain<Out>(driver: &mut Driver<Out>) -> Vec<Out> {
    std::iter::from_fn(|| encode(driver).map(|(message, _)| message)).collect()
}

fn sending<Out>(session: &Session<Out>, message: Out) -> task::Spawn<Sending<'_, Out>> {
    task::spawn(session.send(message))
}
