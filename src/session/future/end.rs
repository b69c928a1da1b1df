//! The end of a session: what each failure makes of it, and the steps from there.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_layers::{CloseReason, IntoReply, Panic, Request};
use tokio::task::coop;
use tower::{BoxError, Service};

use super::{Next, Phase, State, quietly};
use crate::{
    session::{buffers::BUFFER, clock::Clock, renew::Renew, wire::Wire},
    transport::Framing,
};

/// So many reads a turn empty the kernel's buffer after the end, so that closing does not reset the connection and destroy
/// what we sent last.
const LAST_READS: usize = 16;
/// More of a byte stream than this, and more is likely to be on its way.
const MUCH: usize = BUFFER;
/// In so many turns as much is thrown away as peer and network can have had on the way, and no more: some 32 MiB.
const LAST_TURNS: u8 = 32;

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
        // last, for the destructors are the application's
        self.waiting.take().discard();
        let service = self.service.take();
        quietly(|| drop(service));
        quietly(|| self.renew.stop_making());
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
        if let Err(error) = ready!(self.wire.poll_close(cx, &reason)) {
            tracing::debug!(session = %self.session(), %error, "closing the transport failed");
        }
        self.phase = Phase::Lingering(LAST_TURNS);
        self.poll_linger(cx)
    }

    /// Throws away what the peer still sends: until it is silent, or, if that is `much`, until it has ended its direction.
    /// Then it has what we sent.
    #[cold]
    pub(super) fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Phase::Lingering(turns) = self.phase else {
            return Poll::Ready(());
        };
        let is_stream = self.wire.framing() == Framing::Stream;
        let mut bytes = 0;
        for _ in 0..LAST_READS {
            match self.reader.discard(&mut self.wire, cx) {
                Poll::Ready(Some(discarded)) => bytes += discarded,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {
                    self.reader.rest();
                    if turns == LAST_TURNS && !(is_stream && bytes >= MUCH) {
                        // tokio may have let us read no more in this turn, which says nothing of the peer; it wakes us then
                        return if coop::has_budget_remaining() {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        };
                    }
                    // a wait takes no turn: the deadline bounds that
                    self.phase = Phase::Lingering(turns.min(LAST_TURNS - 1));
                    return Poll::Pending;
                }
            }
        }
        if !is_stream || turns == 0 {
            return Poll::Ready(());
        }
        self.phase = Phase::Lingering(turns - 1);
        cx.waker().wake_by_ref();
        Poll::Pending
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
