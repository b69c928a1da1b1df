//! Calls over one connection, on the calling thread alone: getty's clients against what one would write by hand.
//!
//! The peer is a [`Loopback`]: what is written can be read, and is its own answer.

use std::{
    collections::{HashMap, VecDeque},
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use getty::{
    BoxError, CodecLayer, Connection, MultiplexClient, PipelineClient, Request, Service,
    ServiceBuilder, Session, SessionLayer,
    codec::Length,
    layers::{Correlate, CorrelateLayer, correlate::Matching},
    service_fn,
    session::SessionCodec,
    tower::ServiceExt,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    runtime,
    sync::{mpsc, oneshot},
};
use tokio_util::codec::{Decoder, Encoder};

use crate::server::codec;

/// How much the hand-written loops read at once.
const READ: usize = 64 * 1024;
const PAYLOAD: usize = 64;

/// What makes the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A task with the connection, a channel of calls, a queue of those that wait, and a channel for each answer.
    PipelineByHand,
    /// `PipelineClient`.
    Pipeline,
    /// As `PipelineByHand`, with ids and a map of those that wait.
    MultiplexByHand,
    /// `MultiplexClient`.
    Multiplex,
    /// No calls at all: a loop that encodes so many messages, writes them, and decodes so many answers.
    Loop,
}

impl Caller {
    /// Every one; a client after the one by hand that it is measured against.
    pub const ALL: [Self; 5] = [
        Self::PipelineByHand,
        Self::Pipeline,
        Self::MultiplexByHand,
        Self::Multiplex,
        Self::Loop,
    ];

    /// Its name in tables.
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

    /// `calls` calls by `tasks` tasks that share a client, each waiting for its answer before it makes the next.
    ///
    /// # Panics
    ///
    /// If a call fails or is answered wrongly.
    pub fn run(self, tasks: usize, calls: usize) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("the process may open descriptors");
        let each = calls / tasks;
        runtime.block_on(async {
            match self {
                Self::PipelineByHand => {
                    let (calls, receiver) = mpsc::channel(64);
                    tokio::spawn(drive(codec::length(), VecDeque::new(), receiver));
                    share(tasks, each, ByHand(calls)).await;
                }
                Self::MultiplexByHand => {
                    let (calls, receiver) = mpsc::channel(64);
                    let waiting = ById::default();
                    tokio::spawn(drive(WithId(codec::length()), waiting, receiver));
                    share(tasks, each, ByHand(calls)).await;
                }
                Self::Pipeline => {
                    let session = session(codec::length(), CorrelateLayer::in_order()).await;
                    share(tasks, each, PipelineClient::<Bytes>::new(session)).await;
                }
                Self::Multiplex => {
                    let codec = WithId(codec::length());
                    let session = session(codec, CorrelateLayer::new(Id)).await;
                    share(tasks, each, MultiplexClient::<Marked>::new(session)).await;
                }
                Self::Loop => {
                    let ended = tokio::spawn(without_calls(tasks, each)).await;
                    ended.expect("it does not panic").expect("it does not fail");
                }
            }
        });
    }
}

/// Has each of the tasks make its calls, one after another.
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
        task.await.expect("every call is answered");
    }
}

/// A client of either make.
trait Call: Clone + Send + 'static {
    fn call(&mut self, message: Bytes) -> impl Future<Output = Bytes> + Send;
}

impl Call for PipelineClient<Bytes> {
    async fn call(&mut self, message: Bytes) -> Bytes {
        let client = self.ready().await.expect("the session is open");
        let answer = Service::call(client, message).await;
        answer.expect("it is answered")
    }
}

/// A message with an id.
type Marked = (u64, Bytes);

impl Call for MultiplexClient<Marked> {
    async fn call(&mut self, message: Bytes) -> Bytes {
        let client = self.ready().await.expect("the session is open");
        let answer = Service::call(client, (0, message)).await;
        answer.expect("it is answered").1
    }
}

/// Where the id is.
#[derive(Clone, Copy, Debug)]
struct Id;

impl Correlate<Marked> for Id {
    fn put(&self, id: u64, message: &mut Marked) {
        message.0 = id;
    }

    fn answers(&self, message: &Marked) -> Option<u64> {
        Some(message.0)
    }
}

/// Eight bytes of id before each payload.
#[derive(Clone, Debug)]
struct WithId(Length);

impl Decoder for WithId {
    type Item = Marked;
    type Error = BoxError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Marked>, BoxError> {
        let Some(mut message) = self.0.decode(buf)? else {
            return Ok(None);
        };
        let id = message.try_get_u64()?;
        Ok(Some((id, message)))
    }
}

impl Encoder<Marked> for WithId {
    type Error = BoxError;

    fn encode(&mut self, (id, message): Marked, buf: &mut BytesMut) -> Result<(), BoxError> {
        let length = u32::try_from(8 + message.len())?;
        buf.reserve(12 + message.len());
        buf.put_u32(length);
        buf.put_u64(id);
        buf.put_slice(&message);
        Ok(())
    }
}

/// A session over a loopback.
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
    opened.await.expect("nothing refuses it").0
}

// ---- by hand

type Asked = (Bytes, oneshot::Sender<Bytes>);

#[derive(Clone)]
struct ByHand(mpsc::Sender<Asked>);

impl Call for ByHand {
    async fn call(&mut self, message: Bytes) -> Bytes {
        let (answers, answer) = oneshot::channel();
        let sent = self.0.send((message, answers)).await;
        sent.expect("the connection is open");
        answer.await.expect("it is answered")
    }
}

/// The calls that wait.
trait Waiting<M>: Send {
    fn add(&mut self, message: Bytes, answers: oneshot::Sender<Bytes>) -> M;
    fn take(&mut self, answer: M) -> Option<(oneshot::Sender<Bytes>, Bytes)>;
}

impl Waiting<Bytes> for VecDeque<oneshot::Sender<Bytes>> {
    fn add(&mut self, message: Bytes, answers: oneshot::Sender<Bytes>) -> Bytes {
        self.push_back(answers);
        message
    }

    fn take(&mut self, answer: Bytes) -> Option<(oneshot::Sender<Bytes>, Bytes)> {
        Some((self.pop_front()?, answer))
    }
}

#[derive(Default)]
struct ById {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Bytes>>,
}

impl Waiting<Marked> for ById {
    fn add(&mut self, message: Bytes, answers: oneshot::Sender<Bytes>) -> Marked {
        self.last += 1;
        self.waiting.insert(self.last, answers);
        (self.last, message)
    }

    fn take(&mut self, (id, answer): Marked) -> Option<(oneshot::Sender<Bytes>, Bytes)> {
        Some((self.waiting.remove(&id)?, answer))
    }
}

/// The task with the connection: writes all calls that have come at once, and gives out all answers that have.
async fn drive<M, C, W>(
    mut codec: C,
    mut waiting: W,
    mut calls: mpsc::Receiver<Asked>,
) -> Result<(), BoxError>
where
    C: SessionCodec<M> + Decoder<Item = M>,
    W: Waiting<M>,
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
                    let message = waiting.add(message, answers);
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
                    if let Some((answers, answer)) = waiting.take(answer) {
                        // fails where the caller has given up
                        let _ = answers.send(answer);
                    }
                }
            }
        }
    }
}

async fn without_calls(at_once: usize, times: usize) -> io::Result<()> {
    let message = Bytes::from_static(&[7; PAYLOAD]);
    let (mut transport, mut codec) = (Loopback::default(), codec::length());
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

/// A transport whose peer sends back what it gets.
#[derive(Debug, Default)]
pub struct Loopback {
    bytes: BytesMut,
    reader: Option<Waker>,
}

impl AsyncRead for Loopback {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes[..length]);
        if length == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.advance(length);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Loopback {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes.extend_from_slice(bytes);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
