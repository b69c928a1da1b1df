//! Counters of compressed bytes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Number of compressed bytes of a connection. It is an attribute of the connection's handle.
///
/// The bytes of [`Stats`](crate::Stats) are those of messages. These are the bytes that the
/// transport below has moved, so the quotient is the compression ratio.
///
/// ```
/// use getty::{ConnectionHandle, compress::CompressionStats};
///
/// /// Returns the part of the sent bytes that compression has saved.
/// fn saved(handle: &ConnectionHandle) -> Option<f64> {
///     let compressed = handle.get::<CompressionStats>()?.wire_bytes_out();
///     Some(1.0 - compressed as f64 / handle.stats().bytes_out as f64)
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct CompressionStats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    wire_in: AtomicU64,
    wire_out: AtomicU64,
}

impl CompressionStats {
    /// Returns the number of compressed bytes that were received.
    #[must_use]
    pub fn wire_bytes_in(&self) -> u64 {
        self.0.wire_in.load(Relaxed)
    }

    /// Returns the number of compressed bytes that the transport below has taken.
    #[must_use]
    pub fn wire_bytes_out(&self) -> u64 {
        self.0.wire_out.load(Relaxed)
    }

    // Each counter has one writer.

    pub(super) fn record_in(&self, bytes: usize) {
        let counter = &self.0.wire_in;
        counter.store(counter.load(Relaxed) + bytes as u64, Relaxed);
    }

    pub(super) fn record_out(&self, bytes: usize) {
        let counter = &self.0.wire_out;
        counter.store(counter.load(Relaxed) + bytes as u64, Relaxed);
    }
}
