//! Bounded queue between publishers and the connection of a bus.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::PublishError;
use crate::Subject;

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
    subjects: HashMap<Subject, Usage>,
    /// `true` while the reader may be at work on the last frame that it was given.
    taken: bool,
}

#[derive(Clone, Copy, Default)]
struct Usage {
    frames: usize,
    bytes: usize,
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
        let usage = state.subjects.get(to).copied().unwrap_or_default();
        let size = frame.len();
        // A frame may always use an empty queue, however long it is.
        let fits = |used: usize, add: usize, limit: usize| used == 0 || used + add <= limit;
        let is_full = !fits(state.frames.len(), 1, frames)
            || !fits(state.bytes, size, bytes)
            || !fits(usage.frames, 1, frames / share.max(1))
            || !fits(usage.bytes, size, bytes / share.max(1));
        if is_full {
            return Err(PublishError::Full);
        }
        let usage = state.subjects.entry(to.clone()).or_default();
        usage.frames += 1;
        usage.bytes += size;
        state.bytes += size;
        state.frames.push_back((to.clone(), frame));
        drop(state);
        self.pushed.notify_one();
        Ok(())
    }

    /// Returns the next frame, if there is one.
    pub fn try_pop(&self) -> Option<(Subject, Bytes)> {
        let mut state = self.lock();
        let next = state.frames.pop_front();
        state.taken = next.is_some();
        let (to, frame) = next?;
        state.bytes -= frame.len();
        let usage = state.subjects.get_mut(&to)?;
        usage.frames -= 1;
        usage.bytes -= frame.len();
        if usage.frames == 0 {
            state.subjects.remove(&to);
        }
        Some((to, frame))
    }

    /// Waits for the next frame. One task at a time may wait.
    ///
    /// # Cancel safety
    ///
    /// No frame is lost if the future is dropped.
    pub async fn pop(&self) -> (Subject, Bytes) {
        loop {
            if let Some(next) = self.try_pop() {
                return next;
            }
            self.pushed.notified().await;
        }
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
        let rest = std::iter::from_fn(|| queue.try_pop()).count();
        assert_eq!((rest, queue.len()), (19, (0, 0)));
        assert!(queue.is_drained());
        assert!(queue.lock().subjects.is_empty());
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
