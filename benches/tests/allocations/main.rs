//! A message allocates nothing: neither under the bare stack nor under the full one nor with any layer alone, neither over
//! TCP nor over WebSocket nor over UDP, neither as a reply nor as a send.
//!
//! What is counted is the whole process, so there is one test in this binary, and each figure is the least of several
//! attempts: the test harness has a thread of its own that may allocate at any time.

mod sending;
mod sockets;
mod stacks;

use std::{
    alloc::System,
    future::ready,
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use bytes::Bytes;
use getty::{Request, service_fn};
use getty_benches::{
    alone,
    broadcast::{Carrier, Crowd, Kind},
    calls::Caller,
    frames::Frames,
    in_memory::{Loop, Prepared, session},
    scripted::Scripted,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime;

use self::stacks::{Bare, Full, Reply, Stack, WebSocket};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ATTEMPTS: usize = 5;
/// What is measured is the difference between a short run and a long one: what a connection allocates cancels out.
const SHORT: u64 = 100;
const LONG: u64 = 1_100;

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
    layers_alone();
    calls();
    sending::allocates_nothing::<Bare>();
    sending::allocates_nothing::<Full>();
    sending::allocates_nothing::<WebSocket>();
    sockets::allocate_nothing();
}

/// Nor does it by any layer alone, but for those whose documentation says so.
fn layers_alone() {
    for (name, stack) in alone::all() {
        let may = match name {
            // a handler in a set of those that run at the same time
            "in-flight" | "unordered" => 1,
            // a task; and its message is kept beyond the turn, as any that is kept
            "spawn" => 1 + 2,
            _ => 0,
        };
        for frames in [1, 50] {
            let runtime = runtime();
            let taken =
                beyond_short(|batches| allocations(|| stack().echo(&runtime, frames, 64, batches)));
            let messages = frames as u64 * (LONG - SHORT);
            assert!(
                taken <= may * messages,
                "{name}: {taken} allocations for {messages} messages, {frames} at once"
            );
        }
    }
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

fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
