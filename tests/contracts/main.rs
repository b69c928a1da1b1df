//! The contracts of a session, of serving and of connecting, through the public API.

mod callbacks;
mod closing;
mod codec;
mod fairness;
mod order;
mod panics;
mod per_session;
mod readiness;
mod sending;
mod support;
mod units;
