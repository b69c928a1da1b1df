//! Handshakes in an open session, for `StartTlsLayer` and `StartTlsConnectLayer`.

use std::{sync::Arc, time::Duration};

use getty_core::{CloseReason, ConnectionHandle, TransportKind, hooks::HandleExt};
use tokio::time::timeout;
use tokio_rustls::rustls::{ClientConfig, pki_types::ServerName};

use super::{
    config::TlsConfig,
    connect::connect,
    error::TlsError,
    handshake::outcome,
    hello::{self, MAX_HELLO},
    info::TlsInfo,
    stream::TlsStream,
};
use crate::transport::{ByteStream, CloseCause};

/// Server side of an upgrade.
#[derive(Clone, Debug)]
pub(crate) struct AcceptUpgrade {
    config: TlsConfig,
    pub(crate) timeout: Duration,
    pub(crate) max_hello: usize,
}

impl AcceptUpgrade {
    pub(crate) const fn new(config: TlsConfig, timeout: Duration) -> Self {
        Self {
            config,
            timeout,
            max_hello: MAX_HELLO,
        }
    }

    /// Runs the handshake and sets the attributes of `handle`.
    pub(crate) async fn run<T: ByteStream>(
        self,
        io: T,
        handle: ConnectionHandle,
    ) -> Result<TlsStream<T>, CloseCause> {
        let handshake = async {
            let config = self.config.current().await;
            hello::accept(config, io, self.max_hello).await
        };
        let stream = within(self.timeout, handshake).await?;
        secured(&handle, TlsInfo::accepted(&stream));
        Ok(stream)
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
