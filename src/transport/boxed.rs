//! Type-erased transport.

use std::{
    fmt,
    io::{self, IoSlice},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use getty_core::{CloseReason, ConnectionHandle};

use super::{CloseCause, Framing, Received, SharedForm, Transport};

/// Any transport behind a pointer so that one stack serves several kinds of transport and is
/// compiled once.
///
/// It costs one allocation per connection and an indirect call for each read and write. Use it
/// together with `BoxPipeline`.
pub struct BoxTransport(Box<dyn Transport + Send>);

impl BoxTransport {
    /// Boxes `transport`.
    pub fn new(transport: impl Transport + Send + 'static) -> Self {
        Self(Box::new(transport))
    }
}

impl Transport for BoxTransport {
    fn framing(&self) -> Framing {
        self.0.framing()
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        self.0.poll_recv(cx, buf, limit)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, bufs)
    }

    fn shared_form(&self) -> Option<SharedForm> {
        self.0.shared_form()
    }

    fn prepare(&mut self, message: &[u8]) -> Bytes {
        self.0.prepare(message)
    }

    fn poll_send_prepared(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        prepared: &Bytes,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send_prepared(cx, bufs, prepared)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn max_message(&self) -> usize {
        self.0.max_message()
    }

    fn has_more(&self) -> bool {
        self.0.has_more()
    }

    fn bytes_flushed(&self) -> u64 {
        self.0.bytes_flushed()
    }

    fn needs_flush(&self) -> bool {
        self.0.needs_flush()
    }

    fn is_incomplete(&self) -> bool {
        self.0.is_incomplete()
    }

    fn take_close_reason(&mut self) -> Option<CloseCause> {
        self.0.take_close_reason()
    }

    fn has_ping(&self) -> bool {
        self.0.has_ping()
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ping(cx)
    }

    fn can_finish(&self) -> bool {
        self.0.can_finish()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_finish(cx)
    }

    fn check_upgrade(&self, undecoded: &[u8]) -> Result<(), CloseCause> {
        self.0.check_upgrade(undecoded)
    }

    fn poll_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        handle: &ConnectionHandle,
        undecoded: &mut BytesMut,
    ) -> Poll<Result<(), CloseCause>> {
        self.0.poll_upgrade(cx, handle, undecoded)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        self.0.poll_close(cx, reason)
    }
}

impl fmt::Debug for BoxTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxTransport").finish()
    }
}
