//! The connector of both layers: dial, deadline and failure around a dialogue.

use std::{
    fmt,
    future::{Future, poll_fn, ready},
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use getty_core::{
    Close, CloseReason, Connection, ConnectionHandle, TransportKind, hooks::HandleExt,
};
use tokio::{
    net::lookup_host,
    time::{Instant, timeout_at},
};
use tower::BoxError;
use tower_service::Service;

use super::{
    error::ProxyConnectError,
    http,
    login::Login,
    socks5,
    target::{ProxyTarget, ProxyTargetError},
    via::{ProxyKind, Via},
};
use crate::transport::{ByteStream, Interrupted, uninterrupted};

/// Default time for the dial and the dialogue.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a layer.
#[derive(Clone, Debug)]
pub(super) struct Settings<P> {
    pub(super) kind: ProxyKind,
    pub(super) proxy: P,
    pub(super) login: Option<Arc<Login>>,
    pub(super) local_dns: bool,
    pub(super) timeout: Duration,
}

impl<P> Settings<P> {
    pub(super) const fn new(kind: ProxyKind, proxy: P) -> Self {
        Self {
            kind,
            proxy,
            login: None,
            local_dns: false,
            timeout: CONNECT_TIMEOUT,
        }
    }

    fn check_login(&self) -> Result<(), ProxyConnectError> {
        match (&self.login, self.kind) {
            (None, _) => Ok(()),
            (Some(login), ProxyKind::Socks5) => login.check_socks5(),
            (Some(login), ProxyKind::Http) => login.check_basic(),
        }
    }
}

/// Connector that [`Socks5ConnectLayer`](super::Socks5ConnectLayer) and
/// [`HttpConnectLayer`](super::HttpConnectLayer) create.
///
/// One type serves both kinds, so a program can choose between them at run time.
#[derive(Clone, Debug)]
pub struct ProxyConnect<C, P> {
    inner: C,
    settings: Settings<P>,
}

impl<C, P> ProxyConnect<C, P> {
    pub(super) const fn new(inner: C, settings: Settings<P>) -> Self {
        Self { inner, settings }
    }
}

impl<S, P> ProxyConnect<S, P> {
    getty_core::inner_service_accessors!();
}

impl<C, P, A, T> Service<A> for ProxyConnect<C, P>
where
    C: Service<P, Response = Connection<T>, Error: Into<BoxError>, Future: Send>,
    C: Clone + Send + 'static,
    P: Clone + Send + 'static,
    A: TryInto<ProxyTarget, Error: Into<ProxyTargetError>>,
    T: ByteStream,
{
    type Response = Connection<T>;
    type Error = ProxyConnectError;
    type Future = ProxyConnecting<T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyConnectError>> {
        self.inner
            .poll_ready(cx)
            .map_err(ProxyConnectError::connect)
    }

    fn call(&mut self, target: A) -> ProxyConnecting<T> {
        let target = target
            .try_into()
            .map_err(|error| ProxyConnectError::Target(error.into()))
            .and_then(|target| self.settings.check_login().map(|()| target));
        let target = match target {
            Ok(target) => target,
            Err(error) => return ProxyConnecting(Box::pin(ready(Err(error)))),
        };
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let settings = self.settings.clone();
        let deadline = Deadline::after(settings.timeout);
        ProxyConnecting(Box::pin(connect(inner, settings, target, deadline)))
    }
}

/// Connects to the proxy with `inner`, which was polled ready, and through the proxy to
/// `target`.
async fn connect<C, P, T>(
    mut inner: C,
    settings: Settings<P>,
    target: ProxyTarget,
    deadline: Deadline,
) -> Result<Connection<T>, ProxyConnectError>
where
    C: Service<P, Response = Connection<T>, Error: Into<BoxError>>,
    P: Clone,
    T: ByteStream,
{
    let Settings {
        kind,
        proxy,
        login,
        local_dns,
        ..
    } = settings;
    let requested = if local_dns && target.ip().is_none() {
        deadline.limit(resolve(&target)).await??
    } else {
        vec![target.clone()]
    };
    let mut refusal = None;
    for requested in requested {
        if refusal.is_some() {
            let ready = poll_fn(|cx| inner.poll_ready(cx));
            let ready = deadline.limit(ready).await?;
            ready.map_err(ProxyConnectError::connect)?;
        }
        let dialed = deadline.limit(inner.call(proxy.clone())).await?;
        let mut connection = dialed.map_err(ProxyConnectError::connect)?;
        let handle = connection.handle().clone();
        let dialogue = request(
            kind,
            connection.transport_mut(),
            &requested,
            login.as_deref(),
        );
        match deadline.run(&handle, dialogue).await {
            Ok(()) => {
                record(&handle, Via::new(kind, target));
                return Ok(connection);
            }
            // The proxy may reach the next address, which is possibly of the other family.
            Err(
                error @ (ProxyConnectError::Unreachable { .. } | ProxyConnectError::Refused { .. }),
            ) => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refusal.unwrap_or_else(|| ProxyConnectError::Resolve(Arc::new(no_address()))))
}

async fn request<T: ByteStream>(
    kind: ProxyKind,
    io: &mut T,
    target: &ProxyTarget,
    login: Option<&Login>,
) -> Result<(), ProxyConnectError> {
    match kind {
        ProxyKind::Socks5 => socks5::request(io, target, login).await,
        ProxyKind::Http => http::request(io, target, login).await,
    }
}

/// Resolves the name of `target` on this machine.
async fn resolve(target: &ProxyTarget) -> Result<Vec<ProxyTarget>, ProxyConnectError> {
    let addresses = lookup_host((target.host(), target.port()))
        .await
        .map_err(|error| ProxyConnectError::Resolve(Arc::new(error)))?;
    Ok(addresses.map(ProxyTarget::from).collect())
}

fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

/// Records the target of a connection that the proxy has established.
fn record(handle: &ConnectionHandle, via: Via) {
    // TLS to the proxy does not protect the connection to the target. Layers outside must not
    // take it for that, as a WebSocket client does that checks whether `wss://` is secure.
    if handle.transport() == TransportKind::Tls {
        handle.set_transport(TransportKind::Other("proxy"));
        #[cfg(feature = "tls")]
        handle.remove::<crate::tls::TlsInfo>();
    }
    handle.insert(via);
}

/// Deadline of the dial together with the dialogue.
#[derive(Clone, Copy)]
struct Deadline {
    timeout: Duration,
    /// `None` is no deadline.
    at: Option<Instant>,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self {
            timeout,
            at: Instant::now().checked_add(timeout),
        }
    }

    /// Runs a part before there is a connection.
    async fn limit<F: Future>(self, part: F) -> Result<F::Output, ProxyConnectError> {
        match self.at {
            Some(at) => timeout_at(at, part)
                .await
                .map_err(|_| ProxyConnectError::TimedOut(self.timeout)),
            None => Ok(part.await),
        }
    }

    /// Runs the dialogue. A failure closes the connection.
    async fn run(
        self,
        handle: &ConnectionHandle,
        dialogue: impl Future<Output = Result<(), ProxyConnectError>>,
    ) -> Result<(), ProxyConnectError> {
        let result = match uninterrupted(handle, self.at, dialogue).await {
            Ok(result) => result,
            Err(Interrupted::TimedOut) => Err(ProxyConnectError::TimedOut(self.timeout)),
            Err(Interrupted::Closed) => Err(ProxyConnectError::Cancelled),
        };
        if let Err(error) = &result {
            let reason = match error {
                ProxyConnectError::TimedOut(_) => CloseReason::HandshakeTimeout,
                _ => CloseReason::Refused,
            };
            handle.close_with(Close::new(reason).with_source(error.clone()));
        }
        result
    }
}

/// Future of [`ProxyConnect`].
///
/// # Cancel safety
///
/// Dropping it abandons the attempt and closes its connection. The proxy may have connected to
/// the target by then.
#[must_use = "futures do nothing unless polled"]
pub struct ProxyConnecting<T>(BoxFuture<'static, Result<Connection<T>, ProxyConnectError>>);

impl<T> Future for ProxyConnecting<T> {
    type Output = Result<Connection<T>, ProxyConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for ProxyConnecting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConnecting").finish_non_exhaustive()
    }
}
