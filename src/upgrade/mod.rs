//! Upgrades of a transport: to TLS in an open session (STARTTLS), or to any other byte stream.
//!
//! [`session`] contains the upgrades of an open session, which keeps its types, its codec and
//! its handler.

pub mod session;

pub use self::session::{
    BytesBeforeUpgrade, Carry, Refuse, Upgradable, UpgradeError, UpgradeLayer, UpgradeService,
};
#[cfg(feature = "tls")]
pub use self::session::{
    StartTlsConnect, StartTlsConnectLayer, StartTlsConnecting, StartTlsLayer, StartTlsService,
};
