//! What the requests of one session share.

use std::{sync::Arc, task::Wake, time::Duration};

use crate::{
    ConnectionHandle,
    connection::Kept,
    correlate::{
        matching::Matching,
        table::{Limits, Table},
    },
    session::Number,
};

/// What the requests of one session share: an attribute of its handle.
pub(in crate::correlate) struct Shared<In, Out> {
    pub(in crate::correlate) table: Table<In>,
    pub(super) matching: Arc<dyn Matching<In, Out>>,
    pub(super) deadline: Option<Duration>,
}

impl<In, Out> Shared<In, Out> {
    pub(in crate::correlate) fn new(
        limits: Limits,
        matching: impl Matching<In, Out>,
        deadline: Option<Duration>,
    ) -> Self {
        Self {
            table: Table::new(limits),
            matching: Arc::new(matching),
            deadline,
        }
    }
}

impl<In: Send + 'static, Out: 'static> Shared<In, Out> {
    /// Has the driver tell of what it could not encode from the first request on: by the time that this is asked for, it may
    /// have been too late for that one.
    pub(in crate::correlate) fn guard(self: &Arc<Self>, handle: &ConnectionHandle) {
        self.table.guarded();
        handle.keep(InputGuard(Arc::clone(self)));
    }
}

/// Woken for a message that cannot be sent: whose it is, they all have to look.
impl<In: Send + 'static, Out: 'static> Wake for Shared<In, Out> {
    fn wake(self: Arc<Self>) {
        self.table.wake_all();
    }
}

/// Kept by the driver; its drop says that nothing more will be received.
pub(super) struct InputGuard<In, Out>(pub(super) Arc<Shared<In, Out>>);

impl<In: Send, Out> Kept for InputGuard<In, Out> {
    /// The peer does not answer what it was not asked. Known here before the next message is received, when the one who
    /// asked may not have looked, or have given up.
    fn refused(&mut self, number: Number) {
        self.0.table.refused(number);
    }
}

impl<In, Out> Drop for InputGuard<In, Out> {
    fn drop(&mut self) {
        self.0.table.input_ended();
    }
}
