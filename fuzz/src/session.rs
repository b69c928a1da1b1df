//! Whole sessions against models: requests and pushes in any order, with a peer that splits,
//! stalls, takes little, ends its direction or resets.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Reply, Request, ServiceBuilder, Session,
    SessionLayer, SessionTask, codec::Lines as LinesCodec,
};
use tokio::time::{Instant, sleep};
use tower::service_fn;

use crate::{
    codec::Lines,
    kit::{After, Input, block_on, idle, wire},
};

/// Maximum of a line, which no message of these targets reaches.
const MAX: usize = 64 * 1024;

fn lines() -> LinesCodec {
    LinesCodec::new().with_max_length(MAX)
}

/// Action of the handler on a request. It depends on the text of the line alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Reply,
    Yield,
    Sleep,
    None,
    Two,
    /// Pushes two messages before it replies.
    Push,
    /// Replies and closes the session.
    Close,
}

fn action(line: &str) -> Action {
    match line.bytes().next().unwrap_or_default() {
        b'y' => Action::Yield,
        b's' => Action::Sleep,
        b'n' => Action::None,
        b't' => Action::Two,
        b'p' => Action::Push,
        b'c' => Action::Close,
        _ => Action::Reply,
    }
}

fn replies(line: &str) -> Vec<String> {
    match action(line) {
        Action::None => Vec::new(),
        Action::Two => vec![format!("r{line}"), format!("R{line}")],
        _ => vec![format!("r{line}")],
    }
}

/// Record of the handler's calls.
#[derive(Debug, Default)]
struct Observed {
    /// Lines in the order of the calls.
    called: Mutex<Vec<String>>,
    /// Messages that handlers have pushed.
    pushed: Mutex<Vec<String>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

struct Running(Arc<Observed>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

async fn open(
    io: crate::kit::Wire,
    layer: SessionLayer,
    observed: &Arc<Observed>,
) -> (Session<String>, SessionTask) {
    let observed = Arc::clone(observed);
    let handler = service_fn(move |request: Request<String>| {
        let observed = Arc::clone(&observed);
        let line = request.message().clone();
        observed.called.lock().expect("no panic").push(line.clone());
        let running = observed.running.fetch_add(1, SeqCst) + 1;
        observed.most.fetch_max(running, SeqCst);
        let running = Running(Arc::clone(&observed));
        async move {
            let _running = running;
            match action(&line) {
                Action::Yield => tokio::task::yield_now().await,
                Action::Sleep => sleep(Duration::from_millis(1)).await,
                Action::Push => {
                    for message in [format!("h{line}"), format!("h{line}")] {
                        if request.session().try_send(message.clone()).is_ok() {
                            observed.pushed.lock().expect("no panic").push(message);
                        }
                    }
                }
                _ => {}
            }
            let reply = Reply::many(replies(&line));
            Ok::<_, BoxError>(match action(&line) {
                Action::Close => reply.and_close(),
                _ => reply,
            })
        }
    });
    let connector = service_fn(|io| async { Ok::<_, Infallible>(Connection::new(io)) });
    let opened = getty::connect(connector, io, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(link)
            .layer(layer)
            .service(handler)
    });
    opened.await.expect("the dial cannot fail")
}

/// End of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The peer ends its direction.
    Peer,
    Close,
    Reset,
}

/// Requests and pushes: all replies leave in order, each handler runs once, and nothing is lost
/// unless the connection is.
pub(crate) fn session_messages(data: &[u8]) {
    let mut input = Input::new(data);
    let bits = input.byte();
    let in_flight = 1 + input.below(5);
    let queue = 1 + u32::from(input.byte() % 6);
    let (low, high) = (input.limit(), input.limit());
    let reply_limit = input.limit();
    let length = usize::from(input.byte()) * 8;
    let stream = input.take(length);
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
    block_on(run(layer, in_flight, ordered, stream, input));
}

async fn run(
    layer: SessionLayer,
    in_flight: usize,
    ordered: bool,
    stream: &[u8],
    mut input: Input<'_>,
) {
    let observed = Arc::<Observed>::default();
    let (io, peer) = wire();
    peer.stay_open();
    let (session, task) = open(io, layer, &observed).await;
    let mut sent = 0;
    let mut is_finished = false;
    let mut pushed = Vec::new();
    let mut feeds = Vec::new();
    let mut end = End::Peer;
    while !input.is_empty() {
        match input.byte() % 16 {
            0..=3 => {
                let n = usize::from(input.byte()).min(stream.len() - sent);
                peer.send([&stream[sent..sent + n]]);
                sent += n;
            }
            4 => peer.stall(),
            5 => peer.take(input.byte().into()),
            6 => peer.take(usize::MAX),
            7 | 8 => idle().await,
            9 | 10 => {
                let message = format!("P{:04}{}", pushed.len(), "x".repeat(input.byte().into()));
                if session.try_send(message.clone()).is_ok() {
                    pushed.push(message);
                }
            }
            11 => {
                let message = format!("F{:04}{}", feeds.len(), "x".repeat(input.byte().into()));
                let session = session.clone();
                feeds.push(tokio::spawn(async move {
                    session
                        .feed(message.clone())
                        .await
                        .is_ok()
                        .then_some(message)
                }));
                tokio::task::yield_now().await;
            }
            12 => peer.limit_writes(input.byte().into()),
            13 => tokio::task::yield_now().await,
            14 => match input.byte() {
                0 => {
                    session.close();
                    end = End::Close;
                    break;
                }
                1 => {
                    // A half-close: the peer's messages are still handled.
                    is_finished = true;
                    let session = session.clone();
                    tokio::spawn(async move { drop(session.finish().await) });
                    tokio::task::yield_now().await;
                }
                _ => {}
            },
            15 if input.byte() == 0 => {
                end = End::Reset;
                break;
            }
            _ => {}
        }
    }
    match end {
        End::Peer | End::Close => peer.then(After::End),
        End::Reset => peer.then(After::Reset),
    }
    peer.take(usize::MAX);
    peer.limit_writes(usize::MAX);
    let closed = task.await.expect("no handler panics");
    let mut fed = Vec::new();
    for feed in feeds {
        fed.extend(feed.await.expect("a feed does not panic"));
    }
    assert!(peer.is_gone());

    // Calls: each received line once, in order, within the limit.
    let model = Lines {
        max: MAX,
        crlf: false,
        final_newline: false,
    };
    let model = model.model(&stream[..sent]);
    let bad = model.items.iter().position(Result::is_err);
    let mut requests: Vec<String> = model.items[..bad.unwrap_or(model.items.len())]
        .iter()
        .map(|line| String::from_utf8(line.clone().expect("a line")).expect("text"))
        .collect();
    let called = observed.called.lock().expect("no panic").clone();
    assert!(
        observed.most.load(SeqCst) <= in_flight,
        "more handlers than allowed"
    );
    assert_eq!(observed.running.load(SeqCst), 0);
    assert!(
        requests.starts_with(&called),
        "called {called:?} of {requests:?}"
    );
    let closes = called.iter().any(|line| action(line) == Action::Close);

    // The end and its reason.
    let is_whole = end == End::Peer && !closes;
    match &closed.reason {
        CloseReason::PeerClosed if end == End::Peer => {
            assert!(bad.is_none() || closes, "a bad line is an error");
        }
        CloseReason::Decode => assert!(bad.is_some()),
        CloseReason::Local => assert!(end == End::Close || closes, "nobody has closed"),
        CloseReason::Io | CloseReason::PeerClosed => assert_eq!(end, End::Reset, "{closed:?}"),
        other => assert!(closes || end != End::Peer, "{other}: {closed:?}"),
    }
    if is_whole {
        assert_eq!(called.len(), requests.len(), "{closed:?}");
        assert_eq!(closed.stats.messages_in, requests.len() as u64);
        if bad.is_none() {
            assert_eq!(closed.stats.bytes_in, sent as u64);
        }
        assert_eq!(closed.stats.bytes_out, peer.output().len() as u64);
    }
    requests.truncate(called.len());

    // Output: whole lines, except behind a reset.
    let output = peer.output();
    let output = str::from_utf8(&output).expect("text is sent");
    let (whole, part) = output
        .rsplit_once('\n')
        .map_or(("", output), |(a, b)| (a, b));
    assert!(part.is_empty() || end == End::Reset, "{part:?}");
    let received: Vec<&str> = if output.contains('\n') {
        whole.split('\n').collect()
    } else {
        Vec::new()
    };
    let of = |kinds: &str| -> Vec<&str> {
        let fits = |line: &&&str| line.starts_with(|c| kinds.contains(c));
        received.iter().filter(fits).copied().collect()
    };
    let expected: Vec<String> = requests.iter().flat_map(|line| replies(line)).collect();
    let replied = of("rR");
    if ordered {
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
    let from_handlers = observed.pushed.lock().expect("no panic").clone();
    let lists = [
        (of("P"), &pushed),
        (of("F"), &fed),
        (of("h"), &from_handlers),
    ];
    for (received, accepted) in &lists {
        assert!(
            is_prefix(received, accepted),
            "{received:?} of {accepted:?}"
        );
    }
    if end != End::Reset {
        // Accepted messages are flushed at every orderly end. A handler's reply that closes
        // the session may be the last message.
        if ordered && !closes && !is_finished {
            assert_eq!(replied.len(), expected.len(), "{closed:?}");
        }
        for (received, accepted) in lists {
            assert_eq!(received.len(), accepted.len(), "{closed:?}");
        }
        assert_eq!(closed.unsent_bytes, 0);
    }
    // A message that a handler has pushed precedes its reply.
    if ordered {
        let mut at = 0;
        for message in &from_handlers {
            let place = received.iter().skip(at).position(|line| line == message);
            let Some(place) = place else { break };
            let reply = format!("r{}", &message[1..]);
            let later = received[at + place..].contains(&&*reply);
            assert!(
                later || end == End::Reset || closes || is_finished,
                "{message} behind its reply: {received:?}"
            );
            at += place + 1;
        }
    }
}

fn is_prefix(part: &[&str], all: &[String]) -> bool {
    part.len() <= all.len() && part.iter().zip(all).all(|(one, other)| one == other)
}

/// Pushes alone, with an exact model of the watermarks and of the queue.
pub(crate) fn session_watermarks(data: &[u8]) {
    let mut input = Input::new(data);
    let queue = 1 + input.below(20);
    let high = input.limit();
    let low = input.limit().min(high);
    block_on(async {
        let layer = SessionLayer::new()
            .with_queue(u32::try_from(queue).expect("it is small"))
            .with_watermarks(low, high)
            .with_write_timeout(None);
        let (io, peer) = wire();
        let (session, _task) = open(io, layer, &Arc::default()).await;
        peer.stall();
        idle().await;
        let mut model = Pushes {
            low,
            high,
            queue,
            waiting: 0,
            stopped: false,
            refuses: false,
            queued: Vec::new(),
            room: 0,
            taken: 0,
        };
        for _ in 0..200 {
            if input.is_empty() {
                break;
            }
            let (op, n) = (input.byte(), usize::from(input.byte()));
            match op % 3 {
                0 | 1 => {
                    let fits = model.push(n + 1);
                    let sent = session.try_send("x".repeat(n));
                    assert_eq!(sent.is_ok(), fits, "{model:?}");
                }
                _ => {
                    model.room += n;
                    peer.take(n);
                }
            }
            if op & 0x40 == 0 {
                idle().await;
                model.settle();
                let ours = (
                    session.pending_bytes(),
                    session.queued(),
                    peer.output().len(),
                );
                assert_eq!(
                    ours,
                    (model.waiting, model.queued.len(), model.taken),
                    "{model:?}"
                );
                assert_eq!(session.is_backpressured(), model.stopped, "{model:?}");
            }
        }
    });
}

/// Model of a session that pushes: what `SessionLayer::with_watermarks` documents.
#[derive(Debug)]
struct Pushes {
    low: usize,
    high: usize,
    queue: usize,
    waiting: usize,
    stopped: bool,
    /// Senders were notified that pushes have stopped.
    refuses: bool,
    queued: Vec<usize>,
    room: usize,
    taken: usize,
}

impl Pushes {
    fn push(&mut self, length: usize) -> bool {
        let fits = !self.refuses && self.queued.len() < self.queue;
        if fits {
            self.queued.push(length);
        }
        fits
    }

    /// Encodes and writes until nothing changes.
    fn settle(&mut self) {
        loop {
            while !self.stopped && !self.queued.is_empty() {
                if self.waiting > self.high {
                    self.stopped = true;
                } else {
                    self.waiting += self.queued.remove(0);
                }
            }
            let taken = self.waiting.min(self.room);
            self.waiting -= taken;
            self.room -= taken;
            self.taken += taken;
            self.stopped |= self.waiting > self.high;
            if self.stopped && self.waiting <= self.low {
                self.stopped = false;
            } else {
                break;
            }
        }
        self.refuses = self.stopped;
    }
}

/// Replies alone to a peer that takes nothing: as many are made as the limit allows, and each
/// byte that is taken lets handling go on.
pub(crate) fn session_reply_limit(data: &[u8]) {
    let mut input = Input::new(data);
    let in_flight = 1 + input.below(4);
    let high = input.limit();
    let low = input.limit().min(high);
    let reply_limit = input.limit() * 4;
    // Short replies would need too many requests to reach a high limit.
    let size = 1 + usize::from(input.byte()) + reply_limit / 50;
    block_on(async {
        let observed = Arc::<Observed>::default();
        let layer = SessionLayer::new()
            .with_in_flight(in_flight)
            .with_watermarks(low, high)
            .with_reply_limit(reply_limit)
            .with_write_timeout(None);
        let (io, peer) = wire();
        let (session, _task) = open(io, layer, &observed).await;
        peer.stall();
        // The reply is one byte longer.
        let request = format!("{}\n", "x".repeat(size));
        let reply = request.len() + 1;
        // The largest message is known to the next power of two.
        let limit = reply_limit.max(low + 2 * high + 4 * reply.next_power_of_two());
        let start = Instant::now();
        let mut requests = 0;
        for step in 0..12 {
            let more = 1 + 2 * limit / reply;
            requests += more;
            peer.send([request.repeat(more).as_bytes()]);
            idle().await;
            let called = observed.called.lock().expect("no panic").len();
            let waiting = called * reply - peer.output().len();
            assert!(
                called < requests,
                "the limit is not kept: {waiting} of {limit}"
            );
            // The size of a reply counts only once the session knows that the peer stalls.
            let least = reply_limit.max(low + 2 * high);
            assert!(waiting >= least, "{waiting} below the limit {least}");
            let most = limit + in_flight * reply;
            assert!(
                waiting <= most,
                "{waiting} above the limit {limit}, step {step}"
            );
            assert!(session.pending_bytes() <= waiting);
            if input.is_empty() {
                break;
            }
            peer.take((usize::from(input.byte()) * 8).min(waiting));
            idle().await;
        }
        // All is handled once the peer takes all.
        peer.take(usize::MAX);
        peer.then(After::End);
        session.closed().await;
        assert_eq!(observed.called.lock().expect("no panic").len(), requests);
        assert_eq!(peer.output().len(), requests * reply);
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}
