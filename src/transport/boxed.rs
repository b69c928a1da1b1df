//! A transport whose type is forgotten.

use std::{
    fmt,
    io::{self, IoSlice},
    task::{Context, Poll},
};

use bytes::BytesMut;
use getty_core::CloseReason;

use super::{Ended, Framing, Received, Transport};

/// Any transport behind one pointer, so that one stack, compiled once, serves several kinds of transport.
///
/// It costs an allocation a connection and an indirect call for each read and write. `BoxPipeline` goes with it.
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

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn max_message(&self) -> usize {
        self.0.max_message()
    }

    fn has_more(&self) -> bool {
        self.0.has_more()
    }

    fn written(&self) -> u64 {
        self.0.written()
    }

    fn owes(&self) -> bool {
        self.0.owes()
    }

    fn is_incomplete(&self) -> bool {
        self.0.is_incomplete()
    }

    fn ended(&mut self) -> Option<Ended> {
        self.0.ended()
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

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        self.0.poll_close(cx, reason)
    }
}

impl fmt::Debug for BoxTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxTransport").finish()
    }
}
