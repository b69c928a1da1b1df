//! The signals by which a process is asked to end.

use std::pin::pin;

/// Resolves when the process is asked to end: by SIGINT (ctrl-c) or, on Unix, SIGTERM.
///
/// A signal that cannot be listened for is logged, and does not resolve it.
///
/// # Cancel safety
///
/// Once polled, the process no longer ends by these signals on its own, even if the future is dropped.
pub async fn shutdown_signal() {
    futures_util::future::select(pin!(interrupt()), pin!(terminate())).await;
}

async fn interrupt() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::error!(%error, "cannot listen for ctrl-c");
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
async fn terminate() {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::error!(%error, "cannot listen for SIGTERM");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
async fn terminate() {
    std::future::pending::<()>().await;
}
