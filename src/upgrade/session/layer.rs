//! Upgrades by a function of the application.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use getty_core::{CloseReason, Connection, ConnectionHandle, hooks::Contained};
use tokio::time::timeout;
use tower::{BoxError, Layer, Service};

use super::{
    error::UpgradeError,
    upgradable::{Handshake, Upgradable, Upgrade},
};
use crate::transport::{CloseCause, Prefixed, Transport};

/// Default time for an upgrade.
pub(super) const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Upgrades the transport of an open session with a function. It turns `Connection<T>` into
/// `Connection<Upgradable<T, U>>`.
///
/// The function gets the old transport and the session's handle, and returns the new transport.
/// It may exchange bytes with the peer. See the [module] for the rules of an upgrade, and
/// `StartTlsLayer` for TLS. TLS with compression inside is one such function.
///
/// [module]: crate::upgrade#upgrade-of-an-open-session
///
/// - *ready*: polls the inner service.
/// - *call*: calls the inner service with the connection.
/// - *drop*: drops the inner future. During an upgrade this drops the function's future.
/// - *close*: an error of the function closes the session as
///   [`CloseReason::UpgradeFailed`], with the error as its source. A late function closes it as
///   [`CloseReason::HandshakeTimeout`] with [`UpgradeError::TimedOut`].
///
/// Scope: the function is shared by all sessions, and the deadline applies to each upgrade. The
/// layer belongs outside `CodecLayer`.
///
/// # Cancel safety
///
/// The function's future is dropped at a close, at the deadline, and with the session.
///
/// ```
/// use getty::{BoxError, CodecLayer, ConnectionHandle, Reply, ServiceBuilder, SessionLayer};
/// use getty::{codec::Lines, handle, net, transport::Prefixed, upgrade::UpgradeLayer};
/// use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// // A real function would run a handshake. This one gives each line a prefix.
/// let upgrade = |mut io: DuplexStream, _: ConnectionHandle| async {
///     io.write_all(b"> ").await?;
///     Ok::<_, BoxError>(io)
/// };
/// let app = ServiceBuilder::new()
///     .layer(UpgradeLayer::new(upgrade))
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service(handle(async |line: String| match line.as_str() {
///         "UPGRADE" => Reply::one("ready".to_owned()).and_upgrade(),
///         _ => Reply::one(line),
///     }));
/// let (listener, connector) = net::memory(1024);
/// tokio::spawn(async move { getty::serve(listener, app).await });
///
/// let (peer, _rest) = connector.connect().await?.take_transport();
/// let mut peer = BufReader::new(peer);
/// let mut line = String::new();
/// peer.write_all(b"UPGRADE\n").await?;
/// peer.read_line(&mut line).await?;
/// assert_eq!(line, "ready\n");
/// peer.write_all(b"hello\n").await?;
/// line.clear();
/// peer.read_line(&mut line).await?;
/// assert_eq!(line, "> hello\n");
/// # Ok(())
/// # }
/// ```
pub struct UpgradeLayer<F, K = Refuse> {
    function: Arc<Contained<F>>,
    timeout: Duration,
    kind: PhantomData<K>,
}

/// Marks an [`UpgradeLayer`] that refuses bytes which were read and not decoded.
#[derive(Clone, Copy, Debug)]
pub enum Refuse {}

/// Marks an [`UpgradeLayer`] that carries bytes which were read and not decoded.
#[derive(Clone, Copy, Debug)]
pub enum Carry {}

impl<F> UpgradeLayer<F> {
    /// Creates a new layer whose `function` returns the new transport.
    ///
    /// Undecoded bytes refuse the upgrade: the session closes as [`CloseReason::Decode`] with
    /// [`BytesBeforeUpgrade`](super::BytesBeforeUpgrade). An upgrade for security needs this.
    pub fn new<T, U, E, R>(function: F) -> Self
    where
        F: Fn(T, ConnectionHandle) -> R,
        R: Future<Output = Result<U, E>>,
    {
        Self::with_kind(function)
    }
}

impl<F> UpgradeLayer<F, Carry> {
    /// Creates a new layer whose `function` returns the new transport. The function gets the
    /// undecoded bytes together with the old transport, as a [`Prefixed`].
    ///
    /// Must not be used for an upgrade to an encrypted or authenticated transport: the bytes are
    /// from before it. It suits a peer that continues in a new format without a reply, such as
    /// with compression.
    ///
    /// Messages that were decoded ahead, and a message that the codec has begun to decode, still
    /// refuse the upgrade.
    pub fn carry<T, U, E, R>(function: F) -> Self
    where
        F: Fn(Prefixed<T>, ConnectionHandle) -> R,
        R: Future<Output = Result<U, E>>,
    {
        Self::with_kind(function)
    }
}

impl<F, K> UpgradeLayer<F, K> {
    fn with_kind(function: F) -> Self {
        Self {
            function: Arc::new(Contained::new(function)),
            timeout: UPGRADE_TIMEOUT,
            kind: PhantomData,
        }
    }

    /// Sets the time for one upgrade, from the flush of the reply until the function returns. The
    /// default is 10 s. A time that exceeds the clock's range is unlimited.
    #[must_use]
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl<F, K> Clone for UpgradeLayer<F, K> {
    fn clone(&self) -> Self {
        Self {
            function: Arc::clone(&self.function),
            timeout: self.timeout,
            kind: PhantomData,
        }
    }
}

impl<F, K> fmt::Debug for UpgradeLayer<F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeLayer")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl<S, F, K> Layer<S> for UpgradeLayer<F, K> {
    type Service = UpgradeService<S, F, K>;

    fn layer(&self, inner: S) -> Self::Service {
        UpgradeService {
            inner,
            upgrade: Arc::new(FnUpgrade {
                function: Arc::clone(&self.function),
                timeout: self.timeout,
                kind: PhantomData,
            }),
        }
    }
}

/// Service that [`UpgradeLayer`] creates.
pub struct UpgradeService<S, F, K = Refuse> {
    inner: S,
    upgrade: Arc<FnUpgrade<F, K>>,
}

impl<S, F, K> UpgradeService<S, F, K> {
    getty_core::inner_service_accessors!();
}

impl<S: Clone, F, K> Clone for UpgradeService<S, F, K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            upgrade: Arc::clone(&self.upgrade),
        }
    }
}

impl<S: fmt::Debug, F, K> fmt::Debug for UpgradeService<S, F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

struct FnUpgrade<F, K> {
    function: Arc<Contained<F>>,
    timeout: Duration,
    kind: PhantomData<fn() -> K>,
}

impl<T, U, E, R, F> Upgrade<T, U> for FnUpgrade<F, Refuse>
where
    F: Fn(T, ConnectionHandle) -> R + Send + Sync,
    R: Future<Output = Result<U, E>> + Send + 'static,
    E: Into<BoxError>,
{
    fn carries(&self) -> bool {
        false
    }

    fn start(&self, io: T, _: Bytes, handle: ConnectionHandle) -> Handshake<U> {
        run((**self.function)(io, handle), self.timeout)
    }
}

impl<T, U, E, R, F> Upgrade<T, U> for FnUpgrade<F, Carry>
where
    F: Fn(Prefixed<T>, ConnectionHandle) -> R + Send + Sync,
    R: Future<Output = Result<U, E>> + Send + 'static,
    E: Into<BoxError>,
{
    fn carries(&self) -> bool {
        true
    }

    fn start(&self, io: T, undecoded: Bytes, handle: ConnectionHandle) -> Handshake<U> {
        let io = Prefixed::new(io, undecoded);
        run((**self.function)(io, handle), self.timeout)
    }
}

fn run<U, E: Into<BoxError>>(
    function: impl Future<Output = Result<U, E>> + Send + 'static,
    limit: Duration,
) -> Handshake<U> {
    Box::pin(async move {
        match timeout(limit, function).await {
            Ok(Ok(io)) => Ok(io),
            Ok(Err(error)) => Err(CloseCause {
                reason: CloseReason::UpgradeFailed,
                source: error.into(),
            }),
            Err(_) => Err(UpgradeError::TimedOut(limit).into()),
        }
    })
}

/// Implements the service for one kind of layer, whose function takes `$io`.
macro_rules! service {
    ($kind:ty, $io:ty) => {
        impl<S, F, T, U, E, R> Service<Connection<T>> for UpgradeService<S, F, $kind>
        where
            S: Service<Connection<Upgradable<T, U>>>,
            F: Fn($io, ConnectionHandle) -> R + Send + Sync + 'static,
            R: Future<Output = Result<U, E>> + Send + 'static,
            E: Into<BoxError>,
            T: Transport,
            U: Transport,
        {
            type Response = S::Response;
            type Error = S::Error;
            type Future = S::Future;

            /// Polls the inner service.
            fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
                self.inner.poll_ready(cx)
            }

            fn call(&mut self, connection: Connection<T>) -> S::Future {
                let upgrade: Arc<dyn Upgrade<T, U>> = Arc::clone(&self.upgrade) as _;
                self.inner
                    .call(connection.map_transport(|io| Upgradable::new(io, upgrade)))
            }
        }
    };
}

service!(Refuse, T);
service!(Carry, Prefixed<T>);
