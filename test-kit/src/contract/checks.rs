//! Checks of readiness, and of ordinary calls.

use getty::{BoxError, ConnectionHandle, Service};

use super::{
    Checked, LayerContract, Rule,
    case::Case,
    spawned::{Outcome, Polled, has_cause},
};
use crate::{ProbeHandle, request::ContractRequest, settle};

/// Error of an inner service that is broken.
const BROKEN: &str = "the inner service is broken";

impl LayerContract {
    /// Polls until the service is ready.
    pub(super) async fn ready<S, R>(&self, case: &mut Case<S, R>) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        match case.service.ready().await {
            Polled::Ready(Ok(())) => Ok(()),
            Polled::Ready(Err(error)) => {
                let text = format!(
                    "`poll_ready` failed without an inner error: {}",
                    error.into()
                );
                self.check_that(false, Rule::Calls, text)
            }
            Polled::Stuck => {
                let text = "`poll_ready` is pending, and the inner service is ready";
                self.check_that(false, Rule::Wakes, text)
            }
        }
    }

    /// Ordinary calls, one after the other.
    pub(super) async fn calls<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        for n in 1..=3 {
            self.ready(&mut case).await?;
            // the first call has one ready poll, and the others have more
            for _ in 1..n {
                let ready = case.service.poll_ready().is_ready();
                self.check_that(ready, Rule::ReadyStaysReady, "a second poll is pending")?;
            }
            let (outcome, connection) = case.call(request()).await;
            self.called_when_ready(&case.control)?;
            let calls = case.control.calls();
            let text = format!("{calls} calls of the inner service after {n} requests");
            self.check_that(calls == n, Rule::Calls, text)?;
            match outcome {
                Outcome::Response => {}
                Outcome::Error(error) => {
                    let text = format!("the inner service responds, and the layer fails: {error}");
                    self.check_that(false, Rule::Calls, text)?;
                }
                Outcome::Panic => self.check_that(false, Rule::Calls, "the layer panics")?,
                Outcome::Stuck => {
                    let text = "the response is pending, and the inner call is complete";
                    self.check_that(false, Rule::Wakes, text)?;
                }
            }
            self.ended(&case.control, Rule::DropCancels, "the response")?;
            self.closed(connection.as_ref(), "the response")?;
            self.returned(&case.control, "the response and before the next ready poll")?;
        }
        let control = case.drop_service().await;
        self.returned(&control, "calls and a drop of the service")
    }

    pub(super) fn called_when_ready(&self, control: &ProbeHandle) -> Checked {
        let violations = control.violations();
        let text = format!("{violations} calls of an inner service that was not polled ready");
        self.check_that(violations == 0, Rule::ReadyBeforeCall, text)
    }

    /// Requires that no inner future is alive.
    pub(super) fn ended(&self, control: &ProbeHandle, rule: Rule, after: &str) -> Checked {
        let in_flight = control.in_flight();
        let text = format!("{in_flight} inner futures are alive after {after}");
        self.check_that(in_flight == 0, rule, text)
    }

    pub(super) fn closed(&self, connection: Option<&ConnectionHandle>, after: &str) -> Checked {
        let closed = connection.is_none_or(ConnectionHandle::is_closed);
        let text = format!("the connection is open after {after}");
        self.check_that(closed, Rule::Closes, text)
    }

    pub(super) fn returned(&self, control: &ProbeHandle, after: &str) -> Checked {
        let reserved = control.reserved();
        let text = format!("{reserved} permits are reserved after {after}");
        self.check_that(reserved == 0, Rule::DropReturnsPermit, text)
    }

    /// The inner service is not ready at first.
    pub(super) async fn pending_readiness<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
        polls: usize,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        case.control.set_pending();
        let mut ready = case.service.poll_ready().is_ready();
        for _ in 1..polls {
            settle().await;
            ready = ready || case.service.poll_ready().is_ready();
        }
        if !ready {
            case.control.set_ready();
            settle().await;
            let woken = case.service.is_woken();
            let text = format!(
                "the inner service has become ready, and the task of the last of {polls} polls was \
                 not woken"
            );
            self.check_that(woken, Rule::Wakes, text)?;
            return self.ready(&mut case).await;
        }
        // a layer that waits in the call, or that responds instead, such as `load_shed`
        let (mut call, _) = case.start(request());
        if let Some(call) = &mut call {
            let early = call.poll();
            settle().await;
            self.called_when_ready(&case.control)?;
            let calls = case.control.calls();
            let text = format!("{calls} calls of an inner service that is not ready");
            self.check_that(calls == 0, Rule::ReadyBeforeCall, text)?;
            case.control.set_ready();
            if early.is_none() && matches!(call.finish().await, Outcome::Stuck) {
                let text = "the inner service has become ready, and the call is pending";
                self.check_that(false, Rule::Wakes, text)?;
            }
        }
        self.called_when_ready(&case.control)
    }

    /// The inner service is broken.
    pub(super) async fn failed_readiness<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        case.control.fail_ready(BROKEN);
        self.readiness_fails(&mut case, request).await
    }

    /// The inner service breaks while a task waits for it.
    pub(super) async fn late_failure<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        case.control.set_pending();
        if case.service.poll_ready().is_pending() {
            case.control.fail_ready(BROKEN);
            settle().await;
            let woken = case.service.is_woken();
            let text = "the inner service has failed, and the task was not woken";
            self.check_that(woken, Rule::Wakes, text)?;
            return self.readiness_fails(&mut case, request).await;
        }
        let (Some(mut call), _) = case.start(request()) else {
            return self.check_that(false, Rule::Calls, "the layer panics");
        };
        if call.poll().is_some() {
            return Ok(()); // a layer that responds instead, such as `load_shed`
        }
        settle().await;
        case.control.fail_ready(BROKEN);
        let outcome = call.finish().await;
        let text = format!("`poll_ready` of the inner service fails, and the call: {outcome}");
        let failed = outcome.has_failed_with(BROKEN);
        self.check_that(failed, Rule::ReadinessErrors, text)
    }

    /// Requires that the failure of the inner service's readiness is passed on.
    async fn readiness_fails<S, R>(
        &self,
        case: &mut Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        let rule = Rule::ReadinessErrors;
        match case.service.ready().await {
            Polled::Ready(Err(error)) => {
                let error = error.into();
                let text = format!("`poll_ready` has failed with another error: {error}");
                return self.check_that(has_cause(&*error, BROKEN), rule, text);
            }
            Polled::Stuck => {
                let text = "`poll_ready` is pending, and that of the inner service fails";
                return self.check_that(false, rule, text);
            }
            Polled::Ready(Ok(())) => {}
        }
        let (outcome, _) = case.call(request()).await;
        self.called_when_ready(&case.control)?;
        let failed = outcome.has_failed_with(BROKEN);
        let text = format!("`poll_ready` has not failed, and the call: {outcome}");
        self.check_that(failed, rule, text)
    }
}
