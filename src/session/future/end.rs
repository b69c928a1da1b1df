//! The end of a session: what each failure makes of it, and the steps from there.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use getty_layers::{CloseReason, IntoReply, Panic, Request};
use tower::{BoxError, Service};

use super::{Next, Phase, State};
use crate::session::{clock::Clock, renew::Renew, wire::Wire};

/// At most so many reads empty the kernel's buffer after the end, so that closing does not reset the connection and
/// destroy what we sent last.
const LAST_READS: usize = 16;

impl<S, W, R> State<S, W, R>
where
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>,
    W: Wire,
    R: Renew<S>,
{
    /// The first step of every close: nothing is read or decoded any more, and the rest has a deadline.
    #[cold]
    pub(super) fn stop_reading(&mut self, phase: Phase, clock: &mut Clock) {
        self.phase = phase;
        let driver = self.wire.driver();
        driver.close_queue();
        if !driver.closes_after_flush() {
            self.begin_drain_deadline(clock);
        }
        self.reader.release();
        self.reader.forget_ahead();
        // last, for the destructors are the user's
        drop((self.waiting.take(), self.service.take()));
    }

    /// The rest has a deadline from here on, unless it has one already.
    pub(super) fn begin_drain_deadline(&mut self, clock: &mut Clock) {
        let deadline = self.wire.driver().requested_deadline();
        let deadline = deadline.unwrap_or(self.config.drain_deadline);
        self.timer.drain_until(|| clock.now().checked_add(deadline));
    }

    /// Begins the drain deadline that a close without one was given later.
    pub(super) fn hurry(&mut self, clock: &mut Clock) {
        if self.timer.drain_deadline().is_none() && !self.wire.driver().closes_after_flush() {
            self.begin_drain_deadline(clock);
        }
    }

    /// Whether nothing that is left to say can reach the peer.
    pub(super) fn is_cut_short(&self) -> bool {
        matches!(
            self.session().reason(),
            Some(CloseReason::Io | CloseReason::WriteTimeout)
        )
    }

    /// Nothing waits to be encoded, and all that was encoded has left.
    pub(super) fn is_flushed(&mut self) -> bool {
        !self.wire.driver().has_outgoing() && self.writer.is_flushed()
    }

    #[cold]
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reason = self.session().reason().unwrap_or(CloseReason::Dropped);
        match self.wire.poll_close(cx, &reason) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                tracing::debug!(session = %self.session(), %error, "closing the transport failed");
            }
        }
        for _ in 0..LAST_READS {
            if !self.reader.discard(&mut self.wire, cx) {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Ends the session at once: nothing that is left to say can reach the peer.
    #[cold]
    pub(super) fn transport_failed(&mut self, error: io::Error) -> Next {
        if self.session().is_closing() {
            self.wire.driver().note_source(Arc::new(error));
        } else {
            self.close_because(CloseReason::Io, error);
        }
        Next::End
    }

    /// The message stack returned an error, which may be a panic that a layer of it has caught.
    #[cold]
    pub(super) fn stack_failed(&mut self, error: impl Into<BoxError>) {
        let error = error.into();
        let reason = if error.is::<Panic>() {
            CloseReason::Panicked
        } else {
            CloseReason::Handler
        };
        self.close_because(reason, error);
    }

    pub(super) fn close_because(&mut self, reason: CloseReason, source: impl Into<BoxError>) {
        self.session().close_because(reason, source);
    }
}
