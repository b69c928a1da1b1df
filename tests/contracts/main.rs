//! The contracts of a session, of serving and of connecting, through the public API.

mod callbacks;
mod codec;
mod order;
mod panics;
mod support;
