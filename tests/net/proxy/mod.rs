//! Clients that dial through SOCKS 5 and HTTP proxies.

mod contracts;
mod dialogues;
mod kit;
mod sessions;
#[cfg(feature = "tls")]
mod tls;
