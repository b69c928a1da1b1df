//! A typed dialogue before the session.

mod connect;
mod dialogue;
mod error;
mod layer;
#[cfg(feature = "tls")]
mod start_tls;
mod talk;

#[cfg(feature = "tls")]
pub use self::start_tls::StartTls;
pub use self::{
    connect::{OpeningConnect, OpeningConnectLayer, OpeningConnecting},
    error::OpeningError,
    layer::{OpeningLayer, OpeningService},
    talk::Opening,
};
