//! Addresses in use, signals and files on Unix.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use tokio::signal::unix::{SignalKind, signal};

/// `true` where `SO_REUSEADDR` lets a socket bind a port in the time-wait state.
pub(crate) const REUSES_ADDRESS: bool = true;

/// Installs the handler for SIGINT. The future resolves on the signal.
pub(crate) fn interrupt() -> impl Future<Output = std::io::Result<()>> + Send {
    on_signal(SignalKind::interrupt())
}

/// Installs the handler for SIGTERM. The future resolves on the signal.
pub(crate) fn terminate() -> impl Future<Output = std::io::Result<()>> + Send {
    on_signal(SignalKind::terminate())
}

fn on_signal(kind: SignalKind) -> impl Future<Output = std::io::Result<()>> + Send {
    let signal = signal(kind);
    async move {
        signal?.recv().await;
        Ok(())
    }
}

/// Returns the path of these bytes. It is never `None`.
#[allow(
    clippy::unnecessary_wraps,
    reason = "not every path is valid elsewhere"
)]
pub(crate) fn path(bytes: &[u8]) -> Option<&Path> {
    Some(Path::new(OsStr::from_bytes(bytes)))
}

/// Returns the inode of a file, which differs after the file is replaced.
#[cfg(feature = "tls")]
pub(crate) fn file_number(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}
