//! Replies of handlers.

use std::{mem, option, vec};

use crate::{
    connection::{Close, CloseReason},
    panic::catch_and_log,
};

/// Reply of a handler: any number of messages, and optionally a close or an upgrade of the
/// transport after them.
///
/// A handler may also return the message itself, an `Option`, a `Vec` or a `Reply` of
/// messages: see [`IntoReply`].
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
pub struct Reply<Out>(Kind<Out>);

// small, because it is moved several times for each message
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind<Out> {
    /// At most one message. Most replies are of this kind.
    Plain(Option<Out>),
    Many(Many<Out>),
    /// A reply that closes or upgrades, or that was made from an error.
    Ending(Box<Ending<Out>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ending<Out> {
    messages: Messages<Out>,
    after: After,
    failed: bool,
}

/// Work of the session loop after the messages of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    Close(Close),
    Upgrade,
}

impl After {
    fn into_close(self) -> Option<Close> {
        match self {
            Self::Close(close) => Some(close),
            Self::Nothing | Self::Upgrade => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Messages<Out> {
    One(Option<Out>),
    Many(Many<Out>),
}

/// Several messages, which are dropped one by one. A destructor that panics is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Many<Out>(Vec<Out>);

impl<Out> Many<Out> {
    fn into_iter(mut self) -> Rest<Out> {
        Rest(mem::take(&mut self.0).into_iter())
    }

    fn map<U>(self, f: impl FnMut(Out) -> U) -> Many<U> {
        Many(self.into_iter().0.by_ref().map(f).collect())
    }
}

impl<Out> Drop for Many<Out> {
    #[cold]
    fn drop(&mut self) {
        drop(Rest(mem::take(&mut self.0).into_iter()));
    }
}

/// Messages of a reply that were not taken yet. They are dropped in the same way.
#[derive(Debug)]
struct Rest<Out>(vec::IntoIter<Out>);

impl<Out> Drop for Rest<Out> {
    fn drop(&mut self) {
        for message in self.0.by_ref() {
            catch_and_log("dropping a reply", || drop(message));
        }
    }
}

impl<Out> Reply<Out> {
    /// Creates a reply without a message.
    #[inline]
    pub const fn none() -> Self {
        Self(Kind::Plain(None))
    }

    /// Creates a reply with one message.
    #[inline]
    pub const fn one(message: Out) -> Self {
        Self(Kind::Plain(Some(message)))
    }

    /// Creates a reply with these messages. They are sent in this order, with no other message
    /// between them.
    #[inline]
    pub const fn many(messages: Vec<Out>) -> Self {
        Self(Kind::Many(Many(messages)))
    }

    /// Creates a reply without a message that closes the session with the reason
    /// [`CloseReason::Local`].
    pub fn close() -> Self {
        Self::none().and_close()
    }

    /// Closes the session after the messages are flushed, with the reason [`CloseReason::Local`].
    pub fn and_close(self) -> Self {
        self.and_close_with(CloseReason::Local)
    }

    /// Closes the session after the messages are flushed, as
    /// [`ConnectionHandle::close_with`](crate::ConnectionHandle::close_with) does. A
    /// [`CloseReason`] alone converts into a [`Close`]. Replaces an upgrade.
    pub fn and_close_with(self, close: impl Into<Close>) -> Self {
        self.and_then(After::Close(close.into()))
    }

    /// Upgrades the transport after the messages are flushed, for example to TLS.
    ///
    /// The messages are the last ones that leave through the old transport. A server replies with
    /// its go-ahead and upgrades. A client upgrades with [`Reply::none`] once the server's
    /// go-ahead has arrived. The connection stack must contain a layer for upgrades, such as
    /// getty's `StartTlsLayer`. Otherwise the session closes as [`CloseReason::UpgradeFailed`], and
    /// the messages are not sent. Replaces a close.
    ///
    /// ```
    /// use getty_core::Reply;
    ///
    /// let reply = Reply::one("220 ready").and_upgrade();
    /// assert!(reply.upgrades() && !reply.closes());
    /// ```
    pub fn and_upgrade(self) -> Self {
        self.and_then(After::Upgrade)
    }

    fn and_then(self, after: After) -> Self {
        let mut ending = self.into_ending();
        ending.after = after;
        Self(Kind::Ending(ending))
    }

    /// Marks the reply as made from an error of the stack by a layer.
    ///
    /// The session loop then replaces its clone of the stack by a fresh one, as it does after any
    /// error. A clone that has failed may still hold a place in the queue of a shared limit such
    /// as tower's, and would starve the others (design.md: Why does the loop replace its clone of
    /// the stack?).
    pub fn after_error(self) -> Self {
        let mut ending = self.into_ending();
        ending.failed = true;
        Self(Kind::Ending(ending))
    }

    fn into_ending(self) -> Box<Ending<Out>> {
        let messages = match self.0 {
            Kind::Plain(message) => Messages::One(message),
            Kind::Many(messages) => Messages::Many(messages),
            Kind::Ending(ending) => return ending,
        };
        Box::new(Ending {
            messages,
            after: After::Nothing,
            failed: false,
        })
    }

    /// Returns the number of messages.
    pub const fn len(&self) -> usize {
        match &self.0 {
            Kind::Plain(message) => message.is_some() as usize,
            Kind::Many(messages) => messages.0.len(),
            Kind::Ending(ending) => match &ending.messages {
                Messages::One(message) => message.is_some() as usize,
                Messages::Many(messages) => messages.0.len(),
            },
        }
    }

    /// Returns `true` if there is no message.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns `true` if the session will close after the reply.
    pub const fn closes(&self) -> bool {
        matches!(&self.0, Kind::Ending(ending) if matches!(ending.after, After::Close(_)))
    }

    /// Returns `true` if the session will upgrade its transport after the reply.
    pub const fn upgrades(&self) -> bool {
        matches!(&self.0, Kind::Ending(ending) if matches!(ending.after, After::Upgrade))
    }

    /// Returns `true` if the reply closes or upgrades, or was made from an error.
    #[inline]
    #[doc(hidden)]
    pub const fn is_ending(&self) -> bool {
        matches!(self.0, Kind::Ending(_))
    }

    /// Returns `true` if the reply was made from an error: see [`after_error`](Self::after_error).
    #[inline]
    pub const fn is_after_error(&self) -> bool {
        matches!(&self.0, Kind::Ending(ending) if ending.failed)
    }

    /// Returns the message of a reply with at most one message, no close, no upgrade and no error.
    /// Most replies are of this kind.
    ///
    /// # Errors
    ///
    /// Returns any other reply unchanged.
    #[inline]
    pub fn into_plain(self) -> Result<Option<Out>, Self> {
        match self.0 {
            Kind::Plain(message) => Ok(message),
            other => Err(Self(other)),
        }
    }

    /// Splits the reply into its messages and the close after them. For an upgrade ask
    /// [`upgrades`](Self::upgrades) first.
    #[inline]
    pub fn into_parts(self) -> (Replies<Out>, Option<Close>) {
        let (messages, close) = match self.0 {
            Kind::Plain(message) => (Iter::One(message.into_iter()), None),
            Kind::Many(messages) => (Iter::Many(messages.into_iter()), None),
            Kind::Ending(ending) => {
                let Ending {
                    messages, after, ..
                } = *ending;
                let close = after.into_close();
                match messages {
                    Messages::One(message) => (Iter::One(message.into_iter()), close),
                    Messages::Many(messages) => (Iter::Many(messages.into_iter()), close),
                }
            }
        };
        (Replies(messages), close)
    }

    /// Applies `f` to each message.
    pub fn map<U>(self, f: impl FnMut(Out) -> U) -> Reply<U> {
        Reply(match self.0 {
            Kind::Plain(message) => Kind::Plain(message.map(f)),
            Kind::Many(messages) => Kind::Many(messages.map(f)),
            Kind::Ending(ending) => {
                let Ending {
                    messages,
                    after,
                    failed,
                } = *ending;
                let messages = match messages {
                    Messages::One(message) => Messages::One(message.map(f)),
                    Messages::Many(messages) => Messages::Many(messages.map(f)),
                };
                Kind::Ending(Box::new(Ending {
                    messages,
                    after,
                    failed,
                }))
            }
        })
    }
}

/// Iterator over the messages of a [`Reply`].
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

/// Return types of handlers: a message, or an `Option`, a `Vec` or a [`Reply`] of messages.
///
/// `()` does not implement it, so that a stray semicolon that loses a reply does not compile.
/// A handler without a reply returns `None` (design.md: Why may a handler not return `()`?).
#[diagnostic::on_unimplemented(
    message = "a handler whose session sends `{Out}` cannot reply with `{Self}`",
    label = "return `{Out}`, or an `Option`, `Vec` or `Reply` of it",
    note = "a session sends the type that its handler receives, unless the handler's argument names another: `Request<In, Out>`"
)]
pub trait IntoReply<Out> {
    /// Converts the value into a reply.
    fn into_reply(self) -> Reply<Out>;
}

// `do_not_recommend` on each because the trait's message names all of them in one line
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
        Reply(Kind::Plain(self))
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
    fn the_last_of_a_close_and_an_upgrade_applies_and_a_mapped_reply_keeps_it() {
        let upgrade = Reply::one(1_u8).and_close().and_upgrade().map(u16::from);
        assert!(upgrade.upgrades() && !upgrade.closes() && upgrade.is_ending());
        assert_eq!(upgrade.clone().into_plain(), Err(upgrade));
        let close = Reply::<u8>::none().and_upgrade().and_close();
        assert!(close.closes() && !close.upgrades());
        // a close, or an upgrade, is behind a pointer
        assert_eq!(size_of::<Reply<Vec<u8>>>(), size_of::<Vec<u8>>() + 8);
    }

    #[test]
    fn each_return_type_converts_into_its_messages() {
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
