//! A message costs no allocation once a session is warm. In a program of its own, for it counts all that the process
//! allocates.

use std::alloc::System;

use getty_benches::in_memory::{Loop, Prepared};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FRAMES: usize = 64;
const PAYLOAD: usize = 64;
const READS: u64 = 1_000;

/// What the allocator is asked for while so many batches of frames are echoed.
fn asked_for(kind: Loop, batches: u64) -> usize {
    let prepared = Prepared::new(kind, FRAMES, PAYLOAD, batches);
    let region = Region::new(ALLOCATOR);
    prepared.scripted();
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn messages_allocate_nothing_and_reads_one_buffer_at_the_most() {
    for kind in [Loop::Getty, Loop::GettyTenLayers] {
        asked_for(kind, READS); // fills the thread's pool, among other things
        let few = asked_for(kind, READS);
        let many = asked_for(kind, 2 * READS);
        let more = many.saturating_sub(few);
        assert!(
            more as u64 <= READS,
            "{}: {more} allocations for {READS} further reads of {FRAMES} messages each",
            kind.name()
        );
    }
}
