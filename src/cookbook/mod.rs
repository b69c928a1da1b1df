//! Programs for common jobs, one page each.
//!
//! Each page has the problem, a program, the lines that matter, and the limits. The programs
//! are compiled and run as documentation tests. They talk to themselves over 127.0.0.1.
//!
//! | page | job | main items | features |
//! |---|---|---|---|
//! | [`json`] | JSON requests and replies with typed errors | [`Json`], [`IntoReply`], [`HandleMalformedLayer`] | `json` |
//! | [`protobuf`] | Protocol Buffers | [`Prost`], [`VarintDelimited`] | `prost` |
//! | [`login`] | a login, then state of the user | [`FromSession`], [`Rejection`] | `json` |
//! | [`keep_alive`] | a keep-alive that the client chooses, as in MQTT | [`IdleTimeoutLayer::set_activity`], [`set_max_frame`] | |
//! | [`shared_state`] | handlers for each message, with state that all sessions share | [`dispatch`], [`Router`], [`State`] | `json` |
//! | [`rooms`] | rooms of a chat or a game | [`Topics`], [`SlowConsumer`] | `json` |
//! | [`reconnect`] | a client that reconnects and resubscribes | [`Client`], [`with_hook`] | |
//! | [`calls`] | calls with a timeout and retries | [`MultiplexClient`], [`CorrelateLayer`] | `json` |
//! | [`axum`] | one handler on TCP and on `/ws` of an axum application | [`ws::upgrades`] | `ws` |
//! | [`observability`] | Prometheus and OpenTelemetry | [`MetricsLayer`], [`MessageTraceLayer`] | `metrics` |
//! | [`restart`] | a restart without lost replies | [`with_graceful_shutdown`] | |
//!
//! The programs start their server with `tokio::spawn`, because they also are its client. A
//! server alone awaits
//! `getty::serve(listener, app).with_graceful_shutdown(getty::shutdown_signal())`. In several
//! programs `talk(address, lines)` is the client: it sends the lines, ends its direction and
//! returns the lines that it received. Such test code is hidden on the page, and visible in the
//! source.
//!
//! [`IdleTimeoutLayer::set_activity`]: crate::layers::IdleTimeoutLayer::set_activity
//! [`set_max_frame`]: crate::ConnectionHandle::set_max_frame
//! [`Json`]: crate::codec::Json
//! [`IntoReply`]: crate::IntoReply
//! [`HandleMalformedLayer`]: crate::layers::HandleMalformedLayer
//! [`Prost`]: crate::codec::Prost
//! [`VarintDelimited`]: crate::codec::VarintDelimited
//! [`FromSession`]: crate::handler::FromSession
//! [`Rejection`]: crate::Rejection
//! [`dispatch`]: crate::dispatch()
//! [`Router`]: crate::Router
//! [`State`]: crate::State
//! [`Topics`]: crate::Topics
//! [`SlowConsumer`]: crate::SlowConsumer
//! [`Client`]: crate::Client
//! [`with_hook`]: crate::client::ClientBuilder::with_hook
//! [`MultiplexClient`]: crate::MultiplexClient
//! [`CorrelateLayer`]: crate::layers::CorrelateLayer
//! [`ws::upgrades`]: crate::ws::upgrades
//! [`MetricsLayer`]: crate::layers::MetricsLayer
//! [`MessageTraceLayer`]: crate::layers::MessageTraceLayer
//! [`with_graceful_shutdown`]: crate::Serve::with_graceful_shutdown

#[cfg(feature = "ws")]
pub mod axum;
#[cfg(feature = "json")]
pub mod calls;
#[cfg(feature = "json")]
pub mod json;
pub mod keep_alive;
#[cfg(feature = "json")]
pub mod login;
#[cfg(feature = "metrics")]
pub mod observability;
#[cfg(feature = "prost")]
pub mod protobuf;
pub mod reconnect;
pub mod restart;
#[cfg(feature = "json")]
pub mod rooms;
#[cfg(feature = "json")]
pub mod shared_state;
