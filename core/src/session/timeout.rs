//! Sending with a deadline of one message's own.

use std::{pin::pin, time::Duration};

use super::{
    Session,
    error::{SendError, Sent},
    payload::Payload,
    send::Delivery,
};

impl<Out> Session<Out> {
    /// As [`send`](Self::send), but waits no longer than `timeout`. It concerns this message alone: the next one has
    /// whatever time it is given, and the session's write timeout stays as it is.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), and [`SendError::Timeout`]: with the message where the session had not begun to
    /// encode it, which then is not sent; without it where it had, and then it is sent all the same as soon as the peer
    /// takes it. Half a message cannot be taken back: a caller who cannot live with that closes the session.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with its timer enabled.
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn send_timeout(
        &self,
        message: Out,
        timeout: Duration,
    ) -> Result<Sent, SendError<Out>> {
        let mut delivery = pin!(Delivery::new(self, Payload::Message(message)));
        let outcome = match tokio::time::timeout(timeout, &mut delivery).await {
            Ok(outcome) => outcome,
            Err(_) => delivery.give_up(),
        };
        outcome.map_err(SendError::of_message)
    }
}
