//! Contract of layers.

mod calls;
mod case;
mod checks;
mod clones;
mod repeats;
mod rule;
mod spawned;

use std::{fmt::Display, panic::Location};

use getty::{BoxError, Layer, Service};

pub use self::rule::{Broken, Rule};
use self::{case::Case, repeats::Ending};
use crate::{
    probe::{Core, ProbeFuture},
    request::{ContractRequest, answer},
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
/// A limit in the layer should permit at least two calls at once, so that two clones can be
/// ready. It should permit at most 64, because a permit that is lost at each early end of a
/// call is found once the limit is reached. A timeout in the layer should exceed one hour: the
/// contract advances the clock by one hour when a layer is pending without a reason that the
/// contract knows.
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
        for polls in 1..=2 {
            self.pending_readiness(Case::new(layer), request, polls)
                .await?;
        }
        self.failed_readiness(Case::new(layer), request).await?;
        self.late_failure(Case::new(layer), request).await?;
        self.failed_call(Case::new(layer), request).await?;
        for polls in 1..=2 {
            self.held_call(Case::new(layer), request, polls).await?;
        }
        for first_ends in [true, false] {
            self.two_calls(Case::new(layer), request, first_ends)
                .await?;
        }
        self.long_call(Case::new(layer), request).await?;
        self.dropped_service(Case::new(layer)).await?;
        self.service_dropped_in_a_call(Case::new(layer), request)
            .await?;
        self.dropped_call(Case::new(layer), request, true).await?;
        self.dropped_call(Case::new(layer), request, false).await?;
        self.panic(Case::new(layer), request).await?;
        for ending in [Ending::Drop, Ending::Error, Ending::Panic] {
            self.repeats(Case::new(layer), request, ending).await?;
        }
        Ok(())
    }

    fn check_that(&self, holds: bool, rule: Rule, observed: impl Display) -> Checked {
        if holds || self.exceptions.contains(&rule) {
            return Ok(());
        }
        let observed = observed.to_string();
        Err(Broken { rule, observed })
    }
}
