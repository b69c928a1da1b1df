//! Checks of clones.

use getty::{BoxError, Layer, Service};

use super::{
    Checked, ContractService, LayerContract, Rule,
    case::Case,
    repeats::CALLS,
    spawned::{Outcome, Polled},
};
use crate::{request::ContractRequest, settle};

impl LayerContract {
    pub(super) async fn check_clones<L, R>(&self, layer: &L, request: &impl Fn() -> R) -> Checked
    where
        L: Layer<ContractService>,
        L::Service: Service<R, Error: Into<BoxError>> + Clone,
        R: ContractRequest,
    {
        // a clone of a ready service, while there is one permit
        let mut case = Case::new(layer);
        case.control.set_permits(1);
        case.control.hold();
        self.ready(&mut case).await?;
        let mut clone = case.clone();
        let ready = clone.service.poll_ready().is_ready();
        let (first, _) = case.start(request());
        if let Some(mut first) = first {
            case.reach_inner(&mut first, 1).await;
        }
        settle().await;
        // Before the release, which wakes all tasks.
        let woken = clone.service.is_woken();
        case.control.release();
        if !ready {
            let text = "the permit was returned, and the task of the clone was not woken";
            self.check_that(woken, Rule::Wakes, text)?;
            self.ready(&mut clone).await?;
        }
        let (outcome, _) = clone.call(request()).await;
        let independent = case.control.violations() == 0;
        let text = "a clone has used the ready poll of another";
        self.check_that(independent, Rule::Clones, text)?;
        // a layer may shed the load that was too much at the ready poll
        let shed = ready && matches!(outcome, Outcome::Error(_));
        let text = format!("the call of a clone: {outcome}");
        let responded = shed || matches!(outcome, Outcome::Response);
        self.check_that(responded, Rule::Clones, text)?;

        // calls of two clones that were polled ready in turns
        let mut case = Case::new(layer);
        let mut clone = case.clone();
        self.ready(&mut case).await?;
        self.ready(&mut clone).await?;
        for service in [&mut case, &mut clone] {
            let (outcome, _) = service.call(request()).await;
            let independent = service.control.violations() == 0;
            self.check_that(independent, Rule::Clones, text_of_shared())?;
            let text = format!("a call of one of two clones: {outcome}");
            self.check_that(matches!(outcome, Outcome::Response), Rule::Clones, text)?;
        }

        // the clone lives on, as in an idle session
        let mut case = Case::new(layer);
        let clone = case.clone();
        self.ready(&mut case).await?;
        let control = case.drop_service().await;
        self.returned(&control, "a drop of the ready service, while a clone lives")?;
        drop(clone);

        let case = Case::new(layer);
        let clone = case.clone();
        self.waiting_clones([case, clone], request).await?;
        self.dropped_clones(Case::new(layer), request).await
    }

    /// Many clones are dropped between their ready poll and their call.
    async fn dropped_clones<S, R>(&self, mut case: Case<S, R>, request: &impl Fn() -> R) -> Checked
    where
        S: Service<R, Error: Into<BoxError>> + Clone,
        R: ContractRequest,
    {
        for _ in 0..CALLS {
            let mut clone = case.clone();
            if !matches!(clone.service.ready().await, Polled::Ready(Ok(()))) {
                break;
            }
        }
        let outcome = case.next_call(request()).await;
        let text = format!("up to {CALLS} ready clones were dropped, and the next call: {outcome}");
        let responds = matches!(outcome, Outcome::Response);
        self.check_that(responds, Rule::DropReturnsPermit, text)
    }

    /// Two clones wait for the inner service.
    async fn waiting_clones<S, R>(
        &self,
        mut clones: [Case<S, R>; 2],
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        clones[0].control.set_pending();
        for clone in &mut clones {
            if clone.service.poll_ready().is_ready() {
                return Ok(()); // a layer that waits in the call
            }
        }
        clones[0].control.set_ready();
        // with a limit of one call, a clone is woken by the end of the call of the other
        let mut waiting = Vec::from(clones);
        while !waiting.is_empty() {
            settle().await;
            let woken = waiting.iter().position(|clone| clone.service.is_woken());
            let Some(woken) = woken else {
                let text = "two clones wait, the inner service has become ready, and one was not \
                            woken";
                return self.check_that(false, Rule::Wakes, text);
            };
            let mut clone = waiting.swap_remove(woken);
            self.ready(&mut clone).await?;
            let (outcome, _) = clone.call(request()).await;
            let text = format!("the call of one of two clones that have waited: {outcome}");
            self.check_that(matches!(outcome, Outcome::Response), Rule::Clones, text)?;
        }
        Ok(())
    }
}

const fn text_of_shared() -> &'static str {
    "two clones were polled ready, and share one ready poll of the inner service"
}
