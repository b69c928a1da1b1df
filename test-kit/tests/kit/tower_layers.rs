//! tower's usual layers follow the contract.

use std::time::Duration;

use getty::BoxError;
use getty_test::{LayerContract, Rule, assert_layer_contract, connection, request};
use tower::{
    ServiceBuilder,
    buffer::BufferLayer,
    layer::util::Identity,
    limit::{ConcurrencyLimitLayer, GlobalConcurrencyLimitLayer, RateLimitLayer},
    load_shed::LoadShedLayer,
    timeout::TimeoutLayer,
    util::{BoxCloneServiceLayer, MapErrLayer, MapRequestLayer, MapResponseLayer, option_layer},
};

const SECOND: Duration = Duration::from_secs(1);

fn message() -> getty::Request<&'static str, String> {
    request("hello")
}

macro_rules! passes {
    ($name:ident, $layer:expr) => {
        passes!($name, $layer, LayerContract::new());
    };
    ($name:ident, $layer:expr, $contract:expr) => {
        #[tokio::test(start_paused = true)]
        async fn $name() {
            let contract: LayerContract = $contract;
            contract.assert(&$layer, || 1_u32).await;
            contract.assert(&$layer, message).await;
            contract.assert(&$layer, connection).await;
        }
    };
}

passes!(identity, Identity::new());
passes!(concurrency_limit, ConcurrencyLimitLayer::new(2));
passes!(
    global_concurrency_limit,
    GlobalConcurrencyLimitLayer::new(2)
);
passes!(timeout, TimeoutLayer::new(24 * 3600 * SECOND));
passes!(load_shed, LoadShedLayer::new());
passes!(map_response, MapResponseLayer::new(|response| response));
passes!(map_err, MapErrLayer::new(|error: BoxError| error));
passes!(option, option_layer(Some(ConcurrencyLimitLayer::new(2))));
passes!(
    stack,
    ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(2)
        .timeout(24 * 3600 * SECOND)
        .into_inner()
);

#[tokio::test(start_paused = true)]
async fn map_request() {
    assert_layer_contract(&MapRequestLayer::new(|n: u32| n + 1), || 1_u32).await;
}

#[tokio::test(start_paused = true)]
async fn boxed() {
    let layer = BoxCloneServiceLayer::new(ConcurrencyLimitLayer::new(2));
    assert_layer_contract(&layer, || 1_u32).await;
}

#[tokio::test(start_paused = true)]
async fn rate_limit() {
    let contract = LayerContract::new();
    let layer = RateLimitLayer::new(1, SECOND);
    contract.assert_without_clone(&layer, || 1_u32).await;
}

#[tokio::test(start_paused = true)]
async fn buffer() {
    // its worker ends with the readiness of the inner service, and a clone waits for its turn
    let layer = BufferLayer::new(4);
    assert_layer_contract(&layer, || 1_u32).await;
}

#[tokio::test(start_paused = true)]
async fn limit_of_one_lets_a_clone_wait() {
    let contract = LayerContract::new();
    let layer = GlobalConcurrencyLimitLayer::new(1);
    // two clones cannot both be ready
    let broken = contract.check(&layer, || 1_u32).await.unwrap_err();
    assert_eq!(broken.rule(), Rule::Wakes);
}
