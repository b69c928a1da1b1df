//! Transport that can be replaced in an open session.

use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use getty_core::{CloseReason, ConnectionHandle, hooks::Contained};

use super::error::{BytesBeforeUpgrade, UpgradeError};
use crate::transport::{CloseCause, Framing, Received, SharedForm, Transport};

/// Replaces a transport `T` by a transport `U`.
pub(crate) trait Upgrade<T, U>: Send + Sync {
    /// Returns `true` if the upgrade takes bytes that were read and not decoded.
    fn carries(&self) -> bool;

    /// Starts the upgrade. `undecoded` is empty unless the upgrade [carries](Self::carries) bytes.
    fn start(&self, io: T, undecoded: Bytes, handle: ConnectionHandle) -> Handshake<U>;
}

pub(super) type Handshake<U> = BoxFuture<'static, Result<U, CloseCause>>;

/// Transport that begins as `T` and becomes `U` when a handler
/// [requests](crate::Reply::and_upgrade) it. `StartTlsLayer`, `StartTlsConnectLayer` and
/// [`UpgradeLayer`](super::UpgradeLayer) create it.
///
/// It is a transport and not a byte stream, so no layer for byte streams can be between it and
/// the session.
// `U` is not boxed: a `TlsStream` is one pointer, and other streams are about as large as `T`.
pub struct Upgradable<T, U>(State<T, U>);

enum State<T, U> {
    Plain {
        io: T,
        upgrade: Contained<Arc<dyn Upgrade<T, U>>>,
    },
    Upgrading(Contained<Handshake<U>>),
    Upgraded(U),
    /// The upgrade has failed, and both transports are dropped.
    Failed,
}

impl<T, U> Upgradable<T, U> {
    pub(crate) fn new(io: T, upgrade: Arc<dyn Upgrade<T, U>>) -> Self {
        Self(State::Plain {
            io,
            upgrade: Contained::new(upgrade),
        })
    }

    /// Returns `true` once the transport is upgraded.
    #[must_use]
    pub const fn is_upgraded(&self) -> bool {
        matches!(self.0, State::Upgraded(_))
    }

    /// Returns a reference to the old transport, until the upgrade begins.
    #[must_use]
    pub const fn plain(&self) -> Option<&T> {
        match &self.0 {
            State::Plain { io, .. } => Some(io),
            _ => None,
        }
    }

    /// Returns a reference to the new transport, once the upgrade is complete.
    #[must_use]
    pub const fn upgraded(&self) -> Option<&U> {
        match &self.0 {
            State::Upgraded(io) => Some(io),
            _ => None,
        }
    }
}

/// Calls a method of the current transport. `$absent` is the result while there is none.
macro_rules! forward {
    ($self:expr, $io:ident => $call:expr, $absent:expr) => {
        match $self {
            State::Plain { io: $io, .. } => $call,
            State::Upgraded($io) => $call,
            State::Upgrading(_) | State::Failed => $absent,
        }
    };
}

#[cold]
fn absent<V>() -> Poll<io::Result<V>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl<T: Transport, U: Transport> Transport for Upgradable<T, U> {
    fn framing(&self) -> Framing {
        forward!(&self.0, io => io.framing(), Framing::Stream)
    }

    #[inline]
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        forward!(&mut self.0, io => io.poll_recv(cx, buf, limit), absent())
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        forward!(&mut self.0, io => io.poll_send(cx, bufs), absent())
    }

    fn shared_form(&self) -> Option<SharedForm> {
        forward!(&self.0, io => io.shared_form(), None)
    }

    fn prepare(&mut self, message: &[u8]) -> Bytes {
        forward!(&mut self.0, io => io.prepare(message), Bytes::new())
    }

    fn poll_send_prepared(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        prepared: &Bytes,
    ) -> Poll<io::Result<usize>> {
        forward!(&mut self.0, io => io.poll_send_prepared(cx, bufs, prepared), absent())
    }

    fn bytes_flushed(&self) -> u64 {
        forward!(&self.0, io => io.bytes_flushed(), 0)
    }

    #[inline]
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.0, io => io.poll_flush(cx), absent())
    }

    fn max_message(&self) -> usize {
        forward!(&self.0, io => io.max_message(), usize::MAX)
    }

    #[inline]
    fn has_more(&self) -> bool {
        forward!(&self.0, io => io.has_more(), false)
    }

    #[inline]
    fn needs_flush(&self) -> bool {
        forward!(&self.0, io => io.needs_flush(), false)
    }

    #[inline]
    fn is_incomplete(&self) -> bool {
        forward!(&self.0, io => io.is_incomplete(), false)
    }

    fn take_close_reason(&mut self) -> Option<CloseCause> {
        forward!(&mut self.0, io => io.take_close_reason(), None)
    }

    fn has_ping(&self) -> bool {
        forward!(&self.0, io => io.has_ping(), false)
    }

    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.0, io => io.poll_ping(cx), Poll::Pending)
    }

    fn can_finish(&self) -> bool {
        forward!(&self.0, io => io.can_finish(), false)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.0, io => io.poll_finish(cx), absent())
    }

    fn check_upgrade(&self, undecoded: &[u8]) -> Result<(), CloseCause> {
        let State::Plain { io, upgrade } = &self.0 else {
            return Err(UpgradeError::Repeated.into());
        };
        if io.framing() != Framing::Stream {
            return Err(UpgradeError::NotAStream.into());
        }
        if !undecoded.is_empty() && !upgrade.carries() {
            return Err(BytesBeforeUpgrade {
                messages: 0,
                bytes: undecoded.len(),
            }
            .into());
        }
        Ok(())
    }

    fn poll_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        handle: &ConnectionHandle,
        undecoded: &mut BytesMut,
    ) -> Poll<Result<(), CloseCause>> {
        if let State::Plain { .. } = self.0
            && let State::Plain { io, upgrade } = mem::replace(&mut self.0, State::Failed)
        {
            let undecoded = undecoded.split().freeze();
            let handshake = upgrade.start(io, undecoded, handle.clone());
            self.0 = State::Upgrading(Contained::new(handshake));
        }
        let State::Upgrading(handshake) = &mut self.0 else {
            return Poll::Ready(Err(UpgradeError::Repeated.into()));
        };
        let result = ready!(Pin::new(handshake).poll(cx));
        self.0 = State::Failed; // drops the future
        let io = result?;
        if io.framing() != Framing::Stream {
            return Poll::Ready(Err(UpgradeError::NotAStream.into()));
        }
        self.0 = State::Upgraded(io);
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, reason: &CloseReason) -> Poll<io::Result<()>> {
        // A handshake that is cut off ends without another byte.
        forward!(&mut self.0, io => io.poll_close(cx, reason), Poll::Ready(Ok(())))
    }
}

impl<T: fmt::Debug, U: fmt::Debug> fmt::Debug for Upgradable<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Plain { io, .. } => f.debug_tuple("Plain").field(io).finish(),
            State::Upgrading(_) => f.write_str("Upgrading"),
            State::Upgraded(io) => f.debug_tuple("Upgraded").field(io).finish(),
            State::Failed => f.write_str("Failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn takes_three_words_more_than_its_transport() {
        let words = size_of::<Upgradable<TcpStream, Box<u8>>>() - size_of::<TcpStream>();
        assert!(words <= 3 * size_of::<usize>(), "{words}");
    }
}
