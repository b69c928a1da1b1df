//! Bounded queue between publishers and the connection of a bus.

use std::{
    collections::{HashMap, VecDeque},
    fmt, iter,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::timeout};

use super::PublishError;
use crate::Subject;

/// Time after a batch in which frames are collected for the next one.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// Limits of an [`Outgoing`] queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutgoingLimits {
    /// Maximum number of frames. The default is 16,384.
    pub frames: usize,
    /// Maximum size of all frames, in bytes. The default is 8 MiB.
    pub bytes: usize,
    /// Part of both that one subject may use: one in this many. The default is 8.
    pub share: usize,
}

impl Default for OutgoingLimits {
    fn default() -> Self {
        Self {
            frames: 16 * 1024,
            bytes: 8 * 1024 * 1024,
            share: 8,
        }
    }
}

/// Queue of frames to publish, for authors of a [`Bus`](super::Bus).
///
/// It is bounded in frames and bytes. One subject may use a share of both, so that a hot topic
/// refuses frames and no other topic does. While it is closed, as it is at first, each frame is
/// refused as [`PublishError::Away`].
pub struct Outgoing {
    limits: OutgoingLimits,
    state: Mutex<State>,
    pushed: Notify,
}

#[derive(Default)]
struct State {
    open: bool,
    frames: VecDeque<(Subject, Bytes)>,
    bytes: usize,
    /// Usage of each subject, while one of them may have a share. `None` while all frames together
    /// are less than a share, so that a frame of a short queue costs no look-up.
    subjects: Option<HashMap<Subject, Usage>>,
    /// `true` while the reader may be at work on the last frame that it was given.
    taken: bool,
    /// Number of frames up to which a frame wakes no reader, because the reader comes back by
    /// itself.
    quiet: usize,
}

#[derive(Clone, Copy, Default)]
struct Usage {
    frames: usize,
    bytes: usize,
}

impl State {
    /// Returns the usage of a subject. It counts all frames if they were not counted yet.
    fn usage(&mut self, of: &Subject) -> &mut Usage {
        let subjects = self.subjects.get_or_insert_with(|| {
            let mut subjects: HashMap<Subject, Usage> = HashMap::new();
            for (subject, frame) in &self.frames {
                let usage = subjects.entry(subject.clone()).or_default();
                usage.frames += 1;
                usage.bytes += frame.len();
            }
            subjects
        });
        subjects.entry(of.clone()).or_default()
    }

    fn pop(&mut self) -> Option<(Subject, Bytes)> {
        let Some((to, frame)) = self.frames.pop_front() else {
            self.subjects = None;
            return None;
        };
        self.bytes -= frame.len();
        if let Some(subjects) = &mut self.subjects
            && let Some(usage) = subjects.get_mut(&to)
        {
            usage.frames -= 1;
            usage.bytes -= frame.len();
            if usage.frames == 0 {
                subjects.remove(&to);
            }
        }
        Some((to, frame))
    }
}

impl Outgoing {
    /// Creates a new closed queue.
    #[must_use]
    pub fn new(limits: OutgoingLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            pushed: Notify::new(),
        }
    }

    /// Opens the queue, when the bus is connected.
    pub fn open(&self) {
        self.lock().open = true;
    }

    /// Closes the queue and drops its frames, when the connection is lost. Returns the number of
    /// dropped frames.
    pub fn close(&self) -> usize {
        let closed = std::mem::take(&mut *self.lock());
        closed.frames.len()
    }

    /// Adds a frame.
    ///
    /// # Errors
    ///
    /// The queue is closed or full, or the share of the subject is used up.
    pub fn push(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        let OutgoingLimits {
            frames,
            bytes,
            share,
        } = self.limits;
        let mut state = self.lock();
        if !state.open {
            return Err(PublishError::Away);
        }
        let (size, share) = (frame.len(), share.max(1));
        // A frame may always use an empty queue, however long it is.
        let fits = |used: usize, add: usize, limit: usize| used == 0 || used + add <= limit;
        let is_full = |used: Usage, part: usize| {
            !fits(used.frames, 1, frames / part) || !fits(used.bytes, size, bytes / part)
        };
        let all = Usage {
            frames: state.frames.len(),
            bytes: state.bytes,
        };
        if is_full(all, 1) {
            return Err(PublishError::Full);
        }
        if state.subjects.is_some() || is_full(all, share) {
            let usage = state.usage(to);
            if is_full(*usage, share) {
                return Err(PublishError::Full);
            }
            usage.frames += 1;
            usage.bytes += size;
        }
        state.bytes += size;
        state.frames.push_back((to.clone(), frame));
        let wakes = state.frames.len() > state.quiet;
        drop(state);
        if wakes {
            self.pushed.notify_one();
        }
        Ok(())
    }

    /// Returns the next frame, if there is one.
    pub fn try_pop(&self) -> Option<(Subject, Bytes)> {
        let mut state = self.lock();
        let next = state.pop();
        state.taken = next.is_some();
        next
    }

    /// Moves up to `max` frames to the end of `to` and returns their number.
    pub fn try_pop_many(&self, max: usize, to: &mut Vec<(Subject, Bytes)>) -> usize {
        let mut state = self.lock();
        let before = to.len();
        to.extend(iter::from_fn(|| state.pop()).take(max));
        let frames = to.len() - before;
        state.taken = frames > 0;
        frames
    }

    /// Waits for the next frame. One task at a time may wait.
    ///
    /// # Cancel safety
    ///
    /// No frame is lost if the future is dropped.
    pub async fn pop(&self) -> (Subject, Bytes) {
        self.lock().quiet = 0;
        loop {
            if let Some(next) = self.try_pop() {
                return next;
            }
            self.pushed.notified().await;
        }
    }

    /// Waits for frames and appends up to `max` frames to `to`. One task at a time may wait.
    ///
    /// Frames that follow a batch within a millisecond are collected, but no more than `max`. A
    /// wake and a write for each frame would cost more than the frame. The first frame after that
    /// time does not wait.
    ///
    /// # Cancel safety
    ///
    /// No frame is lost if the future is dropped.
    pub async fn pop_many(&self, max: usize, to: &mut Vec<(Subject, Bytes)>) {
        let pauses = {
            let state = self.lock();
            state.quiet > 0 && state.frames.len() <= state.quiet
        };
        if pauses {
            // It fails when the time is over.
            let _ = timeout(PAUSE, self.pushed.notified()).await;
        }
        self.lock().quiet = 0;
        while self.try_pop_many(max, to) == 0 {
            self.pushed.notified().await;
        }
        self.lock().quiet = max.saturating_sub(1);
    }

    /// Returns the number of frames and of their bytes.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        let state = self.lock();
        (state.frames.len(), state.bytes)
    }

    /// Returns `true` if the reader has come back and found no frame: it has handled all.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let state = self.lock();
        state.frames.is_empty() && !state.taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (frames, bytes) = self.len();
        f.debug_struct("Outgoing")
            .field("frames", &frames)
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn subject(key: &str) -> Subject {
        Subject::topic("app", "rooms", key.as_bytes())
    }

    #[test]
    fn hot_subject_uses_its_share_and_others_go_on() {
        let queue = Outgoing::new(OutgoingLimits {
            frames: 80,
            bytes: 8000,
            share: 8,
        });
        let (hot, quiet) = (subject("hot"), subject("quiet"));
        assert_eq!(queue.push(&hot, Bytes::new()), Err(PublishError::Away));
        queue.open();
        for _ in 0..10 {
            queue.push(&hot, Bytes::from_static(b"12345678")).unwrap();
        }
        assert_eq!(queue.push(&hot, Bytes::new()), Err(PublishError::Full));
        for _ in 0..9 {
            queue.push(&quiet, Bytes::from_static(&[0; 100])).unwrap();
        }
        assert_eq!(
            queue.push(&quiet, Bytes::from_static(&[0; 101])),
            Err(PublishError::Full)
        );
        assert_eq!(queue.len(), (19, 980));
        assert_eq!(queue.try_pop().unwrap().0, hot);
        assert!(!queue.is_drained());
        queue.push(&hot, Bytes::new()).unwrap();
        let mut rest = Vec::new();
        assert_eq!(queue.try_pop_many(9, &mut rest), 9);
        // nine frames of `hot` are gone, so it may add as many
        for _ in 0..9 {
            queue.push(&hot, Bytes::new()).unwrap();
        }
        assert_eq!(queue.push(&hot, Bytes::new()), Err(PublishError::Full));
        assert_eq!(queue.try_pop_many(80, &mut rest), 19);
        assert_eq!((rest.len(), queue.len()), (28, (0, 0)));
        assert_eq!(rest[8].0, hot);
        assert_eq!(rest[9].0, quiet);
        assert_eq!(
            (queue.try_pop_many(80, &mut rest), queue.try_pop()),
            (0, None)
        );
        assert!(queue.is_drained());
        assert!(queue.lock().subjects.is_none());
    }

    #[test]
    fn short_queue_counts_no_subjects() {
        let queue = Outgoing::new(OutgoingLimits {
            frames: 80,
            bytes: 8000,
            share: 8,
        });
        queue.open();
        for n in 0..10 {
            queue
                .push(&subject(&n.to_string()), Bytes::from_static(&[0; 90]))
                .unwrap();
        }
        assert!(queue.lock().subjects.is_none());
        queue.push(&subject("0"), Bytes::new()).unwrap();
        let state = queue.lock();
        let usages = state.subjects.as_ref().unwrap().values();
        let counted = usages.map(|usage| usage.frames).sum::<usize>();
        drop(state);
        assert_eq!(queue.len().0, counted);
        // one subject that uses its share of the bytes
        while queue
            .push(&subject("0"), Bytes::from_static(&[0; 200]))
            .is_ok()
        {}
        assert_eq!(
            queue.lock().subjects.as_ref().unwrap()[&subject("0")].bytes,
            890
        );
        assert!(
            queue
                .push(&subject("1"), Bytes::from_static(&[0; 200]))
                .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn frames_after_a_batch_are_collected_for_a_short_time() {
        let queue = Outgoing::new(OutgoingLimits::default());
        queue.open();
        let push = || queue.push(&subject("a"), Bytes::new()).unwrap();
        let mut frames = Vec::new();
        let began = Instant::now();
        push();
        queue.pop_many(8, &mut frames).await;
        assert_eq!((frames.len(), began.elapsed()), (1, Duration::ZERO));

        // the wake of the first frame, which was not needed
        queue.pushed.notified().await;
        let mut pop = Box::pin(queue.pop_many(8, &mut frames));
        assert!(futures_util::poll!(&mut pop).is_pending());
        push();
        push();
        pop.await;
        assert_eq!(frames.len(), 3);
        assert!(began.elapsed() >= PAUSE);

        // as many as fit, without a wait
        let began = Instant::now();
        let mut pop = Box::pin(queue.pop_many(8, &mut frames));
        assert!(futures_util::poll!(&mut pop).is_pending());
        (0..9).for_each(|_| push());
        pop.await;
        assert_eq!((frames.len(), began.elapsed()), (11, Duration::ZERO));

        // After the pause, a frame is taken at once, and a dropped wait changes nothing.
        queue.pop_many(8, &mut frames).await;
        let waited = timeout(10 * PAUSE, queue.pop_many(8, &mut frames)).await;
        assert!(waited.is_err() && queue.is_drained());
        drop(timeout(PAUSE / 2, queue.pop_many(8, &mut frames)).await);
        let began = Instant::now();
        let mut pop = Box::pin(queue.pop_many(8, &mut frames));
        assert!(futures_util::poll!(&mut pop).is_pending());
        push();
        pop.await;
        assert_eq!((frames.len(), began.elapsed()), (13, Duration::ZERO));
    }

    #[test]
    fn closed_queue_holds_nothing() {
        let queue = Outgoing::new(OutgoingLimits::default());
        queue.open();
        queue.push(&subject("a"), Bytes::new()).unwrap();
        assert_eq!(queue.close(), 1);
        assert_eq!(
            queue.push(&subject("a"), Bytes::new()),
            Err(PublishError::Away)
        );
        assert_eq!((queue.try_pop(), queue.len()), (None, (0, 0)));
    }
}
