//! Compression of byte streams.

mod connect;
mod contexts;
pub(crate) mod deflate;
mod error;
mod input;
mod layer;
mod level;
mod output;
mod settings;
mod snappy;
mod stats;
mod transport;
#[cfg(feature = "zstd")]
mod zstd;

pub use self::{
    connect::{CompressionConnect, CompressionConnectLayer, CompressionConnecting},
    contexts::Contexts,
    error::{InflateBomb, InflateError},
    layer::{Compression, CompressionLayer},
    level::Level,
    stats::CompressionStats,
    transport::Compressed,
};
