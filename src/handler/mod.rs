//! Handlers: functions that are called with messages.

mod dispatch;
mod extract;
mod function;
mod output;
mod payload;
mod per_session;
mod router;
mod service;
#[cfg(feature = "json")]
mod tagged;
#[doc(hidden)]
pub mod via;

#[cfg(feature = "json")]
pub use self::payload::Json;
#[cfg(feature = "messagepack")]
pub use self::payload::MessagePack;
#[cfg(feature = "postcard")]
pub use self::payload::Postcard;
#[cfg(feature = "prost")]
pub use self::payload::Prost;
#[cfg(feature = "json")]
pub use self::tagged::Tagged;
pub use self::{
    dispatch::{Dispatch, Scope, dispatch},
    extract::{
        Attribute, FromRequest, FromSession, MissingAttribute, PartOf, Payload, PeerAddr,
        Rejection, State,
    },
    function::Handler,
    output::{HandlerFuture, HandlerOutput, Immediate, NoReply},
    per_session::{MakeService, Method, ObjectService, handle_mut, make_service},
    router::{IntoKey, Keyed, NoCase, NoRoute, Route, RouteFuture, RouteKey, RouteService, Router},
    service::{HandlerService, handle, handle_with},
};
#[doc(hidden)]
pub use self::{
    function::{Arguments, Function},
    output::{Outcome, OutputFuture},
    per_session::AsyncMethod,
};
