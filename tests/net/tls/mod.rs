//! TLS: sessions, identities, configurations and failing handshakes.

mod config;
mod handshake;
mod identity;
pub(crate) mod kit;
mod reload;
mod session;
mod stack;
