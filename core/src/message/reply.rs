//! What a handler answers with.

use std::{mem, option, vec};

use crate::connection::{CloseReason, contain};

/// What a handler answers with: no, one or many messages, and after them a close where asked for.
///
/// Handlers may return the message itself, an `Option`, a `Vec` or a `Reply` of it ([`IntoReply`]).
///
/// ```
/// use getty_core::{IntoReply, Reply};
///
/// let reply: Reply<&str> = "bye".into_reply();
/// let reply = reply.and_close();
/// assert_eq!(reply.len(), 1);
/// assert!(reply.closes());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a reply does nothing unless it is returned"]
pub struct Reply<Out> {
    messages: Messages<Out>,
    // boxed to keep the common reply small: it is moved a few times for every message
    close: Option<Box<CloseReason>>,
    failed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Messages<Out> {
    One(Option<Out>),
    Many(Many<Out>),
}

/// Several messages, which are dropped one after another. A destructor that panics is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Many<Out>(Vec<Out>);

impl<Out> Many<Out> {
    fn into_iter(mut self) -> Rest<Out> {
        Rest(mem::take(&mut self.0).into_iter())
    }
}

impl<Out> Drop for Many<Out> {
    fn drop(&mut self) {
        drop(Rest(mem::take(&mut self.0).into_iter()));
    }
}

/// Messages of a reply that are not taken yet, which are dropped in the same way.
#[derive(Debug)]
struct Rest<Out>(vec::IntoIter<Out>);

impl<Out> Drop for Rest<Out> {
    fn drop(&mut self) {
        for message in self.0.by_ref() {
            contain("dropping a reply", || drop(message));
        }
    }
}

impl<Out> Reply<Out> {
    /// No message.
    #[inline]
    pub const fn none() -> Self {
        Self::of(Messages::One(None))
    }

    /// One message.
    #[inline]
    pub const fn one(message: Out) -> Self {
        Self::of(Messages::One(Some(message)))
    }

    /// Many messages, which leave in this order with none between them.
    #[inline]
    pub const fn many(messages: Vec<Out>) -> Self {
        Self::of(Messages::Many(Many(messages)))
    }

    /// No message, and a close with the reason [`CloseReason::Local`].
    pub fn close() -> Self {
        Self::none().and_close()
    }

    /// Then close the session, with the reason [`CloseReason::Local`]: the messages are flushed first.
    pub fn and_close(self) -> Self {
        self.and_close_with(CloseReason::Local)
    }

    /// Then close the session with this reason: the messages are flushed first.
    pub fn and_close_with(mut self, reason: impl Into<CloseReason>) -> Self {
        self.close = Some(Box::new(reason.into()));
        self
    }

    /// Says that the stack failed underneath and a layer made this reply of the error.
    ///
    /// The session loop then replaces its clone of the stack by a fresh one, as it does after any error: a clone that
    /// has failed may still hold a place in the queue of a shared limit, such as tower's, and would starve others.
    pub const fn after_error(mut self) -> Self {
        self.failed = true;
        self
    }

    /// How many messages there are.
    pub const fn len(&self) -> usize {
        match &self.messages {
            Messages::One(message) => message.is_some() as usize,
            Messages::Many(messages) => messages.0.len(),
        }
    }

    /// Whether there is no message.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the session closes after it.
    pub const fn closes(&self) -> bool {
        self.close.is_some()
    }

    /// Whether it was made of an error: see [`after_error`](Self::after_error).
    #[inline]
    pub const fn is_after_error(&self) -> bool {
        self.failed
    }

    /// The message, if it is at most one and nothing else is asked for: by far the commonest reply.
    ///
    /// # Errors
    ///
    /// Any other reply is given back.
    #[inline]
    pub fn into_plain(self) -> Result<Option<Out>, Self> {
        match self {
            Self {
                messages: Messages::One(message),
                close: None,
                failed: false,
            } => Ok(message),
            other => Err(other),
        }
    }

    /// The messages, and the reason to close with after them.
    #[inline]
    pub fn into_parts(self) -> (Replies<Out>, Option<CloseReason>) {
        let messages = match self.messages {
            Messages::One(message) => Iter::One(message.into_iter()),
            Messages::Many(messages) => Iter::Many(messages.into_iter()),
        };
        (Replies(messages), self.close.map(|reason| *reason))
    }

    /// The same reply with every message passed through `f`.
    pub fn map<U>(self, mut f: impl FnMut(Out) -> U) -> Reply<U> {
        let messages = match self.messages {
            Messages::One(message) => Messages::One(message.map(f)),
            Messages::Many(messages) => {
                let mut rest = messages.into_iter();
                Messages::Many(Many(rest.0.by_ref().map(&mut f).collect()))
            }
        };
        Reply {
            messages,
            close: self.close,
            failed: self.failed,
        }
    }

    #[inline]
    const fn of(messages: Messages<Out>) -> Self {
        Self {
            messages,
            close: None,
            failed: false,
        }
    }
}

/// The messages of a [`Reply`].
#[derive(Debug)]
pub struct Replies<Out>(Iter<Out>);

#[derive(Debug)]
enum Iter<Out> {
    One(option::IntoIter<Out>),
    Many(Rest<Out>),
}

impl<Out> Iterator for Replies<Out> {
    type Item = Out;

    #[inline]
    fn next(&mut self) -> Option<Out> {
        match &mut self.0 {
            Iter::One(message) => message.next(),
            Iter::Many(messages) => messages.0.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Iter::One(message) => message.size_hint(),
            Iter::Many(messages) => messages.0.size_hint(),
        }
    }
}

/// What a handler may return: a message, an `Option`, a `Vec` or a [`Reply`] of it.
///
/// Not `()`: a stray semicolon that loses a reply must not compile. A handler that never answers returns `None`.
#[diagnostic::on_unimplemented(
    message = "a handler whose session sends `{Out}` cannot answer with `{Self}`",
    label = "return `{Out}`, or an `Option`, `Vec` or `Reply` of it",
    note = "a session sends what its handler receives, unless the handler's argument says otherwise: `Request<In, Out>`"
)]
pub trait IntoReply<Out> {
    /// The reply.
    fn into_reply(self) -> Reply<Out>;
}

// each of these says `do_not_recommend`, because the trait's own message names them all, in one line
#[diagnostic::do_not_recommend]
impl<Out> IntoReply<Out> for Out {
    #[inline]
    fn into_reply(self) -> Reply<Out> {
        Reply::one(self)
    }
}

#[diagnostic::do_not_recommend]
impl<Out> IntoReply<Out> for Option<Out> {
    #[inline]
    fn into_reply(self) -> Reply<Out> {
        Reply::of(Messages::One(self))
    }
}

#[diagnostic::do_not_recommend]
impl<Out> IntoReply<Out> for Vec<Out> {
    #[inline]
    fn into_reply(self) -> Reply<Out> {
        Reply::many(self)
    }
}

#[diagnostic::do_not_recommend]
impl<Out> IntoReply<Out> for Reply<Out> {
    #[inline]
    fn into_reply(self) -> Reply<Out> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_becomes_the_messages_it_holds() {
        let shapes: [Reply<u8>; 4] = [
            1.into_reply(),
            Some(1).into_reply(),
            vec![1].into_reply(),
            Reply::one(1).into_reply(),
        ];
        for reply in shapes {
            assert_eq!(reply.into_parts().0.collect::<Vec<_>>(), [1]);
        }
        let reply: Reply<u8> = None.into_reply();
        assert!(reply.is_empty());
        assert_eq!(
            Reply::many(vec![1_u8, 2])
                .map(u16::from)
                .into_parts()
                .0
                .sum::<u16>(),
            3
        );
    }
}
