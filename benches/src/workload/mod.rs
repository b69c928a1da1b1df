//! Work that runs in this process and on the calling thread.
//!
//! Each workload exists for getty and for equivalent hand-written code.

pub mod broadcast;
pub mod calls;
pub mod cluster;
pub mod echo;
pub mod handlers;
pub mod layers;
pub mod pass_through;
pub mod tls;

use std::{future::poll_fn, io};

use getty::{Connection, Pipeline};
use tokio::runtime::{Builder, Runtime};

/// Creates a runtime on the calling thread.
///
/// # Panics
///
/// If the process cannot open the descriptors for it.
#[must_use]
pub fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the process must be allowed to open descriptors")
}

/// Serves one connection over `transport` until it is closed.
///
/// # Errors
///
/// If the stack refuses the connection.
pub async fn session<T>(transport: T, mut stack: impl Pipeline<T>) -> io::Result<()> {
    poll_fn(|cx| stack.poll_ready(cx))
        .await
        .map_err(|error| io::Error::other(error.into()))?;
    let closed = stack.call(Connection::new(transport)).await;
    closed.map_err(|error| io::Error::other(error.into()))?;
    Ok(())
}
