//! A node in a separate process: a test starts its program again with this one as its only
//! test.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    io::{self, BufRead},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use getty_cluster::{ClaimError, Cluster, ClusterTopics, form::from_fns};
use getty_core::{
    Connection, Session,
    driver::{self, Driver, Payload},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{interval, sleep},
};

use crate::server::Kind;

/// Publisher, topic and number of a message. A notice has the publisher 0, and a count.
type Message = [u64; 3];

/// Longest time until a topic is subscribed to.
const WAIT: Duration = Duration::from_secs(60);

/// A member of one topic.
struct Member {
    topic: u64,
    driver: Driver<Message>,
    _session: Session<Message>,
    _connection: Connection<()>,
    got: BTreeMap<u64, [u64; 3]>,
    told: u64,
}

impl Member {
    fn read(&mut self) {
        self.driver.register(&Context::from_waker(Waker::noop()));
        while let Some(outgoing) = self.driver.next_outgoing() {
            let message = match outgoing.payload {
                Payload::Message(message) => message,
                Payload::Shared(message) => message.message(),
                other => panic!("unexpected payload: {other:?}"),
            };
            match message {
                [0, _, missed] => self.told += missed,
                [publisher, topic, number] => {
                    assert_eq!(topic, self.topic, "a message of another topic");
                    let got = self.got.entry(publisher).or_insert([0, number, 0]);
                    assert!(got[2] < number, "{} before {number}", got[2]);
                    got[0] += 1;
                    got[2] = number;
                }
            }
        }
        self.driver.set_backpressure(false);
    }
}

struct Publisher {
    id: u64,
    rooms: ClusterTopics<String, Message>,
    sent: Vec<AtomicU64>,
}

impl Publisher {
    fn publish(&self, topic: usize) {
        let number = self.sent[topic].fetch_add(1, Relaxed) + 1;
        let message = [self.id, topic as u64, number];
        self.rooms.broadcast(&name(topic), message).unwrap();
    }
}

/// Returns the name of a topic. Some are made to break a protocol.
fn name(topic: usize) -> String {
    match topic {
        1 => ">".to_owned(),
        2 => "*".to_owned(),
        3 => "a\r\nPUB getty.test.all 1\r\nx\r\n".to_owned(),
        4 => String::new(),
        _ => format!("room {topic}"),
    }
}

fn setting(name: &str) -> String {
    env::var(format!("GETTY_NODE_{name}")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is started by other tests"]
async fn node() {
    let url = setting("URL");
    if url.is_empty() {
        // All ignored tests were started at once.
        return;
    }
    let cluster = Kind::node(&url).start();
    let form = from_fns(
        |message: &Message, to: &mut BytesMut| {
            for part in message {
                to.extend_from_slice(&part.to_be_bytes());
            }
            Ok(())
        },
        |form: Bytes| {
            let (parts, _) = form.as_chunks::<8>();
            let parts: Vec<_> = parts.iter().copied().map(u64::from_be_bytes).collect();
            parts.try_into().map_err(|_| "not three numbers".into())
        },
    );
    let builder = cluster.topics_builder("rooms", form);
    let rooms = builder.with_notice(|missed| [0, 0, missed]).build();
    let topics: usize = setting("TOPICS").parse().unwrap();
    let members: Vec<_> = (0..topics).map(|topic| member(&rooms, topic)).collect();
    let members = Arc::new(Mutex::new(members));
    let reading = Arc::clone(&members);
    tokio::spawn(async move {
        // A thousand members are many to look at.
        let mut ticks = interval(Duration::from_millis(40));
        loop {
            ticks.tick().await;
            reading.lock().unwrap().iter_mut().for_each(Member::read);
        }
    });
    let publisher = Arc::new(Publisher {
        id: setting("PUBLISHER").parse().unwrap(),
        rooms: rooms.clone(),
        sent: (0..topics).map(|_| AtomicU64::new(0)).collect(),
    });
    let sessions = Arc::new(Mutex::new(Vec::new()));
    let users = cluster.claims("users");
    let mut commands = commands();
    let mut work = JoinSet::new();
    while let Some(command) = commands.recv().await {
        let words: Vec<&str> = command.split(' ').collect();
        let number = |place: usize| words[place].parse::<usize>().unwrap();
        match words[0] {
            "up" => {
                let (rooms, cluster) = (rooms.clone(), cluster.clone());
                work.spawn(async move {
                    cluster.up().await;
                    for topic in 0..topics {
                        assert!(rooms.subscribed(&name(topic), WAIT).await);
                    }
                });
            }
            "rounds" => {
                let (publisher, rounds) = (Arc::clone(&publisher), number(1));
                let pause = Duration::from_millis(number(2) as u64);
                work.spawn(async move {
                    for _ in 0..rounds {
                        (0..topics).for_each(|topic| publisher.publish(topic));
                        sleep(pause).await;
                    }
                });
            }
            "hot" => {
                let (publisher, count) = (Arc::clone(&publisher), number(1));
                work.spawn(async move {
                    for n in 0..count {
                        publisher.publish(0);
                        if n % 10 == 0 {
                            publisher.publish(1 + n / 10 % (topics - 1));
                        }
                    }
                });
            }
            "logins" => {
                let (logins, ids) = (number(1), number(2));
                let at_once = Arc::new(Semaphore::new(100));
                for login in 0..logins {
                    let connection = Connection::new(());
                    let handle = connection.handle().clone();
                    let user = format!("user-{}", login % ids);
                    sessions.lock().unwrap().push((user.clone(), connection));
                    let (users, at_once) = (users.clone(), Arc::clone(&at_once));
                    work.spawn(async move {
                        let _permit = at_once.acquire().await;
                        loop {
                            match users.take(&user, &handle).await {
                                Err(ClaimError::Contended) => {}
                                Ok(_) | Err(ClaimError::Closed) => break,
                                Err(error) => panic!("{error}"),
                            }
                        }
                    });
                }
            }
            "done" => {
                while let Some(result) = work.join_next().await {
                    result.unwrap();
                }
                println!("@ done");
            }
            "report" => {
                report(&cluster, &publisher, &mut members.lock().unwrap());
                let mut open: HashMap<String, u64> = HashMap::new();
                sessions
                    .lock()
                    .unwrap()
                    .retain(|(user, connection): &(String, Connection<()>)| {
                        let is_open = connection.handle().reason().is_none();
                        *open.entry(user.clone()).or_default() += u64::from(is_open);
                        is_open
                    });
                for (user, count) in open.iter().filter(|(_, count)| **count > 0) {
                    println!("@ open {user} {count}");
                }
                println!("@ end");
            }
            other => panic!("{other}"),
        }
    }
}

fn member(rooms: &ClusterTopics<String, Message>, topic: usize) -> Member {
    let connection = Connection::new(());
    let (session, driver) = driver::pair(connection.handle().clone());
    assert!(rooms.join(name(topic), &session));
    Member {
        topic: topic as u64,
        driver,
        _session: session,
        _connection: connection,
        got: BTreeMap::new(),
        told: 0,
    }
}

/// Returns the lines of the standard input.
fn commands() -> mpsc::UnboundedReceiver<String> {
    let (sender, commands) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    commands
}

fn report(cluster: &Cluster, publisher: &Publisher, members: &mut [Member]) {
    for (topic, sent) in publisher.sent.iter().enumerate() {
        println!("@ sent {topic} {}", sent.load(Relaxed));
    }
    for member in members {
        member.read();
        let topic = member.topic;
        for (publisher, [count, first, last]) in &member.got {
            println!("@ got {topic} {publisher} {count} {first} {last}");
        }
        if member.told > 0 {
            println!("@ told {topic} {}", member.told);
        }
    }
    println!("@ note {:?}", cluster.snapshot());
    println!("@ subscriptions {}", cluster.snapshot().subscriptions);
    println!("@ nodes {}", cluster.nodes().len());
    println!("@ disconnects {}", cluster.snapshot().disconnects);
}
