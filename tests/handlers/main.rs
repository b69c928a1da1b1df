//! Tests of handlers and routers. Each test talks to a server over TCP.

mod arguments;
mod dispatch;
mod per_session;
mod results;
mod router;
mod support;
