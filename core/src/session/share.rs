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
    outbox::{DROPPING, Refusal, WaiterId},
    payload::{Payload, Weigh},
    shared::SharedMessage,
};
use crate::connection::{CloseReason, contain};

/// Outcome of a broadcast at one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is queued, and this many older broadcasts were dropped for it.
    Queued(u64),
    /// It was dropped, and counted.
    Dropped,
    /// There is no room, and the policy is to wait.
    Full,
    /// The session closes, or sends nothing more.
    Closed,
}

impl<Out> Session<Out> {
    /// Queues `message` within the byte bound of broadcasts. Beyond the bound the `policy` decides.
    #[inline(always)]
    #[doc(hidden)]
    pub fn publish(&self, message: &Arc<SharedMessage<Out>>, policy: SlowConsumer) -> Published {
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

    /// Like [`publish`](Self::publish), for a queue that holds broadcasts, or is full or closed.
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
                // one by one, or a second destructor that panics would end the process
                for payload in replaced {
                    contain(DROPPING, || drop(payload));
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

    /// Returns the bytes of `message`. If neither its type nor a codec determines them, returns the
    /// mean of the messages that this session has encoded, and before the first the size of the
    /// type.
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

impl<Out: 'static> Session<Out> {
    /// Returns how many bytes a message holds beyond its own size, by the codec's layer or by the
    /// type.
    #[doc(hidden)]
    pub fn weigh(&self) -> Option<Weigh<Out>> {
        self.outbox().weigh().or_else(weigh_by_type)
    }
}

/// Returns how many bytes a message holds, if its type is one of bytes or text.
fn weigh_by_type<Out: 'static>() -> Option<Weigh<Out>> {
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
pub struct Waiting<Out> {
    session: Session<Out>,
    payload: Option<Payload<Out>>,
    size: u32,
    waiter: Option<WaiterId>,
}

impl<Out> fmt::Debug for Waiting<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl<Out> Waiting<Out> {
    #[doc(hidden)]
    pub fn new(session: Session<Out>, message: Arc<SharedMessage<Out>>) -> Self {
        Self {
            size: session.size_of(&message),
            session,
            payload: Some(Payload::Shared(message)),
            waiter: None,
        }
    }

    /// Ready with `Queued`, with `Dropped` where a budget refuses it, or with `Closed`.
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

impl<Out> Drop for Waiting<Out> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.session.outbox().leave_publishers(waiter);
        }
    }
}
