//! Three processes that count their messages one by one, and faults of all kinds.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    proxy::{Mode, Proxy},
    server::{Kind, Server},
};

/// Length and size of a run.
#[derive(Clone, Copy)]
struct Size {
    topics: usize,
    rounds: usize,
    /// Time between two rounds, in milliseconds.
    pause: usize,
    is_long: bool,
}

const SHORT: Size = Size {
    topics: 200,
    rounds: 100,
    pause: 20,
    is_long: false,
};
const LONG: Size = Size {
    topics: 1000,
    rounds: 60,
    pause: 250,
    is_long: true,
};
/// Messages to the hot room: ten times its share of the queue to the bus.
const HOT: usize = 10 * 16 * 1024 / 8;

/// Longest time that anything may take on a slow machine.
const WAIT: Duration = Duration::from_secs(90);

/// A node in a separate process.
struct Node {
    child: Child,
    commands: ChildStdin,
    lines: mpsc::Receiver<String>,
    publisher: u64,
}

/// Counts of a node.
#[derive(Debug, Default)]
struct Report {
    /// Number of messages to each topic.
    sent: HashMap<usize, u64>,
    /// Messages by topic and publisher: number, first and last.
    got: BTreeMap<(usize, u64), [u64; 3]>,
    /// Messages that the notices of each topic have named.
    told: HashMap<usize, u64>,
    /// Sessions that are open, by user.
    open: HashMap<String, u64>,
    subscriptions: usize,
    nodes: usize,
    disconnects: u64,
    /// The counters of the node.
    note: String,
}

impl Node {
    fn start(url: &str, publisher: u64, topics: usize) -> Self {
        let mut child = Command::new(env::current_exe().expect("the test has a path"))
            .args(["--ignored", "--exact", "node::node", "--nocapture"])
            .env("GETTY_NODE_URL", url)
            .env("GETTY_NODE_PUBLISHER", publisher.to_string())
            .env("GETTY_NODE_TOPICS", topics.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test starts itself");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix("@ ")
                    && sender.send(line.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let commands = child.stdin.take().expect("it is piped");
        Self {
            child,
            commands,
            lines,
            publisher,
        }
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the node reads its commands");
    }

    fn line(&self) -> String {
        let line = self.lines.recv_timeout(WAIT);
        line.expect("the node answers")
    }

    /// Waits until the node has done everything.
    fn done(&mut self) {
        self.tell("done");
        while self.line() != "done" {}
    }

    fn report(&mut self) -> Report {
        self.tell("report");
        let mut report = Report::default();
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split(' ').collect();
            let number = |place: usize| words[place].parse::<u64>().expect("it is a number");
            let index = |place: usize| usize::try_from(number(place)).expect("it is small");
            match words[0] {
                "sent" => drop(report.sent.insert(index(1), number(2))),
                "got" => {
                    let numbers = [number(3), number(4), number(5)];
                    report.got.insert((index(1), number(2)), numbers);
                }
                "told" => drop(report.told.insert(index(1), number(2))),
                "open" => drop(report.open.insert(words[1].to_owned(), number(2))),
                "subscriptions" => report.subscriptions = index(1),
                "nodes" => report.nodes = index(1),
                "disconnects" => report.disconnects = number(1),
                "note" => report.note = line,
                "end" => return report,
                other => panic!("{other}"),
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.expect("kill is installed").success());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three nodes and their server.
struct Run {
    kind: Kind,
    size: Size,
    server: Server,
    proxy: Proxy,
    nodes: Vec<Node>,
    publishers: u64,
}

impl Run {
    fn start(kind: Kind, size: Size) -> Self {
        let server = Server::start(kind);
        let proxy = Proxy::start(server.port());
        let mut run = Self {
            kind,
            size,
            server,
            proxy,
            nodes: Vec::new(),
            publishers: 0,
        };
        for _ in 0..3 {
            run.add();
        }
        run.together();
        run
    }

    /// Starts a node. The first is connected through the proxy.
    fn add(&mut self) {
        let port = if self.nodes.is_empty() && self.publishers == 0 {
            self.proxy.port()
        } else {
            self.server.port()
        };
        self.publishers += 1;
        let url = self.kind.url(port);
        let node = Node::start(&url, self.publishers, self.size.topics);
        self.nodes.push(node);
    }

    fn tell(&mut self, command: &str) {
        self.nodes.iter_mut().for_each(|node| node.tell(command));
    }

    fn done(&mut self) {
        self.nodes.iter_mut().for_each(Node::done);
    }

    /// Waits until all nodes are connected and know each other.
    fn together(&mut self) {
        self.tell("up");
        self.done();
        self.wait("the nodes know each other", |run| {
            run.nodes.iter_mut().all(|node| node.report().nodes == 2)
        });
    }

    fn wait(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !condition(self) {
            assert!(began.elapsed() < WAIT, "not so: {what}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Lets the nodes publish, and meanwhile does something to them.
    fn rounds_and(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        let Size { rounds, pause, .. } = self.size;
        let rounds = format!("rounds {rounds} {pause}");
        self.tell(&rounds);
        thread::sleep(Duration::from_millis(300));
        meanwhile(self);
        self.done();
    }

    /// Publishes a last message to each topic until all have arrived, and accounts for the others.
    fn account(&mut self, after: &str) -> Vec<Report> {
        let began = Instant::now();
        let reports = 'rounds: loop {
            assert!(began.elapsed() < 2 * WAIT, "{after}: not complete");
            self.tell("rounds 1 1");
            self.done();
            // The last round may also be lost. Otherwise it comes, sooner or later.
            let published = Instant::now();
            while published.elapsed() < WAIT / 4 {
                thread::sleep(Duration::from_millis(200));
                let reports: Vec<_> = self.nodes.iter_mut().map(Node::report).collect();
                if self.is_complete(&reports) {
                    break 'rounds reports;
                }
            }
        };
        let (mut got, mut missing) = (0, 0);
        for (node, report) in self.nodes.iter().zip(&reports) {
            let mut missing_of: HashMap<usize, u64> = HashMap::new();
            for (&(topic, publisher), &[count, first, last]) in &report.got {
                // The node has checked that they are in order, and none is twice.
                *missing_of.entry(topic).or_default() += last - first + 1 - count;
                got += count;
                let sent = self.sent(&reports, publisher);
                let was_sent = sent.is_none_or(|sent| last <= sent[&topic]);
                assert!(was_sent, "a message that nobody has sent");
            }
            for (topic, missing_of) in missing_of {
                let told = report.told.get(&topic).copied().unwrap_or_default();
                let place = format!("node {}, topic {topic}, after {after}", node.publisher);
                assert_eq!(missing_of, told, "{place}: missing and told");
                missing += missing_of;
            }
            assert_eq!(report.subscriptions, self.size.topics, "held and wanted");
        }
        println!(
            "{:?}, {after}: {got} received, {missing} missing and told",
            self.kind
        );
        for report in &reports {
            println!("    {}", report.note);
        }
        reports
    }

    /// Returns the numbers of messages of a publisher, if it lives.
    fn sent<'a>(&self, reports: &'a [Report], publisher: u64) -> Option<&'a HashMap<usize, u64>> {
        let place = self
            .nodes
            .iter()
            .position(|node| node.publisher == publisher);
        place.map(|place| &reports[place].sent)
    }

    fn is_complete(&self, reports: &[Report]) -> bool {
        reports.iter().all(|receiver| {
            self.nodes.iter().zip(reports).all(|(node, publisher)| {
                publisher.sent.iter().all(|(topic, sent)| {
                    let got = receiver.got.get(&(*topic, node.publisher));
                    got.is_some_and(|[_, _, last]| last == sent)
                })
            })
        })
    }
}

fn pause(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
}

fn everything(kind: Kind, size: Size) {
    let mut run = Run::start(kind, size);
    run.account("start");

    // Few enough for every queue, however slow the machine is.
    let rounds = 20.min(10_000 / size.topics);
    run.tell(&format!("rounds {rounds} 20"));
    run.done();
    let reports = run.account("rounds without a fault");
    assert!(reports.iter().all(|report| report.told.is_empty()));

    hot_room(&mut run);

    run.rounds_and(|run| {
        run.nodes[2].signal("KILL");
        run.nodes.remove(2);
        run.add();
    });
    // A node is dead 10 s after its last beat.
    run.together();
    run.account("kill -9 of a node");

    run.rounds_and(|run| {
        run.server.kill();
        pause(1.0);
        run.server.restart();
    });
    let began = Instant::now();
    run.together();
    println!(
        "{kind:?}: together {:?} after the server was back",
        began.elapsed()
    );
    run.account("kill -9 of the server");

    logins(&mut run);
    if size.is_long {
        faults_of_long_runs(&mut run);
    }
}

/// The quiet rooms lose nothing beside a hot one.
fn hot_room(run: &mut Run) {
    let before = run.account("before the hot room");
    run.tell(&format!("hot {HOT}"));
    run.done();
    let after = run.account("a hot room");
    for (before, after) in before.iter().zip(&after) {
        for topic in 1..run.size.topics {
            let told = |report: &Report| report.told.get(&topic).copied();
            assert_eq!(told(before), told(after), "topic {topic} beside a hot one");
        }
    }
}

fn logins(run: &mut Run) {
    let (logins, users) = if run.size.is_long {
        (3334, 100)
    } else {
        (300, 20)
    };
    run.tell(&format!("logins {logins} {users}"));
    run.done();
    let kind = run.kind;
    let mut open: BTreeMap<String, u64> = BTreeMap::new();
    run.wait("one session of each user is open", |run| {
        open.clear();
        for report in run.nodes.iter_mut().map(Node::report) {
            for (user, count) in report.open {
                *open.entry(user).or_default() += count;
            }
        }
        open.len() == users && open.values().all(|count| *count == 1)
    });
    println!(
        "{kind:?}: {} logins, one session of each of {users} users",
        3 * logins
    );
}

/// A node that was stopped without much to read goes on with its connections.
fn connections_survive_a_pause(run: &mut Run) {
    let disconnects = |run: &mut Run| run.nodes[1].report().disconnects;
    let before = disconnects(run);
    run.nodes[1].signal("STOP");
    pause(15.0);
    run.nodes[1].signal("CONT");
    // Longer than a probe and its answer.
    pause(7.0);
    assert_eq!(disconnects(run), before, "a connection has ended");
    run.together();
    run.account("SIGSTOP of a quiet node for 15 s");
}

fn faults_of_long_runs(run: &mut Run) {
    connections_survive_a_pause(run);
    run.rounds_and(|run| {
        run.nodes[1].signal("STOP");
        pause(15.0);
        run.nodes[1].signal("CONT");
    });
    run.together();
    run.account("SIGSTOP of a node for 15 s");
    logins_are_unique(run, "SIGSTOP");

    for mode in [
        Mode::Delay(Duration::from_millis(200)),
        Mode::Reset,
        Mode::HalfOpen,
        Mode::CutToServer,
        Mode::CutToClient,
    ] {
        run.rounds_and(|run| {
            run.proxy.set(mode);
            pause(12.0);
            run.proxy.set(Mode::Pass);
        });
        run.together();
        run.account(&format!("{mode:?} at the proxy"));
        logins_are_unique(run, &format!("{mode:?}"));
    }
    logins(run);
}

fn logins_are_unique(run: &mut Run, after: &str) {
    run.wait(&format!("users are unique after {after}"), |run| {
        let mut open: HashMap<String, u64> = HashMap::new();
        for report in run.nodes.iter_mut().map(Node::report) {
            for (user, count) in report.open {
                *open.entry(user).or_default() += count;
            }
        }
        open.values().all(|count| *count == 1)
    });
}

#[test]
#[ignore = "needs nats-server and redis-server"]
fn three_processes_account_for_every_message_over_nats() {
    everything(Kind::Nats, SHORT);
}

#[test]
#[ignore = "needs nats-server and redis-server"]
fn three_processes_account_for_every_message_over_redis() {
    everything(Kind::Redis, SHORT);
}

#[test]
#[ignore = "long, needs nats-server and redis-server"]
fn long_three_processes_survive_faults_over_nats() {
    everything(Kind::Nats, LONG);
}

#[test]
#[ignore = "long, needs nats-server and redis-server"]
fn long_three_processes_survive_faults_over_redis() {
    everything(Kind::Redis, LONG);
}
