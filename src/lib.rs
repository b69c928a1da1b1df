//! Network sessions as tower services.

pub mod codec;
pub mod net;

#[doc(inline)]
pub use getty_layers as layers;
pub use getty_layers::{
    CloseReason, Closed, CodecLayer, Connection, ConnectionHandle, IntoReply, Reply, Request,
    SendError, Sent, Session, Stats,
};
pub use net::Listener;
pub use tower::{BoxError, Layer, Service, ServiceBuilder, service_fn};
