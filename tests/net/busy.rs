//! A peer that sends as quickly as it can, over real TCP, and others on the same thread: how long these wait is counted in
//! the busy one's messages, for time says nothing on a machine that others use.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream as Blocking},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use getty::{
    BoxError, Closed, CodecLayer, ConnectionHandle, Pipeline, Request, ServiceBuilder,
    SessionLayer,
    codec::Length,
    layers::{
        ActiveLayer, CatchPanicLayer, CloseCallbackLayer, HandleErrorLayer, HeartbeatLayer,
        IdleTimeoutLayer, ReadTimeoutLayer, Registry, RegistryLayer, TraceLayer, WriteTimeoutLayer,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::yield_now,
};

use super::accept;

/// How often another is answered meanwhile.
const ROUNDS: usize = 10;
/// The flood ends after so many times what may pass before an answer: whoever starves is served then, and told.
const PATIENCE: u64 = 100;
const LARGEST: usize = 1024 * 1024;

/// The payload of the busy peer's frames, and how many of them others may have to wait for. A session leaves its turn after
/// 128 units of work, of 32 messages or one large read each, and an answer takes a few turns.
const FLOODS: [(usize, u64); 4] = [
    (8, 20_000),
    (1024, 20_000),
    (64 * 1024, 1_000),
    (LARGEST, 250),
];

#[tokio::test]
async fn a_busy_peer_leaves_turns_to_another_session_of_its_thread() {
    for (payload, bound) in FLOODS {
        let most = most_until_anothers_answer(bare(), payload, bound).await;
        assert!(most <= bound, "bare, {payload} bytes: {most} messages");
        let most = most_until_anothers_answer(full(), payload, bound).await;
        assert!(most <= bound, "full, {payload} bytes: {most} messages");
    }
}

fn codec() -> CodecLayer<Length, Bytes> {
    CodecLayer::new(Length::new().with_max_length(LARGEST))
}

async fn echo(request: Request<Bytes>) -> Result<Bytes, BoxError> {
    Ok(request.into_message())
}

fn bare() -> impl Pipeline<TcpStream> {
    ServiceBuilder::new()
        .layer(codec())
        .layer(SessionLayer::new())
        .service_fn(echo)
}

/// What a production server has.
fn full() -> impl Pipeline<TcpStream> {
    let minute = Duration::from_secs(60);
    ServiceBuilder::new()
        .layer(TraceLayer::new())
        .concurrency_limit(100)
        .layer(CatchPanicLayer::new())
        .layer(WriteTimeoutLayer::new(minute))
        .layer(ReadTimeoutLayer::new(minute))
        .layer(IdleTimeoutLayer::read(minute))
        .layer(codec())
        .layer(RegistryLayer::new(Registry::new()))
        .layer(HeartbeatLayer::new(minute, |_session| Bytes::new()))
        .layer(CloseCallbackLayer::new("test", "closed", |_closed| {}))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|_error| None))
        .layer(ActiveLayer::new(|message: &Bytes| !message.is_empty()))
        .service_fn(echo)
}

/// How many messages the session of a busy peer gets through at most until another session's peer has its answer.
async fn most_until_anothers_answer(
    mut stack: impl Pipeline<TcpStream>,
    payload: usize,
    bound: u64,
) -> u64 {
    let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let flood = Flood::start(address, payload, bound * PATIENCE);
    let (busy, busy_life) = open(&mut listener, &mut stack).await;
    let mut modest = TcpStream::connect(address).await.unwrap();
    let (_, modest_life) = open(&mut listener, &mut stack).await;

    let mut most = 0;
    for round in 0..ROUNDS {
        // busy indeed
        let seen = busy.stats().messages_in;
        while busy.stats().messages_in == seen && !flood.is_over() {
            yield_now().await;
        }
        let before = busy.stats().messages_in;
        let question = [0, 0, 0, 1, u8::try_from(round).unwrap()];
        modest.write_all(&question).await.unwrap();
        let mut answer = [0; 5];
        modest.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, question);
        most = most.max(busy.stats().messages_in - before);
    }
    assert!(!flood.is_over() || most > bound, "no longer busy");

    busy.close();
    drop(modest);
    busy_life.await.unwrap();
    modest_life.await.unwrap();
    flood.end();
    most
}

/// The next connection, served by `stack` on a task of its own.
async fn open<S: Pipeline<TcpStream>>(
    listener: &mut TcpListener,
    stack: &mut S,
) -> (ConnectionHandle, tokio::task::JoinHandle<Closed>) {
    let connection = accept(listener).await;
    let handle = connection.handle().clone();
    let ready = std::future::poll_fn(|cx| stack.poll_ready(cx)).await;
    assert!(ready.is_ok(), "no limit is reached");
    let life = stack.call(connection);
    let life = tokio::spawn(async move {
        match life.await {
            Ok(closed) => closed,
            Err(error) => panic!("{}", error.into()),
        }
    });
    (handle, life)
}

/// A peer with two threads of its own: one that sends, and one that reads what comes back.
struct Flood {
    over: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl Flood {
    /// Sends so many `frames` at most.
    fn start(server: SocketAddr, payload: usize, frames: u64) -> Self {
        let mut frame = u32::try_from(payload).unwrap().to_be_bytes().to_vec();
        frame.resize(frame.len() + payload, b'x');
        // small ones leave many at once
        let at_once = (64 * 1024 / frame.len()).max(1);
        let writes = frames / at_once as u64;
        let batch = frame.repeat(at_once);
        let mut sends = Blocking::connect(server).unwrap();
        let mut reads = sends.try_clone().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&over);
        let writer = thread::spawn(move || {
            // until the server closes, which is an error here
            let _ = (0..writes).try_for_each(|_| sends.write_all(&batch));
            tells.store(true, Relaxed);
        });
        let reader = thread::spawn(move || {
            let mut answers = vec![0; 256 * 1024];
            while matches!(reads.read(&mut answers), Ok(1..)) {}
        });
        Self {
            over,
            threads: [writer, reader],
        }
    }

    /// Nothing more is sent.
    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Of a connection that the server has closed.
    fn end(self) {
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}
