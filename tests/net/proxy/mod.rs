//! Clients that dial through SOCKS 5 and HTTP proxies.

mod contracts;
mod dialogues;
mod kit;
#[cfg(feature = "tls")]
mod peers;
mod sessions;
#[cfg(feature = "tls")]
mod tls;
