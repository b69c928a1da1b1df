//! Frames and subjects of a cluster, over a bus that the target implements.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use getty_cluster::{
    Cluster, Subject,
    bus::{Bus, Event, Limits, PublishError, Sink},
    form::Plain,
};
use tower::BoxError;

use self::guest::Guest;
use crate::kit::{Input, block_on, idle};

#[path = "../../cluster/tests/contract/guest.rs"]
mod guest;

/// Bus that keeps what a node does with it.
#[derive(Clone, Default)]
struct Tap(Arc<Mutex<Tapped>>);

#[derive(Default)]
struct Tapped {
    sink: Option<Arc<dyn Sink>>,
    published: Vec<(String, Bytes)>,
    subscribed: Vec<String>,
}

impl Tap {
    fn with<R>(&self, f: impl FnOnce(&mut Tapped) -> R) -> R {
        f(&mut self.0.lock().expect("no closure panics"))
    }

    /// Drops the sink, which keeps the node, which keeps this bus.
    fn disconnect(&self) {
        self.with(|tapped| tapped.sink.take());
    }

    /// Waits until the node reads the bus, and connects it.
    async fn connect(&self) -> Arc<dyn Sink> {
        idle().await;
        let sink = self.with(|tapped| tapped.sink.clone());
        let sink = sink.expect("the node reads the bus");
        sink.event(Event::Connected);
        sink.event(Event::Settled);
        sink
    }
}

impl Bus for Tap {
    fn limits(&self) -> Limits {
        Limits { frame: 256 * 1024 }
    }

    fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        self.with(|tapped| tapped.published.push((to.to_string(), frame)));
        Ok(())
    }

    fn subscribe(&self, changes: &[(Subject, bool)]) {
        let added = changes.iter().filter(|(_, is_added)| *is_added);
        let added = added.map(|(subject, _)| subject.to_string());
        self.with(|tapped| tapped.subscribed.extend(added));
    }

    fn run(&self, sink: Arc<dyn Sink>) -> BoxFuture<'_, BoxError> {
        self.with(|tapped| tapped.sink = Some(sink));
        Box::pin(std::future::pending())
    }

    fn needs_thread(&self) -> bool {
        false
    }
}

/// Frame as docs and comments of getty-cluster describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame<'a> {
    kind: u8,
    origin: u64,
    number: u64,
    key: &'a [u8],
    payload: &'a [u8],
}

fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, rest) = bytes.split_at_checked(29)?;
    let number =
        |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let key = usize::from(header[27]) << 8 | usize::from(header[28]);
    let (key, payload) = rest.split_at_checked(key)?;
    (header[0] == 1 && header[1] < 12).then(|| Frame {
        kind: header[1],
        origin: number(3),
        number: number(11),
        key,
        payload,
    })
}

/// Key of the topic that the member has joined.
const KEY: &[u8] = b"tea";

/// Frames of other nodes, and frames of no node.
pub(crate) fn bus_frames(data: &[u8]) {
    let mut input = Input::new(data);
    let text = input.part().to_vec();
    let mut frames = Vec::new();
    while !input.is_empty() && frames.len() < 40 {
        let to = input.byte();
        frames.push((to, input.part().to_vec()));
    }
    block_on(async {
        let tap = Tap::default();
        let cluster = Cluster::of("fuzz").over(tap.clone()).start();
        let rooms = cluster.topics::<Vec<u8>, Vec<u8>>("rooms", Plain);
        let mut member = Guest::new();
        rooms.join_as(KEY.to_vec(), &member.session, "a card");
        let sink = tap.connect().await;
        idle().await;
        let subjects = tap.with(|tapped| tapped.subscribed.clone());
        let topic = subjects.iter().find(|subject| subject.contains(".t."));
        let topic = topic.expect("the topic is subscribed").clone();

        // The messages for the topic: a model of what arrives.
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let (mut expected, mut certain, mut invalid) = (Vec::new(), true, 0);
        for (to, bytes) in &frames {
            let arbitrary = String::from_utf8_lossy(&text).into_owned();
            let to = match to % 4 {
                0 | 1 => &topic,
                2 => subjects.first().expect("a node has its subjects"),
                _ => &arbitrary,
            };
            match parse(bytes) {
                None => invalid += 1,
                Some(frame) if *to == topic && frame.origin != cluster.id().0 => {
                    if frame.kind != 0 {
                        invalid += 1;
                    } else if frame.key == KEY {
                        // A number that is not greater than the last one is a duplicate.
                        let last = seen.get(&frame.origin);
                        if last.is_none_or(|last| *last < frame.number) {
                            seen.insert(frame.origin, frame.number);
                            expected.push(frame.payload.to_vec());
                        }
                        // A node forgets unknown publishers if there are many.
                        certain &= seen.len() < 8;
                    }
                }
                Some(_) => certain &= *to != arbitrary,
            }
            sink.deliver(to, Bytes::from(bytes.clone()));
        }
        idle().await;
        let received = member.received();
        let closed = member.session.is_closing();
        if certain && !closed {
            assert_eq!(received, expected);
        } else {
            let payloads: Vec<&[u8]> = frames
                .iter()
                .filter_map(|(_, bytes)| parse(bytes))
                .map(|frame| frame.payload)
                .collect();
            assert!(
                received.iter().all(|one| payloads.contains(&&one[..])),
                "{received:?}"
            );
        }
        assert!(cluster.snapshot().invalid >= invalid);

        // All frames of the node can be read, and so can another node.
        let sent = rooms.broadcast(KEY, b"from here".to_vec());
        assert!(sent.is_ok());
        let published = tap.with(|tapped| std::mem::take(&mut tapped.published));
        let other = Tap::default();
        let second = Cluster::of("fuzz").over(other.clone()).start();
        let rooms = second.topics::<Vec<u8>, Vec<u8>>("rooms", Plain);
        let mut member = Guest::new();
        rooms.join(KEY.to_vec(), &member.session);
        let sink = other.connect().await;
        for (to, frame) in published {
            check_subject(&to);
            assert!(parse(&frame).is_some_and(|frame| frame.origin == cluster.id().0));
            sink.deliver(&to, frame);
        }
        idle().await;
        assert_eq!(second.snapshot().invalid, 0);
        assert_eq!(member.received(), [b"from here"]);
        tap.disconnect();
        other.disconnect();
    });
}

/// A subject has no wildcard, space or line break, and no empty level.
fn check_subject(subject: &str) {
    let is_token = |token: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !token.is_empty() && token.bytes().all(fits)
    };
    assert!(subject.starts_with("getty."), "{subject}");
    assert!(subject.split('.').all(is_token), "{subject}");
    assert!(subject.len() < 1000, "{subject}");
}

/// Names of namespaces, sets and topics: different names have different subjects.
pub(crate) fn bus_subjects(data: &[u8]) {
    let mut input = Input::new(data);
    let names: Vec<[Vec<u8>; 3]> = (0..2)
        .map(|_| std::array::from_fn(|_| input.part().to_vec()))
        .collect();
    let all: Vec<(String, String, Vec<u8>, Vec<String>)> = names
        .into_iter()
        .map(|[namespace, set, key]| {
            let namespace = String::from_utf8_lossy(&namespace).into_owned();
            let set = String::from_utf8_lossy(&set).into_owned();
            let subscribed = block_on(async {
                let tap = Tap::default();
                let cluster = Cluster::of(&namespace).over(tap.clone()).start();
                let topics = cluster.topics::<Vec<u8>, Vec<u8>>(&set, Plain);
                let member = Guest::new();
                topics.join(key.clone(), &member.session);
                tap.connect().await;
                idle().await;
                tap.disconnect();
                tap.with(|tapped| tapped.subscribed.clone())
            });
            subscribed.iter().for_each(|subject| check_subject(subject));
            let topics = subscribed
                .into_iter()
                .filter(|subject| subject.split('.').nth(2) == Some("t"));
            let topics: Vec<String> = topics.collect();
            assert!(!topics.is_empty());
            (namespace, set, key, topics)
        })
        .collect();
    let [one, two] = &all[..] else {
        panic!("two were made")
    };
    let same = (&one.0, &one.1, &one.2) == (&two.0, &two.1, &two.2);
    assert_eq!(one.3 == two.3, same, "{one:?} {two:?}");
}
