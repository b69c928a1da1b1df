//! Handlers in flight: their futures, polled by the session loop.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::stream::{FuturesOrdered, FuturesUnordered, Stream};
use getty_core::hooks::Contained;
use pin_project_lite::pin_project;

use super::catch::catch_panics;

pin_project! {
    /// The calls in flight of one session. A single call is stored in place and allocates nothing.
    #[project = InFlightProj]
    pub(crate) enum InFlight<F: Future> {
        One { #[pin] call: Option<F> },
        Ordered { calls: Box<FuturesOrdered<ConcurrentCall<F>>> },
        Unordered { calls: Box<FuturesUnordered<ConcurrentCall<F>>> },
    }
}

pin_project! {
    /// One of several calls in flight. Each drops its future inside a separate catch, because the
    /// set drops many at once (design.md: Why is each value of the application dropped inside a
    /// separate catch?).
    pub(crate) struct ConcurrentCall<F> {
        // `None` once the call has finished.
        #[pin]
        call: Option<F>,
    }

    impl<F> PinnedDrop for ConcurrentCall<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut call = this.project().call;
            if call.is_some() {
                catch_panics(|| call.set(None));
            }
        }
    }
}

impl<F> ConcurrentCall<F> {
    fn new(call: F) -> Self {
        Self { call: Some(call) }
    }
}

impl<F: Future> Future for ConcurrentCall<F> {
    type Output = Contained<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(output) = ready!(poll_one(self.project().call, cx)) else {
            unreachable!("a finished call is not polled again");
        };
        Poll::Ready(Contained::new(output))
    }
}

impl<F: Future> InFlight<F> {
    /// Creates an empty set of at most `max` calls. `ordered` calls return their results in the
    /// order in which they were started.
    pub(crate) fn new(max: usize, ordered: bool) -> Self {
        match (max, ordered) {
            (..=1, _) => Self::One { call: None },
            (_, true) => Self::Ordered {
                calls: Box::new(FuturesOrdered::new()),
            },
            (_, false) => Self::Unordered {
                calls: Box::new(FuturesUnordered::new()),
            },
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Checked first, because it is the usual state of most sessions.
        matches!(self, Self::One { call: None }) || self.len() == 0
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One { call } => usize::from(call.is_some()),
            Self::Ordered { calls } => calls.len(),
            Self::Unordered { calls } => calls.len(),
        }
    }

    /// Returns the place of a single call, or `None` if several calls can be in flight.
    #[inline]
    pub(crate) fn single(self: Pin<&mut Self>) -> Option<SingleCall<'_, F>> {
        match self.project() {
            InFlightProj::One { call } => Some(SingleCall(call)),
            _ => None,
        }
    }

    /// Adds one of several calls. It is not polled yet.
    #[inline]
    pub(crate) fn push(self: Pin<&mut Self>, call: F) {
        match self.project() {
            InFlightProj::One { .. } => unreachable!("a single call has a place"),
            InFlightProj::Ordered { calls } => calls.push_back(ConcurrentCall::new(call)),
            InFlightProj::Unordered { calls } => calls.push(ConcurrentCall::new(call)),
        }
    }

    /// Polls for the result of the next call that finishes. `None` if no call is in flight.
    #[inline]
    pub(crate) fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        match self.project() {
            InFlightProj::One { call } => poll_one(call, cx),
            InFlightProj::Ordered { calls } => poll_many(&mut **calls, cx),
            InFlightProj::Unordered { calls } => poll_many(&mut **calls, cx),
        }
    }

    /// Returns `true` if a call is polled when it is started.
    #[inline]
    pub(crate) const fn polls_at_start(&self) -> bool {
        matches!(self, Self::One { .. })
    }

    /// Drops the calls in flight, one at a time. A panic in a destructor is logged.
    pub(crate) fn clear(mut self: Pin<&mut Self>) {
        match self.as_mut().project() {
            InFlightProj::One { mut call } => {
                if call.is_some() {
                    catch_panics(|| call.set(None));
                }
            }
            InFlightProj::Ordered { calls } => **calls = FuturesOrdered::new(),
            InFlightProj::Unordered { calls } => calls.clear(),
        }
    }
}

/// The place of a single call.
pub(crate) struct SingleCall<'a, F>(Pin<&'a mut Option<F>>);

impl<F: Future> SingleCall<'_, F> {
    /// Starts a call and polls it at once (design.md: Why does the handler's first poll happen in
    /// the loop?).
    ///
    /// `make` is inlined if it has no other caller, which saves more than it costs.
    #[inline]
    pub(crate) fn start(
        mut self,
        cx: &mut Context<'_>,
        make: impl FnOnce() -> F,
    ) -> Poll<F::Output> {
        // The call is `None` already. With this line the compiler knows it and builds the future in
        // place. It would otherwise build the future on the stack and copy it, which stalls the
        // processor.
        self.0.set(None);
        self.0.set(Some(make()));
        poll_one(self.0, cx).map(|output| match output {
            Some(output) => output,
            None => unreachable!("the call was set above"),
        })
    }
}

#[inline]
fn poll_many<T>(
    calls: &mut (impl Stream<Item = Contained<T>> + Unpin),
    cx: &mut Context<'_>,
) -> Poll<Option<T>> {
    let finished = Pin::new(calls).poll_next(cx);
    finished.map(|reply| reply.map(Contained::into_inner))
}

#[inline]
fn poll_one<F: Future>(
    mut call: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<Option<F::Output>> {
    let Some(future) = call.as_mut().as_pin_mut() else {
        return Poll::Ready(None);
    };
    future.poll(cx).map(|output| {
        call.set(None);
        Some(output)
    })
}
