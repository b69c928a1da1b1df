//! The probe with which clients of the Go library getty detect a refusing server.

/// Payload of the probe.
pub(crate) const PROBE: &[u8] = b"connect-ping";

/// Answer to a probe: an empty datagram, which servers drop by default. It must not be a probe,
/// or two servers could answer each other without end (design.md: Why is a probe answered with
/// an empty datagram?).
pub(crate) const PROBE_ANSWER: &[u8] = b"";

/// Returns `true` if a datagram is a probe.
pub(crate) fn is_probe(datagram: &[u8]) -> bool {
    datagram == PROBE
}

/// Treatment of probes that clients of the Go library getty send: datagrams that contain
/// exactly `connect-ping`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProbePolicy {
    /// Delivers the probe like any other datagram.
    #[default]
    Deliver,
    /// Drops and counts the probe, which opens no session. Servers of the Go library do the same.
    Discard,
    /// Answers the probe with an empty datagram and does not deliver it. The client need not wait
    /// for its timeout because clients of the Go library accept any answer.
    ///
    /// The answer is not a probe. Servers drop empty datagrams by default, so a forged probe does
    /// not make two servers answer each other.
    Answer,
}
