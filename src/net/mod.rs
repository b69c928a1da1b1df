//! Listeners and connectors.

mod listener;

pub use self::listener::Listener;
