//! Signals that request the shutdown of a process.

use std::{io, pin::pin};

use futures_util::future::select;
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};

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
    let (interrupt, terminate) = (interrupt(), terminate());
    async move {
        select(pin!(interrupt), pin!(terminate)).await;
    }
}

#[cfg(unix)]
fn interrupt() -> impl Future<Output = ()> + Send {
    unix_signal(SignalKind::interrupt())
}

#[cfg(unix)]
fn terminate() -> impl Future<Output = ()> + Send {
    unix_signal(SignalKind::terminate())
}

#[cfg(unix)]
fn unix_signal(kind: SignalKind) -> impl Future<Output = ()> + Send {
    let signal = signal(kind);
    async move {
        match signal {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => never(&error).await,
        }
    }
}

#[cfg(not(unix))]
async fn interrupt() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        never(&error).await;
    }
}

#[cfg(not(unix))]
fn terminate() -> impl Future<Output = ()> + Send {
    std::future::pending()
}

async fn never(error: &io::Error) {
    tracing::error!(%error, "cannot install a handler for a shutdown signal");
    std::future::pending::<()>().await;
}
