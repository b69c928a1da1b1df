//! Queues between the bus and the topics: a hot topic delays no other.

use std::{
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::Notify};

use crate::{frame::Header, lock, topics::Seen};

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
/// Time that the thread of the bus may spend on messages before it reads again.
const SHORT_WORK: Duration = Duration::from_millis(1);
/// Wakes for which the thread of the bus leaves messages to dispatchers, after longer work.
const YIELDS: usize = 1000;
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
    /// Wakes [`relay`](Dispatch::relay), on the thread of the bus.
    pushed: Notify,
    /// Wakes a dispatcher, usually on another thread.
    wake: Notify,
    /// Number of wakes for which the thread of the bus leaves messages to dispatchers.
    yields: AtomicUsize,
}

#[derive(Default)]
struct Ready {
    /// Topics with waiting frames, each once.
    topics: VecDeque<Arc<dyn Receive>>,
    /// Empty queues, so that a topic that begins to wait allocates none.
    #[expect(clippy::vec_box, reason = "a topic takes the box")]
    spares: Vec<Box<Queue>>,
    /// Number of handled batches when a topic last began to wait, and of topics since then.
    stalled: (usize, usize),
}

/// Topic that takes messages of other nodes.
pub(crate) trait Receive: Send + Sync {
    /// Returns the queue of its messages.
    fn waiting(&self) -> &Waiting;

    /// Handles messages, in order. It is not called by two tasks at once.
    fn receive(&self, messages: &mut VecDeque<Message>, seen: &mut Seen);
}

/// Messages of a topic that wait, and the last frames of its publishers.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    /// The queue while the topic is ready or a batch of it is handled. Most topics have none.
    queue: Option<Box<Queue>>,
    /// `true` once the topic takes no messages any more. Then there is no queue.
    has_ended: bool,
    /// It is taken while a batch is handled.
    seen: Seen,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Waiting {
    /// Ends the topic if no message waits and none is being handled, and returns `true` if so.
    ///
    /// A topic with the same key may begin then. Messages of the ended one cannot reach its members
    /// behind later messages.
    pub(crate) fn end(&self) -> bool {
        let mut state = lock(&self.0);
        state.has_ended |= state.queue.is_none();
        state.has_ended
    }
}

impl Dispatch {
    /// Adds a message. Returns `false` if there is no room: the newest message is dropped. A topic
    /// that has ended ignores it.
    pub(crate) fn push<T: Receive + 'static>(&self, topic: &Arc<T>, message: Message) -> bool {
        let size = message.size();
        let all = self.bytes.load(Relaxed);
        if all > 0 && all + size > QUEUE_BYTES {
            return false;
        }
        let mut state = lock(&topic.waiting().0);
        if let Some(queue) = &mut state.queue {
            let is_full = queue.messages.len() >= TOPIC_FRAMES
                || (queue.bytes > 0 && queue.bytes + size > TOPIC_BYTES);
            if is_full {
                return false;
            }
            self.bytes.fetch_add(size, Relaxed);
            queue.bytes += size;
            queue.messages.push_back(message);
            return true;
        }
        if state.has_ended {
            return true;
        }
        self.bytes.fetch_add(size, Relaxed);
        let mut ready = lock(&self.ready);
        let mut queue = ready.spares.pop().unwrap_or_default();
        queue.bytes = size;
        queue.messages.push_back(message);
        state.queue = Some(queue);
        ready.topics.push_back(Arc::<T>::clone(topic));
        // One dispatcher is enough for a burst of short messages.
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

    /// Handles messages, or wakes dispatchers, and never returns. It runs beside the bus, so it is
    /// polled once all that the bus has read is queued: a wake for each message would cost more
    /// than the message.
    ///
    /// With `application`, it runs on the thread of the bus, and itself handles messages while
    /// that is short work: another thread need not be woken. `application` is the runtime that
    /// forms see.
    pub(crate) async fn relay(&self, application: Option<&Handle>) {
        let mut batch = VecDeque::new();
        loop {
            self.pushed.notified().await;
            let is_done = match application {
                Some(application) if self.yields.load(Relaxed) == 0 => {
                    let _runtime = application.enter();
                    self.handle_short_work(&mut batch)
                }
                _ => {
                    // The message that has woken this task is one of those.
                    let _ = self
                        .yields
                        .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
                    false
                }
            };
            if !is_done {
                self.wake.notify_one();
            }
        }
    }

    /// Handles messages while that is short work. Returns `true` if no message is left.
    fn handle_short_work(&self, batch: &mut VecDeque<Message>) -> bool {
        let began = Instant::now();
        let (mut frames, mut batches) = (0, 0_u32);
        while frames < FRAMES_PER_POLL {
            match self.handle(batch) {
                0 => return true,
                handled => frames += handled,
            }
            batches += 1;
            // Not after each batch, because a look at the clock takes as long as some messages.
            if batches.is_power_of_two() && began.elapsed() > SHORT_WORK {
                self.yields.store(YIELDS, Relaxed);
                return false;
            }
        }
        false
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
                self.wake.notified().await;
            } else {
                // There is a backlog: another dispatcher takes a part.
                self.wake.notify_one();
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
        let State {
            queue: Some(queue),
            seen,
            ..
        } = &mut *state
        else {
            return 0;
        };
        if queue.messages.len() <= BATCH {
            mem::swap(&mut queue.messages, batch);
        } else {
            batch.extend(queue.messages.drain(..BATCH));
        }
        let size = batch.iter().map(Message::size).sum();
        queue.bytes -= size;
        let mut seen = mem::take(seen);
        drop(state);
        self.bytes.fetch_sub(size, Relaxed);
        let frames = batch.len();
        // Values of the application are dropped there. Its panic must end neither this task nor
        // the topic, whose queue would stay full.
        let receive = || topic.receive(batch, &mut seen);
        if catch_unwind(AssertUnwindSafe(receive)).is_err() {
            tracing::error!(target: "getty::cluster", "a topic has panicked");
        }
        batch.clear();
        self.handled.fetch_add(1, Relaxed);

        // The topic has its queue until here, so that no other batch of it begins.
        let mut state = lock(&waiting.0);
        state.seen = seen;
        let spare = state.queue.take_if(|queue| queue.messages.is_empty());
        drop(state);
        let mut ready = lock(&self.ready);
        match spare {
            None => ready.topics.push_back(topic),
            Some(spare) => {
                let is_short = spare.messages.capacity() <= 2 * BATCH;
                if is_short && ready.spares.len() < MAX_SPARES {
                    ready.spares.push(spare);
                }
            }
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, atomic::AtomicBool};

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

        fn receive(&self, messages: &mut VecDeque<Message>, _: &mut Seen) {
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
            assert!(lock(&topic.waiting.0).queue.is_none());
        }
    }

    #[test]
    fn topic_ends_when_no_message_waits_and_then_takes_none() {
        /// A topic that cannot end while it handles a message.
        #[derive(Default)]
        struct Busy(Topic);

        impl Receive for Busy {
            fn waiting(&self) -> &Waiting {
                &self.0.waiting
            }

            fn receive(&self, messages: &mut VecDeque<Message>, seen: &mut Seen) {
                assert!(!self.0.waiting.end());
                self.0.receive(messages, seen);
            }
        }

        let queue = Dispatch::default();
        let topic = Arc::<Busy>::default();
        let mut batch = VecDeque::new();
        assert!(queue.push(&topic, message(1, 8)));
        assert!(!topic.0.waiting.end());
        // A failed attempt changes nothing.
        assert!(queue.push(&topic, message(2, 8)));
        assert_eq!(queue.handle(&mut batch), 2);
        assert!(topic.0.waiting.end() && topic.0.waiting.end());
        assert!(queue.push(&topic, message(3, 8)));
        assert_eq!(queue.handle(&mut batch), 0);
        assert_eq!(*lock(&topic.0.received), [1, 2]);
        assert_eq!(queue.bytes.load(Relaxed), 0);
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

        fn receive(&self, _: &mut VecDeque<Message>, _: &mut Seen) {
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

    /// A topic that panics once.
    #[derive(Default)]
    struct Fails {
        topic: Topic,
        has_failed: AtomicBool,
    }

    impl Receive for Fails {
        fn waiting(&self) -> &Waiting {
            &self.topic.waiting
        }

        fn receive(&self, messages: &mut VecDeque<Message>, seen: &mut Seen) {
            assert!(self.has_failed.swap(true, Relaxed), "the first batch");
            self.topic.receive(messages, seen);
        }
    }

    #[test]
    fn topic_goes_on_after_a_panic() {
        let queue = Dispatch::default();
        let topic = Arc::<Fails>::default();
        let mut batch = VecDeque::new();
        assert!(queue.push(&topic, message(1, 8)));
        assert_eq!(queue.handle(&mut batch), 1);
        assert!(batch.is_empty());
        for number in 2..1000 {
            assert!(queue.push(&topic, message(number, 8)));
            assert_eq!(queue.handle(&mut batch), 1);
        }
        assert_eq!(*lock(&topic.topic.received), Vec::from_iter(2..1000));
        assert_eq!(queue.bytes.load(Relaxed), 0);
    }

    /// A topic whose messages take some time.
    #[derive(Default)]
    struct Long(Topic);

    impl Receive for Long {
        fn waiting(&self) -> &Waiting {
            &self.0.waiting
        }

        fn receive(&self, messages: &mut VecDeque<Message>, seen: &mut Seen) {
            assert!(Handle::try_current().is_ok());
            let began = Instant::now();
            while began.elapsed() <= SHORT_WORK {}
            self.0.receive(messages, seen);
        }
    }

    #[tokio::test]
    async fn thread_of_the_bus_handles_short_work_and_leaves_long_work_to_others() {
        let queue = Dispatch::default();
        let is_woken = || queue.wake.notified().now_or_never().is_some();
        let application = Handle::current();
        let mut relay = Box::pin(queue.relay(Some(&application)));
        let (topic, long) = (Arc::<Topic>::default(), Arc::<Long>::default());
        for number in 0..100 {
            assert!(queue.push(&topic, message(number, 8)));
        }
        assert!(futures_util::poll!(&mut relay).is_pending());
        assert!(!is_woken());
        assert_eq!(lock(&topic.received).len(), 100);

        assert!(queue.push(&long, message(1, 8)) && queue.push(&topic, message(100, 8)));
        assert!(futures_util::poll!(&mut relay).is_pending());
        assert!(is_woken(), "the rest is left to others");
        assert_eq!(lock(&topic.received).len(), 100);
        for number in 0..YIELDS {
            assert_eq!(queue.handle(&mut VecDeque::new()), 1, "{number}");
            assert!(queue.push(&topic, message(1, 8)));
            assert!(futures_util::poll!(&mut relay).is_pending());
            assert!(is_woken());
        }
        // It tries again.
        assert_eq!(queue.handle(&mut VecDeque::new()), 1);
        assert!(queue.push(&topic, message(1, 8)));
        assert!(futures_util::poll!(&mut relay).is_pending());
        assert!(!is_woken());

        // A bus without a thread only wakes dispatchers.
        let queue = Dispatch::default();
        assert!(queue.push(&topic, message(1, 8)));
        let mut relay = Box::pin(queue.relay(None));
        assert!(futures_util::poll!(&mut relay).is_pending());
        assert!(queue.wake.notified().now_or_never().is_some());
    }
}
