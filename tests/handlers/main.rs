//! Handlers, `dispatch`, `Router` and state of sessions, over real sockets.

mod arguments;
mod dispatch;
mod per_session;
mod results;
mod router;
mod support;
