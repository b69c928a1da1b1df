//! TLS: sessions, identities, configurations and failing handshakes.

mod choose;
mod config;
mod detect;
mod handshake;
mod identity;
pub(crate) mod kit;
mod pending;
mod reload;
mod route;
mod session;
mod stack;
