//! The signals by which a process is asked to end.

use std::{io, pin::pin};

use futures_util::future::select;
#[cfg(unix)]
use tokio::signal::unix::{SignalKind, signal};

/// Resolves when the process is asked to end: by SIGINT (ctrl-c) or, on Unix, SIGTERM.
///
/// On Unix the signals are listened for from this call on, and not from the first poll: a program that calls it before
/// it tells anybody that it is up is not killed by a signal that comes right after. A signal that cannot be listened for
/// is logged, and does not resolve it.
///
/// # Panics
///
/// Outside of a tokio runtime.
///
/// # Cancel safety
///
/// Once called, the process no longer ends by these signals on its own, even if the future is dropped.
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
    tracing::error!(%error, "cannot listen for a signal that asks to end");
    std::future::pending::<()>().await;
}
