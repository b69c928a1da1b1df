//! Signals that request the shutdown of a process.

use std::{io, pin::pin};

use futures_util::future::select;

use crate::platform;

/// Resolves when the process receives SIGINT (ctrl-c). On Unix it also resolves on SIGTERM.
///
/// On Unix this call installs the handlers, not the first poll. So a program that calls it
/// before it announces that it is up cannot be killed by a signal that follows. If a handler
/// cannot be installed, the error is logged and that signal does not resolve the future.
///
/// # Panics
///
/// Panics if it is called outside of a tokio runtime.
///
/// # Cancel safety
///
/// After the call these signals no longer end the process by default, even if the future is
/// dropped.
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    let (interrupt, terminate) = (platform::interrupt(), platform::terminate());
    async move {
        select(pin!(resolved(interrupt)), pin!(resolved(terminate))).await;
    }
}

/// Resolves on the signal. Logs the error of a handler that cannot be installed, and never
/// resolves.
async fn resolved(signal: impl Future<Output = io::Result<()>>) {
    if let Err(error) = signal.await {
        tracing::error!(%error, "cannot install a handler for a shutdown signal");
        std::future::pending::<()>().await;
    }
}
