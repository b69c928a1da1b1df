//! The two connections of a bus over a network, and what outlives them.

use bytes::Bytes;

use super::{Outgoing, OutgoingLimits, PublishError, wanted::Wanted};
use crate::Subject;

/// What outlives one of the connections.
pub(super) struct Part {
    pub(super) wanted: Wanted,
    pub(super) outgoing: Outgoing,
}

/// Two connections: messages of topics cannot delay the frames of control.
pub(super) struct Parts {
    pub(super) data: Part,
    pub(super) control: Part,
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
        let (control, data): (Vec<_>, Vec<_>) =
            changes.iter().cloned().partition(|(subject, _)| subject.is_control());
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

    /// Refuses frames, and drops those that wait.
    pub(super) fn close(&self) {
        self.data.outgoing.close();
        self.control.outgoing.close();
    }
}
