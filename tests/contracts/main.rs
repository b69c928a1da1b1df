//! Contracts of sessions, of serving and of connecting, tested through the public API.

mod budget;
mod bulk;
mod callbacks;
mod closing;
mod codec;
mod codec_settings;
#[cfg(feature = "compression")]
mod compression;
mod connect;
mod crowd;
mod defaults;
#[cfg(unix)]
mod descriptors;
mod destructors;
mod failures;
mod fairness;
mod flow;
mod flush_delay;
mod frames;
mod groups;
mod half_close;
mod last_frame;
mod max_frame;
mod order;
mod panics;
mod per_session;
mod properties;
mod raw;
mod readiness;
mod requests;
mod send_timeout;
mod sending;
mod serve;
mod slow_consumer;
mod support;
mod threads;
mod time;
mod units;
mod upgrade;
mod waiting;
