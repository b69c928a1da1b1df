//! What an idle session holds, by part: printed with `--nocapture`, and held to a bound.
//!
//! What is counted is what the program has asked the allocator for, of which the allocator makes a little more. It is the
//! whole process, so there is one test in this binary.

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
use getty::{BoxError, Request};
use getty_benches::{
    alone::{self, Stack},
    frames::Frames,
    scripted::Scripted,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How many sessions share what the process has once. A power of two, as is the room that lists of them have.
const SESSIONS: usize = 256;
const PAYLOAD: usize = 64;

/// What one layer may add.
const LAYER: f64 = 600.0;

#[test]
fn an_idle_session_holds_little() {
    // the thread's buffers, which sessions lend and give back
    alone(alone::NONE.1);
    parts::print(&totals::print());
    stalled::print();
    by_layer();
    after_large_frames();
}

/// What is held of the allocator, for each of so many sessions.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    bytes: f64,
    allocations: f64,
}

impl Held {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
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

/// What `work` leaves behind on the heap.
fn held<T>(work: impl FnOnce() -> T) -> (T, Held) {
    let region = Region::new(ALLOCATOR);
    let made = work();
    (made, Held::since(&region))
}

/// What `make` makes of each of `from`, and what that takes; the list itself does not count.
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

async fn echo<M>(request: Request<M>) -> Result<M, BoxError> {
    Ok(request.into_message())
}

/// What each layer alone adds to a session that has had one message, with the growth of its future.
fn by_layer() {
    println!("\n| layer | bytes of future | bytes in all | allocations |\n|---|--:|--:|--:|");
    let (bare_future, bare) = alone(alone::NONE.1);
    for (name, stack) in alone::all() {
        let (future, all) = alone(stack);
        let (future, added) = (future as isize - bare_future as isize, all.beyond(bare));
        let Held { bytes, allocations } = added;
        println!("| {name} | {future} | {bytes:.0} | {allocations:.1} |");
        assert!(bytes <= LAYER, "{name}: {bytes} bytes");
    }
}

/// A session that has moved much holds as much, once it is idle, as one that never did; and of a frame that has begun,
/// little more than that.
fn after_large_frames() {
    const LARGE: usize = 64 * 1024;
    const BEGUN: usize = 1_000;
    let frames = Frames::new(LARGE);
    let many = frames.concatenated(20);
    let begun = [&many[..], &many[..BEGUN]].concat();
    let (_, small) = alone(alone::NONE.1);
    let (_, large) = alone_after(alone::NONE.1, &many, many.len());
    let (_, begun) = alone_after(alone::NONE.1, &begun, many.len());
    println!("\n| after 20 frames of 64 KiB | bytes | allocations |\n|---|--:|--:|");
    large.print("idle");
    begun.print("with 1,000 bytes of another");
    assert!(large.bytes <= small.bytes, "{} bytes", large.bytes);
    let more = begun.beyond(small).bytes;
    assert!(more <= 2.0 * BEGUN as f64, "{more} bytes more");
}

/// The future of a session, and all that it holds after a small message, over a transport in memory.
fn alone(stack: fn() -> Stack) -> (usize, Held) {
    let frame = Frames::new(PAYLOAD).concatenated(1);
    alone_after(stack, &frame, frame.len())
}

/// The same after `sent`, to which so many bytes are the `answer`.
fn alone_after(stack: fn() -> Stack, sent: &[u8], answer: usize) -> (usize, Held) {
    runtime().block_on(async {
        let mut stack = stack();
        let batch = Bytes::copy_from_slice(sent);
        let written = Arc::new(AtomicU64::new(0));
        let transport = || Scripted::new(batch.clone(), 1, Arc::clone(&written)).staying();
        // what the process and the stack have once
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

/// Until nothing is left to do but to wait.
async fn settle() {
    for _ in 0..1_000 {
        yield_now().await;
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
