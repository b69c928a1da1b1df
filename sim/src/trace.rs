//! Trace of a run: every event with its virtual time, as a hash and as the last lines.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Number of lines that are kept for the report of a failure.
const KEPT: usize = 200;

/// Trace of one run. Clones share it.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    now: Duration,
    hash: Fnv,
    events: u64,
    lines: VecDeque<String>,
    print: bool,
}

impl Trace {
    /// Creates a trace. With `print` each event is also written to the standard error.
    pub fn new(print: bool) -> Self {
        let inner = Inner {
            print,
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the virtual time of the events that follow.
    pub fn set_now(&self, now: Duration) {
        self.lock().now = now;
    }

    /// Returns the virtual time of the current step.
    pub fn now(&self) -> Duration {
        self.lock().now
    }

    /// Records an event.
    pub fn event(&self, event: fmt::Arguments<'_>) {
        let mut inner = self.lock();
        let mut line = match inner.lines.len() {
            KEPT => inner.lines.pop_front().unwrap_or_default(),
            _ => String::new(),
        };
        line.clear();
        let now = inner.now;
        let _ = write!(line, "{:>7} ms  {event}", now.as_millis());
        inner.hash.add(line.as_bytes());
        inner.events += 1;
        if inner.print {
            eprintln!("{line}");
        }
        inner.lines.push_back(line);
    }

    /// Returns the hash of all events and their number.
    pub fn fingerprint(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.hash.0, inner.events)
    }

    /// Returns the last events.
    pub fn last(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }
}

/// Hash that is the same in every process and version of Rust: FNV-1a.
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.add(bytes);
        hash.0
    }
}
