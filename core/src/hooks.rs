//! Extension points for authors of layers.
//!
//! [`HandleExt`] adds methods to [`ConnectionHandle`](crate::ConnectionHandle): deadlines in
//! the session's task, a delayed opening, values that are dropped at the end of the input, and
//! the times that timeouts are measured from. A service that catches panics or keeps values of
//! its user in fields can use [`Contained`]. Services that run stacks call [`defer_refusal`]
//! and [`end_refusal`].

#[doc(hidden)]
pub use crate::connection::Setting;
#[doc(inline)]
pub use crate::connection::{Contained, HandleExt, OpenGuard, defer_refusal, end_refusal};
