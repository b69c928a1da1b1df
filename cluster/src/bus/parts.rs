//! State of a bus over a network that outlives its two connections.

#[cfg(feature = "nats")]
use std::sync::atomic::AtomicBool;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tower::BoxError;

#[cfg(feature = "nats")]
use super::wire::Writes;
use super::{
    BusStats, Event, Outgoing, OutgoingLimits, PublishError, Sink,
    wanted::{Wanted, reconnect_delay},
};
use crate::Subject;

/// Time in which the queues must become empty when a node leaves.
const DRAIN_TIME: Duration = Duration::from_secs(3);

/// State that outlives one of the connections.
pub(super) struct Part {
    pub(super) wanted: Wanted,
    pub(super) outgoing: Outgoing,
}

/// Two connections: messages of topics cannot delay the frames of control.
pub(super) struct Parts {
    pub(super) data: Part,
    pub(super) control: Part,
    /// Time of the last probe in nanoseconds, or 0.
    probe: AtomicU64,
    /// Replaces the queue of `data`, for a bus with its own codec.
    #[cfg(feature = "nats")]
    pub(super) writes: Writes,
    /// `true` while that queue is used.
    #[cfg(feature = "nats")]
    pub(super) uses_writes: AtomicBool,
}

impl Parts {
    pub(super) fn new(limits: OutgoingLimits) -> Self {
        let part = || Part {
            wanted: Wanted::default(),
            outgoing: Outgoing::new(limits),
        };
        Self {
            data: part(),
            control: part(),
            probe: AtomicU64::new(0),
            #[cfg(feature = "nats")]
            writes: Writes::new(limits),
            #[cfg(feature = "nats")]
            uses_writes: AtomicBool::new(false),
        }
    }

    /// Takes note of the time from a probe to its answer.
    pub(super) fn probed(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.probe.store(nanoseconds.max(1), Relaxed);
    }

    pub(super) fn stats(&self) -> BusStats {
        #[cfg(feature = "nats")]
        let writes = self.writes.len();
        #[cfg(not(feature = "nats"))]
        let writes = (0, 0);
        let queues = [
            self.data.outgoing.len(),
            self.control.outgoing.len(),
            writes,
        ];
        let probe = self.probe.load(Relaxed);
        BusStats {
            queued_frames: queues.iter().map(|queue| queue.0).sum(),
            queued_bytes: queues.iter().map(|queue| queue.1).sum(),
            probe: (probe > 0).then(|| Duration::from_nanos(probe)),
        }
    }

    /// Waits until the server has handled what was sent before, for a short time.
    #[cfg(feature = "nats")]
    pub(super) async fn handled(&self) {
        self.drained().await;
        self.control.wanted.touch();
        self.data.wanted.touch();
        let _ = timeout(DRAIN_TIME, self.subscribed()).await;
    }

    pub(super) fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        if to.is_control() {
            return self.control.outgoing.push(to, frame);
        }
        #[cfg(feature = "nats")]
        if self.uses_writes.load(Relaxed) {
            return self.writes.push(to, &frame);
        }
        self.data.outgoing.push(to, frame)
    }

    pub(super) fn subscribe(&self, changes: &[(Subject, bool)]) {
        let (control, data): (Vec<_>, Vec<_>) = changes
            .iter()
            .cloned()
            .partition(|(subject, _)| subject.is_control());
        self.control.wanted.change(control);
        self.data.wanted.change(data);
    }

    pub(super) async fn subscribed(&self) {
        self.control.wanted.confirmed().await;
        self.data.wanted.confirmed().await;
    }

    /// Takes frames from now on. A queue without a reader stays closed.
    pub(super) fn open(&self) {
        self.control.outgoing.open();
        #[cfg(feature = "nats")]
        if self.uses_writes.load(Relaxed) {
            return self.writes.open();
        }
        self.data.outgoing.open();
    }

    /// Records that a connection has failed or could not be opened, and waits before the next
    /// attempt. `attempt` counts those since a connection had settled.
    pub(super) async fn wait_to_reconnect(
        &self,
        server: &str,
        result: Result<(), BoxError>,
        sink: &dyn Sink,
        attempt: u32,
    ) {
        self.close();
        sink.event(Event::Disconnected);
        if let Err(error) = result {
            tracing::warn!(target: "getty::cluster", error = &*error, "the connection to {server} has failed");
        }
        sleep(reconnect_delay(attempt)).await;
    }

    /// Waits until the connections have taken all frames, for a short time.
    pub(super) async fn drained(&self) {
        let drained = async {
            while !self.is_drained() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = timeout(DRAIN_TIME, drained).await;
    }

    fn is_drained(&self) -> bool {
        #[cfg(feature = "nats")]
        if !self.writes.is_drained() {
            return false;
        }
        self.control.outgoing.is_drained() && self.data.outgoing.is_drained()
    }

    /// Refuses frames, and drops those that wait and changes of subscriptions.
    pub(super) fn close(&self) {
        self.data.wanted.stop();
        self.control.wanted.stop();
        #[cfg(feature = "nats")]
        self.writes.close();
        self.data.outgoing.close();
        self.control.outgoing.close();
    }
}

#[cfg(all(test, feature = "nats"))]
mod tests {
    use super::*;

    #[test]
    fn queue_without_a_reader_takes_no_frame() {
        let parts = Parts::new(OutgoingLimits::default());
        let subject = Subject::topic("app", "rooms", b"tea");
        let frame = Bytes::from_static(b"frame");
        for uses_writes in [true, false] {
            parts.uses_writes.store(uses_writes, Relaxed);
            parts.open();
            assert_eq!(parts.publish(&subject, frame.clone()), Ok(()));
            let other = if uses_writes {
                parts.data.outgoing.push(&subject, frame.clone())
            } else {
                parts.writes.push(&subject, &frame)
            };
            assert_eq!(other, Err(PublishError::Away));
            assert_eq!(parts.stats().queued_frames, 1);
            parts.close();
        }
    }
}
