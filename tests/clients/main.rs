//! Tests of clients: reconnecting, pools, hooks, sends and calls.

mod calls;
mod destructors;
mod hooks;
mod pool;
mod reconnect;
mod send;
#[path = "../contracts/support/mod.rs"]
#[allow(
    dead_code,
    reason = "the tests in `contracts` use more of these helpers"
)]
mod shared;
#[path = "../net/silent.rs"]
mod silent;
mod sockets;
mod state;
mod stop;
mod support;
