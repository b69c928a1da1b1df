//! Broadcasts over real sockets: a burst to members that read all the time.

use std::{
    future::Future,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use getty::{
    BoxError, Close, CloseReason, CodecLayer, Group, Request, ServiceBuilder, Session,
    SessionLayer, SlowConsumer, codec::Lines, layers::OnOpenLayer, net::TcpListener,
};
use tokio::{sync::mpsc, time::timeout};

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A server whose sessions are members of one group. They broadcast their peers' messages.
struct Room {
    group: Group<String>,
    address: SocketAddr,
    /// Receives a signal for each session that has joined.
    joined: mpsc::UnboundedReceiver<()>,
    /// Receives a signal for each message that a session has broadcast.
    handled: mpsc::UnboundedReceiver<()>,
    dropped: Arc<AtomicUsize>,
}

impl Room {
    async fn new(policy: SlowConsumer) -> Self {
        let group = Group::builder().with_policy(policy).build();
        let dropped = Arc::new(AtomicUsize::new(0));
        let (opens, joined) = mpsc::unbounded_channel();
        let (handles, handled) = mpsc::unbounded_channel();
        let (entrance, room, lost) = (group.clone(), group.clone(), Arc::clone(&dropped));
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(OnOpenLayer::new(move |session: Session<String>| {
                entrance.join(&session);
                opens.send(()).unwrap();
                async { Ok::<_, BoxError>(()) }
            }))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                let (message, session) = request.into_parts();
                lost.fetch_add(room.broadcast_except(&session, message).dropped, Relaxed);
                handles.send(()).unwrap();
                async { Ok::<_, BoxError>(None::<String>) }
            });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(getty::serve(listener, stack).into_future());
        Self {
            group,
            address,
            joined,
            handled,
            dropped,
        }
    }

    /// Starts a member on a separate thread. It reads until the end of its input.
    async fn reader(&mut self) -> thread::JoinHandle<usize> {
        let mut socket = TcpStream::connect(self.address).unwrap();
        self.joined.recv().await.unwrap();
        thread::spawn(move || {
            let mut buf = vec![0; 1 << 20];
            let mut bytes = 0;
            loop {
                match socket.read(&mut buf).unwrap() {
                    0 => return bytes,
                    read => bytes += read,
                }
            }
        })
    }

    /// Closes all sessions after their queued messages are sent.
    fn close(&self) {
        for member in self.group.members() {
            member.close_with(Close::new(CloseReason::Local).after_flush());
        }
    }
}

fn run<T>(threads: usize, test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(TIME_LIMIT, test).await.unwrap() })
}

#[test]
fn member_that_reads_receives_a_whole_burst_within_the_byte_bound() {
    let policies = [SlowConsumer::DropNewest, SlowConsumer::Close];
    for (threads, policy) in [1, 2, 4].into_iter().flat_map(|n| policies.map(|p| (n, p))) {
        for (messages, length) in [(20_000, 6), (900, 1024)] {
            run(threads, async {
                let mut room = Room::new(policy).await;
                let reader = room.reader().await;
                let mut writer = TcpStream::connect(room.address).unwrap();
                room.joined.recv().await.unwrap();
                let line = format!("{:x>1$}", '\n', length);
                let writer = thread::spawn(move || {
                    writer.write_all(line.repeat(messages).as_bytes()).unwrap();
                    writer
                });
                for _ in 0..messages {
                    room.handled.recv().await.unwrap();
                }
                assert_eq!(room.dropped.load(Relaxed), 0, "{threads} threads");
                room.close();
                let read = tokio::task::spawn_blocking(|| reader.join().unwrap());
                assert_eq!(read.await.unwrap(), messages * length);
                drop(writer.join().unwrap());
            });
        }
    }
}

#[test]
fn publisher_that_waits_loses_no_message() {
    const MESSAGES: usize = 100_000;
    const LENGTH: usize = 1024;

    run(2, async {
        let mut room = Room::new(SlowConsumer::Wait).await;
        let readers = [room.reader().await, room.reader().await];
        let group = room.group.clone();
        let publishing = tokio::spawn(async move {
            let line = "x".repeat(LENGTH - 1);
            for _ in 0..MESSAGES {
                let report = group.broadcast_and_wait(line.clone()).await;
                assert_eq!((report.delivered, report.dropped), (2, 0));
            }
        });
        publishing.await.unwrap();
        room.close();
        for reader in readers {
            let read = tokio::task::spawn_blocking(|| reader.join().unwrap());
            assert_eq!(read.await.unwrap(), MESSAGES * LENGTH);
        }
    });
}
