//! One message to many connections in memory: getty's groups, and what one would write by hand.
//!
//! All of it runs on the calling thread. A connection waits for its peer as well as for what is to be written, as those of
//! a server do.

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
use getty::{BoxError, Group, Request, Session, layers::OnOpenLayer, service_fn};
use getty::{CodecLayer, ServiceBuilder, SessionLayer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    runtime::{self, Runtime},
    sync::mpsc,
    task::yield_now,
};

use crate::{cpu, frames::Frames, in_memory::session, server::codec};

/// How much a duplex pipe holds.
const PIPE: usize = 64 * 1024;

/// How many messages wait for a connection in the hand-written server with channels, as in a session by default.
const QUEUE: usize = 64;

/// What sends one message to all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By hand: each connection has a task, and a buffer behind a lock into which the message is copied.
    Buffers,
    /// By hand: each connection has a task, and a channel of `Bytes`.
    Channels,
    /// By hand, and no server: one task that writes into all transports, one after another.
    OneTask,
    /// getty: a group of sessions.
    Group,
    /// The same, and one session more for every nine that never reads.
    GroupWithSlow,
}

impl Kind {
    /// All of them, the reference first.
    pub const ALL: [Self; 5] = [
        Self::Buffers,
        Self::Channels,
        Self::OneTask,
        Self::Group,
        Self::GroupWithSlow,
    ];

    /// Its name in tables and on the command line.
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

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// What is written is counted.
    Sink,
    /// [`tokio::io::duplex`], with a task at the other end that reads; its work is part of the cost.
    Duplex,
}

impl Carrier {
    /// Its name in tables and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Duplex => "duplex",
        }
    }
}

/// Connections to which messages are broadcast.
#[derive(Debug)]
pub struct Crowd {
    runtime: Runtime,
    members: Members,
    message: Bytes,
    frame: Bytes,
    /// How many connections there are.
    connections: u64,
    /// How many bytes have arrived at the other ends.
    arrived: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Members {
    Buffers(Vec<Arc<Slot>>),
    Channels(Vec<mpsc::Sender<Bytes>>),
    OneTask(RefCell<Vec<Transport>>),
    Group(Group<Bytes>),
}

impl Crowd {
    /// So many `connections` over such carriers, to which messages of `payload` bytes are sent.
    ///
    /// # Panics
    ///
    /// If there is no runtime to be had.
    #[must_use]
    pub fn new(kind: Kind, carrier: Carrier, connections: usize, payload: usize) -> Self {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the process may open descriptors");
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
        let crowd = Self {
            runtime,
            members,
            message: frame.slice(frame.len() - payload..),
            frame,
            connections: connections as u64,
            arrived,
        };
        crowd.broadcast(2, 1); // what is made once is there
        crowd
    }

    /// So many `times` sends so many messages `at_once` to all, when the last have arrived everywhere.
    ///
    /// # Panics
    ///
    /// If one does not arrive.
    pub fn broadcast(&self, times: u64, at_once: u64) {
        let each = self.connections * self.frame.len() as u64 * at_once;
        self.runtime.block_on(async {
            for _ in 0..times {
                let due = self.arrived.load(Relaxed) + each;
                for _ in 0..at_once {
                    self.send().await;
                }
                let mut turns = 0;
                while self.arrived.load(Relaxed) < due {
                    assert!(turns < 10_000, "a message did not arrive");
                    turns += 1;
                    yield_now().await;
                }
            }
        });
    }

    /// CPU nanoseconds a delivery, over about so many `deliveries`, with so many messages `at_once`.
    ///
    /// # Panics
    ///
    /// If one does not arrive.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    #[must_use]
    pub fn cost(&self, deliveries: u64, at_once: u64) -> f64 {
        let times = (deliveries / self.connections / at_once).max(1);
        let before = cpu::of_thread();
        self.broadcast(times, at_once);
        (cpu::of_thread() - before) as f64 / (times * self.connections * at_once) as f64
    }

    #[expect(
        clippy::await_holding_refcell_ref,
        reason = "nothing else borrows the transports"
    )]
    async fn send(&self) {
        match &self.members {
            Members::Buffers(slots) => slots.iter().for_each(|slot| slot.put(&self.frame)),
            Members::Channels(senders) => {
                for sender in senders {
                    sender
                        .try_send(self.frame.clone())
                        .expect("the last one has been written");
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
                        let slot = Arc::new(Slot::default());
                        tokio::spawn(with_buffer(transport, Arc::clone(&slot)));
                        slot
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
                    .layer(CodecLayer::new(codec::length()))
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

/// What is to be written to one connection.
#[derive(Debug, Default)]
struct Slot(Mutex<(BytesMut, Option<Waker>)>);

impl Slot {
    fn put(&self, bytes: &[u8]) {
        let mut slot = self.0.lock().expect("nothing panics in here");
        slot.0.extend_from_slice(bytes);
        let waker = slot.1.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_take(&self, cx: &Context<'_>, into: &mut BytesMut) -> Poll<()> {
        let mut slot = self.0.lock().expect("nothing panics in here");
        if slot.0.is_empty() {
            slot.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut slot.0, into);
        Poll::Ready(())
    }
}

async fn with_buffer(mut transport: Transport, slot: Arc<Slot>) -> io::Result<()> {
    let mut output = BytesMut::new();
    while or_end(&mut transport, |cx| slot.poll_take(cx, &mut output)).await? {
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
    while or_end(&mut transport, |cx| {
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

/// Waits for `ready`, and for what the peer sends meanwhile; `false` at its end.
async fn or_end(
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

/// One end of a connection in memory, whose peer says nothing.
#[derive(Debug)]
enum Transport {
    Sink(Arc<AtomicU64>),
    Duplex(DuplexStream),
    /// Takes nothing.
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

/// Reads until the end, into a buffer on the stack.
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
    fn every_kind_delivers_to_everybody() {
        for kind in Kind::ALL {
            for carrier in [Carrier::Sink, Carrier::Duplex] {
                let crowd = Crowd::new(kind, carrier, 10, 1024);
                crowd.broadcast(3, 4);
                assert_eq!(crowd.arrived.load(Relaxed), 14 * 10 * 1028, "{kind:?}");
            }
        }
    }
}
