//! Queues between the bus and the topics: a hot topic delays no other.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{frame::Frame, lock};

/// Maximum number of frames of one topic that wait.
const TOPIC_FRAMES: usize = 256;
/// Maximum size of the frames of one topic that wait, in bytes.
const TOPIC_BYTES: usize = 1024 * 1024;
/// Maximum size of all frames that wait in one queue, in bytes.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Frames of one topic that are handled before the next topic.
const BATCH: usize = 32;

/// A topic in a queue: the name of its set, and its key.
type Topic = (Arc<str>, Bytes);

/// Queue of received messages, in order for each topic.
#[derive(Default)]
pub(crate) struct Dispatch {
    state: Mutex<State>,
    pushed: Notify,
}

#[derive(Default)]
struct State {
    topics: HashMap<Topic, Waiting>,
    /// Topics with waiting frames, each once.
    ready: VecDeque<Topic>,
    bytes: usize,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Dispatch {
    /// Adds a frame. Returns `false` if there is no room: the newest frame is dropped.
    pub(crate) fn push(&self, set: Arc<str>, frame: Frame) -> bool {
        let size = frame.size();
        let mut state = lock(&self.state);
        let State {
            topics,
            ready,
            bytes,
        } = &mut *state;
        if *bytes > 0 && *bytes + size > QUEUE_BYTES {
            return false;
        }
        let waiting = match topics.entry((set, frame.key.clone())) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => {
                ready.push_back(entry.key().clone());
                entry.insert(Waiting::default())
            }
        };
        let is_full = waiting.frames.len() >= TOPIC_FRAMES
            || (waiting.bytes > 0 && waiting.bytes + size > TOPIC_BYTES);
        if is_full {
            return false;
        }
        waiting.frames.push_back(frame);
        waiting.bytes += size;
        *bytes += size;
        drop(state);
        self.pushed.notify_one();
        true
    }

    /// Calls `handle` with each frame, for ever.
    pub(crate) async fn run(&self, mut handle: impl FnMut(&str, Frame)) {
        loop {
            let Some((topic, frames)) = self.next_batch() else {
                self.pushed.notified().await;
                continue;
            };
            for frame in frames {
                handle(&topic.0, frame);
            }
            self.finish(topic);
            tokio::task::yield_now().await;
        }
    }

    fn next_batch(&self) -> Option<(Topic, Vec<Frame>)> {
        let mut state = lock(&self.state);
        let topic = state.ready.pop_front()?;
        let waiting = state.topics.get_mut(&topic)?;
        let batch = waiting.frames.len().min(BATCH);
        let frames: Vec<_> = waiting.frames.drain(..batch).collect();
        let size: usize = frames.iter().map(Frame::size).sum();
        waiting.bytes -= size;
        state.bytes -= size;
        Some((topic, frames))
    }

    /// Queues the topic again if it has more frames. It keeps its entry while a batch is handled,
    /// so that no other batch of it begins.
    fn finish(&self, topic: Topic) {
        let mut state = lock(&self.state);
        let State { topics, ready, .. } = &mut *state;
        match topics.get(&topic) {
            Some(waiting) if waiting.frames.is_empty() => {
                topics.remove(&topic);
            }
            _ => ready.push_back(topic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeId, frame::Kind};

    fn frame(key: &'static str, number: u64) -> Frame {
        Frame {
            kind: Kind::Message,
            fresh: false,
            origin: NodeId(1),
            number,
            sequence: number,
            key: key.into(),
            payload: Bytes::from_static(b"12345678"),
        }
    }

    #[test]
    fn hot_topic_loses_its_newest_frames_and_waits_after_each_batch() {
        let queue = Dispatch::default();
        let set = || Arc::from("rooms");
        for number in 0..300 {
            let fits = queue.push(set(), frame("hot", number));
            assert_eq!(fits, number < 256);
        }
        assert!(queue.push(set(), frame("quiet", 1)));
        let mut order = Vec::new();
        while let Some((topic, frames)) = queue.next_batch() {
            order.push((topic.1.clone(), frames.len()));
            queue.finish(topic);
        }
        assert_eq!(order[..2], [("hot".into(), 32), ("quiet".into(), 1)]);
        assert_eq!(order.len(), 9);
        let state = lock(&queue.state);
        assert!(state.topics.is_empty() && state.bytes == 0);
    }
}
