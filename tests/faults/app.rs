//! One application for both ends of a connection, with counters of everything that must be
//! back to zero once its connections have ended.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use getty::{
    BoxError, BoxPipeline, CloseReason, Closed, CodecLayer, Connection, ConnectionHandle,
    Connector, Layer, LinkLayer, Pipeline, ServiceBuilder, Session, SessionLayer, SessionTask,
    State, Transport,
    codec::Lines,
    handle_with,
    layers::{
        CloseCallbackLayer, OnOpenLayer, PeerLimitLayer, PendingLimitLayer, Registry, RegistryLayer,
    },
    net::{Listener, TcpConnector, TcpListener},
    tls::{
        ClientTls, Pem, ServerTls, TlsConfig, TlsConnectLayer, TlsLayer,
        rustls::{ClientConfig, pki_types::ServerName},
    },
    ws::{WsConnectLayer, WsLayer},
};
use pin_project_lite::pin_project;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot},
    task::{JoinHandle, yield_now},
    time::timeout,
};
use tower::{layer::util::Identity, limit::GlobalConcurrencyLimitLayer};

macro_rules! session_stack {
    ($side:ident, $link:expr) => {{
        let hooks = $side.clone();
        BoxPipeline::new(
            ServiceBuilder::new()
                .layer(CodecLayer::new(Lines::new()))
                .layer(RegistryLayer::new($side.sessions.clone()))
                .layer(OnOpenLayer::new(move |session: Session<String>| {
                    let side = hooks.clone();
                    async move { side.opened(session).await }
                }))
                .layer($link)
                .layer(SessionLayer::new().with_drain_deadline(DRAIN))
                .service(handle_with($side.clone(), answer)),
        )
    }};
}

/// Permits of a side. More than any test has connections.
const PERMITS: usize = 1024;

/// Permits of a gate that stops nothing. Each open hook and `?work` takes one.
const OPEN_GATE: usize = 1 << 40;

/// Returns the output of `future`. It must resolve within a minute.
pub(crate) async fn soon<F: IntoFuture>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future)
        .await
        .expect("timed out")
}

/// Waits for a state of the kernel or of tokio that wakes no task. Everything that can run does
/// so before each check.
pub(crate) async fn until(is_reached: impl Fn() -> bool) {
    soon(async {
        while !is_reached() {
            yield_now().await;
        }
    })
    .await;
}

/// Waits until all tasks that are woken now were polled. The runtime must have one thread,
/// which polls tasks in the order of their wake-ups.
pub(crate) async fn woken_tasks() {
    tokio::spawn(async {}).await.unwrap();
}

/// Name of the server in its certificate.
pub(crate) const NAME: &str = "server.test";

/// One end of connections: its stack and what it counts.
///
/// A message with `?` in front is a request. Its reply has `!` instead. `?work` waits for a
/// permit of `work`. The open hook waits for one of `open`.
#[derive(Clone)]
pub(crate) struct Side(Arc<Parts>);

pub(crate) struct Parts {
    /// Connections that have reached the stack.
    started: AtomicUsize,
    records: Mutex<Vec<Closed>>,
    /// Futures of connections, open hooks, handlers and attributes that were not dropped yet.
    live: AtomicUsize,
    /// Notified after each change of a counter and after each close record.
    changed: Notify,
    /// Connections from accept on.
    pub(crate) connections: Registry<ConnectionHandle>,
    pub(crate) sessions: Registry<Session<String>>,
    pending: PendingLimitLayer,
    peers: PeerLimitLayer,
    permits: Arc<Semaphore>,
    pub(crate) open: Semaphore,
    pub(crate) work: Semaphore,
    /// Hooks that wait and handlers at work.
    pub(crate) opening: AtomicUsize,
    pub(crate) working: AtomicUsize,
    heard: mpsc::UnboundedSender<String>,
    hears: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
    /// Sends that nothing polls until the end.
    sends: Mutex<Vec<BoxFuture<'static, bool>>>,
}

/// Counts a value until it is dropped.
pub(crate) struct Guard(Arc<Parts>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, SeqCst);
        self.0.changed.notify_waiters();
    }
}

pin_project! {
    /// Future of a connection. It counts as live until everything in it is dropped, including the
    /// permits of its layers.
    struct Counted<F> {
        #[pin]
        future: F,
        // Must be declared after the future.
        _guard: Guard,
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

impl std::ops::Deref for Side {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side")
            .field("started", &self.started)
            .field("records", &self.records)
            .field("live", &self.live)
            .field("connections", &self.connections.len())
            .field("sessions", &self.sessions.len())
            .field("pending", &self.pending.pending())
            .field("peers", &self.peers.peers())
            .field("permits", &self.permits.available_permits())
            .finish_non_exhaustive()
    }
}

impl Parts {
    /// Returns the number of connections that have reached the stack.
    pub(crate) fn started(&self) -> usize {
        self.started.load(SeqCst)
    }

    fn count(&self, counter: &AtomicUsize) {
        counter.fetch_add(1, SeqCst);
        self.changed.notify_waiters();
    }
}

impl Side {
    /// Creates a side whose open hooks and handlers wait for nothing.
    pub(crate) fn new() -> Self {
        let (heard, hears) = mpsc::unbounded_channel();
        Self(Arc::new(Parts {
            started: AtomicUsize::new(0),
            records: Mutex::default(),
            live: AtomicUsize::new(0),
            changed: Notify::new(),
            connections: Registry::untyped(),
            sessions: Registry::new(),
            pending: PendingLimitLayer::new(PERMITS),
            peers: PeerLimitLayer::new(1 << 20),
            permits: Arc::new(Semaphore::new(PERMITS)),
            open: Semaphore::new(OPEN_GATE),
            work: Semaphore::new(OPEN_GATE),
            opening: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            heard,
            hears: tokio::sync::Mutex::new(hears),
            sends: Mutex::default(),
        }))
    }

    fn guard(&self) -> Guard {
        self.live.fetch_add(1, SeqCst);
        Guard(Arc::clone(&self.0))
    }

    /// Returns the next message that is a reply or a push.
    pub(crate) async fn hear(&self) -> String {
        let mut hears = self.hears.lock().await;
        soon(hears.recv()).await.unwrap()
    }

    /// Waits for a state of the side, however long it takes.
    pub(crate) async fn reached(&self, is_reached: impl Fn(&Parts) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the check, so that no change is missed.
            changed.as_mut().enable();
            if is_reached(self) {
                return;
            }
            changed.await;
        }
    }

    /// Waits for a state of the side. It must be reached within a minute.
    pub(crate) async fn until(&self, is_reached: impl Fn(&Parts) -> bool) {
        soon(self.reached(is_reached)).await;
    }

    pub(crate) fn records(&self) -> Vec<Closed> {
        self.records.lock().unwrap().clone()
    }

    /// Drops the close records, which would count as memory of the connections.
    pub(crate) fn forget_records(&self) {
        self.started.store(0, SeqCst);
        *self.records.lock().unwrap() = Vec::new();
        *self.sends.lock().unwrap() = Vec::new();
        if let Ok(mut hears) = self.hears.try_lock() {
            while hears.try_recv().is_ok() {}
        }
    }

    pub(crate) fn reasons(&self) -> Vec<CloseReason> {
        let records = self.records.lock().unwrap();
        records.iter().map(|closed| closed.reason.clone()).collect()
    }

    /// Stops open hooks and handlers at their gates.
    pub(crate) fn close_gates(&self, open: bool, work: bool) {
        if open {
            self.open.forget_permits(OPEN_GATE);
        }
        if work {
            self.work.forget_permits(OPEN_GATE);
        }
    }

    pub(crate) fn open_gates(&self) {
        self.open.add_permits(OPEN_GATE);
        self.work.add_permits(OPEN_GATE);
    }

    /// Begins a send and keeps its future, whose outcome must be known at the end.
    fn begin_send(&self, session: &Session<String>) {
        let session = session.clone();
        let send = async move { session.send("!kept".to_owned()).await.is_ok() };
        let mut send: BoxFuture<'static, bool> = Box::pin(send);
        if send.as_mut().now_or_never().is_none() {
            self.sends.lock().unwrap().push(send);
        }
    }

    /// Asserts that each connection has one close record and that nothing else is left.
    #[track_caller]
    pub(crate) fn assert_settled(&self, what: &dyn fmt::Debug) {
        let started = self.started.load(SeqCst);
        let state = format!("{what:?}: {self:?}");
        assert_eq!(self.records.lock().unwrap().len(), started, "{state}");
        assert_eq!(self.connections.len(), 0, "{state}");
        assert_eq!(self.sessions.len(), 0, "{state}");
        assert_eq!(self.pending.pending(), 0, "{state}");
        assert_eq!(self.peers.peers(), 0, "{state}");
        assert_eq!(self.permits.available_permits(), PERMITS, "{state}");
        for send in self.sends.lock().unwrap().drain(..) {
            assert!(send.now_or_never().is_some(), "a send waits: {state}");
        }
        assert_eq!(self.live.load(SeqCst), 0, "{state}");
    }

    /// Waits until the side is settled.
    pub(crate) async fn settle(&self, what: &dyn fmt::Debug) {
        let settled = self.reached(|side| {
            side.live.load(SeqCst) == 0
                && side.records.lock().unwrap().len() >= side.started.load(SeqCst)
        });
        // A side that does not settle fails the assertion, which prints its state.
        let _ = timeout(Duration::from_secs(60), settled).await;
        self.assert_settled(what);
    }

    /// Puts the layers for any connection around `inner`.
    pub(crate) fn outside<Io: Send + 'static, S>(
        &self,
        inner: S,
    ) -> impl Pipeline<Io> + Clone + use<Io, S>
    where
        S: Pipeline<Io> + Clone,
    {
        let (started, ended, live) = (self.clone(), self.clone(), self.clone());
        ServiceBuilder::new()
            .map_future(move |future| Counted {
                future,
                _guard: live.guard(),
            })
            .layer(GlobalConcurrencyLimitLayer::with_semaphore(Arc::clone(
                &self.permits,
            )))
            .map_request(move |connection: Connection<Io>| {
                started.count(&started.started);
                connection.handle().insert(Attribute(started.guard()));
                connection
            })
            .layer(CloseCallbackLayer::new("faults", "record", move |closed| {
                ended.records.lock().unwrap().push(closed.clone());
                ended.changed.notify_waiters();
            }))
            .layer(RegistryLayer::new(self.connections.clone()))
            .layer(self.pending.clone())
            .layer(self.peers.clone())
            .service(inner)
    }

    /// Returns the stack of a server's session.
    pub(crate) fn server(&self) -> BoxPipeline {
        session_stack!(self, Identity::new())
    }

    /// Returns the stack of a client's session.
    pub(crate) fn client(&self, link: LinkLayer<String>) -> BoxPipeline {
        session_stack!(self, link)
    }
}

/// Drain deadline of all sessions.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

impl Side {
    async fn opened(&self, session: Session<String>) -> Result<(), BoxError> {
        let _guard = self.guard();
        self.count(&self.opening);
        session.feed("!opened".to_owned()).await?;
        self.begin_send(&session);
        self.open.acquire().await?.forget();
        Ok(())
    }
}

async fn answer(
    line: String,
    session: Session<String>,
    State(side): State<Side>,
) -> Result<Option<String>, BoxError> {
    let _guard = side.guard();
    let Some(request) = line.strip_prefix('?') else {
        let _ = side.heard.send(line);
        return Ok(None);
    };
    match request {
        "work" => {
            side.count(&side.working);
            side.work.acquire().await?.forget();
        }
        "push" => {
            side.begin_send(&session);
            session.feed("!pushed".to_owned()).await?;
        }
        "yield" => {
            for _ in 0..3 {
                yield_now().await;
            }
        }
        _ => {}
    }
    Ok(Some(format!("!{request}")))
}

/// Attribute that counts as live until it is dropped.
struct Attribute(#[allow(dead_code, reason = "kept for its destructor")] Guard);

/// Kinds of byte streams over sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Unix,
    Tls,
    Ws,
    Wss,
}

pub(crate) const KINDS: &[Kind] = &[Kind::Tcp, Kind::Unix, Kind::Tls, Kind::Ws, Kind::Wss];

impl Kind {
    pub(crate) const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(crate) const fn is_ws(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// A certificate for [`NAME`] and the client that trusts it.
#[derive(Clone)]
pub(crate) struct Tls {
    /// Certificate and key as PEM.
    pub(crate) pem: [String; 2],
    pub(crate) server: TlsConfig,
    pub(crate) client: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([NAME.to_owned()]).unwrap();
        Self::from_pem([cert.pem(), signing_key.serialize_pem()])
    }

    pub(crate) fn from_pem(pem: [String; 2]) -> Self {
        let [chain, key] = pem.clone().map(Pem::inline);
        let client = ClientTls::new().with_roots(chain.clone()).load().unwrap();
        let server = ServerTls::new(chain, key).load().unwrap();
        Self {
            pem,
            server,
            client,
        }
    }

    pub(crate) fn accept(&self) -> TlsLayer {
        TlsLayer::new(self.server.clone())
    }

    pub(crate) fn connect(&self) -> TlsConnectLayer {
        let name = ServerName::try_from(NAME).unwrap();
        TlsConnectLayer::new(Arc::clone(&self.client)).with_server_name(name)
    }
}

/// Address of a server or of a relay in front of it.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Ip(std::net::SocketAddr),
    Path(Arc<TempDir>),
}

/// A server over one kind of socket. It runs until it is stopped.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: Address,
    pub(crate) tls: Tls,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn new(kind: Kind, side: &Side, tls: &Tls) -> Self {
        let (stop, stopped) = oneshot::channel();
        let inner = side.server();
        let (address, task) = match kind {
            Kind::Unix => {
                let directory = Arc::new(tempfile::tempdir().unwrap());
                let path = directory.path().join("socket");
                let listener = getty::net::UnixListener::bind(path).unwrap();
                let task = serve(listener, side.outside(inner), stopped);
                (Address::Path(directory), task)
            }
            _ => {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = Address::Ip(listener.local_addr().unwrap());
                let (tls, ws) = (tls.accept(), WsLayer::new());
                let task = match kind {
                    Kind::Tls => serve(listener, side.outside(tls.layer(inner)), stopped),
                    Kind::Ws => serve(listener, side.outside(ws.layer(inner)), stopped),
                    Kind::Wss => serve(listener, side.outside(tls.layer(ws.layer(inner))), stopped),
                    _ => serve(listener, side.outside(inner), stopped),
                };
                (address, task)
            }
        };
        Self {
            kind,
            address,
            tls: tls.clone(),
            stop,
            task,
        }
    }

    /// Shuts the server down and waits for its end.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        soon(self.task).await.unwrap();
    }

    /// Opens a session of `side` with the server, or with the relay at `address`.
    pub(crate) async fn connect(
        &self,
        address: &Address,
        side: &Side,
    ) -> Result<(Session<String>, SessionTask), BoxError> {
        match (self.kind, address) {
            (_, Address::Path(directory)) => {
                let path = directory.path().join("socket");
                open(getty::net::UnixConnector::new(), path, side).await
            }
            (Kind::Tls, Address::Ip(address)) => {
                let connector = self.tls.connect().layer(TcpConnector::new());
                open(connector, *address, side).await
            }
            (Kind::Ws, Address::Ip(address)) => {
                let connector = WsConnectLayer::new().layer(TcpConnector::new());
                open(connector, format!("ws://{address}/"), side).await
            }
            (Kind::Wss, Address::Ip(address)) => {
                let connector = self.tls.connect().layer(TcpConnector::new());
                let connector = WsConnectLayer::new().layer(connector);
                open(connector, format!("wss://{address}/"), side).await
            }
            (_, Address::Ip(address)) => open(TcpConnector::new(), *address, side).await,
        }
    }
}

fn serve<L: Listener>(
    listener: L,
    stack: impl Pipeline<L::Io>,
    stopped: oneshot::Receiver<()>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let stopped = async move { drop(stopped.await) };
        let serve = getty::serve(listener, stack).with_graceful_shutdown(stopped);
        let drained = serve.await.expect("the stack is always ready");
        assert_eq!(drained.aborted, 0, "a connection was left");
    })
}

async fn open<C, A>(
    connector: C,
    target: A,
    side: &Side,
) -> Result<(Session<String>, SessionTask), BoxError>
where
    C: Connector<A>,
    C::Io: Transport + Send + 'static,
{
    let build = |link| side.outside(side.client(link));
    Ok(getty::connect(connector, target, build).await?)
}
