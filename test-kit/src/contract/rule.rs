//! Rules of the contract.

use std::{error::Error, fmt};

/// Rule that a layer must follow. Its `Display` is the rule and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The inner service is called by the clone that was polled ready.
    ReadyBeforeCall,
    /// A service that is ready stays ready until it is called.
    ReadyStaysReady,
    /// A pending poll wakes its task when it can make progress.
    Wakes,
    /// A readiness error of the inner service is passed on, by `poll_ready` or by the call.
    ReadinessErrors,
    /// An error of the inner call is passed on, as itself or as a source.
    Errors,
    /// Each request reaches the inner service once, and the response is passed on.
    Calls,
    /// A service that is dropped before its call gives back what its ready poll has reserved.
    DropReturnsPermit,
    /// The drop of a response future drops the inner future, and gives back its permit.
    DropCancels,
    /// A panic of the inner service becomes a panic or an error, and permits are given back.
    Panics,
    /// Clones reserve and call independently.
    Clones,
    /// A connection ends with its call. The layer keeps no part of it open.
    Closes,
}

impl Rule {
    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::ReadyBeforeCall => (
                "the inner service must be called by the clone that was polled ready",
                "tower's `Service::call`: \"Before dispatching a request, `poll_ready` must be \
                 called and return `Poll::Ready(Ok(()))`\", and \"Be careful when cloning inner \
                 services\"",
            ),
            Self::ReadyStaysReady => (
                "a service that is ready must stay ready until it is called",
                "tower's `Service::poll_ready`: \"Until a request is dispatched, repeated calls to \
                 `poll_ready` must return either `Poll::Ready(Ok(()))` or `Poll::Ready(Err(_))`\"",
            ),
            Self::Wakes => (
                "a pending poll must wake its task when it can make progress",
                "tower's `Service::poll_ready`: \"the task is notified when the service becomes \
                 ready again\", and std's `Future::poll`",
            ),
            Self::ReadinessErrors => (
                "a readiness error of the inner service must be passed on",
                "tower's `Service::poll_ready`: \"If `Poll::Ready(Err(_))` is returned, the \
                 service is no longer able to service requests\"",
            ),
            Self::Errors => (
                "an error of the inner service must be passed on, as itself or as a source",
                "getty: an error outside `SessionLayer` means that the session never opened, and \
                 inside it closes the session as `Handler`",
            ),
            Self::Calls => (
                "each request must reach the inner service once, and its response is passed on",
                "tower's `Service::call`: \"Process the request and return the response\"",
            ),
            Self::DropReturnsPermit => (
                "a service that is dropped before its call must give back what it has reserved",
                "tower's `Service::poll_ready`: \"it is critical for implementations to not \
                 assume that `call` will always be invoked and to ensure that such resources are \
                 released if the service is dropped before `call` is invoked\"",
            ),
            Self::DropCancels => (
                "the drop of a response future must drop the inner future and give back its permit",
                "tower's `Service::poll_ready`: resources \"are released if the service is dropped \
                 before `call` is invoked or the future returned by `call` is dropped before it \
                 is polled\"",
            ),
            Self::Panics => (
                "a panic of the inner service must become a panic or an error, and permits must be \
                 given back",
                "getty: a panic closes the session as `Panicked`",
            ),
            Self::Clones => (
                "clones must reserve and call independently",
                "tower's `Service::call`: \"Even though the original service is ready, the clone \
                 might not be\"",
            ),
            Self::Closes => (
                "a connection must end with its call",
                "getty: the future of a call is the connection's whole life",
            ),
        }
    }

    /// Returns the rule in one sentence.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.texts().0
    }

    /// Returns where the rule is from.
    #[must_use]
    pub const fn source(self) -> &'static str {
        self.texts().1
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`Rule::{self:?}`: {} ({})", self.text(), self.source())
    }
}

/// A rule that a layer has broken; see [`LayerContract::check`](super::LayerContract::check).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub(super) rule: Rule,
    pub(super) observed: String,
}

impl Broken {
    /// Returns the rule.
    #[must_use]
    pub const fn rule(&self) -> Rule {
        self.rule
    }

    /// Returns what the layer did.
    #[must_use]
    pub fn observed(&self) -> &str {
        &self.observed
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, observed } = self;
        write!(f, "the layer breaks {rule}. Observed: {observed}")
    }
}

impl Error for Broken {}
