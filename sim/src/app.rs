//! The programs of a run: a server and a client, as an application would write them.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use getty::{
    BoxError, Caller, Client, CodecLayer, LinkLayer, MultiplexClient, Pipeline, PipelineClient,
    Request, RequestError, Service, ServiceBuilder, Session, SessionLayer, SlowConsumer,
    client::Backoff,
    codec::Lines,
    layers::{Correlate, CorrelateLayer, Delivery, HeartbeatLayer, IdleTimeoutLayer, OnOpenLayer},
    serve, service_fn,
    tower::ServiceExt,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{advance, sleep, timeout},
};

use crate::{
    ledger::{Ledger, Nonce, Side},
    net::{Pace, Wire, dial, listen},
    trace::Fnv,
};

/// Port of the server whose responses carry the id of their request.
const BY_ID: u16 = 1000;
/// Port of the server whose responses come in the order of the requests.
const IN_ORDER: u16 = 2000;

/// Time without sent bytes after which a heartbeat is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time in which something must be received after a heartbeat.
pub const RESPONSE: Duration = Duration::from_secs(1);
/// Time without received bytes after which a session closes.
pub const IDLE: Duration = Duration::from_secs(3);
/// Time in which the transport must take bytes.
pub const WRITE: Duration = Duration::from_secs(2);
/// Time in which a request must be answered.
pub const CALL: Duration = Duration::from_secs(4);
/// Time in which a dial must open a session.
pub const ATTEMPT: Duration = Duration::from_secs(2);
/// Longest pause between two dials.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Time in which a server must drain.
pub const DRAIN: Duration = Duration::from_secs(3);
/// High watermark of the write buffer, in bytes.
pub const HIGH: usize = 16 * 1024;
/// Messages that may wait for the encoder.
pub const QUEUE: u32 = 16;

/// Traffic of a run.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Longest pause between two requests of a caller. `None` sends none before the settling.
    pub requests: Option<Duration>,
    /// Number of callers of a client.
    pub callers: usize,
    /// Longest pause between two one-way messages. `None` sends none.
    pub messages: Option<Duration>,
    /// Longest pause between two pushes of a session. `None` sends none.
    pub pushes: Option<Duration>,
    /// Size of a push, in bytes.
    pub push_size: usize,
    /// Closes sessions whose queue has no room for a push, instead of waiting.
    pub close_slow: bool,
    /// Closes sessions that receive nothing for [`IDLE`]. Without it heartbeats alone must notice
    /// that a peer is gone.
    pub idle_timeout: bool,
    /// Time that a handler takes, in milliseconds.
    pub work: RangeInclusive<u64>,
}

/// Context of one host.
#[derive(Clone)]
pub struct Host {
    /// Number among the servers or clients.
    pub index: usize,
    /// Number of servers.
    pub servers: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Record of the run.
    pub ledger: Ledger,
    /// Traffic of the run.
    pub traffic: Traffic,
    /// Signals from the network's side.
    pub control: Arc<Control>,
    /// Rate at which this host reads.
    pub pace: Pace,
}

/// Signals from the network's side to the programs of a host.
#[derive(Default)]
pub struct Control {
    /// Starts the graceful shutdown of a server, or stops a client.
    pub stop: Notify,
    /// The faults are over: every client sends requests.
    pub settling: AtomicBool,
    /// No caller begins a request.
    pub quiet: AtomicBool,
    /// No one-way message and no push is sent.
    pub silent: AtomicBool,
    /// A jump of the clock, in milliseconds.
    jump: AtomicU64,
    jumped: Notify,
    /// Number of starts of the host.
    starts: AtomicU64,
}

impl Control {
    /// Makes the clock of the host jump ahead.
    pub fn jump(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.jump.store(millis, Relaxed);
        self.jumped.notify_one();
    }

    async fn run_jumps(self: Arc<Self>) {
        loop {
            self.jumped.notified().await;
            advance(Duration::from_millis(self.jump.swap(0, Relaxed))).await;
        }
    }
}

impl Host {
    fn random(&self, what: &str, start: u64) -> fastrand::Rng {
        let key = format!("{} {what} {} {start}", self.seed, self.index);
        fastrand::Rng::with_seed(Fnv::of(key.as_bytes()))
    }

    fn idle_timeout(&self) -> IdleTimeoutLayer {
        IdleTimeoutLayer::new(if self.traffic.idle_timeout {
            IDLE
        } else {
            Duration::MAX
        })
    }
}

/// Program of a server.
pub async fn server(host: Host) -> turmoil::Result {
    tokio::spawn(Arc::clone(&host.control).run_jumps());
    let trace = host.ledger.trace().clone();
    let by_id = listen(BY_ID, trace.clone()).await?;
    let in_order = listen(IN_ORDER, trace.clone()).await?;
    let control = Arc::clone(&host.control);
    let drained = serve(by_id, server_stack(&host, false))
        .and(serve(in_order, server_stack(&host, true)))
        .with_graceful_shutdown(async move { control.stop.notified().await })
        .with_drain_deadline(DRAIN)
        .await?;
    trace.event(format_args!("server {} drained: {drained}", host.index));
    host.ledger.count("drain");
    Ok(())
}

/// Marks a session whose client has introduced itself.
#[derive(Clone)]
struct Introduced;

fn server_stack(host: &Host, ordered: bool) -> impl Pipeline<Wire> + Clone + use<> {
    let sessions = SessionLayer::new()
        .with_in_flight(8)
        .with_queue(QUEUE)
        .with_watermarks(HIGH / 4, HIGH)
        .with_write_timeout(WRITE);
    let sessions = if ordered {
        sessions
    } else {
        sessions.unordered()
    };
    let opening = host.clone();
    let handling = host.clone();
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()))
        .layer(OnOpenLayer::new(move |session: Session<String>| {
            let host = opening.clone();
            async move {
                let peer = client_of(&session)?;
                opened(&host.ledger, &session, Side::Server, peer, peer.ip());
                if host.traffic.pushes.is_some() {
                    tokio::spawn(push(host, session));
                }
                Ok::<_, BoxError>(())
            }
        }))
        .layer(
            HeartbeatLayer::new(HEARTBEAT, |_: &Session<String>| "ping".to_owned())
                .with_response_timeout(RESPONSE)
                .with_jitter_seed(host.seed)
                .with_pong(|message: &String| message == "pong"),
        )
        .layer(host.idle_timeout())
        .layer(sessions)
        .service_fn(move |request: Request<String>| handle(handling.clone(), request))
}

fn client_of(session: &Session<String>) -> Result<SocketAddr, BoxError> {
    let peer = session.peer_addr().socket_addr();
    peer.ok_or_else(|| "the peer has no address".into())
}

fn opened(
    ledger: &Ledger,
    session: &Session<String>,
    side: Side,
    client: SocketAddr,
    peer: IpAddr,
) {
    ledger.opened(side, client, peer);
    let ledger = ledger.clone();
    session.add_close_callback("sim", client, move |closed| {
        ledger.closed(side, client, &closed.reason, closed.unsent_bytes);
    });
}

/// Sends numbered messages to a session until it closes.
async fn push(host: Host, session: Session<String>) {
    let Some((pause, client)) = host.traffic.pushes.zip(client_of(&session).ok()) else {
        return;
    };
    let mut random = host.random("push", Fnv::of(client.to_string().as_bytes()));
    let padding = "x".repeat(host.traffic.push_size);
    for number in 1_u64.. {
        sleep(pause.mul_f64(random.f64())).await;
        if host.control.silent.load(Relaxed) {
            return;
        }
        let message = format!("p {number} {padding}");
        let sent = if host.traffic.close_slow {
            session.try_offer(message, SlowConsumer::Close).map(|_| ())
        } else {
            session.send(message).await.map(|_| ())
        };
        host.ledger.pending(session.pending_bytes());
        if sent.is_err() {
            return;
        }
        host.ledger.accepted(client, number);
    }
}

/// Handler of a server. Messages are `ping`, `s NONCE`, and the requests `q NONCE` and
/// `hello`, which an id may precede.
async fn handle(host: Host, request: Request<String>) -> Result<Option<String>, BoxError> {
    let session = request.session().clone();
    let message = request.into_message();
    if message == "ping" {
        return Ok(Some("pong".to_owned()));
    }
    let (id, text) = match message.split_once(' ') {
        Some((id, text)) if id.parse::<u64>().is_ok() => (format!("{id} "), text),
        _ => (String::new(), message.as_str()),
    };
    if text == "hello" {
        session.insert(Introduced);
        return Ok(Some(format!("{id}r 0")));
    }
    let (kind, nonce) = text.split_once(' ').ok_or("malformed")?;
    let nonce: Nonce = nonce.parse()?;
    if session.get::<Introduced>().is_none() {
        host.ledger
            .violation(format!("{kind} {nonce} came before the hook of its client"));
    }
    match kind {
        "s" => {
            host.ledger.message(client_of(&session)?, nonce);
            Ok(None)
        }
        "q" => {
            host.ledger.executed(nonce);
            let (from, to) = host.traffic.work.into_inner();
            let work = from + Fnv::of(&nonce.to_le_bytes()) % (to - from + 1);
            if work > 0 {
                sleep(Duration::from_millis(work)).await;
            }
            Ok(Some(format!("{id}r {nonce}")))
        }
        other => Err(format!("unknown message {other}").into()),
    }
}

/// Ids in front of requests and responses.
struct Ids;

impl Correlate<String> for Ids {
    fn put(&self, id: u64, message: &mut String) {
        message.insert_str(0, &format!("{id} "));
    }

    fn response_id(&self, message: &String) -> Option<u64> {
        message.split(' ').next()?.parse().ok()
    }
}

/// Program of a client. Clients with an odd number call in order.
pub async fn client(host: Host) -> turmoil::Result {
    tokio::spawn(Arc::clone(&host.control).run_jumps());
    let start = host.control.starts.fetch_add(1, Relaxed);
    let mut tasks = JoinSet::new();
    let numbers = Arc::new(Numbers::new(host.index, start));
    let ordered = host.index % 2 == 1;
    let client = if ordered {
        connect(&host, start, IN_ORDER, in_order_stack)
    } else {
        connect(&host, start, BY_ID, by_id_stack)
    };
    // The callers of a client share its limit of calls in flight.
    let by_id = MultiplexClient::<String, _, _>::new(client.clone()).with_in_flight(4);
    let in_order = PipelineClient::<String, _, _>::new(client.clone()).with_in_flight(4);
    for caller in 0..host.traffic.callers {
        let (host, numbers) = (host.clone(), Arc::clone(&numbers));
        let random = host.random("call", start * 100 + caller as u64);
        if ordered {
            tasks.spawn(call_repeatedly(host, in_order.clone(), numbers, random));
        } else {
            tasks.spawn(call_repeatedly(host, by_id.clone(), numbers, random));
        }
    }
    drop((by_id, in_order));
    if host.traffic.messages.is_some() {
        let random = host.random("send", start);
        tasks.spawn(send_repeatedly(
            host.clone(),
            client.clone(),
            numbers,
            random,
        ));
    }
    host.control.stop.notified().await;
    client.stop();
    client.stopped().await;
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    host.ledger
        .trace()
        .event(format_args!("client {} stopped", host.index));
    Ok(())
}

fn connect<S, B>(host: &Host, start: u64, port: u16, stack: B) -> Client<String>
where
    B: Fn(&Host, LinkLayer<String>) -> S + Send + Sync + 'static,
    S: Pipeline<Wire>,
{
    let seed = host.random("backoff", start).u64(..);
    let backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE).with_seed(seed);
    let dialing = host.clone();
    let dials = Arc::new(AtomicUsize::new(0));
    let connector = service_fn(move |()| {
        let (host, dials) = (dialing.clone(), Arc::clone(&dials));
        async move {
            let server = (host.index + dials.fetch_add(1, Relaxed)) % host.servers;
            host.ledger.dial(host.index);
            let trace = host.ledger.trace().clone();
            dial((format!("server-{server}"), port), trace, host.pace.clone()).await
        }
    });
    let building = host.clone();
    Client::builder()
        .with_backoff(backoff)
        .with_attempt_timeout(ATTEMPT)
        .with_resend(host.index % 4 < 2)
        .with_drain_deadline(DRAIN)
        .with_hook(|session: Session<String>| async move {
            let caller: Caller<String> = Caller::of(&session).ok_or("no `CorrelateLayer`")?;
            caller.request("hello".to_owned()).await.map(|_| ())?;
            Ok::<_, BoxError>(())
        })
        .connect(connector, (), move |link| stack(&building, link))
}

/// Creates the layers that both kinds of clients have in common.
macro_rules! client_stack {
    ($host:expr, $link:expr, $correlate:expr) => {{
        let (opening, handling) = ($host.clone(), $host.clone());
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(
                HeartbeatLayer::new(HEARTBEAT, |_: &Session<String>| "ping".to_owned())
                    .with_response_timeout(RESPONSE)
                    .with_jitter_seed($host.seed)
                    .with_pong(|message: &String| message == "pong"),
            )
            .layer($host.idle_timeout())
            .layer($correlate.with_deadline(CALL).with_in_flight(16))
            .layer(OnOpenLayer::new(move |session: Session<String>| {
                let host = opening.clone();
                async move {
                    let ends = (session.local_addr(), session.peer_addr());
                    let (local, peer) = (ends.0.socket_addr(), ends.1.ip());
                    let (local, peer) = local.zip(peer).ok_or("no address")?;
                    opened(&host.ledger, &session, Side::Client, local, peer);
                    Ok::<_, BoxError>(())
                }
            }))
            .layer($link)
            .layer(SessionLayer::new().with_write_timeout(WRITE))
            .service_fn(move |request: Request<String>| receive(handling.clone(), request))
    }};
}

fn by_id_stack(host: &Host, link: LinkLayer<String>) -> impl Pipeline<Wire> + use<> {
    client_stack!(host, link, CorrelateLayer::new(Ids))
}

fn in_order_stack(host: &Host, link: LinkLayer<String>) -> impl Pipeline<Wire> + use<> {
    let is_push = |message: &String| message.starts_with('p');
    client_stack!(host, link, CorrelateLayer::in_order().with_push(is_push))
}

/// Handler of a client: heartbeats of the server, and pushes.
async fn receive(host: Host, request: Request<String>) -> Result<Option<String>, BoxError> {
    let message = request.message();
    if message == "ping" {
        return Ok(Some("pong".to_owned()));
    }
    let mut words = message.split(' ');
    let (Some("p"), Some(number)) = (words.next(), words.next()) else {
        host.ledger
            .violation(format!("a client received {message} without a request"));
        return Ok(None);
    };
    let local = request.session().local_addr().socket_addr();
    host.ledger
        .push(local.ok_or("no address")?, number.parse()?);
    Ok(None)
}

/// Numbers of the requests and messages of one start of a client. They increase.
struct Numbers(AtomicU64);

impl Numbers {
    fn new(index: usize, start: u64) -> Self {
        Self(AtomicU64::new(
            index as u64 * 1_000_000_000 + start * 1_000_000,
        ))
    }

    fn next(&self) -> Nonce {
        self.0.fetch_add(1, Relaxed) + 1
    }
}

/// Records a request whose future is dropped, by its caller or with its host.
struct Pending<'a> {
    ledger: &'a Ledger,
    nonce: Nonce,
    ended: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.ledger.dropped(self.nonce);
        }
    }
}

async fn call_repeatedly<S>(
    host: Host,
    mut calls: S,
    numbers: Arc<Numbers>,
    mut random: fastrand::Rng,
) where
    S: Service<String, Response = String, Error = RequestError<String>>,
{
    loop {
        let settling = host.control.settling.load(Relaxed);
        let pause = match host.traffic.requests {
            Some(pause) => pause,
            None if settling => Duration::from_millis(100),
            None => {
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        sleep(pause.mul_f64(random.f64())).await;
        if host.control.quiet.load(Relaxed) {
            return;
        }
        // Some callers give up early, so that responses to abandoned requests are late.
        let patience = if random.u8(..10) == 0 && !settling {
            Duration::from_millis(random.u64(1..400))
        } else {
            Duration::MAX
        };
        let mut pending = Pending {
            ledger: &host.ledger,
            nonce: numbers.next(),
            ended: false,
        };
        host.ledger.begin(pending.nonce);
        if let Ok(more) = timeout(patience, call(&host, &mut calls, &mut pending)).await
            && !more
        {
            return;
        }
    }
}

/// Makes one call, and repeats it while it is not sent. Returns `false` once the client stops.
async fn call<S>(host: &Host, calls: &mut S, pending: &mut Pending<'_>) -> bool
where
    S: Service<String, Response = String, Error = RequestError<String>>,
{
    let nonce = pending.nonce;
    for attempt in 1.. {
        let result = match calls.ready().await {
            Ok(calls) => calls.call(format!("q {nonce}")).await,
            Err(error) => Err(error),
        };
        let error = match result {
            Ok(response) => {
                let number = response
                    .rsplit(' ')
                    .next()
                    .and_then(|last| last.parse().ok());
                pending.ended = true;
                host.ledger.answered(host.index, nonce, number.unwrap_or(0));
                return true;
            }
            Err(error) => error,
        };
        let stopped = matches!(error, RequestError::Unavailable(_));
        if error.delivery() != Delivery::NotSent || stopped || attempt == 4 {
            pending.ended = true;
            host.ledger.failed(nonce, error.delivery());
            return !stopped;
        }
        host.ledger.count("request repeated");
        sleep(Duration::from_millis(20)).await;
    }
    true
}

async fn send_repeatedly(
    host: Host,
    client: Client<String>,
    numbers: Arc<Numbers>,
    mut random: fastrand::Rng,
) {
    let address = turmoil::lookup(format!("client-{}", host.index));
    while let Some(pause) = host.traffic.messages {
        sleep(pause.mul_f64(random.f64())).await;
        if host.control.silent.load(Relaxed) {
            return;
        }
        let nonce = numbers.next();
        let mut message = Some(format!("s {nonce}"));
        for _ in 0..4 {
            let Some(text) = message.take() else {
                break;
            };
            host.ledger.trace().event(format_args!("send {nonce}"));
            let begun = host.ledger.trace().now();
            match client.send(text).await {
                Ok(_) => host.ledger.sent(address, nonce, begun),
                Err(error) => message = error.into_message(),
            }
            if client.state().is_final() {
                break;
            }
        }
        if message.is_some() {
            host.ledger.unsent(nonce);
        }
        if client.state().is_final() {
            return;
        }
    }
}
