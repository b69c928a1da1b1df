//! Bounded queue of operations of NATS's core protocol, as the bytes that are written.

use std::{collections::HashMap, mem, sync::Mutex};

use tokio::{sync::Notify, time::timeout};

use crate::{
    Subject,
    bus::{OutgoingLimits, PublishError, outgoing::PAUSE},
    lock,
};

/// Capacity that a buffer keeps after a burst, in bytes.
const KEPT: usize = 128 * 1024;
/// Bytes that may wait before more subscriptions are written.
const SUBSCRIPTIONS: usize = 64 * 1024;
/// Bytes that are written without a pause.
const FULL: usize = 32 * 1024;

/// Queue of frames to publish, with the rules of [`Outgoing`](crate::bus::Outgoing).
///
/// A frame is copied into one buffer, which the connection takes as a whole. So a frame costs
/// no allocation and no look-up, and the connection handles any number at once.
pub(in crate::bus) struct Writes {
    limits: OutgoingLimits,
    state: Mutex<State>,
    pushed: Notify,
    written: Notify,
}

#[derive(Default)]
struct State {
    open: bool,
    /// Operations that wait.
    buffer: Vec<u8>,
    /// Frames among them.
    waiting: Usage,
    /// Frames that are being written.
    taken: Usage,
    /// `true` while the connection may be at work on what it has taken.
    is_writing: bool,
    /// `true` while the connection writes or pauses: it comes back by itself, so that a frame needs
    /// no wake.
    is_pausing: bool,
    /// Usage of each subject, while one of them may have a share. `None` while all frames together
    /// are less than a share.
    subjects: Option<HashMap<Box<str>, Usage>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    frames: usize,
    bytes: usize,
}

impl Usage {
    fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes;
    }

    /// Returns `true` if a part of the limits has no room for one more frame. A frame may always
    /// use an empty queue, however long it is.
    fn is_full(self, bytes: usize, limits: &OutgoingLimits, part: usize) -> bool {
        let fits = |used: usize, add: usize, limit: usize| used == 0 || used + add <= limit;
        !fits(self.frames, 1, limits.frames / part) || !fits(self.bytes, bytes, limits.bytes / part)
    }
}

impl Writes {
    pub(in crate::bus) fn new(limits: OutgoingLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            pushed: Notify::new(),
            written: Notify::new(),
        }
    }

    /// Opens the queue, when the bus is connected.
    pub(in crate::bus) fn open(&self) {
        lock(&self.state).open = true;
    }

    /// Closes the queue and drops what waits, when the connection is lost.
    pub(in crate::bus) fn close(&self) {
        *lock(&self.state) = State::default();
    }

    /// Adds a frame.
    pub(in crate::bus) fn push(&self, to: &Subject, frame: &[u8]) -> Result<(), PublishError> {
        let (size, share) = (frame.len(), self.limits.share.max(1));
        let mut state = lock(&self.state);
        if !state.open {
            return Err(PublishError::Away);
        }
        let all = Usage {
            frames: state.waiting.frames + state.taken.frames,
            bytes: state.waiting.bytes + state.taken.bytes,
        };
        if all.is_full(size, &self.limits, 1) {
            return Err(PublishError::Full);
        }
        if state.subjects.is_some() || state.waiting.is_full(size, &self.limits, share) {
            let usage = state.usage(to);
            if usage.is_full(size, &self.limits, share) {
                return Err(PublishError::Full);
            }
            usage.add(size);
        }
        state.waiting.add(size);
        let buffer = &mut state.buffer;
        let before = buffer.len();
        buffer.extend_from_slice(b"PUB ");
        buffer.extend_from_slice(to.as_str().as_bytes());
        buffer.push(b' ');
        put_number(buffer, u64::try_from(size).expect("a length fits"));
        buffer.extend_from_slice(b"\r\n");
        buffer.extend_from_slice(frame);
        buffer.extend_from_slice(b"\r\n");
        let first = if state.is_pausing { FULL } else { 0 };
        let wakes = before <= first && state.buffer.len() > first;
        drop(state);
        if wakes {
            self.pushed.notify_one();
        }
        Ok(())
    }

    /// Adds operations that are no frames. They are not limited.
    pub(in crate::bus) fn push_operations(&self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut lock(&self.state).buffer);
        self.pushed.notify_one();
    }

    /// Waits for a short time, or until there is much to write. A frame that follows another one is
    /// not worth a wake of the thread and a separate write.
    pub(super) async fn pause(&self) {
        if lock(&self.state).buffer.len() <= FULL {
            // It fails when the time is over.
            let _ = timeout(PAUSE, self.pushed.notified()).await;
        }
        lock(&self.state).is_pausing = false;
    }

    /// Waits until there is room for more subscriptions.
    pub(in crate::bus) async fn has_room(&self) {
        while lock(&self.state).buffer.len() > SUBSCRIPTIONS {
            self.written.notified().await;
        }
    }

    /// Moves all operations to `buffer`, which was written. Returns `false` if there are none.
    pub(super) fn take(&self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        // After a burst, neither of the two buffers keeps its memory.
        buffer.shrink_to(KEPT);
        let mut state = lock(&self.state);
        mem::swap(&mut state.buffer, buffer);
        state.taken = mem::take(&mut state.waiting);
        state.subjects = None;
        state.is_writing = !buffer.is_empty();
        state.is_pausing = state.is_writing;
        drop(state);
        self.written.notify_one();
        !buffer.is_empty()
    }

    /// Waits until there are operations.
    pub(super) async fn pushed(&self) {
        self.pushed.notified().await;
    }

    /// Returns the number of frames and of their bytes.
    pub(in crate::bus) fn len(&self) -> (usize, usize) {
        let state = lock(&self.state);
        let (waiting, taken) = (state.waiting, state.taken);
        (waiting.frames + taken.frames, waiting.bytes + taken.bytes)
    }

    /// Returns `true` if all operations were written.
    pub(in crate::bus) fn is_drained(&self) -> bool {
        let state = lock(&self.state);
        state.buffer.is_empty() && !state.is_writing
    }
}

impl State {
    /// Returns the usage of a subject. It counts all frames if they were not counted yet.
    fn usage(&mut self, of: &Subject) -> &mut Usage {
        let subjects = self.subjects.get_or_insert_with(|| {
            let mut subjects: HashMap<Box<str>, Usage> = HashMap::new();
            for (subject, bytes) in frames(&self.buffer) {
                match subjects.get_mut(subject) {
                    Some(usage) => usage.add(bytes),
                    None => subjects.entry(subject.into()).or_default().add(bytes),
                }
            }
            subjects
        });
        // The subject may be new. Its entry is used, because an unused share is never full.
        subjects.entry(of.as_str().into()).or_default()
    }
}

/// Returns the subject and the length of each frame among operations.
fn frames(mut operations: &[u8]) -> impl Iterator<Item = (&str, usize)> {
    std::iter::from_fn(move || {
        while !operations.is_empty() {
            let end = operations.iter().position(|byte| *byte == b'\n')?;
            let (line, rest) = operations.split_at(end + 1);
            operations = rest;
            let Some(publish) = line.strip_prefix(b"PUB ") else {
                continue;
            };
            let publish = str::from_utf8(publish).ok()?;
            let (subject, len) = publish.trim_end().split_once(' ')?;
            let len = len.parse().ok()?;
            operations = operations.get(len + 2..)?;
            return Some((subject, len));
        }
        None
    })
}

/// Appends a number in decimal.
pub(super) fn put_number(to: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    const LIMITS: OutgoingLimits = OutgoingLimits {
        frames: 80,
        bytes: 8000,
        share: 8,
    };

    fn subject(key: &str) -> Subject {
        Subject::topic("app", "rooms", key.as_bytes())
    }

    #[test]
    fn frames_are_written_as_operations_in_order() {
        let writes = Writes::new(LIMITS);
        let mut buffer = Vec::new();
        assert_eq!(writes.push(&subject("a"), b"x"), Err(PublishError::Away));
        writes.open();
        assert!(writes.is_drained());
        writes.push_operations(|to| to.extend_from_slice(b"SUB getty.app.t.rooms.a 1\r\n"));
        writes.push(&subject("a"), b"PUB b 1\r\n").unwrap();
        writes.push(&subject(">"), b"").unwrap();
        assert_eq!(writes.len(), (2, 9));
        assert!(writes.take(&mut buffer));
        let expected = "SUB getty.app.t.rooms.a 1\r\nPUB getty.app.t.rooms.a 9\r\n\
                        PUB b 1\r\n\r\nPUB getty.app.t.rooms._3e 0\r\n\r\n";
        assert_eq!(str::from_utf8(&buffer), Ok(expected));
        let read: Vec<_> = frames(&buffer).collect();
        assert_eq!(
            read,
            [("getty.app.t.rooms.a", 9), ("getty.app.t.rooms._3e", 0)]
        );
        // they are being written
        assert_eq!((writes.len(), writes.is_drained()), ((2, 9), false));
        assert!(!writes.take(&mut buffer));
        assert_eq!((writes.len(), writes.is_drained()), ((0, 0), true));
        writes.push(&subject("a"), b"x").unwrap();
        writes.close();
        assert_eq!(writes.len(), (0, 0));
        assert_eq!(writes.push(&subject("a"), b"x"), Err(PublishError::Away));
    }

    #[test]
    fn hot_subject_uses_its_share_and_others_go_on() {
        let writes = Writes::new(LIMITS);
        writes.open();
        let (hot, quiet) = (subject("hot"), subject("quiet"));
        for n in 0..10 {
            assert!(lock(&writes.state).subjects.is_none(), "{n}");
            writes.push(&hot, b"12345678").unwrap();
        }
        assert_eq!(writes.push(&hot, b""), Err(PublishError::Full));
        for _ in 0..9 {
            writes.push(&quiet, &[b'\n'; 100]).unwrap();
        }
        assert_eq!(writes.push(&quiet, &[0; 101]), Err(PublishError::Full));
        assert_eq!(writes.push(&hot, b""), Err(PublishError::Full));
        assert_eq!(writes.len(), (19, 980));
        // All that waits is taken, and counts for all subjects together until it is written.
        let mut buffer = Vec::new();
        assert!(writes.take(&mut buffer));
        for n in 0..61 {
            writes.push(&subject(&n.to_string()), b"").unwrap();
        }
        assert_eq!(writes.push(&quiet, b""), Err(PublishError::Full));
        assert!(writes.take(&mut buffer));
        writes.push(&hot, &[0; 8000]).unwrap();
        assert_eq!(writes.push(&quiet, b"1"), Err(PublishError::Full));
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 65_535, u64::MAX] {
            let mut text = Vec::new();
            put_number(&mut text, number);
            assert_eq!(text, number.to_string().as_bytes());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_after_a_write_are_collected_for_a_short_time() {
        let writes = Writes::new(OutgoingLimits::default());
        writes.open();
        let is_woken = || writes.pushed().now_or_never().is_some();
        writes.push(&subject("a"), b"").unwrap();
        assert!(is_woken());
        writes.push(&subject("a"), b"").unwrap();
        assert!(!is_woken(), "the connection is about to take it");
        let mut buffer = Vec::new();
        assert!(writes.take(&mut buffer));

        let began = Instant::now();
        let mut pause = Box::pin(writes.pause());
        assert!(futures_util::poll!(&mut pause).is_pending());
        writes.push(&subject("a"), b"").unwrap();
        pause.await;
        assert!(began.elapsed() >= PAUSE && !is_woken());
        assert!(writes.take(&mut buffer));

        // much to write, and an operation that is no frame
        for len in [FULL, 0] {
            let began = Instant::now();
            let mut pause = Box::pin(writes.pause());
            assert!(futures_util::poll!(&mut pause).is_pending());
            if len > 0 {
                writes.push(&subject("a"), &vec![0; len]).unwrap();
            } else {
                writes.push_operations(|to| to.extend_from_slice(b"PING\r\n"));
            }
            pause.await;
            assert_eq!(began.elapsed(), Duration::ZERO);
            assert!(writes.take(&mut buffer));
        }
        // after the pause the first frame wakes again
        writes.pause().await;
        assert!(!writes.take(&mut buffer));
        writes.push(&subject("a"), b"").unwrap();
        assert!(is_woken());
    }

    #[tokio::test]
    async fn burst_keeps_no_memory_and_subscriptions_wait_for_room() {
        let writes = Writes::new(OutgoingLimits::default());
        writes.open();
        writes.has_room().await;
        writes.push_operations(|to| to.resize(1024 * 1024, b'\n'));
        let mut has_room = Box::pin(writes.has_room());
        assert!(futures_util::poll!(&mut has_room).is_pending());
        let mut buffer = Vec::new();
        assert!(writes.take(&mut buffer));
        has_room.await;
        for _ in 0..2 {
            assert!(!writes.take(&mut buffer));
            assert!(buffer.capacity() <= KEPT && lock(&writes.state).buffer.capacity() <= KEPT);
        }
    }
}
