//! Tests the memory of an idle session and its parts. `--nocapture` prints the tables.
//!
//! Memory is the number of bytes that the program requests from the allocator. The allocator
//! uses a little more. The counter covers the whole process, so this binary must contain only
//! one test.

mod parts;
mod stalled;
mod totals;

use std::{
    alloc::System,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use getty_benches::{
    frames::Frames,
    transport::Scripted,
    workload::{
        layers::{self, Stack},
        runtime,
    },
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::task::yield_now;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Number of sessions that share the memory that exists once. A power of two, like the capacity
/// of the lists.
const SESSIONS: usize = 256;
const PAYLOAD: usize = 64;

/// Maximum memory that a layer may add, in bytes.
const LAYER: f64 = 600.0;

#[test]
fn idle_session_stays_within_its_memory_bounds() {
    // Allocates the buffers of the thread. All sessions share them.
    measure_layer(layers::NONE.1);
    parts::print(&totals::print());
    stalled::print();
    by_layer();
    after_large_frames();
}

/// Allocated memory for each session.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bytes: f64,
    allocations: f64,
}

impl Held {
    #[expect(clippy::cast_precision_loss, reason = "the counts are a few thousand")]
    fn since(region: &Region<'_, System>) -> Self {
        let change = region.change();
        let each = |more: usize, less: usize| (more as f64 - less as f64) / SESSIONS as f64;
        Self {
            bytes: each(change.bytes_allocated, change.bytes_deallocated),
            allocations: each(change.allocations, change.deallocations),
        }
    }

    fn print(self, part: &str) {
        println!("| {part} | {:.0} | {:.1} |", self.bytes, self.allocations);
    }

    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            allocations: self.allocations + other.allocations,
        }
    }

    fn beyond(self, other: Self) -> Self {
        Self {
            bytes: self.bytes - other.bytes,
            allocations: self.allocations - other.allocations,
        }
    }
}

/// Returns the memory that is still allocated after `work`.
fn held<T>(work: impl FnOnce() -> T) -> (T, Held) {
    let region = Region::new(ALLOCATOR);
    let made = work();
    (made, Held::since(&region))
}

/// Applies `make` to each item. Returns the memory that this allocates without the list.
fn each<T, U>(from: Vec<T>, make: impl FnMut(T) -> U) -> (Vec<U>, Held) {
    let mut made = Vec::with_capacity(from.len());
    let (from, held) = held(|| {
        let mut from = from.into_iter();
        made.extend(from.by_ref().map(make));
        from
    });
    drop(from);
    (made, held)
}

/// Prints and checks the memory that each layer adds to an idle session after one message.
fn by_layer() {
    println!("\n| layer | bytes of future | bytes in all | allocations |\n|---|--:|--:|--:|");
    let (bare_future, bare) = measure_layer(layers::NONE.1);
    for (name, stack) in layers::all() {
        let (future, all) = measure_layer(stack);
        let (future, added) = (future as isize - bare_future as isize, all.beyond(bare));
        let Held { bytes, allocations } = added;
        println!("| {name} | {future} | {bytes:.0} | {allocations:.1} |");
        assert!(bytes <= LAYER, "{name}: {bytes} bytes");
    }
}

/// Checks that a session releases its buffers after large frames. A frame that has started to
/// arrive may hold little more than its bytes.
fn after_large_frames() {
    const LARGE: usize = 64 * 1024;
    const BEGUN: usize = 1_000;
    let frames = Frames::new(LARGE);
    let many = frames.concatenated(20);
    let begun = [&many[..], &many[..BEGUN]].concat();
    let (_, small) = measure_layer(layers::NONE.1);
    let (_, large) = measure_layer_after(layers::NONE.1, &many, many.len());
    let (_, begun) = measure_layer_after(layers::NONE.1, &begun, many.len());
    println!("\n| after 20 frames of 64 KiB | bytes | allocations |\n|---|--:|--:|");
    large.print("idle");
    begun.print("with 1,000 bytes of another");
    assert!(large.bytes <= small.bytes, "{} bytes", large.bytes);
    let more = begun.beyond(small).bytes;
    assert!(more <= 2.0 * BEGUN as f64, "{more} bytes more");
}

/// Returns the size of a session's future, and the memory of the session after a small message,
/// in memory.
fn measure_layer(stack: fn() -> Stack) -> (usize, Held) {
    let frame = Frames::new(PAYLOAD).concatenated(1);
    measure_layer_after(stack, &frame, frame.len())
}

/// Returns the same after the bytes `sent`, whose answer has `answer` bytes.
fn measure_layer_after(stack: fn() -> Stack, sent: &[u8], answer: usize) -> (usize, Held) {
    runtime().block_on(async {
        let mut stack = stack();
        let batch = Bytes::copy_from_slice(sent);
        let written = Arc::new(AtomicU64::new(0));
        let transport = || Scripted::new(batch.clone(), 1, Arc::clone(&written)).staying();
        // Allocates what exists once in the process and in the stack.
        tokio::spawn(stack.open(transport()));
        settle().await;

        let transports = (0..SESSIONS).map(|_| transport()).collect();
        let region = Region::new(ALLOCATOR);
        let (lives, _) = each(transports, |transport| stack.open(transport));
        let future = size_of_val(&*lives[0]);
        let (tasks, _) = each(lives, tokio::spawn);
        settle().await;
        let held = Held::since(&region);
        assert_eq!(written.load(Relaxed), (answer * (SESSIONS + 1)) as u64);
        drop(tasks);
        (future, held)
    })
}

/// Yields until only waiting tasks remain.
async fn settle() {
    for _ in 0..1_000 {
        yield_now().await;
    }
}
