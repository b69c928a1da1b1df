//! Handlers in flight.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::stream::{FuturesOrdered, FuturesUnordered, Stream};
use getty_core::driver::Contained;
use pin_project_lite::pin_project;

use super::future::quietly;

pin_project! {
    /// The calls in flight of one session: one, in place and without an allocation, or several.
    #[project = CallsProj]
    pub(crate) enum Calls<F: Future> {
        One { #[pin] call: Option<F> },
        Ordered { calls: Box<FuturesOrdered<OneOfMany<F>>> },
        Unordered { calls: Box<FuturesUnordered<OneOfMany<F>>> },
    }
}

pin_project! {
    /// One call of several in flight. Their set drops many at once, and so do its finished replies.
    pub(crate) struct OneOfMany<F> {
        // None once it has finished
        #[pin]
        call: Option<F>,
    }

    impl<F> PinnedDrop for OneOfMany<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut call = this.project().call;
            if call.is_some() {
                quietly(|| call.set(None));
            }
        }
    }
}

impl<F> OneOfMany<F> {
    fn new(call: F) -> Self {
        Self { call: Some(call) }
    }
}

impl<F: Future> Future for OneOfMany<F> {
    type Output = Contained<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(output) = ready!(poll_one(self.project().call, cx)) else {
            unreachable!("a finished call is not polled again");
        };
        Poll::Ready(Contained::new(output))
    }
}

impl<F: Future> Calls<F> {
    pub(crate) fn new(most: usize, ordered: bool) -> Self {
        match (most, ordered) {
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
        // by itself, for it is what most sessions are whenever they are asked
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

    /// Adds the call that `make` makes; the only one of its session is polled at once, on its way in.
    #[inline]
    pub(crate) fn start(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        make: impl FnOnce() -> F,
    ) -> Poll<F::Output> {
        match self.project() {
            CallsProj::One { mut call } => {
                // It is empty already. Said here, where the compiler sees it, the future is made in its place: a drop of
                // an old one in between would have it made elsewhere, and copied in a way that stalls the processor.
                call.set(None);
                call.set(Some(make()));
                poll_one(call, cx).map(|output| match output {
                    Some(output) => output,
                    None => unreachable!("it was set above"),
                })
            }
            CallsProj::Ordered { calls } => {
                calls.push_back(OneOfMany::new(make()));
                Poll::Pending
            }
            CallsProj::Unordered { calls } => {
                calls.push(OneOfMany::new(make()));
                Poll::Pending
            }
        }
    }

    /// The next call that has finished; `None` when there is none in flight.
    #[inline]
    pub(crate) fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        match self.project() {
            CallsProj::One { call } => poll_one(call, cx),
            CallsProj::Ordered { calls } => poll_many(&mut **calls, cx),
            CallsProj::Unordered { calls } => poll_many(&mut **calls, cx),
        }
    }

    /// Whether a call that has just been started has also been polled.
    #[inline]
    pub(crate) const fn waits_alone(&self) -> bool {
        matches!(self, Self::One { .. })
    }

    /// Drops the calls in flight, one after another. A panic in a destructor is logged.
    pub(crate) fn clear(mut self: Pin<&mut Self>) {
        match self.as_mut().project() {
            CallsProj::One { mut call } => {
                if call.is_some() {
                    quietly(|| call.set(None));
                }
            }
            CallsProj::Ordered { calls } => **calls = FuturesOrdered::new(),
            CallsProj::Unordered { calls } => calls.clear(),
        }
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
