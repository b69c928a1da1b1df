//! Maximum rate of the handshakes of a layer.

use std::{sync::Arc, time::Duration};

use getty_core::{Rate, sync::Gcra};
use tokio::time::{Instant, sleep_until};

use super::error::TlsError;

/// Rate of the handshakes of a layer and its clones.
#[derive(Clone, Debug)]
pub(super) struct HandshakeRate {
    state: Arc<Gcra>,
}

impl HandshakeRate {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            state: Arc::new(Gcra::new(rate, Instant::now())),
        }
    }

    /// Waits until the rate allows the next handshake. Fails at once if that is later than
    /// `max_wait` or `deadline`.
    pub(super) async fn wait(
        &self,
        max_wait: Duration,
        deadline: Option<Instant>,
    ) -> Result<(), TlsError> {
        let now = Instant::now();
        let left = deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(now));
        // A reservation that would be useless is not made, so it delays no other handshake.
        let wait = self.state.reserve(1, now, left.min(max_wait));
        let wait = wait.ok_or(TlsError::TooManyHandshakes)?;
        if !wait.is_zero() {
            sleep_until(now + wait).await;
        }
        Ok(())
    }
}
