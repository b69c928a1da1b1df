//! The scenarios: how a seed becomes a plan.

use std::time::Duration;

use fastrand::Rng;
use getty::CloseReason;

use crate::{
    app::{HIGH, Traffic},
    net::Pace,
    trace::Fnv,
    world::{Event, Node, Plan, Rules},
};

/// A scenario: a kind of fault and its plan.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// Description in one line.
    pub about: &'static str,
    plan: fn(&mut Rng) -> Plan,
}

impl Scenario {
    /// Makes the plan of a seed.
    pub fn plan(&self, seed: u64) -> Plan {
        let key = format!("{} {seed}", self.name);
        (self.plan)(&mut Rng::with_seed(Fnv::of(key.as_bytes())))
    }
}

/// All scenarios.
pub const SCENARIOS: [Scenario; 9] = [
    Scenario {
        name: "flaps",
        about: "a server crashes and returns several times",
        plan: flaps,
    },
    Scenario {
        name: "rolling-restart",
        about: "servers drain one after another, and return",
        plan: rolling_restart,
    },
    Scenario {
        name: "half-open",
        about: "servers and clients lose their power; their peers must notice",
        plan: half_open,
    },
    Scenario {
        name: "slow-link",
        about: "clients read slowly or not at all while the server pushes",
        plan: slow_link,
    },
    Scenario {
        name: "clock-stall",
        about: "clocks jump ahead, with and without a silent network",
        plan: clock_stall,
    },
    Scenario {
        name: "partition",
        about: "links hold or lose bytes, in both directions or one, and heal",
        plan: partition,
    },
    Scenario {
        name: "crash",
        about: "servers and clients crash and return without their state",
        plan: crash,
    },
    Scenario {
        name: "comeback",
        about: "many clients lose their server at once and come back",
        plan: comeback,
    },
    Scenario {
        name: "storm",
        about: "flaps, clocks, partitions and crashes at once",
        plan: storm,
    },
];

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn traffic(random: &mut Rng) -> Traffic {
    Traffic {
        requests: Some(ms(random.u64(50..600))),
        callers: random.usize(1..4),
        messages: random.bool().then(|| ms(random.u64(50..500))),
        pushes: random.bool().then(|| ms(random.u64(50..500))),
        push_size: random.usize(0..200),
        close_slow: false,
        idle_timeout: true,
        work: 0..=random.u64(0..250),
    }
}

fn plan(random: &mut Rng, servers: usize, clients: usize) -> Plan {
    Plan {
        servers,
        clients,
        traffic: traffic(random),
        latency: (1, random.u64(2..60)),
        capacity: 64,
        events: Vec::new(),
        length: ms(10_000),
        rules: Rules::default(),
    }
}

fn any_node(random: &mut Rng, plan: &Plan) -> Node {
    let n = random.usize(..plan.servers + plan.clients);
    if n < plan.servers {
        Node::Server(n)
    } else {
        Node::Client(n - plan.servers)
    }
}

fn any_pair(random: &mut Rng, plan: &Plan) -> (Node, Node) {
    let server = Node::Server(random.usize(..plan.servers));
    let client = Node::Client(random.usize(..plan.clients));
    (server, client)
}

fn flaps(random: &mut Rng) -> Plan {
    let servers = random.usize(1..=2);
    let clients = random.usize(2..=4);
    let mut plan = plan(random, servers, clients);
    let server = Node::Server(0);
    let mut at = random.u64(500..2000);
    while at < 8000 {
        plan.events.push((ms(at), Event::Crash(server)));
        at += random.u64(50..1500);
        plan.events.push((ms(at), Event::Start(server)));
        at += random.u64(50..2500);
    }
    // The end of a process is seen at once.
    plan.rules.forbidden = vec![CloseReason::HeartbeatMissed, CloseReason::IdleTimeout];
    plan
}

fn rolling_restart(random: &mut Rng) -> Plan {
    let clients = random.usize(2..=4);
    let mut plan = plan(random, 3, clients);
    let mut at = random.u64(500..2500);
    for server in 0..plan.servers {
        plan.events.push((ms(at), Event::Drain(server)));
        // The server starts again if it has drained.
        plan.events
            .push((ms(at + 2500), Event::Start(Node::Server(server))));
        at += random.u64(1000..3000);
    }
    plan.rules.executed_are_answered = true;
    plan.rules.forbidden = vec![
        CloseReason::HeartbeatMissed,
        CloseReason::AnswerMissed,
        CloseReason::IdleTimeout,
        CloseReason::WriteTimeout,
        CloseReason::Dropped,
    ];
    plan
}

fn half_open(random: &mut Rng) -> Plan {
    let servers = random.usize(1..=2);
    let clients = random.usize(2..=3);
    let mut plan = plan(random, servers, clients);
    plan.length = ms(16_000);
    if random.bool() {
        // Nothing but heartbeats.
        plan.traffic.requests = None;
        plan.traffic.messages = None;
        plan.traffic.pushes = None;
        plan.traffic.idle_timeout = false;
    }
    let node = any_node(random, &plan);
    let at = random.u64(1000..3000);
    plan.events.push((ms(at), Event::PowerLoss(node)));
    // A host that returns resets the connections of its peers. In half of the runs it stays away
    // until they must have noticed.
    let away = match random.bool() {
        true => random.u64(500..9000),
        false => random.u64(9500..12_000),
    };
    plan.events.push((ms(at + away), Event::Start(node)));
    plan
}

fn slow_link(random: &mut Rng) -> Plan {
    let clients = random.usize(2..=3);
    let mut plan = plan(random, 1, clients);
    plan.length = ms(8000);
    plan.capacity = 16;
    let size = random.usize(500..2000);
    plan.traffic.pushes = Some(ms(random.u64(10..40)));
    plan.traffic.push_size = size;
    plan.traffic.close_slow = random.bool();
    let rate = [Pace::STOPPED, 1, 20, 100][random.usize(..4)];
    let at = random.u64(500..3000);
    plan.events
        .push((ms(at), Event::Pace(Node::Client(0), rate)));
    if random.bool() {
        plan.events.push((
            ms(at + random.u64(500..4000)),
            Event::Pace(Node::Client(0), 0),
        ));
    }
    plan.rules.only_client = Some(0);
    // The write buffer may exceed its high watermark by what one poll of the session encodes.
    plan.rules.max_pending = Some(2 * HIGH + 20 * size);
    plan
}

fn clock_stall(random: &mut Rng) -> Plan {
    let clients = random.usize(2..=3);
    let mut plan = plan(random, 2, clients);
    for _ in 0..random.usize(1..5) {
        let at = random.u64(500..9000);
        let node = any_node(random, &plan);
        let time = random.u64(10..40_000);
        if random.bool() {
            plan.events.push((ms(at), Event::Jump(node, ms(time))));
            continue;
        }
        // A suspended host: its peers hear nothing, then its clock has moved.
        let silent = time.min(9500 - at);
        for server in 0..plan.servers {
            for client in 0..plan.clients {
                let (server, client) = (Node::Server(server), Node::Client(client));
                if server == node || client == node {
                    plan.events.push((ms(at), Event::Hold(server, client)));
                    plan.events
                        .push((ms(at + silent), Event::Release(server, client)));
                }
            }
        }
        plan.events
            .push((ms(at + silent), Event::Jump(node, ms(silent))));
    }
    plan
}

fn partition(random: &mut Rng) -> Plan {
    let servers = random.usize(1..=2);
    let clients = random.usize(2..=3);
    let mut plan = plan(random, servers, clients);
    for _ in 0..random.usize(1..6) {
        let (server, client) = any_pair(random, &plan);
        let begin = ms(random.u64(500..7000));
        let end = begin + ms(random.u64(50..6000));
        let (fault, repair) = match random.u8(..4) {
            0 | 1 => (Event::Hold(server, client), Event::Release(server, client)),
            2 => (
                Event::Partition(server, client),
                Event::Repair(server, client),
            ),
            _ if random.bool() => (
                Event::PartitionOneWay(server, client),
                Event::Repair(server, client),
            ),
            _ => (
                Event::PartitionOneWay(client, server),
                Event::Repair(server, client),
            ),
        };
        plan.events.push((begin, fault));
        plan.events.push((end, repair));
    }
    plan
}

fn crash(random: &mut Rng) -> Plan {
    let servers = random.usize(1..=2);
    let clients = random.usize(2..=3);
    let mut plan = plan(random, servers, clients);
    for _ in 0..random.usize(1..4) {
        let node = any_node(random, &plan);
        let at = random.u64(500..6000);
        let fault = if random.bool() {
            Event::Crash(node)
        } else {
            Event::PowerLoss(node)
        };
        plan.events.push((ms(at), fault));
        plan.events
            .push((ms(at + random.u64(20..4000)), Event::Start(node)));
    }
    plan
}

fn comeback(random: &mut Rng) -> Plan {
    let mut plan = plan(random, 1, 20);
    plan.traffic.callers = 1;
    plan.traffic.requests = Some(ms(1000));
    plan.traffic.messages = None;
    plan.traffic.pushes = None;
    plan.latency = (10, 10);
    plan.capacity = 1024;
    plan.length = ms(6000);
    let at = random.u64(1000..2000);
    let server = Node::Server(0);
    plan.events.push((ms(at), Event::Crash(server)));
    plan.events
        .push((ms(at + random.u64(500..3500)), Event::Start(server)));
    plan.rules.spread_after = Some(ms(at));
    plan
}

fn storm(random: &mut Rng) -> Plan {
    let mut all = plan(random, 2, 3);
    for part in [flaps, clock_stall, partition, crash] {
        let events = part(random).events;
        let exists = |node: &Node| match node {
            Node::Server(n) => *n < all.servers,
            Node::Client(n) => *n < all.clients,
        };
        let known = events.into_iter().filter(|(_, event)| match event {
            Event::Crash(a) | Event::PowerLoss(a) | Event::Start(a) => exists(a),
            Event::Jump(a, _) | Event::Pace(a, _) => exists(a),
            Event::Drain(n) => *n < all.servers,
            Event::Hold(a, b) | Event::Release(a, b) | Event::Repair(a, b) => {
                exists(a) && exists(b)
            }
            Event::Partition(a, b) | Event::PartitionOneWay(a, b) => exists(a) && exists(b),
        });
        all.events.extend(known.collect::<Vec<_>>());
    }
    all
}
