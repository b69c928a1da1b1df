//! One message to many connections, in memory: getty's groups and hand-written equivalents.
//!
//! Everything runs on the calling thread. As in a server, a connection waits for its peer and
//! for messages to write.

use std::{
    cell::RefCell,
    future::{Future, poll_fn, ready},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, CodecLayer, Group, Request, ServiceBuilder, Session, SessionLayer,
    layers::OnOpenLayer, service_fn,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    runtime::Runtime,
    sync::mpsc,
    task::yield_now,
};

use super::{runtime, session};
use crate::{cpu, frames::Frames, server::codec};

/// Capacity of a duplex pipe, in bytes.
const PIPE: usize = 64 * 1024;

/// Capacity of a connection's channel in [`Kind::Channels`], in messages. The default of a
/// session is the same.
const QUEUE: usize = 64;

/// A way to send one message to all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hand-written: each connection has a task and a buffer behind a lock. The message is copied
    /// into each buffer.
    Buffers,
    /// Hand-written: each connection has a task and a channel of `Bytes`.
    Channels,
    /// Hand-written: one task writes to all transports one after another. It cannot serve peers.
    OneTask,
    /// getty: a group of sessions.
    Group,
    /// getty: a group of sessions. A tenth of their peers never read.
    GroupWithSlow,
}

impl Kind {
    /// All kinds. The reference is first.
    pub const ALL: [Self; 5] = [
        Self::Buffers,
        Self::Channels,
        Self::OneTask,
        Self::Group,
        Self::GroupWithSlow,
    ];

    /// Returns the name in tables and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Buffers => "hand-written, buffers",
            Self::Channels => "hand-written, channels",
            Self::OneTask => "hand-written, one task",
            Self::Group => "getty, group",
            Self::GroupWithSlow => "getty, group, a tenth never reads",
        }
    }
}

/// A type of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Counts the written bytes.
    Sink,
    /// [`tokio::io::duplex`] with a task that reads the other end. The cost of this task is
    /// included.
    Duplex,
}

impl Carrier {
    /// All carriers.
    pub const ALL: [Self; 2] = [Self::Sink, Self::Duplex];

    /// Returns the name in tables and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Duplex => "duplex",
        }
    }
}

/// Connections that receive broadcasts.
#[derive(Debug)]
pub struct Broadcast {
    runtime: Runtime,
    members: Members,
    message: Bytes,
    frame: Bytes,
    /// Number of connections whose peers read.
    connections: u64,
    /// Number of bytes that arrived at the peers.
    arrived: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Members {
    Buffers(Vec<Arc<SharedBuffer>>),
    Channels(Vec<mpsc::Sender<Bytes>>),
    OneTask(RefCell<Vec<Transport>>),
    Group(Group<Bytes>),
}

impl Broadcast {
    /// Creates `connections` connections for messages of `payload` bytes.
    ///
    /// # Panics
    ///
    /// If no runtime can be created.
    #[must_use]
    pub fn new(kind: Kind, carrier: Carrier, connections: usize, payload: usize) -> Self {
        let runtime = runtime();
        let frame = Bytes::from(Frames::new(payload).concatenated(1));
        let arrived = Arc::new(AtomicU64::new(0));
        let members = runtime.block_on(async {
            let transports = (0..connections).map(|_| Transport::new(carrier, &arrived));
            let slow = match kind {
                Kind::GroupWithSlow => connections / 9,
                _ => 0,
            };
            let transports = transports.chain((0..slow).map(|_| Transport::Stuck));
            let members = Members::new(kind, transports);
            while !members.are_complete(connections + slow) {
                yield_now().await;
            }
            members
        });
        let broadcast = Self {
            runtime,
            members,
            message: frame.slice(frame.len() - payload..),
            frame,
            connections: connections as u64,
            arrived,
        };
        broadcast.send(2, 1); // what is made once is there
        broadcast
    }

    /// Sends `at_once` messages to all connections and waits until they have arrived. Repeats this
    /// a number of `times`.
    ///
    /// # Panics
    ///
    /// If a message does not arrive.
    pub fn send(&self, times: u64, at_once: u64) {
        let each = self.connections * self.frame.len() as u64 * at_once;
        self.runtime.block_on(async {
            for _ in 0..times {
                let due = self.arrived.load(Relaxed) + each;
                for _ in 0..at_once {
                    self.send_one().await;
                }
                let mut polls = 0;
                while self.arrived.load(Relaxed) < due {
                    assert!(polls < 10_000, "a message did not arrive");
                    polls += 1;
                    yield_now().await;
                }
            }
        });
    }

    /// Returns the CPU time of a delivery over about `deliveries` deliveries, in nanoseconds.
    ///
    /// # Panics
    ///
    /// If a message does not arrive.
    #[expect(clippy::cast_precision_loss, reason = "the figures are read by people")]
    #[must_use]
    pub fn cost(&self, deliveries: u64, at_once: u64) -> f64 {
        let times = (deliveries / self.connections / at_once).max(1);
        let before = cpu::of_thread();
        self.send(times, at_once);
        (cpu::of_thread() - before) as f64 / (times * self.connections * at_once) as f64
    }

    #[expect(
        clippy::await_holding_refcell_ref,
        reason = "nothing else borrows the transports"
    )]
    async fn send_one(&self) {
        match &self.members {
            Members::Buffers(buffers) => buffers.iter().for_each(|buffer| buffer.put(&self.frame)),
            Members::Channels(senders) => {
                for sender in senders {
                    sender
                        .try_send(self.frame.clone())
                        .expect("the previous message has been written");
                }
            }
            Members::OneTask(transports) => {
                for transport in &mut *transports.borrow_mut() {
                    transport
                        .write_all(&self.frame)
                        .await
                        .expect("the other end is open");
                }
            }
            Members::Group(group) => {
                let report = group.broadcast(self.message.clone());
                assert!(report.delivered as u64 >= self.connections);
            }
        }
    }
}

impl Members {
    fn new(kind: Kind, transports: impl Iterator<Item = Transport>) -> Self {
        match kind {
            Kind::Buffers => Self::Buffers(
                transports
                    .map(|transport| {
                        let buffer = Arc::new(SharedBuffer::default());
                        tokio::spawn(with_buffer(transport, Arc::clone(&buffer)));
                        buffer
                    })
                    .collect(),
            ),
            Kind::Channels => Self::Channels(
                transports
                    .map(|transport| {
                        let (sender, receiver) = mpsc::channel(QUEUE);
                        tokio::spawn(with_channel(transport, receiver));
                        sender
                    })
                    .collect(),
            ),
            Kind::OneTask => Self::OneTask(RefCell::new(transports.collect())),
            Kind::Group | Kind::GroupWithSlow => {
                let group = Group::new();
                let entered = group.clone();
                let stack = ServiceBuilder::new()
                    .layer(CodecLayer::new(codec::length_delimited()))
                    .layer(OnOpenLayer::new(move |session: Session<Bytes>| {
                        entered.join(&session);
                        ready(Ok::<_, BoxError>(()))
                    }))
                    .layer(SessionLayer::new().with_write_timeout(None))
                    .service(service_fn(|_: Request<Bytes>| {
                        ready(Ok::<Option<Bytes>, BoxError>(None))
                    }));
                for transport in transports {
                    tokio::spawn(session(transport, stack.clone()));
                }
                Self::Group(group)
            }
        }
    }
}

impl Members {
    fn are_complete(&self, connections: usize) -> bool {
        match self {
            Self::Group(group) => group.len() == connections,
            Self::Buffers(_) | Self::Channels(_) | Self::OneTask(_) => true,
        }
    }
}

/// Bytes to be written to one connection.
#[derive(Debug, Default)]
struct SharedBuffer(Mutex<(BytesMut, Option<Waker>)>);

impl SharedBuffer {
    fn put(&self, bytes: &[u8]) {
        let mut buffer = self.0.lock().expect("no holder of the lock panics");
        buffer.0.extend_from_slice(bytes);
        let waker = buffer.1.take();
        drop(buffer);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_take(&self, cx: &Context<'_>, into: &mut BytesMut) -> Poll<()> {
        let mut buffer = self.0.lock().expect("no holder of the lock panics");
        if buffer.0.is_empty() {
            buffer.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut buffer.0, into);
        Poll::Ready(())
    }
}

async fn with_buffer(mut transport: Transport, buffer: Arc<SharedBuffer>) -> io::Result<()> {
    let mut output = BytesMut::new();
    while ready_unless_closed(&mut transport, |cx| buffer.poll_take(cx, &mut output)).await? {
        transport.write_all(&output).await?;
        transport.flush().await?;
        output.clear();
    }
    Ok(())
}

async fn with_channel(
    mut transport: Transport,
    mut receiver: mpsc::Receiver<Bytes>,
) -> io::Result<()> {
    let mut next = None;
    while ready_unless_closed(&mut transport, |cx| {
        receiver.poll_recv(cx).map(|message| next = message)
    })
    .await?
    {
        let Some(message) = next.take() else {
            return Ok(());
        };
        transport.write_all(&message).await?;
        transport.flush().await?;
    }
    Ok(())
}

/// Waits until `ready` is ready and reads from the peer meanwhile. Returns `false` if the peer
/// closes.
async fn ready_unless_closed(
    transport: &mut Transport,
    mut ready: impl FnMut(&mut Context<'_>) -> Poll<()>,
) -> io::Result<bool> {
    poll_fn(|cx| {
        let mut input = [0; 64];
        let mut input = ReadBuf::new(&mut input);
        match Pin::new(&mut *transport).poll_read(cx, &mut input) {
            Poll::Ready(Ok(())) if input.filled().is_empty() => return Poll::Ready(Ok(false)),
            Poll::Ready(Ok(())) => cx.waker().wake_by_ref(),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {}
        }
        ready(cx).map(|()| Ok(true))
    })
    .await
}

/// One end of an in-memory connection. Its peer sends nothing.
#[derive(Debug)]
enum Transport {
    Sink(Arc<AtomicU64>),
    Duplex(DuplexStream),
    /// Accepts no bytes.
    Stuck,
}

impl Transport {
    fn new(carrier: Carrier, arrived: &Arc<AtomicU64>) -> Self {
        let arrived = Arc::clone(arrived);
        match carrier {
            Carrier::Sink => Self::Sink(arrived),
            Carrier::Duplex => {
                let (ours, theirs) = duplex(PIPE);
                tokio::spawn(read_all(theirs, arrived));
                Self::Duplex(ours)
            }
        }
    }
}

/// Reads until the end of the stream into a buffer on the stack.
fn read_all(mut transport: DuplexStream, arrived: Arc<AtomicU64>) -> impl Future<Output = ()> {
    poll_fn(move |cx| {
        let mut input = [0; 4 * 1024];
        loop {
            let mut input = ReadBuf::new(&mut input);
            match Pin::new(&mut transport).poll_read(cx, &mut input) {
                Poll::Ready(Ok(())) if !input.filled().is_empty() => {
                    arrived.fetch_add(input.filled().len() as u64, Relaxed);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Sink(_) | Self::Stuck => Poll::Pending,
            Self::Duplex(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Sink(arrived) => {
                arrived.fetch_add(bytes.len() as u64, Relaxed);
                Poll::Ready(Ok(bytes.len()))
            }
            Self::Duplex(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Stuck => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_delivers_to_all_connections() {
        for kind in Kind::ALL {
            for carrier in Carrier::ALL {
                let broadcast = Broadcast::new(kind, carrier, 10, 1024);
                broadcast.send(3, 4);
                assert_eq!(broadcast.arrived.load(Relaxed), 14 * 10 * 1028, "{kind:?}");
            }
        }
    }
}
