//! Sending: a session against a driver that is polled by hand.

mod crowd;
mod end;
mod memory;
mod outcomes;
mod room;
mod wakes;

use std::task::{Context, Waker};

use getty_core::{
    Connection, Sending, Session,
    driver::{self, Driver, Payload, Ticket},
};
use tokio_test::task;

/// A session whose queue holds `capacity` messages, its driver and its connection.
fn pair<Out>(capacity: u32) -> (Session<Out>, Driver<Out>, Connection<()>) {
    let connection = Connection::new(());
    let (session, mut driver) = driver::pair(connection.handle().clone());
    driver.set_queue_capacity(capacity);
    (session, driver, connection)
}

/// Begins a turn that nothing wakes.
fn turn<Out>(driver: &mut Driver<Out>) {
    driver.turn(&Context::from_waker(Waker::noop()));
}

/// The next message, which is encoded at once.
fn encode<Out>(driver: &mut Driver<Out>) -> Option<(Out, Option<Ticket>)> {
    turn(driver);
    let outgoing = driver.next_outgoing();
    driver.settle(false);
    outgoing.map(|outgoing| match outgoing.payload {
        Payload::Message(message) => (message, outgoing.ticket),
        other => panic!("{other:?}"),
    })
}

/// All the messages there are.
fn drain<Out>(driver: &mut Driver<Out>) -> Vec<Out> {
    std::iter::from_fn(|| encode(driver).map(|(message, _)| message)).collect()
}

fn sending<Out>(session: &Session<Out>, message: Out) -> task::Spawn<Sending<'_, Out>> {
    task::spawn(session.send(message))
}
