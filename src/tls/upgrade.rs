//! Handshakes in an open session, for `StartTlsLayer` and `StartTlsConnectLayer`.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use getty_core::{CloseReason, ConnectionHandle, TransportKind, hooks::HandleExt};
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::{ClientConfig, pki_types::ServerName};

use super::{
    connect::connect, error::TlsError, handshake::outcome, hello, info::TlsInfo, layer::TlsLayer,
    stream::TlsStream,
};
use crate::transport::{ByteStream, CloseCause};

/// Server side of an upgrade.
#[derive(Clone, Debug)]
pub(crate) struct AcceptUpgrade(TlsLayer);

impl AcceptUpgrade {
    pub(crate) const fn new(tls: TlsLayer) -> Self {
        Self(tls)
    }

    pub(crate) const fn tls_mut(&mut self) -> &mut TlsLayer {
        &mut self.0
    }

    /// Returns a handshake that sets the attributes of `handle`. Its time begins now.
    pub(crate) fn start<T: ByteStream>(
        &self,
        io: T,
        handle: ConnectionHandle,
    ) -> BoxFuture<'static, Result<TlsStream<T>, CloseCause>> {
        let (timeout, max_hello) = (self.0.timeout, self.0.max_hello);
        // Two futures, so that a handshake without a choice or a rate has no room for them.
        if let Some(config) = self.0.fixed_config().cloned() {
            return Box::pin(async move {
                let handshake = async {
                    let config = config.current().await;
                    hello::accept(config, io, max_hello).await
                };
                let stream = within(timeout, handshake).await?;
                secured(&handle, TlsInfo::accepted(&stream));
                Ok(stream)
            });
        }
        let layer = self.0.clone();
        Box::pin(async move {
            let deadline = Instant::now().checked_add(timeout);
            let handshake = layer.accept_chosen(&handle, deadline, io);
            let stream = within(timeout, handshake).await?;
            secured(&handle, TlsInfo::accepted(&stream));
            Ok(stream)
        })
    }
}

/// Client side of an upgrade.
#[derive(Clone, Debug)]
pub(crate) struct ConnectUpgrade {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    pub(crate) timeout: Duration,
}

impl ConnectUpgrade {
    /// Runs the handshake and sets the attributes of `handle`.
    pub(crate) async fn run<T: ByteStream>(
        self,
        io: T,
        handle: ConnectionHandle,
    ) -> Result<TlsStream<T>, CloseCause> {
        let handshake = outcome(connect(self.config, self.name.clone(), io));
        let stream = within(self.timeout, handshake).await?;
        secured(&handle, TlsInfo::connected(&stream, &self.name));
        Ok(stream)
    }
}

async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = Result<T, TlsError>>,
) -> Result<T, CloseCause> {
    let (reason, error) = match timeout(limit, handshake).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => (CloseReason::UpgradeFailed, error),
        Err(_) => (CloseReason::HandshakeTimeout, TlsError::TimedOut(limit)),
    };
    Err(CloseCause {
        reason,
        source: error.into(),
    })
}

fn secured(handle: &ConnectionHandle, info: TlsInfo) {
    handle.set_transport(TransportKind::Tls);
    handle.insert(info);
}
