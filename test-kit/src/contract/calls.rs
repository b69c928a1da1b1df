//! Checks of calls that fail, take time, panic or are dropped.

use std::time::Duration;

use getty::{BoxError, Service};

use super::{
    Checked, LayerContract, Rule,
    case::Case,
    spawned::{Outcome, Polled},
};
use crate::{advance, request::ContractRequest, settle};

impl LayerContract {
    /// The inner call fails.
    pub(super) async fn failed_call<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        const ERROR: &str = "the inner call fails";
        self.ready(&mut case).await?;
        case.control.fail(ERROR);
        let (outcome, connection) = case.call(request()).await;
        let text = format!("the inner call fails, and the layer's: {outcome}");
        self.check_that(outcome.has_failed_with(ERROR), Rule::Errors, text)?;
        self.closed(connection.as_ref(), "an error")?;

        // a failed call does not end the service
        case.control.release();
        self.ready(&mut case).await?;
        let (outcome, _) = case.call(request()).await;
        let text = format!("the call after a failed one: {outcome}");
        self.check_that(matches!(outcome, Outcome::Response), Rule::Calls, text)?;
        self.called_when_ready(&case.control)
    }

    /// The inner call takes time.
    pub(super) async fn held_call<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
        polls: usize,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        self.ready(&mut case).await?;
        case.control.hold();
        let (Some(mut call), _) = case.start(request()) else {
            return self.check_that(false, Rule::Calls, "the layer panics");
        };
        let mut early = case.reach_inner(&mut call, 1).await;
        for _ in 1..polls {
            early = early.or_else(|| call.poll());
            settle().await;
        }
        if early.is_some() {
            let text = "the response is ready before that of the inner service";
            return self.check_that(false, Rule::Calls, text);
        }
        case.control.release();
        settle().await;
        let text = "the inner call is complete, and the task of the last poll was not woken";
        self.check_that(call.is_woken(), Rule::Wakes, text)?;
        let done = !matches!(call.finish().await, Outcome::Stuck);
        self.check_that(done, Rule::Wakes, text)
    }

    /// The service is dropped between its ready poll and its call.
    pub(super) async fn dropped_service<S, R>(&self, mut case: Case<S, R>) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        self.ready(&mut case).await?;
        let control = case.drop_service().await;
        self.returned(&control, "a drop of the ready service")
    }

    /// The future of a call is dropped.
    pub(super) async fn dropped_call<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
        polled: bool,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        self.ready(&mut case).await?;
        case.control.hold();
        let (call, connection) = case.start(request());
        let after = if polled {
            "a drop of the response future"
        } else {
            "a drop of the response future before its first poll"
        };
        if let Some(mut call) = call
            && polled
        {
            case.reach_inner(&mut call, 1).await;
        }
        settle().await;
        self.ended(&case.control, Rule::DropCancels, after)?;
        self.closed(connection.as_ref(), after)?;

        case.control.release();
        self.ready(&mut case).await?;
        let (outcome, _) = case.call(request()).await;
        let text = format!("the call after {after}: {outcome}");
        self.check_that(
            matches!(outcome, Outcome::Response),
            Rule::DropCancels,
            text,
        )?;
        self.called_when_ready(&case.control)?;
        let control = case.drop_service().await;
        self.returned(&control, after)
    }

    /// The inner future panics.
    pub(super) async fn panic<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        self.ready(&mut case).await?;
        case.control
            .panic("the inner future panics, as a test of the contract of layers");
        let (outcome, connection) = case.call(request()).await;
        let text = format!("the inner future panics, and the layer's call: {outcome}");
        let passed = matches!(outcome, Outcome::Panic | Outcome::Error(_));
        self.check_that(passed, Rule::Panics, text)?;
        self.closed(connection.as_ref(), "a panic")?;
        self.ended(&case.control, Rule::Panics, "a panic")?;
        let control = case.drop_service().await;
        let reserved = control.reserved();
        let text = format!("{reserved} permits are reserved after a panic and a drop");
        self.check_that(reserved == 0, Rule::Panics, text)
    }

    /// Two calls of one service. One is complete.
    pub(super) async fn two_calls<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
        first_ends: bool,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        case.control.hold();
        let mut calls = Vec::new();
        for in_flight in 1..=2 {
            // a limit of one call, or a layer that calls one after the other
            if !matches!(case.service.ready().await, Polled::Ready(Ok(()))) {
                return Ok(());
            }
            let (Some(mut call), _) = case.start(request()) else {
                return self.check_that(false, Rule::Calls, "the layer panics");
            };
            let ended = case.reach_inner(&mut call, in_flight).await.is_some();
            if ended || case.control.calls() != in_flight {
                return Ok(());
            }
            calls.push(call);
        }
        let ends = usize::from(!first_ends);
        case.control.release_call(ends);
        settle().await;
        let woken = calls[ends].is_woken();
        // the other one first, so that it could take the response
        for at in [1 - ends, ends, 1 - ends] {
            settle().await;
            if let Some(outcome) = calls[at].poll() {
                let responds = at == ends && matches!(outcome, Outcome::Response);
                let text =
                    format!("inner call {ends} of two is complete, and call {at}: {outcome}");
                self.check_that(responds, Rule::Calls, text)?;
            }
        }
        let text = "the inner call of one of two is complete, and its task was not woken";
        self.check_that(woken, Rule::Wakes, text)?;
        case.control.release();
        for call in calls.iter_mut().filter(|call| !call.has_ended()) {
            let outcome = call.finish().await;
            let stuck = matches!(outcome, Outcome::Stuck);
            let text = "one of two calls is pending, and both inner calls are complete";
            self.check_that(!stuck, Rule::Wakes, text)?;
            let text = format!("both inner calls are complete, and a call: {outcome}");
            self.check_that(matches!(outcome, Outcome::Response), Rule::Calls, text)?;
        }
        Ok(())
    }

    /// The inner call takes an hour. A layer may end the call before.
    pub(super) async fn long_call<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        self.ready(&mut case).await?;
        case.control.hold();
        let (Some(mut call), connection) = case.start(request()) else {
            return self.check_that(false, Rule::Calls, "the layer panics");
        };
        case.reach_inner(&mut call, 1).await;
        advance(Duration::from_secs(3600)).await;
        if call.poll().is_none() {
            return Ok(());
        }
        settle().await;
        self.ended(&case.control, Rule::DropCancels, "a timeout of the layer")?;
        self.closed(connection.as_ref(), "a timeout of the layer")
    }

    /// The service is dropped while its call is in flight, as `oneshot` does.
    pub(super) async fn service_dropped_in_a_call<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        self.ready(&mut case).await?;
        case.control.hold();
        let (Some(mut call), _) = case.start(request()) else {
            return self.check_that(false, Rule::Calls, "the layer panics");
        };
        case.reach_inner(&mut call, 1).await;
        let control = case.drop_service().await;
        control.release();
        let outcome = call.finish().await;
        let text = format!("the service was dropped during its call, and the call: {outcome}");
        self.check_that(matches!(outcome, Outcome::Response), Rule::Calls, text)
    }
}
