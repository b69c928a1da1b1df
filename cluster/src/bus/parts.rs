//! State of a bus over a network that outlives its two connections.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tower::BoxError;

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
        }
    }

    /// Takes note of the time from a probe to its answer.
    pub(super) fn probed(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.probe.store(nanoseconds.max(1), Relaxed);
    }

    pub(super) fn stats(&self) -> BusStats {
        let (data, control) = (self.data.outgoing.len(), self.control.outgoing.len());
        let probe = self.probe.load(Relaxed);
        BusStats {
            queued_frames: data.0 + control.0,
            queued_bytes: data.1 + control.1,
            probe: (probe > 0).then(|| Duration::from_nanos(probe)),
        }
    }

    fn of(&self, subject: &Subject) -> &Part {
        if subject.is_control() {
            &self.control
        } else {
            &self.data
        }
    }

    pub(super) fn publish(&self, to: &Subject, frame: Bytes) -> Result<(), PublishError> {
        self.of(to).outgoing.push(to, frame)
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

    /// Takes frames from now on.
    pub(super) fn open(&self) {
        self.data.outgoing.open();
        self.control.outgoing.open();
    }

    /// Takes note that a connection has failed or could not be opened, and waits before the next
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
            while !(self.control.outgoing.is_drained() && self.data.outgoing.is_drained()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let _ = timeout(DRAIN_TIME, drained).await;
    }

    /// Refuses frames, and drops those that wait.
    pub(super) fn close(&self) {
        self.data.outgoing.close();
        self.control.outgoing.close();
    }
}
