//! Fairness between a peer that sends without pause over real TCP and other peers of the same
//! thread.
//!
//! The wait of the others is counted in messages of the busy peer because time means little on
//! a shared machine.

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
    codec::LengthDelimited,
    layers::{
        ActivityLayer, CatchPanicLayer, CloseCallbackLayer, HandleErrorLayer, HeartbeatLayer,
        IdleTimeoutLayer, ReadTimeoutLayer, Registry, RegistryLayer, TraceLayer, WriteTimeoutLayer,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::yield_now,
};

use super::accept;

/// Number of answers to the other peer.
const ROUNDS: usize = 10;
/// The flood ends after this multiple of the bound. Then a starved peer is served, and the test
/// fails.
const FLOOD_FACTOR: u64 = 100;
const MAX_PAYLOAD: usize = 1024 * 1024;

/// Payload of the busy peer's frames in bytes, and the maximum number of frames that the other
/// peer waits for. A session yields after 128 units of work. A unit is 32 messages or one large
/// read. An answer may take a few polls.
const FLOODS: [(usize, u64); 4] = [
    (8, 20_000),
    (1024, 20_000),
    (64 * 1024, 1_000),
    (MAX_PAYLOAD, 250),
];

#[tokio::test]
async fn busy_peer_does_not_starve_another_session_of_its_thread() {
    for (payload, bound) in FLOODS {
        let worst = max_until_other_answer(bare(), payload, bound).await;
        assert!(worst <= bound, "bare, {payload} bytes: {worst} messages");
        let worst = max_until_other_answer(full(), payload, bound).await;
        assert!(worst <= bound, "full, {payload} bytes: {worst} messages");
    }
}

fn codec() -> CodecLayer<LengthDelimited, Bytes> {
    CodecLayer::new(LengthDelimited::new().max_frame_length(MAX_PAYLOAD))
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

/// A stack with the layers of a production server.
fn full() -> impl Pipeline<TcpStream> {
    let minute = Duration::from_secs(60);
    ServiceBuilder::new()
        .layer(TraceLayer::new())
        .concurrency_limit(100)
        .layer(CatchPanicLayer::new())
        .layer(WriteTimeoutLayer::new(minute))
        .layer(ReadTimeoutLayer::new(minute))
        .layer(IdleTimeoutLayer::new(minute))
        .layer(codec())
        .layer(RegistryLayer::new(Registry::new()))
        .layer(HeartbeatLayer::new(minute, |_session| Bytes::new()))
        .layer(CloseCallbackLayer::new("test", "closed", |_closed| {}))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|_error| None))
        .layer(ActivityLayer::new(|message: &Bytes| !message.is_empty()))
        .service_fn(echo)
}

/// Returns the maximum number of messages that the busy session handles before another session
/// answers its peer.
async fn max_until_other_answer(
    mut stack: impl Pipeline<TcpStream>,
    payload: usize,
    bound: u64,
) -> u64 {
    let mut listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let flood = Flood::start(address, payload, bound * FLOOD_FACTOR);
    let (busy, busy_task) = open(&mut listener, &mut stack).await;
    let mut modest = TcpStream::connect(address).await.unwrap();
    let (_, modest_task) = open(&mut listener, &mut stack).await;

    let mut worst = 0;
    for round in 0..ROUNDS {
        // The busy session must make progress.
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
        worst = worst.max(busy.stats().messages_in - before);
    }
    assert!(!flood.is_over() || worst > bound, "the flood ended early");

    busy.close();
    drop(modest);
    busy_task.await.unwrap();
    modest_task.await.unwrap();
    flood.end();
    worst
}

/// Accepts the next connection and serves it with `stack` on a new task.
async fn open<S: Pipeline<TcpStream>>(
    listener: &mut TcpListener,
    stack: &mut S,
) -> (ConnectionHandle, tokio::task::JoinHandle<Closed>) {
    let connection = accept(listener).await;
    let handle = connection.handle().clone();
    let ready = std::future::poll_fn(|cx| stack.poll_ready(cx)).await;
    assert!(ready.is_ok(), "the stack has no limit");
    let life = stack.call(connection);
    let life = tokio::spawn(async move {
        match life.await {
            Ok(closed) => closed,
            Err(error) => panic!("{}", error.into()),
        }
    });
    (handle, life)
}

/// A peer with two threads: one sends and one reads the answers.
struct Flood {
    over: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 2],
}

impl Flood {
    /// Starts to send up to `frames` frames.
    fn start(server: SocketAddr, payload: usize, frames: u64) -> Self {
        let mut frame = u32::try_from(payload).unwrap().to_be_bytes().to_vec();
        frame.resize(frame.len() + payload, b'x');
        // Small frames are sent in batches.
        let at_once = (64 * 1024 / frame.len()).max(1);
        let writes = frames / at_once as u64;
        let batch = frame.repeat(at_once);
        let mut sends = Blocking::connect(server).unwrap();
        let mut reads = sends.try_clone().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let writer = thread::spawn(move || {
            // The write must fail once the server closes.
            let _ = (0..writes).try_for_each(|_| sends.write_all(&batch));
            ends.store(true, Relaxed);
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

    /// Returns `true` if all frames are sent.
    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Waits for the threads. The server must have closed the connection.
    fn end(self) {
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}
