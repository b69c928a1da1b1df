//! A message allocates nothing: neither under the bare stack nor under the full one nor over WebSocket, neither as a reply
//! nor as a send.
//!
//! What is counted is the whole process, so there is one test in this file, and each figure is the least of several
//! attempts: the test harness has a thread of its own that may allocate at any time.

use std::{
    alloc::System,
    future::{Ready, ready},
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use bytes::Bytes;
use getty::{BoxError, Pipeline, Request, Session, Transport, service_fn};
use getty_benches::{
    broadcast::{Carrier, Crowd, Kind},
    calls::Caller,
    frames::Frames,
    in_memory::{Loop, Prepared, session},
    scripted::Scripted,
    server::getty::{Handler, bare_around, full_around},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ATTEMPTS: usize = 5;
/// What is measured is the difference between a short run and a long one: what a connection allocates cancels out.
const SHORT: u64 = 100;
const LONG: u64 = 1_100;
/// How many messages are queued in one go.
const MANY: usize = 32;

#[test]
fn a_message_allocates_nothing() {
    for stack in [Loop::Getty, Loop::GettyFull] {
        for (frames, payload) in [(1, 64), (50, 64), (16, 1024), (2, 30_000)] {
            let taken = echoes(stack, frames, payload);
            let name = stack.name();
            assert_eq!(taken, 0, "{name}: {frames} frames of {payload} bytes");
        }
        // one that is longer than a buffer has a block of its own: with its count, two allocations
        let (taken, messages) = (echoes(stack, 2, 100_000), 2 * (LONG - SHORT));
        assert!(taken <= 2 * messages, "{}: {taken}", stack.name());
    }

    websocket();

    // a broadcast: the message that is shared, what it is encoded into, and what others refer to it by
    let [few, many] = [10, 100].map(broadcasts);
    assert!(few <= 5, "{few} allocations for a broadcast to 10");
    assert_eq!(few, many, "a broadcast to 10 and one to 100");

    turnover::<Bare>();
    turnover::<Full>();
    sending::<Bare>();
    sending::<Full>();
    calls();
}

/// Nor does a WebSocket message. One that is longer than a buffer has a block of its own, which grows as its bytes arrive:
/// with its count, three allocations.
fn websocket() {
    for (frames, payload) in [(1, 64), (50, 64), (16, 1024), (2, 30_000)] {
        let taken = echoes(Loop::WsGetty, frames, payload);
        assert_eq!(taken, 0, "{frames} WebSocket messages of {payload} bytes");
    }
    let (taken, messages) = (echoes(Loop::WsGetty, 2, 100_000), 2 * (LONG - SHORT));
    assert!(taken <= 3 * messages, "WebSocket: {taken}");
}

/// A call takes none. Its answer keeps the block that it was read into until its task has it, as any message that is kept:
/// two allocations a read, in which lie the answers of all tasks.
fn calls() {
    const TASKS: usize = 50;
    for caller in [Caller::Pipeline, Caller::Multiplex] {
        let taken = beyond_short(|times| {
            let calls = TASKS * usize::try_from(times).unwrap();
            allocations(|| caller.run(TASKS, calls))
        });
        let reads = LONG - SHORT;
        assert!(
            taken <= 2 * reads + reads / 10,
            "{}: {taken}",
            caller.name()
        );
    }
}

/// How many allocations a broadcast to so many sessions takes.
fn broadcasts(connections: usize) -> u64 {
    let crowd = Crowd::new(Kind::Group, Carrier::Sink, connections, 1024);
    let times = LONG - SHORT;
    beyond_short(|n| allocations(|| crowd.broadcast(n, 1))).div_ceil(times)
}

/// A message that is kept takes the block with it that it was read into: two allocations with its count, however many
/// messages lie in it.
fn turnover<S: Stack>() {
    let (kept, reads) = (kept::<S>(), LONG - SHORT);
    assert!(kept <= 2 * reads, "{}: {kept} in {reads} reads", S::NAME);
    assert!(kept >= reads, "{}: {kept}, so nothing was kept", S::NAME);
}

fn sending<S: Stack>() {
    assert_eq!(
        sends::<S>(),
        [0, 0, 0],
        "{}: send, try_send, several",
        S::NAME
    );
}

/// How many allocations echoes take, when so many frames arrive together.
fn echoes(stack: Loop, frames: usize, payload: usize) -> u64 {
    beyond_short(|batches| {
        let prepared = Prepared::new(stack, frames, payload, batches);
        allocations(|| prepared.scripted())
    })
}

/// The allocations during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let region = Region::new(ALLOCATOR);
    work();
    count(&region)
}

fn count(region: &Region<'_, System>) -> u64 {
    let change = region.change();
    (change.allocations + change.reallocations) as u64
}

/// How many more allocations a long run has than a short one.
fn beyond_short(run: impl Fn(u64) -> u64) -> u64 {
    let least = |times| (0..ATTEMPTS).map(|_| run(times)).min().unwrap_or(0);
    // lazily made statics and the thread's buffers are there afterwards
    run(SHORT);
    least(LONG).saturating_sub(least(SHORT))
}

type Reply = Ready<Result<Bytes, BoxError>>;

/// A stack around a handler, over either transport.
trait Stack {
    const NAME: &'static str;
    fn around<T: Transport + Send + 'static>(handler: impl Handler) -> impl Pipeline<T>;
}

struct Bare;

impl Stack for Bare {
    const NAME: &'static str = "bare";
    fn around<T: Transport + Send + 'static>(handler: impl Handler) -> impl Pipeline<T> {
        bare_around(handler)
    }
}

struct Full;

impl Stack for Full {
    const NAME: &'static str = "full";
    fn around<T: Transport + Send + 'static>(handler: impl Handler) -> impl Pipeline<T> {
        full_around(handler)
    }
}

/// Keeps each message until the next one comes.
fn keep(request: Request<Bytes>) -> Reply {
    static KEPT: Mutex<Bytes> = Mutex::new(Bytes::new());
    KEPT.lock().unwrap().clone_from(request.message());
    ready(Ok(request.into_message()))
}

/// How many allocations reads take whose messages are kept for a while.
fn kept<S: Stack>() -> u64 {
    let runtime = runtime();
    let batch = Bytes::from(Frames::new(64).concatenated(50));
    beyond_short(|batches| {
        let transport = Scripted::new(batch.clone(), batches, Arc::new(AtomicU64::new(0)));
        let stack = S::around(service_fn(keep));
        allocations(|| runtime.block_on(session(transport, stack)).unwrap())
    })
}

/// How many allocations sends take: one that is awaited, many that are not, and several at once.
fn sends<S: Stack>() -> [u64; 3] {
    const PAYLOAD: usize = 64;
    let runtime = runtime();
    runtime.block_on(async {
        let (mut client, transport) = duplex(64 * 1024);
        let opened: Arc<Mutex<Option<Session<Bytes>>>> = Arc::default();
        let handler = service_fn({
            let opened = Arc::clone(&opened);
            move |request: Request<Bytes>| -> Reply {
                *opened.lock().unwrap() = Some(request.session().clone());
                ready(Ok(request.into_message()))
            }
        });
        let server = tokio::spawn(session(transport, S::around(handler)));
        let frame = Frames::new(PAYLOAD).concatenated(1);
        let mut received = vec![0; MANY * frame.len()];
        client.write_all(&frame).await.unwrap();
        client
            .read_exact(&mut received[..frame.len()])
            .await
            .unwrap();
        let session = opened.lock().unwrap().take().expect("it has answered");
        let message = Bytes::copy_from_slice(&frame[4..]);

        let mut least = [u64::MAX; 3];
        for (kind, least) in least.iter_mut().enumerate() {
            // the first time is the warm-up: queues grow to what the kind of sending takes, and shrink from the last
            for attempt in 0..=ATTEMPTS {
                let region = Region::new(ALLOCATOR);
                for _ in 0..LONG {
                    let sent = match kind {
                        0 => send_one(&session, &message).await,
                        1 => try_many(&session, &message),
                        _ => send_at_once(&session, &message).await,
                    };
                    let echo = &mut received[..sent * frame.len()];
                    client.read_exact(echo).await.unwrap();
                }
                if attempt > 0 {
                    *least = count(&region).min(*least);
                }
            }
        }
        drop(client);
        server.await.unwrap().unwrap();
        least
    })
}

async fn send_one(session: &Session<Bytes>, message: &Bytes) -> usize {
    session.send(message.clone()).await.unwrap();
    1
}

fn try_many(session: &Session<Bytes>, message: &Bytes) -> usize {
    for _ in 0..MANY {
        session.try_send(message.clone()).unwrap();
    }
    MANY
}

async fn send_at_once(session: &Session<Bytes>, message: &Bytes) -> usize {
    let (first, second, third) = tokio::join!(
        session.send(message.clone()),
        session.send(message.clone()),
        session.feed(message.clone()),
    );
    first.and(second).unwrap();
    third.unwrap();
    3
}

fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
