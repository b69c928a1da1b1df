//! Whole sessions: requests, pushes and ends in any order.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use getty::{CloseReason, Closed, Session, SessionLayer, SessionTask, transport::Framing};
use tokio::{
    task::{JoinHandle, yield_now},
    time::sleep,
};

use super::{
    Action, Observed, action, open_messages, open_stream, open_web_socket,
    peer::{Kind, Line, Sent},
    replies,
};
use crate::{
    kit::{Input, block_on, idle, wire},
    ws,
};

/// End of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The peer ends its direction.
    Peer,
    Close,
    Reset,
}

/// Settings of a session.
struct Settings {
    kind: Kind,
    layer: SessionLayer,
    in_flight: usize,
    ordered: bool,
}

impl Settings {
    fn read(input: &mut Input<'_>, kind: Option<Kind>) -> Self {
        let bits = input.byte();
        let in_flight = 1 + input.below(5);
        let queue = 1 + u32::from(input.byte() % 6);
        let (low, high) = (input.limit(), input.limit());
        let reply_limit = input.limit();
        let ordered = bits & 1 == 0;
        let mut layer = SessionLayer::new()
            .with_in_flight(in_flight)
            .with_queue(queue)
            .with_watermarks(low, high)
            .with_reply_limit(reply_limit);
        if !ordered {
            layer = layer.unordered();
        }
        if bits & 2 != 0 {
            layer = layer.with_flush_delay(Duration::from_millis(2));
        }
        let framed = [Kind::Messages, Kind::Datagrams, Kind::WebSocket];
        Self {
            kind: kind.unwrap_or(framed[usize::from(bits >> 2) % 3]),
            layer,
            in_flight,
            ordered,
        }
    }
}

/// Requests and pushes over a byte stream: all replies leave in order, each handler runs once,
/// and nothing is lost unless the connection is.
pub(crate) fn session_messages(data: &[u8]) {
    run(data, Some(Kind::Stream));
}

/// The same over transports that keep the boundaries of messages: like WebSocket, like UDP,
/// and WebSocket over a byte stream.
pub(crate) fn session_framed(data: &[u8]) {
    run(data, None);
}

fn run(data: &[u8], kind: Option<Kind>) {
    let mut input = Input::new(data);
    let settings = Settings::read(&mut input, kind);
    let length = usize::from(input.byte()) * 8;
    let bytes = input.take(length);
    block_on(async {
        let observed = Arc::<Observed>::default();
        let layer = settings.layer.clone();
        let ((session, task), peer) = match settings.kind {
            Kind::Stream => {
                let (io, peer) = wire();
                peer.stay_open();
                (open_stream(io, layer, &observed).await, peer)
            }
            Kind::WebSocket => {
                let (io, peer) = wire();
                peer.stay_open();
                peer.send(ws::REQUEST);
                (open_web_socket(io, layer, &observed).await, peer)
            }
            Kind::Messages => {
                let (io, peer) = getty_test::messages(Framing::Messages);
                peer.pause_reads();
                (open_messages(io, layer, &observed).await, peer)
            }
            Kind::Datagrams => {
                let (io, peer) = getty_test::messages(Framing::Datagrams);
                peer.pause_reads();
                (open_messages(io, layer, &observed).await, peer)
            }
        };
        let line = Line::new(peer, settings.kind, bytes);
        let run = Run {
            line,
            end: End::Peer,
            is_finished: false,
            pushed: Vec::new(),
            feeds: Vec::new(),
        };
        let ended = run.play(session, task, input).await;
        ended.check(&settings, &observed);
    });
}

/// A session in its run.
struct Run {
    line: Line,
    end: End,
    /// This side has ended its direction.
    is_finished: bool,
    /// Pushes that were accepted.
    pushed: Vec<String>,
    feeds: Vec<JoinHandle<Option<String>>>,
}

impl Run {
    async fn play(
        mut self,
        session: Session<String>,
        task: SessionTask,
        mut input: Input<'_>,
    ) -> Ended {
        while !input.is_empty() {
            if self.step(&session, &mut input).await {
                break;
            }
        }
        let peer = self.line.peer.clone();
        peer.limit_writes(usize::MAX);
        peer.release_flush();
        match self.end {
            End::Reset => peer.reset(),
            End::Close => peer.finish(),
            End::Peer => {
                if self.line.is_web_socket() {
                    // nothing is sent behind the close frame of the peer
                    self.line.complete();
                    peer.take_all();
                    sleep(Duration::from_secs(10)).await;
                }
                self.line.end();
            }
        }
        peer.take_all();
        let closed = task.await.expect("no handler panics");
        let mut fed = Vec::new();
        for feed in self.feeds {
            fed.extend(feed.await.expect("a feed does not panic"));
        }
        assert!(peer.is_gone());
        let (received, part) = self.line.received();
        Ended {
            closed,
            end: self.end,
            is_finished: self.is_finished,
            pushed: self.pushed,
            fed,
            sent: self.line.sent(),
            received,
            part,
            written: peer.written(),
        }
    }

    /// Does what the next bytes of the input say. Returns `true` if it ends the run.
    async fn step(&mut self, session: &Session<String>, input: &mut Input<'_>) -> bool {
        let peer = self.line.peer.clone();
        match input.byte() % 16 {
            0..=3 => self.line.send(input.byte().into()),
            4 => peer.stall(),
            5 => peer.take(input.byte().into()),
            6 => peer.take_all(),
            7 | 8 => idle().await,
            9 | 10 => {
                let padding = "x".repeat(input.byte().into());
                let message = format!("P{:04}{padding}", self.pushed.len());
                if session.try_send(message.clone()).is_ok() {
                    self.pushed.push(message);
                }
            }
            11 => {
                let padding = "x".repeat(input.byte().into());
                let message = format!("F{:04}{padding}", self.feeds.len());
                let session = session.clone();
                self.feeds.push(tokio::spawn(async move {
                    let fed = session.feed(message.clone()).await;
                    fed.is_ok().then_some(message)
                }));
                yield_now().await;
            }
            12 => peer.limit_writes(usize::from(input.byte()).max(1)),
            13 => yield_now().await,
            14 => match input.byte() {
                0 => {
                    session.close();
                    self.end = End::Close;
                    return true;
                }
                1 => {
                    // A half-close: the peer's messages are still handled.
                    self.is_finished = self.line.ends_one_direction();
                    let session = session.clone();
                    tokio::spawn(async move { drop(session.finish().await) });
                    yield_now().await;
                }
                2 => peer.hold_flush(),
                3 => peer.release_flush(),
                _ => {}
            },
            _ => match input.byte() {
                0 => {
                    self.end = End::Reset;
                    return true;
                }
                seed @ 1..=50 => peer.randomize(seed.into()),
                _ => {}
            },
        }
        false
    }
}

/// Record of a run.
struct Ended {
    closed: Closed,
    end: End,
    is_finished: bool,
    /// Messages that were accepted.
    pushed: Vec<String>,
    fed: Vec<String>,
    sent: Sent,
    /// Messages that the peer has received, and the rest of a message.
    received: Vec<String>,
    part: Vec<u8>,
    /// Bytes that the session has written.
    written: usize,
}

impl Ended {
    fn check(self, settings: &Settings, observed: &Observed) {
        let called = observed.called.lock().expect("no panic").clone();
        let most = observed.most.load(SeqCst);
        assert!(most <= settings.in_flight, "more handlers than allowed");
        assert_eq!(observed.running.load(SeqCst), 0);
        let requests = &self.sent.requests;
        assert!(
            requests.starts_with(&called),
            "called {called:?} of {requests:?}"
        );
        let closes = called.iter().any(|line| action(line) == Action::Close);
        self.check_reason(settings.kind, closes);
        if self.end == End::Peer && !closes {
            self.check_stats(settings.kind, called.len());
        }
        let cut = self.part.is_empty() || self.end == End::Reset;
        assert!(cut, "{:?}", self.part);
        self.check_replies(settings, &called, closes);
        let from_handlers = observed.pushed.lock().expect("no panic").clone();
        self.check_pushes(&from_handlers);
        if settings.ordered {
            self.check_own_pushes(&from_handlers, closes);
        }
    }

    fn check_reason(&self, kind: Kind, closes: bool) {
        let Self {
            closed, end, sent, ..
        } = self;
        match &closed.reason {
            CloseReason::PeerClosed if *end == End::Peer => {
                assert!(!sent.is_bad || closes, "a bad message is an error");
            }
            CloseReason::Decode => assert!(sent.is_bad),
            CloseReason::Local => assert!(*end == End::Close || closes, "nobody has closed"),
            CloseReason::Io | CloseReason::PeerClosed => {
                assert_eq!(*end, End::Reset, "{closed:?}");
            }
            CloseReason::Protocol { code: 1007, .. } if kind == Kind::WebSocket => {
                assert!(sent.is_bad || sent.may_be_bad, "{closed:?}");
            }
            other => assert!(closes || *end != End::Peer, "{other}: {closed:?}"),
        }
    }

    /// All that the peer has sent was handled.
    fn check_stats(&self, kind: Kind, called: usize) {
        let Self { closed, sent, .. } = self;
        let stats = &closed.stats;
        assert_eq!(called, sent.requests.len(), "{closed:?}");
        assert_eq!(stats.messages_in, sent.requests.len() as u64);
        if !sent.is_bad {
            assert_eq!(stats.skipped, sent.skipped, "{closed:?}");
            if let Some(bytes) = sent.bytes {
                assert_eq!(stats.bytes_in, bytes);
            }
        }
        if kind != Kind::WebSocket {
            assert_eq!(stats.bytes_out, self.written as u64);
        }
    }

    fn of(&self, kinds: &str) -> Vec<&str> {
        let fits = |line: &&str| line.starts_with(|c| kinds.contains(c));
        self.received
            .iter()
            .map(String::as_str)
            .filter(fits)
            .collect()
    }

    /// Each request has exactly its replies, unless the end has cut them off.
    fn check_replies(&self, settings: &Settings, called: &[String], closes: bool) {
        let expected: Vec<String> = called.iter().flat_map(|line| replies(line)).collect();
        let replied = self.of("rR");
        if settings.ordered {
            assert!(
                is_prefix(&replied, &expected),
                "{replied:?} of {expected:?}"
            );
        } else {
            let mut rest = expected.clone();
            for reply in &replied {
                let at = rest.iter().position(|other| other == reply);
                rest.swap_remove(at.expect("it was a reply, and once"));
            }
        }
        if self.end == End::Reset || self.is_finished {
            return;
        }
        if !closes {
            assert_eq!(replied.len(), expected.len(), "{:?}", self.closed);
            return;
        }
        // the reply that closes the session leaves, and in order all replies before it
        let mut lines = called.iter();
        let first = lines.position(|line| action(line) == Action::Close);
        let before = &called[..=first.expect("a handler has closed")];
        let before: Vec<String> = before.iter().flat_map(|line| replies(line)).collect();
        if settings.ordered && self.end == End::Peer {
            assert!(replied.len() >= before.len(), "{replied:?} of {before:?}");
        }
    }

    fn check_pushes(&self, from_handlers: &[String]) {
        let lists = [
            (self.of("P"), &self.pushed[..]),
            (self.of("F"), &self.fed[..]),
            (self.of("h"), from_handlers),
        ];
        for (received, accepted) in lists {
            assert!(
                is_prefix(&received, accepted),
                "{received:?} of {accepted:?}"
            );
            // Accepted messages are flushed at every orderly end.
            if self.end != End::Reset {
                assert_eq!(received.len(), accepted.len(), "{:?}", self.closed);
            }
        }
        if self.end != End::Reset {
            assert_eq!(self.closed.unsent_bytes, 0);
        }
    }

    /// A message that a handler has pushed precedes its reply.
    fn check_own_pushes(&self, from_handlers: &[String], closes: bool) {
        let received = &self.received;
        let mut at = 0;
        for message in from_handlers {
            let place = received.iter().skip(at).position(|line| line == message);
            let Some(place) = place else { break };
            let reply = format!("r{}", &message[1..]);
            let later = received[at + place..].contains(&reply);
            assert!(
                later || self.end == End::Reset || closes || self.is_finished,
                "{message} behind its reply: {received:?}"
            );
            at += place + 1;
        }
    }
}

fn is_prefix(part: &[&str], all: &[String]) -> bool {
    part.len() <= all.len() && part.iter().zip(all).all(|(one, other)| one == other)
}
