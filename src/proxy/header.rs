//! Contents of a header.

use std::ops::Range;

use getty_core::Address;

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// A line of text, without TLVs.
    V1,
    /// The binary format.
    V2,
}

/// Reason for which the proxy has opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyCommand {
    /// The proxy speaks for itself, usually for a health check.
    Local,
    /// The proxy relays a client.
    Proxy,
}

/// A complete header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: ProxyVersion,
    pub(super) command: ProxyCommand,
    /// Source and destination, or `None` if those of the socket apply.
    pub(super) addresses: Option<(Address, Address)>,
    /// Position of the TLVs in the header.
    pub(super) tlvs: Range<usize>,
}
