//! Checks of permits that the layer counts itself.

use std::time::Duration;

use getty::{BoxError, Service};

use super::{
    Checked, LayerContract, Rule,
    case::Case,
    spawned::{Outcome, Polled},
};
use crate::{advance, request::ContractRequest};

/// Number of calls that end early, one after the other. A limit of the layer that loses a
/// permit at each end is reached if it permits no more calls at once.
pub(super) const CALLS: usize = 64;

/// Early end of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Drop,
    Error,
    Panic,
}

impl Ending {
    const fn rule(self) -> Rule {
        match self {
            Self::Drop => Rule::DropCancels,
            Self::Error => Rule::Calls,
            Self::Panic => Rule::Panics,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Drop => "were dropped",
            Self::Error => "have failed",
            Self::Panic => "have panicked",
        }
    }
}

impl LayerContract {
    /// Many calls end early, and the service must still accept one.
    pub(super) async fn repeats<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
        ending: Ending,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        match ending {
            Ending::Drop => case.control.hold(),
            Ending::Error => case.control.fail("one of many inner calls fails"),
            Ending::Panic => case.control.unwind(),
        }
        for _ in 0..CALLS {
            if !matches!(case.service.ready().await, Polled::Ready(Ok(()))) {
                break;
            }
            let (call, _) = case.start(request());
            let Some(mut call) = call else { continue };
            match ending {
                Ending::Drop => drop(call.poll()),
                Ending::Error | Ending::Panic => drop(call.finish().await),
            }
        }
        case.control.release();
        // a circuit breaker is closed again
        advance(Duration::from_secs(3600)).await;
        let outcome = case.next_call(request()).await;
        let ended = ending.text();
        let text = format!("up to {CALLS} calls {ended}, and the next one: {outcome}");
        let responds = matches!(outcome, Outcome::Response);
        self.check_that(responds, ending.rule(), text)
    }
}
