//! TLS: sessions over it, identities, configurations, and handshakes that go wrong.

mod config;
mod handshake;
mod identity;
pub(crate) mod kit;
mod reload;
mod session;
mod stack;
