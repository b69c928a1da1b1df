//! Hooks that layers have registered.

use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use crate::connection::{Contained, OnInputEnd, RequestNumber, deadlines::Deadlines};

/// Hooks of layers, as the driver runs them.
#[derive(Debug, Default)]
pub(super) struct DriverHooks {
    deadlines: Deadlines,
    write_timeout: Option<Option<Duration>>,
    /// Dropped at the end of the input.
    on_input_end: Vec<Contained<Box<dyn OnInputEnd>>>,
}

impl<Out> Driver<Out> {
    /// Takes the hooks. Returns `true` if a setting of the session has changed.
    pub(super) fn take_hooks(&mut self) -> bool {
        let new = self.handle.take_hooks();
        let ext = self.ext.get_or_default();
        ext.open_delayed = new.open_guards > 0;
        let hooks = &mut ext.hooks;
        hooks.deadlines.extend(new.deadlines);
        hooks.write_timeout = new.write_timeout.or(hooks.write_timeout);
        hooks.on_input_end.extend(new.on_input_end);
        if self.input_ended {
            self.end_input();
        }
        new.recheck
    }

    /// Runs all [checks](crate::hooks::HandleExt::schedule_check), also those that are not due.
    #[cold]
    pub fn run_checks(&mut self, now: Instant) {
        if let Some(ext) = self.ext.get_mut() {
            ext.hooks.deadlines.recheck(&self.handle, now);
        }
    }

    /// Returns the maximum frame that was set and not applied.
    #[doc(hidden)]
    pub fn pending_max_frame(&self) -> Option<usize> {
        self.handle.pending_max_frame()
    }

    /// Notifies the hooks that the codec refused this request.
    pub(super) fn notify_refused(&mut self, number: RequestNumber) {
        let handle = &self.handle;
        if let Some(ext) = self.ext.get_mut() {
            for value in &mut ext.hooks.on_input_end {
                value.refused(number, handle);
            }
        }
    }

    /// Returns `true` while a layer [delays](crate::hooks::HandleExt::delay_open) the opening of
    /// the session.
    #[inline]
    #[doc(hidden)]
    pub fn is_open_delayed(&self) -> bool {
        self.ext.get().is_some_and(|ext| ext.open_delayed)
    }

    /// Returns the time at which [`run_deadlines`](Self::run_deadlines) must be called next.
    #[inline]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.ext.get()?.hooks.deadlines.next()
    }

    /// Runs the [deadlines](crate::hooks::HandleExt::schedule) that are due.
    pub fn run_deadlines(&mut self, now: Instant) {
        // for callbacks that report the number: counting where messages move would cost each
        // message
        #[cfg(feature = "metrics")]
        self.handle.set_queued(self.session.queued());
        if let Some(ext) = self.ext.get_mut() {
            ext.hooks.deadlines.run(&self.handle, now);
        }
    }

    /// Returns `true` if the transport's own ping was requested and not sent yet.
    #[inline]
    #[doc(hidden)]
    pub const fn is_ping_requested(&self) -> bool {
        self.ping
    }

    /// Records that the requested ping was sent.
    #[doc(hidden)]
    pub const fn clear_ping(&mut self) {
        self.ping = false;
    }

    /// Returns the write timeout that a layer has set: see
    /// [`set_write_timeout`](crate::hooks::HandleExt::set_write_timeout).
    #[inline]
    #[doc(hidden)]
    pub fn write_timeout(&self) -> Option<Option<Duration>> {
        self.ext.get()?.hooks.write_timeout
    }

    /// Records the end of the input: the peer has ended its direction and everything it sent is
    /// decoded. Drops the values that layers have
    /// [registered](crate::hooks::HandleExt::drop_on_input_end) for this. A closing session calls
    /// [`close_queue`](Self::close_queue) instead.
    #[doc(hidden)]
    pub fn end_input(&mut self) {
        self.input_ended = true;
        if let Some(ext) = self.ext.get_mut() {
            drop(std::mem::take(&mut ext.hooks.on_input_end));
        }
    }
}
