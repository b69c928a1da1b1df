//! Sending with a timeout for one message.

use std::{pin::pin, time::Duration};

use super::{
    Session,
    error::{SendError, Sent},
    payload::Payload,
    send::SendFuture,
};

impl<Out> Session<Out> {
    /// Like [`send`](Self::send), but waits no longer than `timeout`. The timeout applies to this
    /// message alone. The session's write timeout is not affected.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), and [`SendError::Timeout`]. It contains the message if the
    /// session had not begun to encode it: the message will then not be sent. Otherwise the
    /// message will still be sent once the peer takes it, because half a message cannot be taken
    /// back. A caller that cannot accept this should close the session.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime with the timer enabled.
    ///
    /// # Cancel safety
    ///
    /// As for [`send`](Self::send).
    pub async fn send_timeout(
        &self,
        message: Out,
        timeout: Duration,
    ) -> Result<Sent, SendError<Out>> {
        let mut send = pin!(SendFuture::new(self, Payload::Message(message)));
        let outcome = match tokio::time::timeout(timeout, &mut send).await {
            Ok(outcome) => outcome,
            Err(_) => send.give_up(),
        };
        outcome.map_err(SendError::of_message)
    }
}
