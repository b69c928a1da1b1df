//! Network sessions as tower services.

pub mod codec;
mod connect;
pub mod net;
mod pipeline;
mod serve;
pub mod session;
pub mod transport;

#[doc(inline)]
pub use getty_layers as layers;
pub use getty_layers::{
    CloseReason, Closed, CodecLayer, Connection, ConnectionHandle, IntoReply, Reply, Request,
    SendError, Sent, Session, Stats,
};
pub use tower::{BoxError, Layer, Service, ServiceBuilder, service_fn};

pub use self::{
    connect::{Link, LinkLayer, OpenError, SessionTask, connect},
    net::Listener,
    pipeline::{BoxPipeline, Pipeline},
    serve::{
        Drained, Listeners, Serve, ServeError, ServeFuture, serve, serve_all, shutdown_signal,
    },
    session::SessionLayer,
    transport::{BoxTransport, Transport},
};
