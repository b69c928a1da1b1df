//! Choice of a configuration by the client's first message.

use std::{fmt, sync::Arc};

use getty_core::{ConnectionHandle, hooks::Contained};
use tokio_rustls::rustls::{
    CipherSuite, NamedGroup, SignatureScheme,
    server::{Accepted, ClientHello},
};

use super::{config::TlsConfig, error::TlsError, refusal::TlsRefusal};

/// First message of a client, for [`TlsLayer::choose`](super::TlsLayer::choose).
///
/// It is borrowed: nothing is copied for the choice. The contents are not authenticated, and a
/// client can name any server. After the handshake, [`TlsInfo`](super::TlsInfo) has the name
/// and the protocol that apply to the session.
pub struct Hello<'a> {
    hello: ClientHello<'a>,
    handle: &'a ConnectionHandle,
}

impl Hello<'_> {
    /// Returns the name of the server that the client requests (SNI), in lower case. Clients that
    /// connect to an IP address send none.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.hello.server_name()
    }

    /// Returns the protocols inside TLS that the client offers (ALPN), in order of its preference.
    /// There may be none.
    pub fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        self.hello.alpn().into_iter().flatten()
    }

    /// Returns `true` if the client offers this protocol inside TLS (ALPN).
    #[must_use]
    pub fn offers(&self, protocol: impl AsRef<[u8]>) -> bool {
        self.alpn().any(|offered| offered == protocol.as_ref())
    }

    /// Returns the cipher suites that the client supports.
    #[must_use]
    pub fn cipher_suites(&self) -> &[CipherSuite] {
        self.hello.cipher_suites()
    }

    /// Returns the signature schemes that the client supports, for example to present an RSA
    /// certificate to old clients.
    #[must_use]
    pub fn signature_schemes(&self) -> &[SignatureScheme] {
        self.hello.signature_schemes()
    }

    /// Returns the groups for the key exchange that the client supports.
    #[must_use]
    pub fn named_groups(&self) -> &[NamedGroup] {
        self.hello.named_groups().unwrap_or_default()
    }

    /// Returns the handle of the connection, with the addresses of the peer and of this side.
    #[must_use]
    pub const fn handle(&self) -> &ConnectionHandle {
        self.handle
    }
}

impl fmt::Debug for Hello<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alpn = self.alpn().map(String::from_utf8_lossy);
        f.debug_struct("Hello")
            .field("server_name", &self.server_name())
            .field("alpn", &alpn.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

type ChooseFn = dyn Fn(Hello<'_>) -> Result<TlsConfig, TlsRefusal> + Send + Sync;

/// Source of the configuration for each handshake.
#[derive(Clone)]
pub(super) enum Choice {
    /// The same for all clients.
    Same(TlsConfig),
    /// By the client's first message.
    ByHello(Arc<ChooseFn>),
}

impl Choice {
    pub(super) fn by_hello<F>(choose: F) -> Self
    where
        F: Fn(Hello<'_>) -> Result<TlsConfig, TlsRefusal> + Send + Sync + 'static,
    {
        let choose = Contained::new(choose);
        Self::ByHello(Arc::new(move |hello: Hello<'_>| choose.get_ref()(hello)))
    }

    pub(super) fn config(
        &self,
        accepted: &Accepted,
        handle: &ConnectionHandle,
    ) -> Result<TlsConfig, TlsError> {
        match self {
            Self::Same(config) => Ok(config.clone()),
            Self::ByHello(choose) => {
                let hello = accepted.client_hello();
                choose(Hello { hello, handle }).map_err(TlsError::Refused)
            }
        }
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(config) => config.fmt(f),
            Self::ByHello(_) => f.write_str("by hello"),
        }
    }
}
