//! Calls over one connection: getty's clients and hand-written equivalents.
//!
//! Everything runs on the calling thread. The peer is a [`Loopback`], so each request will also
//! be its response.

use std::{
    collections::{HashMap, VecDeque},
    io,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use getty::{
    BoxError, CodecLayer, Connection, MultiplexClient, PipelineClient, Request, Service,
    ServiceBuilder, Session, SessionLayer,
    codec::LengthDelimited,
    layers::{Correlate, CorrelateLayer, correlate::Matching},
    service_fn,
    session::SessionCodec,
    tower::ServiceExt,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
};
use tokio_util::codec::{Decoder, Encoder};

use super::runtime;
use crate::{server::codec, transport::Loopback};

/// Size of a read of the hand-written loops, in bytes.
const READ: usize = 64 * 1024;
const PAYLOAD: usize = 64;

/// A way to make calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Hand-written: a task with the connection, a channel of requests, a queue of pending calls,
    /// and a channel for each response.
    PipelineByHand,
    /// `PipelineClient`.
    Pipeline,
    /// Hand-written: like `PipelineByHand` with ids and a map of pending calls.
    MultiplexByHand,
    /// `MultiplexClient`.
    Multiplex,
    /// No calls: a loop that encodes messages, writes them, and decodes the responses.
    Loop,
}

impl Caller {
    /// Returns the name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PipelineByHand => "pipeline-by-hand",
            Self::Pipeline => "pipeline-client",
            Self::MultiplexByHand => "multiplex-by-hand",
            Self::Multiplex => "multiplex-client",
            Self::Loop => "loop-without-calls",
        }
    }

    /// Makes `calls` calls from `tasks` tasks that share a client. Each task waits for a response
    /// before its next call.
    ///
    /// # Panics
    ///
    /// If a call fails or its response is wrong.
    pub fn run(self, tasks: usize, calls: usize) {
        let runtime = runtime();
        let each = calls / tasks;
        runtime.block_on(async {
            match self {
                Self::PipelineByHand => {
                    let (calls, receiver) = mpsc::channel(64);
                    tokio::spawn(drive(codec::length_delimited(), VecDeque::new(), receiver));
                    share(tasks, each, ByHand(calls)).await;
                }
                Self::MultiplexByHand => {
                    let (calls, receiver) = mpsc::channel(64);
                    let pending = PendingById::default();
                    tokio::spawn(drive(WithId(codec::length_delimited()), pending, receiver));
                    share(tasks, each, ByHand(calls)).await;
                }
                Self::Pipeline => {
                    let session =
                        session(codec::length_delimited(), CorrelateLayer::in_order()).await;
                    share(tasks, each, PipelineClient::<Bytes>::new(session)).await;
                }
                Self::Multiplex => {
                    let codec = WithId(codec::length_delimited());
                    let session = session(codec, CorrelateLayer::new(MatchById)).await;
                    share(tasks, each, MultiplexClient::<Tagged>::new(session)).await;
                }
                Self::Loop => {
                    let ended = tokio::spawn(without_calls(tasks, each)).await;
                    ended
                        .expect("the loop does not panic")
                        .expect("the loop does not fail");
                }
            }
        });
    }
}

/// Spawns the tasks and waits until all have made their calls.
async fn share<C: Call>(tasks: usize, each: usize, client: C) {
    let message = Bytes::from_static(&[7; PAYLOAD]);
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let (mut client, message) = (client.clone(), message.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    let answer = client.call(message.clone()).await;
                    assert_eq!(answer.len(), PAYLOAD);
                }
            })
        })
        .collect();
    drop(client);
    for task in tasks {
        task.await.expect("every call receives a response");
    }
}

/// A client. It may be getty's or hand-written.
trait Call: Clone + Send + 'static {
    fn call(&mut self, message: Bytes) -> impl Future<Output = Bytes> + Send;
}

impl Call for PipelineClient<Bytes> {
    async fn call(&mut self, message: Bytes) -> Bytes {
        let client = self.ready().await.expect("the session is open");
        let answer = Service::call(client, message).await;
        answer.expect("the call receives a response")
    }
}

/// A message with an id.
type Tagged = (u64, Bytes);

impl Call for MultiplexClient<Tagged> {
    async fn call(&mut self, message: Bytes) -> Bytes {
        let client = self.ready().await.expect("the session is open");
        let answer = Service::call(client, (0, message)).await;
        answer.expect("the call receives a response").1
    }
}

/// Matches responses by the id of the message.
#[derive(Clone, Copy, Debug)]
struct MatchById;

impl Correlate<Tagged> for MatchById {
    fn put(&self, id: u64, message: &mut Tagged) {
        message.0 = id;
    }

    fn response_id(&self, message: &Tagged) -> Option<u64> {
        Some(message.0)
    }
}

/// Adds an id of eight bytes before each payload.
#[derive(Clone, Debug)]
struct WithId(LengthDelimited);

impl Decoder for WithId {
    type Item = Tagged;
    type Error = BoxError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Tagged>, BoxError> {
        let Some(mut message) = self.0.decode(buf)? else {
            return Ok(None);
        };
        let id = message.try_get_u64()?;
        Ok(Some((id, message)))
    }
}

impl Encoder<Tagged> for WithId {
    type Error = BoxError;

    fn encode(&mut self, (id, message): Tagged, buf: &mut BytesMut) -> Result<(), BoxError> {
        let length = u32::try_from(8 + message.len())?;
        buf.reserve(12 + message.len());
        buf.put_u32(length);
        buf.put_u64(id);
        buf.put_slice(&message);
        Ok(())
    }
}

/// Opens a session over a loopback.
async fn session<C, M, Out>(codec: C, correlate: CorrelateLayer<M>) -> Session<Out>
where
    C: SessionCodec<Out> + Decoder<Item = Out> + Clone + Send + 'static,
    M: Matching<Out, Out> + Clone,
    Out: Send + 'static,
{
    let connector =
        service_fn(|()| async { Ok::<_, io::Error>(Connection::new(Loopback::default())) });
    let opened = getty::connect(connector, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(codec))
            .layer(correlate)
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(|_: Request<Out>| async { Ok::<Option<Out>, BoxError>(None) })
    });
    opened.await.expect("no layer refuses the connection").0
}

// ---- hand-written clients

type CallRequest = (Bytes, oneshot::Sender<Bytes>);

#[derive(Clone)]
struct ByHand(mpsc::Sender<CallRequest>);

impl Call for ByHand {
    async fn call(&mut self, message: Bytes) -> Bytes {
        let (answers, answer) = oneshot::channel();
        let sent = self.0.send((message, answers)).await;
        sent.expect("the connection is open");
        answer.await.expect("the call receives a response")
    }
}

/// Pending calls of a hand-written client.
trait PendingCalls<M>: Send {
    fn add(&mut self, message: Bytes, answers: oneshot::Sender<Bytes>) -> M;
    fn take(&mut self, answer: M) -> Option<(oneshot::Sender<Bytes>, Bytes)>;
}

impl PendingCalls<Bytes> for VecDeque<oneshot::Sender<Bytes>> {
    fn add(&mut self, message: Bytes, answers: oneshot::Sender<Bytes>) -> Bytes {
        self.push_back(answers);
        message
    }

    fn take(&mut self, answer: Bytes) -> Option<(oneshot::Sender<Bytes>, Bytes)> {
        Some((self.pop_front()?, answer))
    }
}

#[derive(Default)]
struct PendingById {
    last: u64,
    pending: HashMap<u64, oneshot::Sender<Bytes>>,
}

impl PendingCalls<Tagged> for PendingById {
    fn add(&mut self, message: Bytes, answers: oneshot::Sender<Bytes>) -> Tagged {
        self.last += 1;
        self.pending.insert(self.last, answers);
        (self.last, message)
    }

    fn take(&mut self, (id, answer): Tagged) -> Option<(oneshot::Sender<Bytes>, Bytes)> {
        Some((self.pending.remove(&id)?, answer))
    }
}

/// Runs the connection: writes the requests that are queued and delivers the responses that
/// arrive.
async fn drive<M, C, W>(
    mut codec: C,
    mut pending: W,
    mut calls: mpsc::Receiver<CallRequest>,
) -> Result<(), BoxError>
where
    C: SessionCodec<M> + Decoder<Item = M>,
    W: PendingCalls<M>,
{
    let mut transport = Loopback::default();
    let mut input = BytesMut::with_capacity(READ);
    let mut output = BytesMut::with_capacity(READ);
    let mut batch = Vec::with_capacity(64);
    loop {
        input.reserve(READ);
        tokio::select! {
            biased;
            taken = calls.recv_many(&mut batch, 64) => {
                if taken == 0 {
                    return Ok(());
                }
                for (message, answers) in batch.drain(..) {
                    let message = pending.add(message, answers);
                    codec.encode(message, &mut output).map_err(Into::into)?;
                }
                transport.write_all(&output).await?;
                output.clear();
            }
            read = transport.read_buf(&mut input) => {
                if read? == 0 {
                    return Ok(());
                }
                while let Some(answer) = codec.decode(&mut input).map_err(Into::into)? {
                    if let Some((answers, answer)) = pending.take(answer) {
                        // Fails if the caller has given up.
                        let _ = answers.send(answer);
                    }
                }
            }
        }
    }
}

async fn without_calls(at_once: usize, times: usize) -> io::Result<()> {
    let message = Bytes::from_static(&[7; PAYLOAD]);
    let (mut transport, mut codec) = (Loopback::default(), codec::length_delimited());
    let mut input = BytesMut::with_capacity(READ);
    let mut output = BytesMut::with_capacity(READ);
    for _ in 0..times {
        for _ in 0..at_once {
            let encoded = codec.encode(message.clone(), &mut output);
            encoded.map_err(io::Error::other)?;
        }
        transport.write_all(&output).await?;
        output.clear();
        let mut answered = 0;
        while answered < at_once {
            input.reserve(READ);
            transport.read_buf(&mut input).await?;
            while let Some(answer) = codec.decode(&mut input).map_err(io::Error::other)? {
                assert_eq!(answer.len(), PAYLOAD);
                answered += 1;
            }
        }
    }
    Ok(())
}
