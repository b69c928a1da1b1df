//! A typed dialogue before the session.

mod connect;
mod dialogue;
mod error;
mod layer;
mod settings;
#[cfg(feature = "tls")]
mod start_tls;

#[cfg(feature = "tls")]
pub use self::start_tls::StartTls;
pub use self::{
    connect::{OpeningConnect, OpeningConnectLayer, OpeningConnecting},
    dialogue::Opening,
    error::OpeningError,
    layer::{OpeningLayer, OpeningService},
};
