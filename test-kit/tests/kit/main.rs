//! Tests of the test kit.

mod layers;
mod planted;
mod time;
mod tower_layers;
mod transports;
