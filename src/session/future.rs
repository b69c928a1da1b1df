//! The future of one session, which polls the session loop and ends the session.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use getty_core::{Closed, Panic, Request, driver::CloseGuard};
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::{
    calls::InFlight,
    config::Config,
    driver::{SessionLoop, discard},
    framed_transport::FramedTransport,
    stack::{MessageStack, StackSource},
};

pin_project! {
    /// Future of one session.
    ///
    /// Resolves to the record of the session. Dropping it ends the session at once, as
    /// [`CloseReason::Dropped`](crate::CloseReason::Dropped).
    #[must_use = "futures do nothing unless polled"]
    pub struct SessionFuture<S, W, R>
    where
        S: Service<Request<W::In, W::Out>>,
        W: FramedTransport,
    {
        #[pin]
        calls: InFlight<S::Future>,
        // Must be declared before `guard`: the session must be dropped before the guard runs close
        // callbacks (design.md: Why are fields declared in a particular order?).
        session: Option<SessionLoop<S, W, R>>,
        guard: CloseGuard,
    }

    impl<S, W, R> PinnedDrop for SessionFuture<S, W, R>
    where
        S: Service<Request<W::In, W::Out>>,
        W: FramedTransport,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            discard(this.calls, this.session);
        }
    }
}

impl<S, W, R> SessionFuture<S, W, R>
where
    S: Service<Request<W::In, W::Out>>,
    W: FramedTransport,
{
    pub(super) fn new(
        service: Option<S>,
        source: R,
        wire: W,
        guard: CloseGuard,
        config: Arc<Config>,
    ) -> Self {
        Self {
            calls: InFlight::new(config.in_flight, config.ordered),
            session: Some(SessionLoop::new(service, source, wire, config)),
            guard,
        }
    }
}

impl<S, W, R> Future for SessionFuture<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    // (design.md: Why does the pipeline return `Ok(Closed)` even when a session failed?)
    type Output = Result<Closed, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_end(cx, |closed, _| Ok(closed))
    }
}

impl<S, W, R> SessionFuture<S, W, R>
where
    S: MessageStack<W>,
    W: FramedTransport,
    R: StackSource<S>,
{
    /// Polls like the future itself, but `end` makes the response. Its flag is `true` if the
    /// session was open.
    #[inline(always)]
    pub(super) fn poll_end<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        end: impl FnOnce(Closed, bool) -> T,
    ) -> Poll<T> {
        let mut this = self.project();
        let Some(session) = this.session else {
            panic!("a session's future was polled after it was ready");
        };
        // A panic ends this session alone, after its callbacks (design.md: Why is there one
        // `catch_unwind` around a whole poll?).
        loop {
            match Panic::catch(|| session.poll(this.calls.as_mut(), this.guard, cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => break,
                Err(panic) => {
                    if session.recover(this.calls.as_mut(), panic).is_break() {
                        break;
                    }
                }
            }
        }
        discard(this.calls, this.session);
        let guard = this.guard.take();
        let was_open = guard.is_open();
        Poll::Ready(end(guard.finish(), was_open))
    }
}

impl<S, W, R> fmt::Debug for SessionFuture<S, W, R>
where
    S: Service<Request<W::In, W::Out>>,
    W: FramedTransport,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("SessionFuture");
        if let Some(session) = &self.session {
            debug
                .field("session", session.session())
                .field("phase", &session.phase());
        }
        debug.finish_non_exhaustive()
    }
}
