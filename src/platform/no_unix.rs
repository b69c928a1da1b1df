//! Addresses in use, signals and files where the operating system is not a Unix.

use std::path::Path;

/// `true` where `SO_REUSEADDR` lets a socket bind a port in the time-wait state. On Windows the
/// option would let any process take over the port.
pub(crate) const REUSES_ADDRESS: bool = false;

/// Resolves on ctrl-c. The first poll installs the handler.
pub(crate) async fn interrupt() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

/// Never resolves.
pub(crate) fn terminate() -> impl Future<Output = std::io::Result<()>> + Send {
    std::future::pending()
}

/// Returns the path of these bytes. It is `None` if they are no UTF-8.
pub(crate) fn path(bytes: &[u8]) -> Option<&Path> {
    std::str::from_utf8(bytes).ok().map(Path::new)
}

/// Returns 0. A replaced file differs by its time or its length only.
#[cfg(feature = "tls")]
pub(crate) fn file_number(_: &std::fs::Metadata) -> u64 {
    0
}
