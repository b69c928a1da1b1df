//! Queues between the bus and the topics: a hot topic delays no other.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{frame::Header, lock};

/// Maximum number of frames of one topic that wait.
const TOPIC_FRAMES: usize = 256;
/// Maximum size of the frames of one topic that wait, in bytes.
const TOPIC_BYTES: usize = 1024 * 1024;
/// Maximum size of all frames that wait, in bytes.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// Frames of one topic that are handled before the next topic.
const BATCH: usize = 32;
/// Frames that a dispatcher handles before other tasks of its thread.
const FRAMES_PER_POLL: usize = 128;
/// Topics that begin to wait during one batch of frames, after which another dispatcher is
/// woken: the form of that batch may be slow.
const STALLED_AFTER: usize = 16;
/// Maximum number of empty queues that are kept for topics that begin to wait.
const MAX_SPARES: usize = 128;

/// Message of another node.
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) payload: Bytes,
}

impl Message {
    /// Returns the memory that it needs while it waits, in bytes.
    fn size(&self) -> usize {
        size_of::<Self>() + self.payload.len()
    }
}

/// Queue of received messages, in order for each topic. Any number of tasks take from it.
#[derive(Default)]
pub(crate) struct Dispatch {
    ready: Mutex<Ready>,
    /// Size of all frames that wait, in bytes.
    bytes: AtomicUsize,
    /// Number of batches that were handled.
    handled: AtomicUsize,
    pushed: Notify,
}

#[derive(Default)]
struct Ready {
    /// Topics with waiting frames, each once.
    topics: VecDeque<Arc<dyn Receive>>,
    /// Empty queues, so that a topic that begins to wait allocates none.
    spares: Vec<VecDeque<Message>>,
    /// Number of handled batches when a topic last began to wait, and of topics since then.
    stalled: (usize, usize),
}

/// Topic that takes messages of other nodes.
pub(crate) trait Receive: Send + Sync {
    /// Returns the queue of its messages.
    fn waiting(&self) -> &Waiting;

    /// Handles messages, in order. It is not called by two tasks at once.
    fn receive(&self, messages: &mut VecDeque<Message>);
}

/// Messages of a topic that wait.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    /// `true` while the topic is in the queue or a batch of it is handled.
    is_ready: bool,
}

impl Dispatch {
    /// Adds a message. Returns `false` if there is no room: the newest message is dropped.
    pub(crate) fn push<T: Receive + 'static>(&self, topic: &Arc<T>, message: Message) -> bool {
        let size = message.size();
        let all = self.bytes.load(Relaxed);
        if all > 0 && all + size > QUEUE_BYTES {
            return false;
        }
        let mut state = lock(&topic.waiting().0);
        let is_full = state.messages.len() >= TOPIC_FRAMES
            || (state.bytes > 0 && state.bytes + size > TOPIC_BYTES);
        if is_full {
            return false;
        }
        self.bytes.fetch_add(size, Relaxed);
        state.bytes += size;
        if mem::replace(&mut state.is_ready, true) {
            state.messages.push_back(message);
            return true;
        }
        let mut ready = lock(&self.ready);
        if let Some(spare) = ready.spares.pop() {
            state.messages = spare;
        }
        state.messages.push_back(message);
        ready.topics.push_back(Arc::<T>::clone(topic));
        // One dispatcher is enough for a burst of short messages. Each wake costs more than the
        // handling of a message.
        let handled = self.handled.load(Relaxed);
        let (before, topics) = ready.stalled;
        let topics = if before == handled { topics + 1 } else { 1 };
        ready.stalled = (handled, topics);
        let wakes = ready.topics.len() == 1 || topics.is_multiple_of(STALLED_AFTER);
        drop((ready, state));
        if wakes {
            self.pushed.notify_one();
        }
        true
    }

    /// Passes messages to their topics, and never returns.
    pub(crate) async fn run(&self) {
        let mut batch = VecDeque::new();
        loop {
            let mut handled = 0;
            while handled < FRAMES_PER_POLL {
                match self.handle(&mut batch) {
                    0 => break,
                    frames => handled += frames,
                }
            }
            if handled < FRAMES_PER_POLL {
                self.pushed.notified().await;
            } else {
                // There is a backlog: another dispatcher takes a part.
                self.pushed.notify_one();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Handles a batch of one topic and returns its number of frames. `batch` is empty memory.
    fn handle(&self, batch: &mut VecDeque<Message>) -> usize {
        let mut ready = lock(&self.ready);
        let Some(topic) = ready.topics.pop_front() else {
            return 0;
        };
        drop(ready);
        let waiting = topic.waiting();
        let mut state = lock(&waiting.0);
        if state.messages.len() <= BATCH {
            mem::swap(&mut state.messages, batch);
        } else {
            batch.extend(state.messages.drain(..BATCH));
        }
        let size = batch.iter().map(Message::size).sum();
        state.bytes -= size;
        drop(state);
        self.bytes.fetch_sub(size, Relaxed);
        let frames = batch.len();
        topic.receive(batch);
        batch.clear();
        self.handled.fetch_add(1, Relaxed);

        // The topic is ready until here, so that no other batch of it begins.
        let mut state = lock(&waiting.0);
        let is_idle = state.messages.is_empty();
        state.is_ready = !is_idle;
        let spare = if is_idle {
            // An idle topic has no memory for messages.
            mem::take(&mut state.messages)
        } else {
            VecDeque::new()
        };
        drop(state);
        let mut ready = lock(&self.ready);
        if !is_idle {
            ready.topics.push_back(topic);
        }
        if (1..=2 * BATCH).contains(&spare.capacity()) && ready.spares.len() < MAX_SPARES {
            ready.spares.push(spare);
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use futures_util::FutureExt;

    use super::*;
    use crate::{NodeId, frame::Kind};

    #[derive(Default)]
    struct Topic {
        waiting: Waiting,
        received: Mutex<Vec<u64>>,
    }

    impl Receive for Topic {
        fn waiting(&self) -> &Waiting {
            &self.waiting
        }

        fn receive(&self, messages: &mut VecDeque<Message>) {
            let numbers = messages.drain(..).map(|message| message.header.number);
            lock(&self.received).extend(numbers);
        }
    }

    fn message(number: u64, len: usize) -> Message {
        let header = Header {
            kind: Kind::Message,
            fresh: false,
            origin: NodeId(1),
            number,
            sequence: number,
        };
        Message {
            header,
            payload: vec![0; len].into(),
        }
    }

    #[test]
    fn hot_topic_loses_its_newest_frames_and_waits_after_each_batch() {
        let queue = Dispatch::default();
        let [hot, quiet] = [(); 2].map(|()| Arc::<Topic>::default());
        for number in 0..300 {
            let fits = queue.push(&hot, message(number, 8));
            assert_eq!(fits, number < 256);
        }
        assert!(queue.push(&quiet, message(1, 8)));
        let mut batch = VecDeque::new();
        let batches: Vec<_> =
            std::iter::from_fn(|| Some(queue.handle(&mut batch)).filter(|&frames| frames > 0))
                .collect();
        assert_eq!(batches, [32, 1, 32, 32, 32, 32, 32, 32, 32]);
        assert_eq!(*lock(&hot.received), Vec::from_iter(0..256));
        assert_eq!(queue.bytes.load(Relaxed), 0);
        for topic in [hot, quiet] {
            let state = lock(&topic.waiting.0);
            assert_eq!((state.bytes, state.messages.capacity()), (0, 0));
            assert!(!state.is_ready);
        }
    }

    #[test]
    fn all_topics_together_are_bounded_in_bytes() {
        let queue = Dispatch::default();
        let topics: Vec<_> = (0..40).map(|_| Arc::<Topic>::default()).collect();
        let fits = |topic| queue.push(topic, message(1, 1024 * 1024 - 100));
        assert_eq!(topics.iter().filter(|topic| fits(topic)).count(), 32);
        let mut batch = VecDeque::new();
        assert_eq!(queue.handle(&mut batch), 1);
        assert!(fits(&topics[39]));
        assert!(!fits(&topics[38]));
    }

    /// A topic whose form takes until the test ends it.
    struct Slow {
        waiting: Waiting,
        begins: Barrier,
        ends: Barrier,
    }

    impl Receive for Slow {
        fn waiting(&self) -> &Waiting {
            &self.waiting
        }

        fn receive(&self, _: &mut VecDeque<Message>) {
            self.begins.wait();
            self.ends.wait();
        }
    }

    #[test]
    fn another_dispatcher_is_woken_while_one_is_slow() {
        let queue = Dispatch::default();
        let is_woken = || queue.pushed.notified().now_or_never().is_some();
        let slow = Arc::new(Slow {
            waiting: Waiting::default(),
            begins: Barrier::new(2),
            ends: Barrier::new(2),
        });
        assert!(queue.push(&slow, message(1, 8)) && is_woken());
        let topics: Vec<_> = (0..STALLED_AFTER)
            .map(|_| Arc::<Topic>::default())
            .collect();
        assert!(queue.push(&topics[0], message(1, 8)) && !is_woken());
        std::thread::scope(|scope| {
            scope.spawn(|| queue.handle(&mut VecDeque::new()));
            slow.begins.wait();
            for topic in &topics[1..] {
                assert!(queue.push(topic, message(1, 8)));
            }
            assert!(is_woken());
            let mut batch = VecDeque::new();
            while queue.handle(&mut batch) > 0 {}
            let received = topics.iter().map(|topic| lock(&topic.received).len());
            assert_eq!(received.sum::<usize>(), topics.len());
            slow.ends.wait();
        });
        assert_eq!(queue.bytes.load(Relaxed), 0);
        assert!(lock(&queue.ready).topics.is_empty());
    }
}
