//! Sending what is encoded already.

use bytes::Bytes;

use super::{
    Session,
    error::{SendError, Sent},
    payload::Payload,
    send::Delivery,
};

impl<Out> Session<Out> {
    /// Sends bytes that are encoded already, past the codec, and waits until they have left, as [`send`](Self::send) does.
    /// They leave in their turn and are never interleaved with a message; on transports that keep messages apart they are
    /// one message, be it empty. Large ones are written from where they are, small ones copied into the write buffer.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), but never [`SendError::Encode`].
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send): dropped before there was room it sends nothing, dropped later the bytes are sent all the
    /// same, to the last.
    pub async fn send_raw(&self, bytes: Bytes) -> Result<Sent, SendError<Bytes>> {
        let sent = Delivery::new(self, Payload::Raw(bytes)).await;
        sent.map_err(|error| {
            error.map(|payload| match payload {
                Payload::Raw(bytes) => bytes,
                other => unreachable!("bytes went in, not {other:?}"),
            })
        })
    }

    /// As [`send_raw`](Self::send_raw), for bytes in several pieces: together they are one message, and leave in vectored
    /// writes where the transport has them.
    ///
    /// # Errors
    ///
    /// As [`send_raw`](Self::send_raw), with the pieces as they were.
    ///
    /// # Cancel safety
    ///
    /// As [`send_raw`](Self::send_raw).
    pub async fn send_raw_vectored(
        &self,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> Result<Sent, SendError<Vec<Bytes>>> {
        let pieces = Vec::from_iter(pieces);
        let sent = Delivery::new(self, Payload::RawVectored(pieces)).await;
        sent.map_err(|error| {
            error.map(|payload| match payload {
                Payload::RawVectored(pieces) => pieces,
                other => unreachable!("pieces went in, not {other:?}"),
            })
        })
    }
}
