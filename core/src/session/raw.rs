//! Sending of encoded bytes.

use bytes::Bytes;

use super::{
    Session,
    error::{SendError, Sent},
    payload::Payload,
    send::SendFuture,
};

impl<Out> Session<Out> {
    /// Sends encoded bytes without the codec, and waits until the transport is flushed, like
    /// [`send`](Self::send).
    ///
    /// The bytes leave in the order of the queue and are never interleaved with a message. On
    /// transports that preserve message boundaries they are one message even if empty. Large
    /// buffers are written by reference, small ones are copied into the write buffer (design.md:
    /// Why are large raw payloads written by reference?).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send) except [`SendError::Encode`].
    ///
    /// # Cancel safety
    ///
    /// As for [`send`](Self::send). If the future is dropped before there was room, nothing is
    /// sent. If it is dropped later, all bytes are still sent.
    pub async fn send_raw(&self, bytes: Bytes) -> Result<Sent, SendError<Bytes>> {
        let sent = SendFuture::new(self, Payload::Raw(bytes)).await;
        sent.map_err(|error| {
            error.map(|payload| match payload {
                Payload::Raw(bytes) => bytes,
                other => unreachable!("the payload was bytes, not {other:?}"),
            })
        })
    }

    /// Like [`send_raw`](Self::send_raw) for bytes in several pieces. Together they are one
    /// message. They are sent with vectored writes if the transport supports them.
    ///
    /// # Errors
    ///
    /// As for [`send_raw`](Self::send_raw), with the pieces unchanged.
    ///
    /// # Cancel safety
    ///
    /// As for [`send_raw`](Self::send_raw).
    pub async fn send_raw_vectored(
        &self,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> Result<Sent, SendError<Vec<Bytes>>> {
        let pieces = Vec::from_iter(pieces);
        let sent = SendFuture::new(self, Payload::RawVectored(pieces)).await;
        sent.map_err(|error| {
            error.map(|payload| match payload {
                Payload::RawVectored(pieces) => pieces,
                other => unreachable!("the payload was pieces, not {other:?}"),
            })
        })
    }
}
