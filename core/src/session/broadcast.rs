//! Broadcasts in the queue of one session.

use std::{
    any::{Any, TypeId},
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};

use super::{
    Session, SlowConsumer,
    outbox::{DROPPING_MESSAGE, Refusal},
    payload::{Payload, SharedMessage, WeightFn},
};
use crate::{
    connection::{CloseReason, HandleExt},
    panic::catch_and_log,
    sync::WaiterId,
};

/// Outcome of a broadcast at one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The message is queued, and this many older broadcasts were dropped for it.
    Queued(u64),
    /// The message was dropped, and counted.
    Dropped,
    /// There is no room and the policy is to wait.
    Full,
    /// The session is closing, or sends nothing more.
    Closed,
}

/// Methods of [`Session`] that groups use (design.md: Why are broadcasts bounded in bytes?).
pub trait BroadcastExt<Out> {
    /// Queues `message` within the byte limit of broadcasts. Beyond the limit, `policy` decides.
    fn publish(&self, message: &Arc<SharedMessage<Out>>, policy: SlowConsumer) -> Published;

    /// Returns the function that weighs messages: the codec layer's, or one for the type.
    fn weigh(&self) -> Option<WeightFn<Out>>
    where
        Out: 'static;
}

impl<Out> BroadcastExt<Out> for Session<Out> {
    #[inline(always)]
    fn publish(&self, message: &Arc<SharedMessage<Out>>, policy: SlowConsumer) -> Published {
        if self.is_closing() {
            return Published::Closed;
        }
        let size = self.size_of(message);
        let droppable = policy == SlowConsumer::DropOldest;
        if self.outbox().publish_alone(message, size, droppable) {
            self.raise_messages();
            return Published::Queued(0);
        }
        self.publish_behind(message, size, policy)
    }

    fn weigh(&self) -> Option<WeightFn<Out>>
    where
        Out: 'static,
    {
        self.outbox().weigh().or_else(weigh_by_type)
    }
}

impl<Out> Session<Out> {
    /// Like [`publish`](BroadcastExt::publish) for a queue that has broadcasts, or is full or
    /// closed.
    #[inline(never)]
    fn publish_behind(
        &self,
        message: &Arc<SharedMessage<Out>>,
        size: u32,
        policy: SlowConsumer,
    ) -> Published {
        let droppable = policy == SlowConsumer::DropOldest;
        let published = self.outbox().publish(message, size, droppable);
        match published {
            Ok(replaced) => {
                self.raise_messages();
                if replaced.is_empty() {
                    return Published::Queued(0);
                }
                let dropped = replaced.len() as u64;
                self.handle().count_dropped(dropped);
                // one by one because a second panicking destructor would abort the process
                for payload in replaced {
                    catch_and_log(DROPPING_MESSAGE, || drop(payload));
                }
                Published::Queued(dropped)
            }
            Err(refusal) => self.not_published(&refusal, policy),
        }
    }

    #[cold]
    fn not_published(&self, refusal: &Refusal, policy: SlowConsumer) -> Published {
        match (refusal, policy) {
            (Refusal::Full, SlowConsumer::Wait) => return Published::Full,
            (Refusal::Full, SlowConsumer::Close) => {
                self.close_with(CloseReason::SlowConsumer);
                return Published::Closed;
            }
            (Refusal::Full | Refusal::Budget, _) => {}
            (Refusal::Finished | Refusal::Closed, _) => return Published::Closed,
        }
        self.handle().count_dropped(1);
        Published::Dropped
    }

    /// Returns the size of `message`, in bytes. If neither its type nor a codec determines it,
    /// returns the mean of the messages that this session has encoded or the size of the type
    /// before the first.
    #[inline]
    fn size_of(&self, message: &SharedMessage<Out>) -> u32 {
        message.size().unwrap_or_else(|| self.mean_size())
    }

    #[cold]
    fn mean_size(&self) -> u32 {
        let (sent, messages) = self.handle().counters().sent();
        let encoded = sent.saturating_add(self.pending_bytes() as u64);
        let mean = encoded.checked_div(messages);
        u32::try_from(mean.unwrap_or(size_of::<Out>() as u64)).unwrap_or(u32::MAX)
    }
}

/// Returns the function that weighs messages if the type contains bytes or text.
fn weigh_by_type<Out: 'static>() -> Option<WeightFn<Out>> {
    macro_rules! by_type {
        ($($type:ty),*) => {
            $(if TypeId::of::<Out>() == TypeId::of::<$type>() {
                return Some(|message| {
                    let message: &dyn Any = message;
                    message.downcast_ref::<$type>().map_or(0, |message| message.len())
                });
            })*
        };
    }
    by_type!(
        Bytes,
        BytesMut,
        String,
        Vec<u8>,
        Arc<str>,
        Arc<[u8]>,
        Box<str>,
        Box<[u8]>,
        &'static str,
        &'static [u8]
    );
    None
}

/// A broadcast that waits for room in the queue of one session.
pub struct BroadcastSend<Out> {
    session: Session<Out>,
    payload: Option<Payload<Out>>,
    size: u32,
    waiter: Option<WaiterId>,
}

impl<Out> fmt::Debug for BroadcastSend<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastSend").finish_non_exhaustive()
    }
}

impl<Out> BroadcastSend<Out> {
    #[doc(hidden)]
    pub fn new(session: Session<Out>, message: Arc<SharedMessage<Out>>) -> Self {
        Self {
            size: session.size_of(&message),
            session,
            payload: Some(Payload::Shared(message)),
            waiter: None,
        }
    }

    /// Polls for room. Resolves to `Queued`, to `Dropped` if a budget refuses the message, or to
    /// `Closed`.
    #[doc(hidden)]
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<Published> {
        let Self {
            session,
            payload,
            size,
            waiter,
        } = self;
        if session.is_closing() {
            return Poll::Ready(Published::Closed);
        }
        let published = session.outbox().poll_publish(cx, payload, *size, waiter);
        published.map(|published| match published {
            Ok(()) => {
                session.raise_messages();
                Published::Queued(0)
            }
            Err(refusal) => session.not_published(&refusal, SlowConsumer::Wait),
        })
    }
}

impl<Out> Drop for BroadcastSend<Out> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.session.outbox().cancel_publish(waiter);
        }
    }
}
