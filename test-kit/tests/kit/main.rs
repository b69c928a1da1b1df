//! Tests of the test kit.

#[cfg(feature = "metrics")]
mod metrics;
mod network;
mod planted;
mod probe;
mod time;
mod tower_layers;
mod transports;
