//! The Go library's probe, by which its clients find out whether anybody refuses their datagrams.

/// What the probe says.
pub(super) const PROBE: &[u8] = b"connect-ping";

/// The answer to a probe: an empty datagram, which servers drop by default. If it were a probe, two
/// servers would answer each other without end.
pub(super) const ANSWER: &[u8] = b"";

/// Whether a datagram is a probe.
pub(super) fn is_probe(datagram: &[u8]) -> bool {
    datagram == PROBE
}
