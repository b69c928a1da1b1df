//! Explicit congestion notification.

/// The two bits of explicit congestion notification in a datagram's IP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// The sender does not support it, or the operating system does not report the bits.
    #[default]
    NotCapable,
    /// ECT(0): the sender supports it.
    Ect0,
    /// ECT(1): the sender supports it.
    Ect1,
    /// CE: a router on the path was congested.
    Congested,
}

impl Ecn {
    pub(super) const fn from_quinn(ecn: Option<quinn_udp::EcnCodepoint>) -> Self {
        match ecn {
            None => Self::NotCapable,
            Some(quinn_udp::EcnCodepoint::Ect0) => Self::Ect0,
            Some(quinn_udp::EcnCodepoint::Ect1) => Self::Ect1,
            Some(quinn_udp::EcnCodepoint::Ce) => Self::Congested,
        }
    }
}
