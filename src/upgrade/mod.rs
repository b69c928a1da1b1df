//! Connections that change after their start: a dialogue before the session, TLS or another
//! codec in mid-connection.

mod opening;

#[cfg(feature = "tls")]
pub use self::opening::StartTls;
pub use self::opening::{
    Opening, OpeningConnect, OpeningConnectLayer, OpeningConnecting, OpeningError, OpeningLayer,
    OpeningService,
};
