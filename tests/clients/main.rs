//! Clients: reconnecting, pools, hooks, and what becomes of messages.

mod calls;
mod destructors;
mod hooks;
mod pool;
mod reconnect;
mod send;
#[path = "../net/silent.rs"]
mod silent;
mod sockets;
mod state;
mod stop;
mod support;
#[path = "../contracts/support/words.rs"]
mod words;
