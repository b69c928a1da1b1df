//! Test kit for getty.
//!
//! It tests codecs, handlers, layers, servers and clients without sockets and without waiting.

mod contract;
mod log;
mod messages;
#[cfg(feature = "metrics")]
mod metrics;
mod network;
mod peer;
mod probe;
mod request;
mod session;
mod stream;
mod time;
mod values;
mod wire;

#[cfg(feature = "metrics")]
pub use self::metrics::Metrics;
pub use self::{
    contract::{Broken, ContractService, LayerContract, Rule, assert_layer_contract},
    log::{Log, LogEvent, LogSpan},
    messages::{Messages, messages},
    network::{Acceptor, Dialer, TestConnector, TestListener, connector, listener},
    peer::Peer,
    probe::{Probe, ProbeFuture, ProbeHandle, probe},
    request::{ContractRequest, connection, request, session, session_connection},
    session::TestSession,
    stream::{Stream, stream},
    time::{advance, assert_beats_every, assert_closes_after, settle},
    values::{ValuePeer, Values},
    wire::Counts,
};
