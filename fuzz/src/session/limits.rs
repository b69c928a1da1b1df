//! Exact models of watermarks, queue and reply limit.

use std::{sync::Arc, time::Duration};

use getty::SessionLayer;
use tokio::time::Instant;

use super::{Observed, open_stream};
use crate::kit::{Input, block_on, idle, wire};

/// Pushes alone, with an exact model of the watermarks and of the queue.
pub(crate) fn session_watermarks(data: &[u8]) {
    let mut input = Input::new(data);
    let queue = 1 + input.below(20);
    let high = input.limit();
    let low = input.limit().min(high);
    block_on(async {
        let layer = SessionLayer::new()
            .with_queue(u32::try_from(queue).expect("it is small"))
            .with_watermarks(low, high)
            .with_write_timeout(None);
        let (io, peer) = wire();
        let (session, _task) = open_stream(io, layer, &Arc::default()).await;
        peer.stall();
        idle().await;
        let mut model = Pushes {
            low,
            high,
            queue,
            waiting: 0,
            stopped: false,
            refuses: false,
            queued: Vec::new(),
            room: 0,
            taken: 0,
        };
        for _ in 0..200 {
            if input.is_empty() {
                break;
            }
            let (op, n) = (input.byte(), usize::from(input.byte()));
            match op % 3 {
                0 | 1 => {
                    let fits = model.push(n + 1);
                    let sent = session.try_send("x".repeat(n));
                    assert_eq!(sent.is_ok(), fits, "{model:?}");
                }
                _ => {
                    model.room += n;
                    peer.take(n);
                }
            }
            if op & 0x40 == 0 {
                idle().await;
                model.settle();
                let ours = (session.pending_bytes(), session.queued(), peer.written());
                assert_eq!(
                    ours,
                    (model.waiting, model.queued.len(), model.taken),
                    "{model:?}"
                );
                assert_eq!(session.is_backpressured(), model.stopped, "{model:?}");
            }
        }
    });
}

/// Model of a session that pushes: what `SessionLayer::with_watermarks` documents.
#[derive(Debug)]
struct Pushes {
    low: usize,
    high: usize,
    queue: usize,
    waiting: usize,
    stopped: bool,
    /// Senders were notified that pushes have stopped.
    refuses: bool,
    queued: Vec<usize>,
    room: usize,
    taken: usize,
}

impl Pushes {
    fn push(&mut self, length: usize) -> bool {
        let fits = !self.refuses && self.queued.len() < self.queue;
        if fits {
            self.queued.push(length);
        }
        fits
    }

    /// Encodes and writes until nothing changes.
    fn settle(&mut self) {
        loop {
            while !self.stopped && !self.queued.is_empty() {
                if self.waiting > self.high {
                    self.stopped = true;
                } else {
                    self.waiting += self.queued.remove(0);
                }
            }
            let taken = self.waiting.min(self.room);
            self.waiting -= taken;
            self.room -= taken;
            self.taken += taken;
            self.stopped |= self.waiting > self.high;
            if self.stopped && self.waiting <= self.low {
                self.stopped = false;
            } else {
                break;
            }
        }
        self.refuses = self.stopped;
    }
}

/// Replies alone to a peer that takes nothing: as many are made as the limit allows, and each
/// byte that is taken lets handling go on.
pub(crate) fn session_reply_limit(data: &[u8]) {
    let mut input = Input::new(data);
    let in_flight = 1 + input.below(4);
    let high = input.limit();
    let low = input.limit().min(high);
    let reply_limit = input.limit() * 4;
    // Short replies would need too many requests to reach a high limit.
    let size = 1 + usize::from(input.byte()) + reply_limit / 50;
    block_on(async {
        let observed = Arc::<Observed>::default();
        let layer = SessionLayer::new()
            .with_in_flight(in_flight)
            .with_watermarks(low, high)
            .with_reply_limit(reply_limit)
            .with_write_timeout(None);
        let (io, peer) = wire();
        let (session, _task) = open_stream(io, layer, &observed).await;
        peer.stall();
        // The reply is one byte longer.
        let request = format!("{}\n", "x".repeat(size));
        let reply = request.len() + 1;
        // The largest message is known to the next power of two.
        let limit = reply_limit.max(low + 2 * high + 4 * reply.next_power_of_two());
        let start = Instant::now();
        let mut requests = 0;
        for step in 0..12 {
            let more = 1 + 2 * limit / reply;
            requests += more;
            peer.send(request.repeat(more));
            idle().await;
            let called = observed.called.lock().expect("no panic").len();
            let waiting = called * reply - peer.written();
            assert!(
                called < requests,
                "the limit is not kept: {waiting} of {limit}"
            );
            // The size of a reply counts only once the session knows that the peer stalls.
            let least = reply_limit.max(low + 2 * high);
            assert!(waiting >= least, "{waiting} below the limit {least}");
            let most = limit + in_flight * reply;
            assert!(
                waiting <= most,
                "{waiting} above the limit {limit}, step {step}"
            );
            assert!(session.pending_bytes() <= waiting);
            if input.is_empty() {
                break;
            }
            peer.take((usize::from(input.byte()) * 8).min(waiting));
            idle().await;
        }
        // All is handled once the peer takes all.
        peer.take(usize::MAX);
        peer.finish();
        session.closed().await;
        assert_eq!(observed.called.lock().expect("no panic").len(), requests);
        assert_eq!(peer.written(), requests * reply);
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}
