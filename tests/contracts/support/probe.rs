//! Message stack that checks tower's readiness contract. The test controls its readiness.

use std::{
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use getty::{BoxError, Request, Service};

use super::Answer;

/// Echoes once the test makes it ready. Panics if it is called without a ready poll.
#[derive(Debug)]
pub(crate) struct Probe {
    shared: Arc<Shared>,
    clone: usize,
    ready: bool,
}

/// Controls all clones of a probe.
#[derive(Clone, Debug)]
pub(crate) struct Control(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    clones: AtomicUsize,
    polls: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    readiness: Readiness,
    wakers: Vec<Waker>,
    callers: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Readiness {
    #[default]
    Ready,
    Waits,
    Fails,
}

pub(crate) fn probe() -> (Probe, Control) {
    let shared = Arc::new(Shared::default());
    let probe = Probe {
        shared: Arc::clone(&shared),
        clone: 0,
        ready: false,
    };
    (probe, Control(shared))
}

impl Control {
    fn set(&self, readiness: Readiness) {
        let mut state = self.0.state.lock().expect("no test panics in here");
        state.readiness = readiness;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn wait(&self) {
        self.set(Readiness::Waits);
    }

    pub(crate) fn ready(&self) {
        self.set(Readiness::Ready);
    }

    pub(crate) fn fail(&self) {
        self.set(Readiness::Fails);
    }

    /// Returns how often readiness was polled.
    pub(crate) fn polls(&self) -> usize {
        self.0.polls.load(SeqCst)
    }

    /// Returns the clone of each call.
    pub(crate) fn callers(&self) -> Vec<usize> {
        let state = self.0.state.lock().expect("no test panics in here");
        state.callers.clone()
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            clone: self.shared.clones.fetch_add(1, SeqCst) + 1,
            ready: false,
        }
    }
}

impl Service<Request<String>> for Probe {
    type Response = Option<String>;
    type Error = BoxError;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.shared.polls.fetch_add(1, SeqCst);
        let mut state = self.shared.state.lock().expect("no test panics in here");
        match state.readiness {
            Readiness::Ready => {
                self.ready = true;
                Poll::Ready(Ok(()))
            }
            Readiness::Waits => {
                state.wakers.push(cx.waker().clone());
                Poll::Pending
            }
            Readiness::Fails => Poll::Ready(Err("out of order".into())),
        }
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        assert!(self.ready, "called without having been polled ready");
        self.ready = false;
        let mut state = self.shared.state.lock().expect("no test panics in here");
        state.callers.push(self.clone);
        ready(Ok(Some(request.into_message())))
    }
}
