//! Clients: reconnecting, pools, hooks, and what becomes of messages.

mod hooks;
mod pool;
mod reconnect;
mod stop;
mod support;
