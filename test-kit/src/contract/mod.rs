//! Contract of layers.

mod rule;
mod spawned;

use std::{fmt::Display, panic::Location, time::Duration};

use getty::{BoxError, ConnectionHandle, Layer, Service};

pub use self::rule::{Broken, Rule};
use self::spawned::{Call, Outcome, Polled, Spawned};
use crate::{
    ProbeHandle, advance,
    probe::{Core, ProbeFuture},
    request::{ContractRequest, answer},
    settle,
    time::require_paused_clock,
};

/// Asserts that `layer` follows the contract of tower and getty for ready, call, drop, close,
/// panic and clone: all rules of [`Rule`]. The clock must be paused.
///
/// `request` returns a request that the layer passes to the inner service:
///
/// | layer | request |
/// |---|---|
/// | for connections | `connection`: [`connection()`](crate::connection()) |
/// | in `CodecLayer` | a closure with [`session_connection()`](crate::session_connection()) |
/// | for messages | a closure with [`request()`](crate::request()) |
/// | for any request | any of them, or a closure that returns a simple type such as `u32` |
///
/// A layer that breaks a rule by its purpose, such as one that converts errors into replies,
/// excludes it with [`LayerContract::except`].
///
/// ```
/// use std::time::Duration;
///
/// use getty::layers::{HeartbeatLayer, MaxAgeLayer, MessageTraceLayer};
/// use getty::codec::Lines;
/// use getty_test::{assert_layer_contract, connection, request, session_connection};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let time = Duration::from_secs(60);
/// assert_layer_contract(&MaxAgeLayer::new(time), connection).await;
///
/// let heartbeat = HeartbeatLayer::new(time, |_| "beat".to_owned());
/// assert_layer_contract(&heartbeat, || session_connection(Lines::new())).await;
///
/// let message = || request::<_, String>("hello");
/// assert_layer_contract(&MessageTraceLayer::new(), message).await;
/// # }
/// ```
///
/// # Panics
///
/// Panics if the layer breaks a rule, with the rule, its source and the observation, and if the
/// clock is not paused.
#[track_caller]
pub fn assert_layer_contract<L, R>(layer: &L, request: impl Fn() -> R) -> impl Future<Output = ()>
where
    L: Layer<ContractService>,
    L::Service: Service<R, Error: Into<BoxError>> + Clone,
    R: ContractRequest,
{
    let caller = Location::caller();
    async move {
        let checked = LayerContract::new().check(layer, request).await;
        expect(checked, caller);
    }
}

#[track_caller]
fn expect(checked: Checked, caller: &Location<'_>) {
    if let Err(broken) = checked {
        panic!("{caller}: {broken}");
    }
}

/// Rules that a layer must follow: all of them, without the exceptions.
///
/// ```
/// use getty::layers::HandleErrorLayer;
/// use getty_test::{LayerContract, Rule, request};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // by its purpose it replies to errors
/// let contract = LayerContract::new().except(Rule::Errors);
/// let layer = HandleErrorLayer::new(|error| format!("ERR {error}"));
/// contract.assert(&layer, || request::<_, String>("hello")).await;
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct LayerContract {
    exceptions: Vec<Rule>,
}

/// Service inside the layer under test. It accepts each request and checks how it is called.
#[derive(Clone, Debug)]
pub struct ContractService(Core);

impl<R: ContractRequest> Service<R> for ContractService {
    type Response = R::Response;
    type Error = BoxError;
    type Future = ProbeFuture<R::Response>;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.0.call(move || answer(request))
    }
}

type Checked = Result<(), Broken>;

impl LayerContract {
    /// Creates a contract with all rules.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            exceptions: Vec::new(),
        }
    }

    /// Excludes a rule.
    #[must_use]
    pub fn except(mut self, rule: Rule) -> Self {
        self.exceptions.push(rule);
        self
    }

    /// Asserts the contract, like [`assert_layer_contract`].
    ///
    /// # Panics
    ///
    /// Panics if the layer breaks a rule, and if the clock is not paused.
    #[track_caller]
    pub fn assert<L, R>(&self, layer: &L, request: impl Fn() -> R) -> impl Future<Output = ()>
    where
        L: Layer<ContractService>,
        L::Service: Service<R, Error: Into<BoxError>> + Clone,
        R: ContractRequest,
    {
        let caller = Location::caller();
        async move { expect(self.check(layer, request).await, caller) }
    }

    /// Asserts the contract for a layer whose service is not `Clone`.
    ///
    /// # Panics
    ///
    /// Panics if the layer breaks a rule, and if the clock is not paused.
    #[track_caller]
    pub fn assert_without_clone<L, R>(
        &self,
        layer: &L,
        request: impl Fn() -> R,
    ) -> impl Future<Output = ()>
    where
        L: Layer<ContractService>,
        L::Service: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        let caller = Location::caller();
        async move { expect(self.check_service(layer, &request).await, caller) }
    }

    /// Checks the contract.
    ///
    /// # Errors
    ///
    /// Returns the first rule that the layer breaks.
    ///
    /// # Panics
    ///
    /// Panics if the clock is not paused.
    pub async fn check<L, R>(&self, layer: &L, request: impl Fn() -> R) -> Checked
    where
        L: Layer<ContractService>,
        L::Service: Service<R, Error: Into<BoxError>> + Clone,
        R: ContractRequest,
    {
        self.check_service(layer, &request).await?;
        self.check_clones(layer, &request).await
    }

    async fn check_service<L, R>(&self, layer: &L, request: &impl Fn() -> R) -> Checked
    where
        L: Layer<ContractService>,
        L::Service: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        require_paused_clock();
        self.calls(Case::new(layer), request).await?;
        self.pending_readiness(Case::new(layer), request).await?;
        self.failed_readiness(Case::new(layer), request).await?;
        self.failed_call(Case::new(layer), request).await?;
        self.held_call(Case::new(layer), request).await?;
        self.dropped_service(Case::new(layer)).await?;
        self.dropped_call(Case::new(layer), request, true).await?;
        self.dropped_call(Case::new(layer), request, false).await?;
        self.panic(Case::new(layer), request).await
    }

    fn check_that(&self, holds: bool, rule: Rule, observed: impl Display) -> Checked {
        if holds || self.exceptions.contains(&rule) {
            return Ok(());
        }
        let observed = observed.to_string();
        Err(Broken { rule, observed })
    }

    /// Polls until the service is ready.
    async fn ready<S, R>(&self, case: &mut Case<S, R>) -> Checked
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
    async fn calls<S, R>(&self, mut case: Case<S, R>, request: &impl Fn() -> R) -> Checked
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
            let in_flight = case.control.in_flight();
            let text = format!("{in_flight} inner futures are alive after the response");
            self.check_that(in_flight == 0, Rule::DropCancels, text)?;
            self.closed(connection.as_ref(), "the response")?;
            self.returned(&case.control, "the response and before the next ready poll")?;
        }
        let control = case.drop_service().await;
        self.returned(&control, "calls and a drop of the service")
    }

    fn called_when_ready(&self, control: &ProbeHandle) -> Checked {
        let violations = control.violations();
        let text = format!("{violations} calls of an inner service that was not polled ready");
        self.check_that(violations == 0, Rule::ReadyBeforeCall, text)
    }

    fn closed(&self, connection: Option<&ConnectionHandle>, after: &str) -> Checked {
        let closed = connection.is_none_or(ConnectionHandle::is_closed);
        let text = format!("the connection is open after {after}");
        self.check_that(closed, Rule::Closes, text)
    }

    fn returned(&self, control: &ProbeHandle, after: &str) -> Checked {
        let reserved = control.reserved();
        let text = format!("{reserved} permits are reserved after {after}");
        self.check_that(reserved == 0, Rule::DropReturnsPermit, text)
    }

    /// The inner service is not ready at first.
    async fn pending_readiness<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        case.control.set_pending();
        let ready = case.service.poll_ready().is_ready();
        if !ready {
            case.control.set_ready();
            settle().await;
            let woken = case.service.is_woken();
            let text = "the inner service has become ready, and the task was not woken";
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
    async fn failed_readiness<S, R>(
        &self,
        mut case: Case<S, R>,
        request: &impl Fn() -> R,
    ) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        const ERROR: &str = "the inner service is broken";
        case.control.fail_ready(ERROR);
        let rule = Rule::ReadinessErrors;
        match case.service.ready().await {
            Polled::Ready(Err(error)) => {
                let error = error.into();
                let text = format!("`poll_ready` has failed with another error: {error}");
                return self.check_that(has_cause(&*error, ERROR), rule, text);
            }
            Polled::Stuck => {
                let text = "`poll_ready` is pending, and that of the inner service fails";
                return self.check_that(false, rule, text);
            }
            Polled::Ready(Ok(())) => {}
        }
        let (outcome, _) = case.call(request()).await;
        self.called_when_ready(&case.control)?;
        let failed = matches!(outcome, Outcome::Error(_));
        let text = format!("`poll_ready` has not failed, and the call: {outcome}");
        self.check_that(failed, rule, text)
    }

    /// The inner call fails.
    async fn failed_call<S, R>(&self, mut case: Case<S, R>, request: &impl Fn() -> R) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        const ERROR: &str = "the inner call fails";
        self.ready(&mut case).await?;
        case.control.fail(ERROR);
        let (outcome, connection) = case.call(request()).await;
        let passed = match &outcome {
            Outcome::Error(error) => has_cause(&**error, ERROR),
            _ => false,
        };
        let text = format!("the inner call fails, and the layer's: {outcome}");
        self.check_that(passed, Rule::Errors, text)?;
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
    async fn held_call<S, R>(&self, mut case: Case<S, R>, request: &impl Fn() -> R) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        self.ready(&mut case).await?;
        case.control.hold();
        let (Some(mut call), _) = case.start(request()) else {
            return self.check_that(false, Rule::Calls, "the layer panics");
        };
        if case.reach_inner(&mut call).await.is_some() {
            let text = "the response is ready before that of the inner service";
            return self.check_that(false, Rule::Calls, text);
        }
        case.control.release();
        settle().await;
        let text = "the inner call is complete, and the task was not woken";
        self.check_that(call.is_woken(), Rule::Wakes, text)?;
        let done = !matches!(call.finish().await, Outcome::Stuck);
        self.check_that(done, Rule::Wakes, text)
    }

    /// The service is dropped between its ready poll and its call.
    async fn dropped_service<S, R>(&self, mut case: Case<S, R>) -> Checked
    where
        S: Service<R, Error: Into<BoxError>>,
        R: ContractRequest,
    {
        self.ready(&mut case).await?;
        let control = case.drop_service().await;
        self.returned(&control, "a drop of the ready service")
    }

    /// The future of a call is dropped.
    async fn dropped_call<S, R>(
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
            case.reach_inner(&mut call).await;
        }
        settle().await;
        let in_flight = case.control.in_flight();
        let text = format!("{in_flight} inner futures are alive after {after}");
        self.check_that(in_flight == 0, Rule::DropCancels, text)?;
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
    async fn panic<S, R>(&self, mut case: Case<S, R>, request: &impl Fn() -> R) -> Checked
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
        let in_flight = case.control.in_flight();
        let text = format!("{in_flight} inner futures are alive after a panic");
        self.check_that(in_flight == 0, Rule::Panics, text)?;
        let control = case.drop_service().await;
        let reserved = control.reserved();
        let text = format!("{reserved} permits are reserved after a panic and a drop");
        self.check_that(reserved == 0, Rule::Panics, text)
    }

    async fn check_clones<L, R>(&self, layer: &L, request: &impl Fn() -> R) -> Checked
    where
        L: Layer<ContractService>,
        L::Service: Service<R, Error: Into<BoxError>> + Clone,
        R: ContractRequest,
    {
        // a clone of a ready service, while there is one permit
        let mut case = Case::new(layer);
        case.control.set_permits(1);
        self.ready(&mut case).await?;
        let mut clone = case.clone();
        let ready = clone.service.poll_ready().is_ready();
        case.control.hold();
        let (first, _) = case.start(request());
        if let Some(mut first) = first {
            case.reach_inner(&mut first).await;
        }
        settle().await;
        case.control.release();
        if !ready {
            let text = "the permit was returned, and the task of the clone was not woken";
            self.check_that(clone.service.is_woken(), Rule::Wakes, text)?;
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
        Ok(())
    }
}

const fn text_of_shared() -> &'static str {
    "two clones were polled ready, and share one ready poll of the inner service"
}

/// One service of the layer, and the controls of the inner service.
struct Case<S, R> {
    service: Spawned<S, R>,
    control: ProbeHandle,
}

impl<S, R> Case<S, R>
where
    S: Service<R, Error: Into<BoxError>>,
    R: ContractRequest,
{
    fn new<L: Layer<ContractService, Service = S>>(layer: &L) -> Self {
        let (core, control) = Core::new();
        let service = Spawned::new(layer.layer(ContractService(core)));
        Self { service, control }
    }

    fn clone(&self) -> Self
    where
        S: Clone,
    {
        Self {
            service: Spawned::new(self.service.get_ref().clone()),
            control: self.control.clone(),
        }
    }

    /// Calls the service. Returns `None` if it panics.
    fn start(&mut self, request: R) -> (Option<Call<S::Future>>, Option<ConnectionHandle>) {
        let connection = request.connection();
        (self.service.call(request), connection)
    }

    /// Calls the service and waits for the outcome.
    async fn call(&mut self, request: R) -> (Outcome, Option<ConnectionHandle>) {
        let (call, connection) = self.start(request);
        let outcome = match call {
            Some(mut call) => call.finish().await,
            None => Outcome::Panic,
        };
        settle().await;
        (outcome, connection)
    }

    /// Polls the call until the inner one is in flight. Returns the outcome if it ends before.
    async fn reach_inner(&self, call: &mut Call<S::Future>) -> Option<Outcome> {
        // a layer may wait before its call, and may need several polls
        for _ in 0..8 {
            let outcome = call.poll();
            if outcome.is_some() {
                return outcome;
            }
            settle().await;
            if self.control.in_flight() > 0 {
                // the last poll registers the waker
                return call.poll();
            }
            if !call.is_woken() {
                advance(Duration::from_secs(3600)).await;
            }
        }
        None
    }

    async fn drop_service(self) -> ProbeHandle {
        let Self { service, control } = self;
        drop(service);
        settle().await;
        control
    }
}

/// Returns `true` if the error or one of its sources has this text.
fn has_cause(error: &(dyn std::error::Error + 'static), text: &str) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .any(|error| error.to_string().contains(text))
}
