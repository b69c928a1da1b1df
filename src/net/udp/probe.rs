//! The Go library's probe, by which its clients find out whether anybody refuses their datagrams.

/// What the probe says.
pub(super) const PROBE: &[u8] = b"connect-ping";

/// Whether a datagram is a probe.
pub(super) fn is_probe(datagram: &[u8]) -> bool {
    datagram == PROBE
}
