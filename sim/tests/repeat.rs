//! The same seed has the same trace. It is the only test of its binary, because a run repeats
//! only if no other thread of the process spawns tasks.

use getty_sim::{
    scenarios::SCENARIOS,
    world::{Outcome, run},
};

#[test]
fn same_seed_has_the_same_trace_and_another_seed_another() {
    for scenario in SCENARIOS {
        let of = |seed| -> Outcome { run(scenario.plan(seed), seed, false) };
        let (first, again, other) = (of(7), of(7), of(8));
        assert_eq!(first.violation, None, "{} 7", scenario.name);
        assert_eq!(first.hash, again.hash, "{} 7", scenario.name);
        assert_eq!(first.last, again.last, "{} 7", scenario.name);
        assert_ne!(first.hash, other.hash, "{} 8", scenario.name);
        assert!(first.events > 100, "{} 7: {}", scenario.name, first.events);
    }
}
