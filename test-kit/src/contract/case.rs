//! One service of the layer, with the controls of its inner service.

use getty::{BoxError, ConnectionHandle, Layer, Service};

use super::{
    ContractService,
    spawned::{Call, Outcome, Polled, Spawned},
};
use crate::{ProbeHandle, probe::Core, request::ContractRequest, settle};

/// One service of the layer, and the controls of the inner service.
pub(super) struct Case<S, R> {
    pub(super) service: Spawned<S, R>,
    pub(super) control: ProbeHandle,
}

impl<S, R> Case<S, R>
where
    S: Service<R, Error: Into<BoxError>>,
    R: ContractRequest,
{
    pub(super) fn new<L: Layer<ContractService, Service = S>>(layer: &L) -> Self {
        let (core, control) = Core::new();
        let service = Spawned::new(layer.layer(ContractService(core)));
        Self { service, control }
    }

    pub(super) fn clone(&self) -> Self
    where
        S: Clone,
    {
        Self {
            service: Spawned::new(self.service.get_ref().clone()),
            control: self.control.clone(),
        }
    }

    /// Calls the service. Returns `None` if it panics.
    pub(super) fn start(
        &mut self,
        request: R,
    ) -> (Option<Call<S::Future>>, Option<ConnectionHandle>) {
        let connection = request.connection();
        (self.service.call(request), connection)
    }

    /// Calls the service and waits for the outcome.
    pub(super) async fn call(&mut self, request: R) -> (Outcome, Option<ConnectionHandle>) {
        let (call, connection) = self.start(request);
        let outcome = match call {
            Some(mut call) => call.finish().await,
            None => Outcome::Panic,
        };
        settle().await;
        (outcome, connection)
    }

    /// Polls until the service is ready, and calls it. Returns the outcome of either.
    pub(super) async fn next_call(&mut self, request: R) -> Outcome {
        match self.service.ready().await {
            Polled::Ready(Ok(())) => self.call(request).await.0,
            Polled::Ready(Err(error)) => Outcome::Error(error.into()),
            Polled::Stuck => Outcome::Stuck,
        }
    }

    /// Polls the call until `calls` inner ones are in flight and its task waits. Returns the
    /// outcome if the call ends before.
    pub(super) async fn reach_inner(
        &self,
        call: &mut Call<S::Future>,
        calls: usize,
    ) -> Option<Outcome> {
        // a layer may wait before its call, and may need several polls
        for _ in 0..8 {
            let outcome = call.poll();
            if outcome.is_some() {
                return outcome;
            }
            settle().await;
            if call.is_woken() {
                continue;
            }
            if self.control.in_flight() >= calls {
                break;
            }
            call.wait().await;
        }
        None
    }

    pub(super) async fn drop_service(self) -> ProbeHandle {
        let Self { service, control } = self;
        drop(service);
        settle().await;
        control
    }
}
