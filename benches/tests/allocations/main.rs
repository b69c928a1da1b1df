//! Tests that a message allocates nothing. This must hold in every stack, over every transport,
//! as a reply and as a send.
//!
//! The counter covers the whole process, so this binary must contain only one test. The test
//! harness has a thread that can allocate at any time. Each figure is therefore the minimum of
//! several attempts.

mod cluster;
mod formats;
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
    frames::Frames,
    transport::Scripted,
    workload::{
        broadcast::{Broadcast, Carrier, Kind},
        calls::Caller,
        echo::{Loop, Prepared},
        handlers, layers, runtime, session,
    },
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use self::stacks::{Bare, Full, Reply, Stack, WebSocket};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ATTEMPTS: usize = 5;
/// Messages in the short and in the long run. A figure is the difference, so that allocations
/// of the connection cancel out.
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
        // A frame that is longer than a buffer gets a separate block: two allocations with its
        // reference count.
        let (taken, messages) = (echoes(stack, 2, 100_000), 2 * (LONG - SHORT));
        assert!(taken <= 2 * messages, "{}: {taken}", stack.name());
    }

    websocket();

    // A broadcast may allocate the shared message, its encoded form, and the reference counts.
    let [few, many] = [10, 100].map(broadcasts);
    assert!(few <= 5, "{few} allocations for a broadcast to 10");
    assert_eq!(few, many, "a broadcast to 10 and one to 100");

    kept_messages::<Bare>();
    kept_messages::<Full>();
    layers_alone();
    calls();
    sending::allocates_nothing::<Bare>();
    sending::allocates_nothing::<Full>();
    sending::allocates_nothing::<WebSocket>();
    sockets::allocate_nothing();
    formats::allocate_nothing();
    cluster::allocates_as_a_broadcast_does();
}

/// Checks each layer and handler. Layers whose documentation mentions allocations may allocate.
fn layers_alone() {
    for (name, stack) in layers::all().chain(handlers::without_allocation()) {
        let may = match name {
            // Handlers in flight are in a set with an allocation for each.
            "in-flight" | "unordered" => 1,
            // A task for each message. The message outlives the poll, like any message that is
            // kept.
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

/// Checks WebSocket. A message that is longer than a buffer gets a separate block. It grows as
/// bytes arrive: three allocations with its reference count.
fn websocket() {
    for (frames, payload) in [(1, 64), (50, 64), (16, 1024), (2, 30_000)] {
        let taken = echoes(Loop::WsGetty, frames, payload);
        assert_eq!(taken, 0, "{frames} WebSocket messages of {payload} bytes");
    }
    let (taken, messages) = (echoes(Loop::WsGetty, 2, 100_000), 2 * (LONG - SHORT));
    assert!(taken <= 3 * messages, "WebSocket: {taken}");
}

/// Checks calls. They must allocate nothing.
///
/// A response keeps the block of its read until the task receives it: two allocations for each
/// read, which contains the responses of all tasks.
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

/// Returns the number of allocations of a broadcast to `connections` sessions.
fn broadcasts(connections: usize) -> u64 {
    let broadcast = Broadcast::new(Kind::Group, Carrier::Sink, connections, 1024);
    let times = LONG - SHORT;
    beyond_short(|n| allocations(|| broadcast.send(n, 1))).div_ceil(times)
}

/// Checks messages that are kept. They keep the block of their read. It may cost two
/// allocations with its reference count for any number of messages.
fn kept_messages<S: Stack>() {
    let (kept, reads) = (kept::<S>(), LONG - SHORT);
    assert!(kept <= 2 * reads, "{}: {kept} in {reads} reads", S::NAME);
    assert!(
        kept >= reads,
        "{}: {kept}, so the messages were not kept",
        S::NAME
    );
}

/// Returns the number of allocations of echoes with `frames` frames in each read.
fn echoes(stack: Loop, frames: usize, payload: usize) -> u64 {
    beyond_short(|batches| {
        let prepared = Prepared::new(stack, frames, payload, batches);
        allocations(|| prepared.scripted())
    })
}

/// Returns the number of allocations during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let region = Region::new(ALLOCATOR);
    work();
    count(&region)
}

fn count(region: &Region<'_, System>) -> u64 {
    let change = region.change();
    (change.allocations + change.reallocations) as u64
}

/// Returns the number of allocations of a long run beyond a short one.
fn beyond_short(run: impl Fn(u64) -> u64) -> u64 {
    let least = |times| (0..ATTEMPTS).map(|_| run(times)).min().unwrap_or(0);
    // Allocates lazy statics and the buffers of the thread.
    run(SHORT);
    least(LONG).saturating_sub(least(SHORT))
}

/// Keeps each message until the next one arrives.
fn keep(request: Request<Bytes>) -> Reply {
    static KEPT: Mutex<Bytes> = Mutex::new(Bytes::new());
    KEPT.lock().unwrap().clone_from(request.message());
    ready(Ok(request.into_message()))
}

/// Returns the number of allocations of reads whose messages are kept.
fn kept<S: Stack>() -> u64 {
    let runtime = runtime();
    let batch = Bytes::from(Frames::new(64).concatenated(50));
    beyond_short(|batches| {
        let transport = Scripted::new(batch.clone(), batches, Arc::new(AtomicU64::new(0)));
        let stack = S::around(service_fn(keep));
        allocations(|| runtime.block_on(session(transport, stack)).unwrap())
    })
}
