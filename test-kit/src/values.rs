//! Messages as values, without a wire format.

use std::{
    collections::VecDeque,
    io,
    ops::Deref,
    panic::Location,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{BufMut, BytesMut};
use getty::{
    codec::{Decoder, Encoder},
    transport::Framing,
};

use crate::{Messages, Peer, messages};

/// Codec without a wire format: it passes values between the session and a [`ValuePeer`].
///
/// It works over the transport of its session only. [`TestSession::values`] creates both.
///
/// [`TestSession::values`]: crate::TestSession::values
pub struct Values<In, Out>(Arc<Mutex<Queues<In, Out>>>);

/// Peer of a session whose messages are values. It is also a [`Peer`], with all faults.
pub struct ValuePeer<In, Out> {
    peer: Peer,
    values: Values<In, Out>,
}

struct Queues<In, Out> {
    incoming: VecDeque<In>,
    outgoing: VecDeque<Out>,
}

pub(crate) fn values<In, Out>() -> (Messages, Values<In, Out>, ValuePeer<In, Out>) {
    let (transport, peer) = messages(Framing::Messages);
    let queues = Queues {
        incoming: VecDeque::new(),
        outgoing: VecDeque::new(),
    };
    let values = Values(Arc::new(Mutex::new(queues)));
    let peer = ValuePeer {
        peer,
        values: values.clone(),
    };
    (transport, values, peer)
}

impl<In, Out> Values<In, Out> {
    fn with<R>(&self, f: impl FnOnce(&mut Queues<In, Out>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<In, Out> Clone for Values<In, Out> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<In, Out> Decoder for Values<In, Out> {
    type Item = In;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<In>> {
        if input.is_empty() {
            return Ok(None);
        }
        input.clear();
        Ok(self.with(|queues| queues.incoming.pop_front()))
    }
}

impl<In, Out> Encoder<Out> for Values<In, Out> {
    type Error = io::Error;

    fn encode(&mut self, message: Out, output: &mut BytesMut) -> io::Result<()> {
        output.put_u8(b'.');
        self.with(|queues| queues.outgoing.push_back(message));
        Ok(())
    }
}

impl<In, Out> ValuePeer<In, Out> {
    /// Sends a message to the session.
    pub fn send(&self, message: In) {
        self.values
            .with(|queues| queues.incoming.push_back(message));
        self.peer.send(".");
    }

    /// Returns the next reply or push, after it was flushed. Fails the test like
    /// [`Peer::recv`].
    #[track_caller]
    pub fn recv(&self) -> impl Future<Output = Out> + '_ {
        let caller = Location::caller();
        let flushed = self.peer.recv_from(caller);
        async move {
            flushed.await;
            self.pop()
        }
    }

    /// Returns the next reply or push if one was flushed.
    #[must_use]
    pub fn try_recv(&self) -> Option<Out> {
        self.peer.try_recv().map(|_| self.pop())
    }

    fn pop(&self) -> Out {
        let message = self.values.with(|queues| queues.outgoing.pop_front());
        message.expect("the codec has encoded each message of the transport")
    }
}

impl<In, Out> Deref for ValuePeer<In, Out> {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl<In, Out> std::fmt::Debug for Values<In, Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Values").finish_non_exhaustive()
    }
}

impl<In, Out> std::fmt::Debug for ValuePeer<In, Out> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValuePeer")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
