//! How answers find their requests.

use std::{any::type_name, fmt, sync::Arc};

/// How the id of a request is put into a message, and taken out of its answer.
///
/// `Out` is what the session sends, `In` what it receives. Implemented for a type of one's own, so that messages may be
/// anybody's:
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
///     fn answers(&self, message: &String) -> Option<u64> {
///         message.strip_prefix("answer ")?.split(' ').next()?.parse().ok()
///     }
/// }
///
/// assert_eq!(Words.answers(&"answer 7 that".to_owned()), Some(7));
/// assert_eq!(Words.answers(&"ask 7 what".to_owned()), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot match what its session receives, `{In}`, with what it sends, `{Out}`",
    label = "has to be `Correlate<{In}, {Out}>`, from the codec's messages to the handler's",
    note = "`CorrelateLayer` asks it for the id of each received message, and has it put one into each request"
)]
pub trait Correlate<In, Out = In>: Send + Sync + 'static {
    /// Puts the id of a request into it, before it is queued. Runs in the requester's task.
    fn put(&self, id: u64, message: &mut Out);

    /// The id of the request that `message` answers; `None` where it is no answer but a request of the peer's or a notice,
    /// which is the handler's. Runs in the session's task for every message received, so it must be quick.
    ///
    /// What the peer makes up may come here: an id that no request has is dropped and counted.
    fn answers(&self, message: &In) -> Option<u64>;
}

/// Which request a message answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The one with this id.
    Request(u64),
    /// The oldest of those that are not answered.
    Oldest,
}

/// How answers find their requests: [`ById`] or [`InOrder`].
pub trait Matching<In, Out>: Send + Sync + 'static {
    /// Whether answers come in the order of their requests, which then must be queued in that order, too.
    fn is_ordered(&self) -> bool;

    /// Marks a request before it is queued.
    fn mark(&self, id: u64, message: &mut Out);

    /// Which request `message` answers, if any.
    fn answered(&self, message: &In) -> Option<Answered>;
}

/// Answers carry the id of their request: what `CorrelateLayer::new` makes.
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
    fn answered(&self, message: &In) -> Option<Answered> {
        self.0.answers(message).map(Answered::Request)
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

/// Answers come in the order of their requests: what `CorrelateLayer::in_order` makes.
#[derive(Clone)]
pub struct InOrder<P = NoPush>(#[doc(hidden)] pub P);

/// Whatever comes while a request waits is its answer.
#[derive(Clone, Copy, Debug)]
pub struct NoPush;

/// Tells what the peer says of its own accord: see `CorrelateLayer::with_push`.
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
    fn answered(&self, _: &In) -> Option<Answered> {
        Some(Answered::Oldest)
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
    fn answered(&self, message: &In) -> Option<Answered> {
        (!(self.0.0)(message)).then_some(Answered::Oldest)
    }
}

impl<P> fmt::Debug for InOrder<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InOrder").field(&type_name::<P>()).finish()
    }
}
