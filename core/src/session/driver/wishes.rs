//! What layers ask of a driver.

use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use crate::{
    connection::{Contained, Kept, checks::Checks},
    session::watched::Number,
};

/// What layers have asked of a driver.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    checks: Checks,
    write_timeout: Option<Option<Duration>>,
    /// Dropped when nothing more will be received.
    until_input_ends: Vec<Contained<Box<dyn Kept>>>,
}

impl<Out> Driver<Out> {
    pub(super) fn take_wishes(&mut self) {
        let new = self.handle.take_wishes();
        let rare = self.rare.get_or_insert_default();
        rare.held = new.holds > 0;
        let wishes = &mut rare.wishes;
        wishes.checks.extend(new.checks);
        wishes.write_timeout = new.write_timeout.or(wishes.write_timeout);
        wishes.until_input_ends.extend(new.until_input_ends);
        if self.input_ended {
            self.input_ended();
        }
    }

    /// The codec has refused the watched message with this number.
    pub(super) fn refused(&mut self, number: Number) {
        let handle = &self.handle;
        let kept = self.rare.iter_mut();
        kept.flat_map(|rare| &mut rare.wishes.until_input_ends)
            .for_each(|kept| kept.refused(number, handle));
    }

    /// Whether a layer [holds](crate::ConnectionHandle::hold) the session back from opening.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.held)
    }

    /// When to [`run_checks`](Self::run_checks) next.
    #[inline]
    pub fn next_check(&self) -> Option<Instant> {
        self.rare.as_ref()?.wishes.checks.next()
    }

    /// Runs the [checks](crate::ConnectionHandle::check_at) that are due.
    pub fn run_checks(&mut self, now: Instant) {
        // for checks that report it: kept up here, because keeping it up where messages move would cost each of them
        #[cfg(feature = "metrics")]
        self.handle.set_queued(self.session.queued());
        if let Some(rare) = &mut self.rare {
            rare.wishes.checks.run(&self.handle, now);
        }
    }

    /// Whether the transport's own ping was asked for, and is yet to be sent.
    #[inline]
    pub const fn wants_ping(&self) -> bool {
        self.ping
    }

    /// The ping that was asked for is sent.
    pub const fn pinged(&mut self) {
        self.ping = false;
    }

    /// The write timeout that a layer has set: see [`set_write_timeout`](crate::ConnectionHandle::set_write_timeout).
    #[inline]
    pub fn write_timeout(&self) -> Option<Option<Duration>> {
        self.rare.as_ref()?.wishes.write_timeout
    }

    /// Nothing more will be received: the peer has ended its direction and all of it is decoded. That the session closes
    /// says [`close_queue`](Self::close_queue). Drops what layers have asked to be
    /// [kept until then](crate::ConnectionHandle::keep_until_input_ends).
    pub fn input_ended(&mut self) {
        self.input_ended = true;
        let kept = self.rare.iter_mut();
        kept.flat_map(|rare| std::mem::take(&mut rare.wishes.until_input_ends))
            .for_each(drop);
    }
}
