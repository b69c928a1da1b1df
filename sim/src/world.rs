//! One run: hosts, faults at their times, and the checks at the end.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use getty::CloseReason;
use turmoil::{Builder, Sim};

use crate::{
    app::{self, ATTEMPT, CALL, Control, DRAIN, Host, IDLE, LONGEST_PAUSE, Traffic},
    ledger::Ledger,
    net::Pace,
    trace::{Fnv, Trace},
};

/// Step of the simulated time.
pub const TICK: Duration = Duration::from_millis(10);

/// Longest time after the last fault until each client has had a response again.
const SETTLE: Duration = Duration::from_secs(20);

/// Longest time until an open session has delivered what it has accepted, without faults. A
/// session whose peer is gone has ended before.
const DELIVER: Duration = Duration::from_secs(12);

/// Time in which a session must notice that its peer is gone: a session closes after the idle
/// timeout and its drain deadline, and the clock moves in steps.
const NOTICE: Duration = Duration::from_secs(9);

/// A server or a client, with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A server.
    Server(usize),
    /// A client.
    Client(usize),
}

impl Node {
    fn name(self) -> String {
        match self {
            Self::Server(index) => format!("server-{index}"),
            Self::Client(index) => format!("client-{index}"),
        }
    }
}

/// Fault or repair.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The processes of a host end. Its sockets are closed.
    Crash(Node),
    /// A host loses its power. Its peers receive nothing.
    PowerLoss(Node),
    /// A host that is down starts again, without its state.
    Start(Node),
    /// A server shuts down gracefully.
    Drain(usize),
    /// Bytes between two hosts wait.
    Hold(Node, Node),
    /// Bytes that waited are delivered.
    Release(Node, Node),
    /// Bytes between two hosts are lost.
    Partition(Node, Node),
    /// Bytes from the first host to the second are lost.
    PartitionOneWay(Node, Node),
    /// Bytes between two hosts arrive again.
    Repair(Node, Node),
    /// The clock of a host jumps ahead.
    Jump(Node, Duration),
    /// Rate of a host in bytes per millisecond. 0 is no limit, [`Pace::STOPPED`] reads nothing.
    Pace(Node, u32),
}

/// Plan of a run, made from its seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of servers.
    pub servers: usize,
    /// Number of clients.
    pub clients: usize,
    /// Traffic of the clients.
    pub traffic: Traffic,
    /// Bounds of the latency in milliseconds.
    pub latency: (u64, u64),
    /// Segments that a connection may have on the way.
    pub capacity: usize,
    /// Faults and repairs, with their times.
    pub events: Vec<(Duration, Event)>,
    /// Time at which all faults are over.
    pub length: Duration,
    /// Rules beside those of every run.
    pub rules: Rules,
}

/// Rules of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Every request that a server executed must be answered.
    pub executed_are_answered: bool,
    /// No session may close for these reasons.
    pub forbidden: Vec<CloseReason>,
    /// Maximum number of bytes that may wait in a session.
    pub max_pending: Option<usize>,
    /// The faults concern this client alone. The sessions of the others last until the end.
    pub only_client: Option<usize>,
    /// Time of a crash after which the dials of clients must be spread.
    pub spread_after: Option<Duration>,
}

/// Result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// First rule that was broken.
    pub violation: Option<String>,
    /// Hash of the trace.
    pub hash: u64,
    /// Number of events in the trace.
    pub events: u64,
    /// Number of events of each kind.
    pub counts: BTreeMap<String, u64>,
    /// Last events of the trace.
    pub last: Vec<String>,
    /// Simulated time.
    pub elapsed: Duration,
}

struct World {
    sim: Sim<'static>,
    ledger: Ledger,
    plan: Plan,
    servers: Vec<Arc<Control>>,
    clients: Vec<Arc<Control>>,
    paces: Vec<Pace>,
}

/// Number that the ids of tasks are aligned to at the start of a run.
const ALIGNMENT: u64 = 256;

/// Spawns tasks until the id of the next one is a multiple of [`ALIGNMENT`].
///
/// A runtime that is dropped, as in a crash, drops its tasks in an order that depends on their
/// ids. The ids count all tasks of the process. A run with a crash therefore repeats only if
/// its first id does, and if no other thread of the process spawns tasks.
fn align_task_ids() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers needs no resources");
    let id = || runtime.block_on(async { tokio::spawn(async { tokio::task::id() }).await });
    while let Ok(id) = id() {
        let number: u64 = id.to_string().parse().expect("ids are numbers");
        if number % ALIGNMENT == ALIGNMENT - 1 {
            break;
        }
    }
}

/// Runs a plan. With `print` the trace is written to the standard error.
///
/// One run at a time has the same trace for the same seed. Runs on several threads of a process
/// are correct, but may not repeat.
pub fn run(plan: Plan, seed: u64, print: bool) -> Outcome {
    align_task_ids();
    let trace = Trace::new(print);
    let ledger = Ledger::new(trace.clone());
    let mut elapsed = Duration::ZERO;
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(plan, seed, ledger.clone());
        let result = world.run();
        elapsed = world.sim.elapsed();
        result
    }));
    match ran {
        Ok(Ok(())) => {}
        Ok(Err(error)) => ledger.violation(format!("a host failed: {error}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            ledger.violation(format!("panic: {}", text.unwrap_or("of another type")));
        }
    }
    let (hash, events) = trace.fingerprint();
    Outcome {
        violation: ledger.broken(),
        hash,
        events,
        counts: ledger.counts(),
        last: trace.last(),
        elapsed,
    }
}

impl World {
    fn new(plan: Plan, seed: u64, ledger: Ledger) -> Self {
        let (min, max) = plan.latency;
        let mut sim = Builder::new()
            .rng_seed(Fnv::of(&seed.to_le_bytes()))
            .epoch(SystemTime::UNIX_EPOCH)
            .simulation_duration(Duration::MAX)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(min))
            .max_message_latency(Duration::from_millis(max))
            .tcp_capacity(plan.capacity)
            .enable_random_order()
            .build();
        let host = |index, control: &Arc<Control>, pace: &Pace| Host {
            index,
            servers: plan.servers,
            seed,
            ledger: ledger.clone(),
            traffic: plan.traffic.clone(),
            control: Arc::clone(control),
            pace: pace.clone(),
        };
        let controls = |count| (0..count).map(|_| Arc::default()).collect::<Vec<_>>();
        let (servers, clients) = (controls(plan.servers), controls(plan.clients));
        let paces: Vec<_> = (0..plan.clients).map(|_| Pace::default()).collect();
        for (index, control) in servers.iter().enumerate() {
            let host = host(index, control, &Pace::default());
            sim.host(Node::Server(index).name(), move || {
                app::server(host.clone())
            });
        }
        for (index, control) in clients.iter().enumerate() {
            let host = host(index, control, &paces[index]);
            sim.host(Node::Client(index).name(), move || {
                app::client(host.clone())
            });
        }
        Self {
            sim,
            ledger,
            plan,
            servers,
            clients,
            paces,
        }
    }

    fn run(&mut self) -> turmoil::Result {
        let mut events = std::mem::take(&mut self.plan.events);
        events.sort_by_key(|(at, _)| *at);
        let mut events = events.into_iter().peekable();
        while self.sim.elapsed() < self.plan.length {
            while let Some((_, event)) = events.next_if(|(at, _)| *at <= self.sim.elapsed()) {
                self.apply(event);
            }
            self.step()?;
            if self.ledger.broken().is_some() {
                return Ok(());
            }
        }
        self.heal();
        self.settle()?;
        self.deliver()?;
        self.stop()?;
        if self.ledger.broken().is_none() {
            self.check();
        }
        Ok(())
    }

    fn step(&mut self) -> turmoil::Result {
        self.ledger.trace().set_now(self.sim.elapsed());
        self.sim.step()?;
        self.ledger.check_silent();
        Ok(())
    }

    fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        let servers = (0..self.plan.servers).map(Node::Server);
        servers.chain((0..self.plan.clients).map(Node::Client))
    }

    fn others(&self, node: Node) -> impl Iterator<Item = Node> + use<> {
        self.nodes().filter(move |other| *other != node)
    }

    fn apply(&mut self, event: Event) {
        let trace = self.ledger.trace();
        trace.set_now(self.sim.elapsed());
        trace.event(format_args!("FAULT {event:?}"));
        let sim = &mut self.sim;
        match event {
            Event::Crash(node) => sim.crash(node.name()),
            Event::PowerLoss(node) => {
                for other in self.others(node) {
                    self.sim.partition(node.name(), other.name());
                }
                let peer = self.sim.lookup(node.name());
                self.ledger.silent(peer, NOTICE);
                self.sim.crash(node.name());
            }
            Event::Start(node) => {
                for other in self.others(node) {
                    self.sim.repair(node.name(), other.name());
                }
                if !self.sim.is_host_running(node.name()) {
                    self.sim.bounce(node.name());
                }
            }
            Event::Drain(index) => {
                if sim.is_host_running(Node::Server(index).name()) {
                    self.servers[index].stop.notify_one();
                }
            }
            Event::Hold(a, b) => sim.hold(a.name(), b.name()),
            Event::Release(a, b) => sim.release(a.name(), b.name()),
            Event::Partition(a, b) => sim.partition(a.name(), b.name()),
            Event::PartitionOneWay(a, b) => sim.partition_oneway(a.name(), b.name()),
            Event::Repair(a, b) => sim.repair(a.name(), b.name()),
            Event::Jump(node, time) => {
                if sim.is_host_running(node.name()) {
                    match node {
                        Node::Server(index) => self.servers[index].jump(time),
                        Node::Client(index) => self.clients[index].jump(time),
                    }
                }
            }
            Event::Pace(node, rate) => {
                if let Node::Client(index) = node {
                    self.paces[index].set(rate);
                }
            }
        }
    }

    /// Ends all faults.
    fn heal(&mut self) {
        let nodes: Vec<_> = self.nodes().collect();
        for (n, node) in nodes.iter().enumerate() {
            for other in &nodes[n + 1..] {
                self.sim.release(node.name(), other.name());
            }
            if !self.sim.is_host_running(node.name()) {
                self.apply(Event::Start(*node));
            }
        }
        for pace in &self.paces {
            pace.set(0);
        }
        self.ledger.trace().event(format_args!("HEALED"));
    }

    /// Runs until each client has had responses.
    fn settle(&mut self) -> turmoil::Result {
        let clients = 0..self.plan.clients;
        let before: Vec<_> = clients.map(|client| self.ledger.answers(client)).collect();
        for control in &self.clients {
            control.settling.store(true, Relaxed);
        }
        let end = self.sim.elapsed() + SETTLE;
        loop {
            let late = before.iter().enumerate();
            let mut late = late.filter(|(client, n)| self.ledger.answers(*client) <= **n);
            let Some((client, _)) = late.next() else {
                return Ok(());
            };
            if self.sim.elapsed() >= end {
                let what = format!("client {client} has no response {SETTLE:?} after the faults");
                self.ledger.violation(what);
            }
            if self.ledger.broken().is_some() {
                return Ok(());
            }
            self.step()?;
        }
    }

    /// Stops one-way messages, and runs until all that open sessions have accepted has
    /// arrived.
    fn deliver(&mut self) -> turmoil::Result {
        for control in self.clients.iter().chain(&self.servers) {
            control.silent.store(true, Relaxed);
        }
        let end = self.sim.elapsed() + DELIVER;
        while self.ledger.broken().is_none()
            && let Some(late) = self.ledger.undelivered()
        {
            if self.sim.elapsed() >= end {
                self.ledger
                    .violation(format!("{late}, {DELIVER:?} after the faults"));
            }
            self.step()?;
        }
        Ok(())
    }

    /// Stops the clients, then the servers. A client that stops does not wait for responses.
    fn stop(&mut self) -> turmoil::Result {
        if self.plan.rules.executed_are_answered {
            for control in &self.clients {
                control.quiet.store(true, Relaxed);
            }
            // A call that never ends is found after the stop.
            let end = self.sim.elapsed() + CALL * 2 + IDLE + ATTEMPT;
            while self.ledger.has_open_calls()
                && self.ledger.broken().is_none()
                && self.sim.elapsed() < end
            {
                self.step()?;
            }
        }
        for control in &self.clients {
            control.stop.notify_one();
        }
        let clients = (0..self.plan.clients).map(Node::Client).collect::<Vec<_>>();
        self.run_until_stopped(&clients)?;
        for control in &self.servers {
            control.stop.notify_one();
        }
        let servers = (0..self.plan.servers).map(Node::Server).collect::<Vec<_>>();
        self.run_until_stopped(&servers)
    }

    fn run_until_stopped(&mut self, nodes: &[Node]) -> turmoil::Result {
        let end = self.sim.elapsed() + CALL + DRAIN * 2 + ATTEMPT + LONGEST_PAUSE;
        while self.ledger.broken().is_none() {
            let mut nodes = nodes.iter();
            let Some(node) = nodes.find(|node| self.sim.is_host_running(node.name())) else {
                break;
            };
            if self.sim.elapsed() >= end {
                self.ledger
                    .violation(format!("{} does not stop", node.name()));
            }
            self.step()?;
        }
        Ok(())
    }

    fn check(&self) {
        let (ledger, rules) = (&self.ledger, &self.plan.rules);
        ledger.require_no_open_calls();
        ledger.require_no_open_sessions();
        ledger.require_orderly_ends_deliver();
        ledger.forbid_reasons(&rules.forbidden);
        ledger.forbid_reasons(&[
            CloseReason::Decode,
            CloseReason::Encode,
            CloseReason::Handler,
            CloseReason::Panicked,
        ]);
        if rules.executed_are_answered {
            ledger.require_executed_are_answered();
        }
        if let Some(max) = rules.max_pending
            && ledger.most_pending() > max
        {
            let most = ledger.most_pending();
            ledger.violation(format!("{most} bytes waited in a session, more than {max}"));
        }
        if let Some(client) = rules.only_client {
            let disturbed = self.sim.lookup(Node::Client(client).name());
            ledger.require_undisturbed(disturbed);
        }
        if let Some(crash) = rules.spread_after {
            self.check_spread(crash);
        }
    }

    /// Checks that the clients do not dial in step after a crash, nor too often.
    fn check_spread(&self, crash: Duration) {
        let dials = self.ledger.dials_since(crash);
        let mut first = BTreeMap::new();
        for (client, at) in &dials {
            first.entry(*client).or_insert(*at);
        }
        let mut steps = BTreeMap::<Duration, usize>::new();
        for at in first.values() {
            *steps.entry(*at).or_default() += 1;
        }
        let most = steps.values().max().copied().unwrap_or(0);
        if most * 2 > self.plan.clients {
            self.ledger
                .violation(format!("{most} clients dialed in one step after the crash"));
        }
        // The pauses have a mean of 50, 100, 200, 400, 800 ms, then 1 s.
        let time = (self.plan.length - crash).as_secs_f64();
        let per_client = dials.len() as f64 / self.plan.clients as f64;
        if per_client > 8.0 + time {
            let what = format!("{per_client:.1} dials per client in {time:.1} s");
            self.ledger.violation(what);
        }
    }
}

const _: () = assert!(DELIVER.as_secs() > NOTICE.as_secs());
const _: () = assert!(NOTICE.as_secs() > IDLE.as_secs() + DRAIN.as_secs());
