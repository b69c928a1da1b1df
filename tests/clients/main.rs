//! Clients: reconnecting, pools, hooks, and what becomes of messages.

mod hooks;
mod pool;
mod reconnect;
mod send;
mod sockets;
mod state;
mod stop;
mod support;
