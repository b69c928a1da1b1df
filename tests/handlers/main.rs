//! Tests of handlers and routers. Each test talks to a server over TCP.

#![expect(
    clippy::needless_pass_by_value,
    reason = "a handler owns its arguments"
)]

mod arguments;
mod dispatch;
mod per_session;
mod results;
mod router;
mod support;
