//! Rules that match responses to requests: by id, or in order.

use std::{any::type_name, fmt, sync::Arc};

/// Writes the id of a request into its message, and reads it from the response.
///
/// `Out` is the type that the session sends, `In` the type that it receives. The trait is
/// implemented for a type of the application, so the message types may be of other crates:
///
/// ```
/// use getty_core::correlate::Correlate;
///
/// /// Lines such as `ask 7 what` and `answer 7 that`.
/// #[derive(Clone, Copy)]
/// struct Words;
///
/// impl Correlate<String> for Words {
///     fn put(&self, id: u64, message: &mut String) {
///         message.insert_str(0, &format!("ask {id} "));
///     }
///
///     fn response_id(&self, message: &String) -> Option<u64> {
///         message.strip_prefix("answer ")?.split(' ').next()?.parse().ok()
///     }
/// }
///
/// assert_eq!(Words.response_id(&"answer 7 that".to_owned()), Some(7));
/// assert_eq!(Words.response_id(&"ask 7 what".to_owned()), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot match responses of type `{In}` to requests of type `{Out}`",
    label = "must be `Correlate<{In}, {Out}>`",
    note = "`CorrelateLayer` uses it to write an id into each request and to read the id of each response"
)]
pub trait Correlate<In, Out = In>: Send + Sync + 'static {
    /// Writes the id of a request into its message, before it is queued. Runs in the requester's
    /// task.
    fn put(&self, id: u64, message: &mut Out);

    /// Returns the id of the request to which `message` responds. Returns `None` for a request or
    /// a notification of the peer, which is passed to the handler. It runs in the session's task
    /// for every received message, so it must be quick.
    ///
    /// The peer may send any id. A response with an unknown id is dropped and counted.
    fn response_id(&self, message: &In) -> Option<u64>;
}

/// The request to which a message responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseTo {
    /// The request with this id.
    Request(u64),
    /// The oldest request without a response.
    Oldest,
}

/// Rule that matches responses to requests: [`ById`] or [`InOrder`].
pub trait Matching<In, Out>: Send + Sync + 'static {
    /// Returns `true` if responses come in the order of their requests. Requests must then be
    /// queued in that order as well.
    fn is_ordered(&self) -> bool;

    /// Marks the message of a request before it is queued.
    fn mark(&self, id: u64, message: &mut Out);

    /// Returns the request to which `message` responds, if any.
    fn response_to(&self, message: &In) -> Option<ResponseTo>;
}

/// Responses contain the id of their request. Created by `CorrelateLayer::new`.
pub struct ById<K>(#[doc(hidden)] pub Arc<K>);

impl<In, Out, K: Correlate<In, Out>> Matching<In, Out> for ById<K> {
    #[inline]
    fn is_ordered(&self) -> bool {
        false
    }

    #[inline]
    fn mark(&self, id: u64, message: &mut Out) {
        self.0.put(id, message);
    }

    #[inline]
    fn response_to(&self, message: &In) -> Option<ResponseTo> {
        self.0.response_id(message).map(ResponseTo::Request)
    }
}

impl<K> Clone for ById<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for ById<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ById").field(&type_name::<K>()).finish()
    }
}

/// Responses come in the order of their requests. Created by `CorrelateLayer::in_order`.
#[derive(Clone)]
pub struct InOrder<P = NoPush>(#[doc(hidden)] pub P);

/// Every message that arrives while a request waits is its response.
#[derive(Clone, Copy, Debug)]
pub struct NoPush;

/// Recognises messages that the peer sends without a request: see `CorrelateLayer::with_push`.
#[derive(Clone)]
pub struct Push<F>(#[doc(hidden)] pub F);

impl<F> fmt::Debug for Push<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Push").field(&type_name::<F>()).finish()
    }
}

impl<In, Out> Matching<In, Out> for InOrder<NoPush> {
    #[inline]
    fn is_ordered(&self) -> bool {
        true
    }

    #[inline]
    fn mark(&self, _: u64, _: &mut Out) {}

    #[inline]
    fn response_to(&self, _: &In) -> Option<ResponseTo> {
        Some(ResponseTo::Oldest)
    }
}

impl<In, Out, F> Matching<In, Out> for InOrder<Push<F>>
where
    F: Fn(&In) -> bool + Send + Sync + 'static,
{
    #[inline]
    fn is_ordered(&self) -> bool {
        true
    }

    #[inline]
    fn mark(&self, _: u64, _: &mut Out) {}

    #[inline]
    fn response_to(&self, message: &In) -> Option<ResponseTo> {
        (!(self.0.0)(message)).then_some(ResponseTo::Oldest)
    }
}

impl<P> fmt::Debug for InOrder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InOrder").field(&type_name::<P>()).finish()
    }
}
